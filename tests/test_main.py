"""The command line as its users meet it: what comes out of `python -m albert_jax`, and what does not."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import albert_jax
from albert_jax.__main__ import Inputs, Records, main
from albert_jax.config import AlbertConfig
from albert_jax.errors import UserError
from albert_jax.predict import fill_mask
from albert_jax.tokenizer import AlbertTokenizer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "albert_jax"]
TEXTS = ["the [MASK] river.", "caf\u00e9 [MASK] water [MASK]"]


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120", "HF_HUB_OFFLINE": "1"} | more


def run(*arguments: object, stdin: str | bytes = b"", **more: str) -> subprocess.CompletedProcess:
    """A finished process; its outputs are str."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        env=environment(**more),
        check=False,
        timeout=120,
    )
    done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
    return done


def results(*arguments: object, stdin: str | bytes = b"", **more: str) -> list[dict]:
    """The JSON lines of a process that ends well and complains of nothing."""
    done = run(*arguments, stdin=stdin, **more)
    assert (done.returncode, done.stderr) == (0, "")
    return parsed(done.stdout)


def parsed(lines: str) -> list[dict]:
    """JSON lines; numbers without what rounding changes."""
    return [json.loads(line, parse_float=lambda number: round(float(number), 5)) for line in lines.splitlines()]


@pytest.fixture
def call(monkeypatch, capsys):
    """`results` without a process of its own, which costs two seconds."""

    def call(*arguments: object) -> list[dict]:
        monkeypatch.setattr(sys, "argv", ["albert-jax", *map(str, arguments)])
        main()
        captured = capsys.readouterr()
        assert captured.err == ""
        return parsed(captured.out)

    return call


@pytest.fixture
def refused(monkeypatch, capsys):
    """The message of a command line that gives nothing, likewise."""

    def refused(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["albert-jax", *map(str, arguments)])
        with pytest.raises(UserError) as error:
            main()
        assert capsys.readouterr().out == ""
        return str(error.value)

    return refused


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder of tiny random models, by what they are for."""
    from data.train_vocab import train_vocab

    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    words = ["water", "stone", "river", "the", "of", "said", "cafe", "well", "known", "room", "says", "it", "you"]
    lines = [" ".join(rng.choice(words, 8)) + rng.choice([".", "?", " (so)", ": 12"]) for _ in range(400)]
    lines += ["the quick brown fox jumps over a lazy dog"] * 5
    (folder / "text.txt").write_text("\n".join(lines))
    vocabulary = train_vocab([str(folder / "text.txt")], folder / "spiece.model", vocab_size=60)
    tokenizer = AlbertTokenizer.from_file(vocabulary)
    config = AlbertConfig(
        vocab_size=60,
        embedding_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=48,
    )
    for name, cls, labels in (
        ("pretrained", "AlbertForPreTraining", ("in order", "swapped")),
        ("classifier", "AlbertForSequenceClassification", ("bad", "good")),
        ("tagger", "AlbertForTokenClassification", ("O", "B-PER", "I-PER")),
        ("reader", "AlbertForQuestionAnswering", ()),
        ("chooser", "AlbertForMultipleChoice", ()),
    ):
        model = getattr(albert_jax, cls).from_config(config, tokenizer, labels=labels)
        model.params = jax.tree.map(lambda x: x * 10 if x.ndim > 1 else x, model.params)
        model.save_pretrained(folder / name)
    return folder


# ---- where texts come from


def test_texts_come_from_arguments_files_and_standard_input_alike(models, tmp_path):
    (tmp_path / "some.txt").write_bytes(("\ufeff" + TEXTS[0] + "\r\n").encode())  # as Windows writes it
    (tmp_path / "more.jsonl").write_text(f'{{"text": "{TEXTS[0]}"}}\n"{TEXTS[1]}"\n')
    files = tmp_path / "some.txt", "-", tmp_path / "more.jsonl"
    named = results("fill-mask", models / "pretrained", *TEXTS)
    read = results("fill-mask", models / "pretrained", "--file", *files, stdin=TEXTS[1])
    piped = results("fill-mask", models / "pretrained", stdin="\n".join(TEXTS))
    assert [record["text"] for record in named] == TEXTS
    assert [len(record["masks"]) for record in named] == [1, 2]
    assert set(named[0]["masks"][0][0]) == {"text", "probability", "piece"}
    assert read == named * 2
    assert piped == named


def test_no_input_gives_no_output_and_a_word_about_it(models):
    done = run("fill-mask", models / "pretrained", stdin="")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "note: there are no texts in the input\n")


def test_a_text_behind_targets_is_told_from_a_target(models):
    done = run("fill-mask", models / "pretrained", "--targets", "water", "the [MASK]")
    assert (done.returncode, done.stdout) == (2, "")
    assert "texts go before --targets" in done.stderr


def test_a_compressed_file_is_told_from_another_encoding(models, tmp_path):
    import lzma

    (tmp_path / "texts.xz").write_bytes(lzma.compress(b"the [MASK]\n"))
    done = run("fill-mask", models / "pretrained", "--file", tmp_path / "texts.xz")
    assert done.returncode == 2
    assert "texts.xz: is compressed" in done.stderr


# ---- what each command gives


def test_targets_and_top_k_shape_a_table(models):
    done = run(
        *("fill-mask", models / "pretrained", "the [MASK]\x1b[31m " + "water " * 20, "two [MASK]"),
        *("--output_format", "table", "--top_k", 2, "--targets", "river", "you", "it"),
    )
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["text", "mask", "completion", "probability"]
    assert len(rows) == 6
    assert "…" in rows[0]  # a long text is cut, its rows are one line each
    assert "\x1b" not in done.stdout
    assert [row.split()[0] for row in (rows[1], rows[4])] != ["the", "two"]  # a text is shown once
    assert {row.split()[-2] for row in rows} == {"river", "you", "it"}


def test_vectors_in_a_file_are_those_in_json_lines(models, tmp_path):
    (tmp_path / "texts.txt").write_text("the water\n\nstone\n")
    output = tmp_path / "vectors.npz"
    arguments = "embed", models / "pretrained", "--file", tmp_path / "texts.txt"
    records, done = results(*arguments), run(*arguments, "--output", output)
    assert [record["text"] for record in records] == ["the water", "", "stone"]  # a blank line is a text
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"written {output}: embeddings (3, 16)\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts.txt", "vectors.npz"]
    array = np.load(output)["embeddings"]
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, [record["embedding"] for record in records], atol=1e-5)


def test_pairs_are_columns_fields_or_an_option(call, models, tmp_path):
    (tmp_path / "pairs.tsv").write_text("the water\tstone\nyou\tit\n")
    (tmp_path / "pairs.jsonl").write_text('{"text": "the water", "pair": "stone"}\n{"pair": "it", "text": "you"}\n')
    files = tmp_path / "pairs.tsv", tmp_path / "pairs.jsonl"
    one, two, *others = results("classify", models / "classifier", "--file", *files)
    assert others == [one, two]
    assert call("classify", models / "classifier", "the water", "--pair", "stone") == [one]
    assert (one["text"], one["pair"]) == ("the water", "stone")
    assert {label["label"] for label in one["labels"]} == {"bad", "good"}
    assert sum(label["score"] for label in one["labels"]) == pytest.approx(1, abs=1e-4)


def test_tags_have_words_and_entities_whatever_the_terminals_encoding(models):
    text = "Ann's café \U0001f600 river"
    (record,) = results("tag", models / "tagger", text, PYTHONIOENCODING="latin1")
    assert [word["word"] for word in record["words"]] == ["Ann's", "café", "\U0001f600", "river"]
    for found in (*record["words"], *record["entities"]):
        assert text[found["start"] : found["stop"]] == found.get("word", found.get("text"))


def test_answers_come_from_arguments_json_lines_and_files_alike(call, models, tmp_path):
    question, context = "you?", "the water of the river.\nit is stone, well known. " * 6  # more than one window
    options = "--n_best", 2, "--max_length", 40, "--stride", 8
    (tmp_path / "article.txt").write_text(context)
    article = f"@{tmp_path / 'article.txt'}"
    piped = json.dumps({"question": question, "context": context})
    (named,) = call("answer", models / "reader", "--question", question, "--context", context, *options)
    assert named["question"] == question
    assert len(named["answers"]) == 2
    assert all(context[a["start"] : a["stop"]] == a["text"] for a in named["answers"])
    assert call("answer", models / "reader", "--question", question, "--context", article, *options) == [named]
    assert results("answer", models / "reader", *options, stdin=piped) == [named]


def test_choices_are_arguments_columns_or_a_list(call, models, tmp_path):
    (tmp_path / "some.tsv").write_text("the water\tstone\triver\n")
    (tmp_path / "some.jsonl").write_text('{"text": "the water", "choices": ["stone", "river"]}\n')
    files = tmp_path / "some.tsv", tmp_path / "some.jsonl"
    one, other = results("choose", models / "chooser", "--file", *files)
    assert one == other
    assert call("choose", models / "chooser", "stone", "river", "--text", "the water") == [one]
    assert sorted(choice["index"] for choice in one["choices"]) == [0, 1]
    assert {choice["text"] for choice in one["choices"]} == {"stone", "river"}


def test_info_tells_what_a_source_holds(call, models):
    (record,) = call("info", models / "classifier")
    assert record["class"] == "AlbertForSequenceClassification"
    assert record["labels"] == ["bad", "good"]
    assert record["tokenizer"] == {"pieces": 60, "lower_case": True}
    assert record["config"]["hidden_size"] == 16


def test_a_converted_model_is_checked_and_says_the_same(models, tmp_path):
    done = run("convert", models / "pretrained", tmp_path / "new", "--model_class", "AlbertForMaskedLM")
    assert (done.returncode, done.stderr) == (0, "")
    assert "check: read again, every parameter is the same bit for bit" in done.stdout
    before, after = (
        albert_jax.AlbertForMaskedLM.from_pretrained(folder) for folder in (models / "pretrained", tmp_path / "new")
    )
    assert fill_mask(before, TEXTS) == fill_mask(after, TEXTS)


def test_help_names_every_command():
    done = run("--help")
    assert done.returncode == 0
    for name in ("fill-mask", "embed", "classify", "tag", "answer", "choose", "convert", "info"):
        assert f"• {name}" in done.stdout
        assert f"albert-jax {name}" in done.stdout  # an example


# ---- refusals


def refusal(*arguments: object, stdin: str | bytes = b"") -> str:
    """The one message of a process that gives nothing and ends with 2."""
    done = run(*arguments, stdin=stdin)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("error: ")


def test_a_line_without_a_mask_is_named_and_nothing_is_written(models, tmp_path):
    (tmp_path / "texts.txt").write_text("one [MASK]\nnone\n")
    message = refusal("fill-mask", models / "pretrained", "--file", tmp_path / "texts.txt")
    assert message.startswith(f"{tmp_path / 'texts.txt'}, line 2: contains no [MASK]; ")


def test_a_text_beyond_the_positions_is_named_and_leaves_no_file(refused, models, tmp_path):
    message = refused("embed", models / "pretrained", "stone", "water " * 60, "--output", tmp_path / "vectors.npz")
    assert message.startswith("text 2 ('water water water")
    assert "62 pieces, more than the model's 48 positions" in message
    assert "--truncate" in message
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_utf8_is_named_by_line_and_byte(models):
    message = refusal("fill-mask", models / "pretrained", stdin="one [MASK]\ncafé [MASK]\n".encode("latin1"))
    assert message.startswith("standard input, line 2: is not UTF-8 (byte 0xe9 at column 4)")


def test_an_unknown_model_is_named():
    assert refusal("fill-mask", "runs/nowhere", "one [MASK]").startswith("runs/nowhere: no such file or folder")


def test_a_head_that_was_never_trained_is_not_asked(refused, models):
    message = refused("classify", models / "pretrained", "one")
    assert "AlbertForSequenceClassification would answer at random; fine-tune it first" in message


def test_texts_are_given_in_one_way_only(refused, models, tmp_path):
    (tmp_path / "texts.txt").write_text("one [MASK]\n")
    message = refused("fill-mask", models / "pretrained", "one [MASK]", "--file", tmp_path / "texts.txt")
    assert message == "texts were given both as arguments and by --file; choose one"


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("some.jsonl", '{"sentence": "one"}', 'line 2: has no "question" but sentence; it needs "question", "context"'),
        ("some.jsonl", "", 'line 2: is blank; each line must be an object with "question", "context"'),
        ("some.jsonl", "[1]", "line 2: is a JSON list; each line must be an object"),
        ("some.jsonl", "[" * 100_000, "line 2: is not JSON (maximum recursion depth exceeded"),
        ("some.jsonl", json.dumps({"x" * 10_000: 1}), f'line 2: has no "question" but {"x" * 40}...; it needs'),
        ("some.jsonl", '{"question": 3, "context": ""}', 'line 2: "question" is 3, expected text'),
        ("some.tsv", "one", "line 2: has 1 column, expected question and context parted by tabs"),
    ],
)
def test_a_line_of_another_form_is_named(tmp_path, name, line, message):
    good = {"some.jsonl": '{"question": "you?", "context": "the water"}', "some.tsv": "you?\tthe water"}[name]
    (tmp_path / name).write_text(f"{good}\n{line}\n")
    records = Records(Inputs(file=(tmp_path / name,)), ("question", "context"), [])
    with pytest.raises(UserError) as error:
        list(records.chunks())
    assert str(error.value).startswith(f"{tmp_path / name}, {message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["classify", "model", "--pair", "stone"], "--pair was given without texts; "),
        (["choose", "model", "stone"], "choices were given without --text"),
        (["answer", "model", "--question", "you?"], "give --question and --context together"),
        (["answer", "model", "--question", "you?", "--context", "@gone.txt"], "there is no file gone.txt"),
        (["tag", "model", "--file", "gone.txt"], "--file gone.txt: no such file"),
        (["tag", "model", "--file", "."], "--file .: is a folder"),
        (["tag", "model", "--file", "x" * 300], "x: no such file"),
        (["tag", "model", "--file", "-", "-"], "--file -: was given twice"),
        (["answer", "model", "--question", "you?", "--context", "@" + "x" * 300], "x: there is no file x"),
        (
            ["embed", "model", "one", "--output", "x" * 300 + ".npz"],
            "no name that a file can have (",
        ),
        (["embed", "model", "one", "--output", "vectors.npy"], "--output vectors.npy: must end in .npz"),
        (["embed", "model", "one", "--output", "gone/a.npz"], "--output gone/a.npz: there is no folder gone"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_a_model_is_read(refused, arguments, message):
    assert message in refused(*arguments)


def test_a_folder_in_the_place_of_the_output_is_told_first(refused, tmp_path):
    (tmp_path / "vectors.npz").mkdir()
    assert "is a folder; name a file" in refused("embed", "model", "one", "--output", tmp_path / "vectors.npz")


@pytest.mark.parametrize(
    ("lines", "message"),
    [("one\ttwo\n" * 2 + "one\n", "has no second text"), ("one\n" * 2 + "one\ttwo\n", "has a second text")],
)
def test_texts_with_and_without_a_second_are_not_mixed(call, models, tmp_path, monkeypatch, lines, message):
    monkeypatch.setattr("albert_jax.__main__.CHUNK", 2)
    (tmp_path / "pairs.tsv").write_text(lines)
    with pytest.raises(UserError, match=rf"line 3: {message}, unlike the lines before it"):
        call("classify", models / "classifier", "--file", tmp_path / "pairs.tsv")


def test_closed_streams_are_empty_ones(models):
    command = shlex.join([*COMMAND, "fill-mask", str(models / "pretrained")])
    for closed in (f"{command} 'one [MASK]' >&-", f"{command} <&-"):
        done = subprocess.run(closed, shell=True, capture_output=True, text=True, env=environment(), check=False)
        assert (done.returncode, done.stdout) == (0, "")
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [(["fill-maks", "model", "one [MASK]"], "fill-mask"), (["fill-mask", "model", "one", "--topk", "3"], "--top_k")],
)
def test_misspelt_words_get_a_suggestion(arguments, suggestion):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert suggestion in done.stderr
    assert "Traceback" not in done.stderr


# ---- ends before the end


def test_a_reader_may_leave_early(models, tmp_path):
    (tmp_path / "texts.txt").write_text("one [MASK]\n" * 1000)  # more than a pipe holds
    arguments = "fill-mask", models / "pretrained", "--file", tmp_path / "texts.txt"
    line = f"{shlex.join([*COMMAND, *map(str, arguments)])} | head -1"
    done = subprocess.run(line, shell=True, capture_output=True, env=environment(), check=True, timeout=120)
    assert done.stderr == b""
    assert done.stdout.count(b"\n") == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_is_said(models):
    with open("/dev/full", "w") as full:
        command = [*COMMAND, "info", models / "tagger"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment(), check=False, timeout=120)
    expected = b"error: standard output: cannot be written (No space left on device)\n"
    assert (done.returncode, done.stderr) == (2, expected)


def test_control_c_ends_without_a_traceback(models, tmp_path):
    """Texts come through a named pipe, so that the process surely waits when it is interrupted."""
    os.mkfifo(tmp_path / "texts")
    process = subprocess.Popen(
        [*COMMAND, "fill-mask", models / "pretrained", "--file", tmp_path / "texts"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    with (tmp_path / "texts").open("w"):  # returns when the other side has opened it
        # Again, should the first come just before the process begins to wait: Python looks at signals between steps.
        for _ in range(60):
            process.send_signal(signal.SIGINT)
            try:
                stdout, stderr = process.communicate(timeout=2)
                break
            except subprocess.TimeoutExpired:
                continue
    assert (process.returncode, stdout, stderr) == (130, b"", b"interrupted\n")
