"""`finetune.py` as a user runs it: every task on tiny data of the official layouts, stopped, killed, resumed, asked for
predictions, and fed nonsense."""

import contextlib
import dataclasses
import fcntl
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import albert_jax
import finetune
from albert_jax.config import AlbertConfig
from albert_jax.errors import exit_cleanly
from albert_jax.metrics import squad_v1_metrics
from albert_jax.pretrained import AlbertForSequenceClassification, read_source
from albert_jax.results import load_result
from albert_jax.tasks.catalog import open_task
from albert_jax.tasks.config import FinetuneConfig, TableConfig
from albert_jax.tasks.finetuning import fingerprint
from albert_jax.tokenizer import AlbertTokenizer
from albert_jax.tracking import read_metrics

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
STEPS = 12
CONFIG = """
from albert_jax.config import ComputeConfig
from albert_jax.tasks.config import FinetuneConfig, Recipe

def get_config():
    return FinetuneConfig(
        task="sst2", init_from="model", data_dir="glue", run_dir="run",
        recipe=Recipe(learning_rate=0.003, batch_size=16, steps=12, warmup_steps=2, max_length=48, evaluate_every=4,
                      encoder_dropout=0.1),
        compute=ComputeConfig(dtype="float32", remat="none"),
        log_every=2,
    )
"""
WORDS = "the river said of a stone in well known room it you says".split()
MARKS = ("water", "fox", "cafe", "dog")
"""A word that gives the label away."""
GLUE = {
    # folder, header, row of (number, text, pair, label), spellings of the labels
    "cola": ("CoLA", "index\tsentence", "x\t{label}\t\t{marked}", "01"),
    "sst2": ("SST-2", "sentence\tlabel", "{marked}\t{label}", "01"),
    "mrpc": ("MRPC", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "{label}\t{n}\t9{n}\t{text}\t{marked}", "01"),
    "stsb": ("STS-B", "index\tsentence1\tsentence2\tscore", "{n}\t{text}\t{marked}\t{label}", ("0.500", "4.500")),
    "qqp": ("QQP", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "{n}\t1\t2\t{text}\t{marked}\t{label}", "01"),
    "mnli": (
        "MNLI",
        "index\tsentence1\tsentence2\tgold_label",
        "{n}\t{text}\t{marked}\t{label}",
        ("contradiction", "entailment", "neutral"),
    ),
    "qnli": (
        "QNLI",
        "index\tquestion\tsentence\tlabel",
        "{n}\t{text}\t{marked}\t{label}",
        ("entailment", "not_entailment"),
    ),
    "rte": (
        "RTE",
        "index\tsentence1\tsentence2\tlabel",
        "{n}\t{text}\t{marked}\t{label}",
        ("entailment", "not_entailment"),
    ),
    "wnli": ("WNLI", "index\tsentence1\tsentence2\tlabel", "{n}\t{text}\t{marked}\t{label}", "01"),
}
SUBMISSIONS = {
    "cola": ["CoLA.tsv"], "sst2": ["SST-2.tsv"], "mrpc": ["MRPC.tsv"], "stsb": ["STS-B.tsv"], "qqp": ["QQP.tsv"],
    "mnli": ["MNLI-m.tsv", "MNLI-mm.tsv"], "qnli": ["QNLI.tsv"], "rte": ["RTE.tsv"], "wnli": ["WNLI.tsv"],
    "ax": ["AX.tsv"],
}  # fmt: skip
KINDS = ("classification", "pair", "regression", "multi_label", "tagging", "multiple_choice", "qa", "qa_impossible")


# ---- data


class Made:
    """Sentences in which a mark gives the label away, in no two orders alike."""

    def __init__(self, seed: int = 0):
        self.rng = np.random.default_rng(seed)

    def text(self, words: int = 5) -> str:
        return " ".join(self.rng.choice(WORDS, words))

    def marked(self, *marks: str, words: int = 4) -> str:
        said = list(self.rng.choice(WORDS, words))
        for mark in marks:
            said.insert(int(self.rng.integers(len(said) + 1)), mark)
        return " ".join(said)


def write(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def write_json(path: Path, content) -> Path:
    return write(path, [json.dumps(content)])


def make_glue(root: Path, name: str, *, random: bool = False) -> None:
    made = Made(len(name))
    folder, header, row, labels = GLUE[name]
    dev = ("dev_matched", "dev_mismatched") if name == "mnli" else ("dev",)
    test = ("test_matched", "test_mismatched") if name == "mnli" else ("test",)
    for split, count in ({"train": 64} | dict.fromkeys(dev, 24)).items():
        lines = [] if name == "cola" else [header]
        for n in range(count):
            label = n % len(labels)
            mark = MARKS[int(made.rng.integers(4)) if random else label]
            lines.append(row.format(n=n, text=made.text(), marked=made.marked(mark), label=labels[label]))
        write(root / folder / f"{split}.tsv", lines)
    for split in test:
        names = header.split("\t")
        kept = [i for i, column in enumerate(names) if column not in ("label", "score", "gold_label", "is_duplicate")]
        kept = list(range(5)) if name == "mrpc" else kept
        lines = ["\t".join(names[i] for i in kept) if name != "mrpc" else header.replace("Quality", "index")]
        for n in range(7):
            made_row = row.format(n=n, text=made.text(), marked=made.marked(MARKS[n % len(labels)]), label=0)
            cells = made_row.split("\t")
            lines.append(f"{n}\t{cells[-1]}" if name == "cola" else "\t".join(cells[i] for i in kept))
        write(root / folder / f"{split}.tsv", lines)


def make_diagnostic(root: Path) -> None:
    made, labels = Made(5), GLUE["mnli"][3]
    full = ["Lexical Semantics\tDomain\tPremise\tHypothesis\tLabel"]
    plain = ["index\tsentence1\tsentence2"]
    for n in range(12):
        text, marked = made.text(), made.marked(MARKS[n % 3])
        full.append(f"\t\t{text}\t{marked}\t{labels[n % 3]}")
        plain.append(f"{n}\t{text}\t{marked}")
    write(root / "diagnostic" / "diagnostic-full.tsv", full)
    write(root / "diagnostic" / "diagnostic.tsv", plain)


def questions(count: int, impossible: bool, seed: int = 0) -> list[dict]:
    """Contexts with a mark; the question names it, and where it does not occur there is no answer."""
    made, found = Made(seed), []
    for n in range(count):
        mark = MARKS[n % 2]
        there = not (impossible and n % 3 == 0)
        context = made.marked(mark if there else MARKS[2 + n % 2], words=8)
        answers = [{"text": mark, "answer_start": context.index(mark)}] if there else []
        found.append({"id": f"q{seed}-{n}", "question": f"the {mark}", "context": context, "answers": answers})
    return found


def make_squad(root: Path) -> None:
    for version, impossible in (("1.1", False), ("2.0", True)):
        for split, count, seed in (("train", 48, 1), ("dev", 16, 2), ("test", 6, 3)):
            entries = []
            for found in questions(count, impossible, seed):
                entry = {"id": found["id"], "question": found["question"]}
                if split != "test":
                    entry["answers"] = found["answers"]
                    if impossible:
                        entry["is_impossible"] = not found["answers"]
                entries.append({"context": found["context"], "qas": [entry]})
            write_json(root / f"{split}-v{version}.json", {"version": version, "data": [{"paragraphs": entries}]})


def choices(made: Made, right: int, count: int) -> list[str]:
    return [made.marked("water") if place == right else made.text(3) for place in range(count)]


def make_choices(root: Path) -> None:
    made = Made(4)
    for split, count in (("train", 16), ("dev", 8), ("test", 3)):
        for group in ("middle", "high"):
            for n in range(count):
                right = int(made.rng.integers(4))
                article = {"id": f"{group}{n}.txt", "article": made.text(8), "questions": ["the room is _ ."],
                           "options": [choices(made, right, 4)], "answers": ["ABCD"[right]]}  # fmt: skip
                write_json(root / "RACE" / split / group / f"{n}.txt", article)
        lines = ["sent1,sent2,ending0,ending1,ending2,ending3" + (",label" if split != "test" else "")]
        dialogues = []
        for n in range(count):
            right = int(made.rng.integers(3))
            lines.append(",".join([made.text(), "the", *choices(made, right, 4), *([str(right)] * (split != "test"))]))
            options = choices(made, right, 3)
            question = {"question": "you say ?", "choice": options, "answer": options[right]}
            dialogues.append([[f"W: {made.text()}", f"M: {made.text()}"], [question], f"{split}-{n}"])
        write(root / "swag" / {"dev": "val.csv"}.get(split, f"{split}.csv"), lines)
        write_json(root / "dream" / f"{split}.json", dialogues)


def tagged(made: Made) -> list[tuple[str, str]]:
    tags = {"fox": "I-PER", "dog": "I-PER", "cafe": "I-LOC"}
    return [(word, tags.get(word, "O")) for word in made.marked("fox", *made.rng.choice(MARKS, 2)).split()]


def make_conll(root: Path) -> None:
    made = Made(6)
    for name, count in (("eng.train", 48), ("eng.testa", 12), ("eng.testb", 5)):
        lines = ["-DOCSTART- -X- O O", ""]
        for _ in range(count):
            lines += [f"{word} NN I-NP {tag}" for word, tag in tagged(made)] + [""]
        write(root / name, lines)


def make_tables(root: Path) -> None:
    """A training file with everything and a test file without labels, of every kind."""
    made = Made(7)
    rows: dict[str, list[dict]] = {kind: [] for kind in KINDS}
    for n in range(48):
        right = n % 3
        rows["classification"].append({"text": made.marked(MARKS[right]), "label": ("bad", "good", "so-so")[right]})
        rows["pair"].append({"text": made.text(), "pair": made.marked(MARKS[n % 2]), "label": ("no", "yes")[n % 2]})
        rows["regression"].append({"text": made.marked(MARKS[n % 2]), "label": n % 2 + 0.5})
        some = sorted({MARKS[n % 2], MARKS[n % 4]}) if n % 5 else []
        rows["multi_label"].append({"text": made.marked(*some), "labels": some})
        words, tags = zip(*tagged(made), strict=True)
        rows["tagging"].append({"words": list(words), "tags": list(tags)})
        rows["multiple_choice"].append(
            {"text": made.text(), "question": "?", "choices": choices(made, right, 3), "label": right}
        )
    for kind, impossible in (("qa", False), ("qa_impossible", True)):
        for found in questions(48, impossible):
            answer = found["answers"][0]["text"] if found["answers"] else ""
            rows[kind].append({"question": found["question"], "context": found["context"], "answer": answer})
    for kind in KINDS:
        write(root / f"{kind}.jsonl", [json.dumps(row) for row in rows[kind]])
        unknown = ("label", "labels", "tags", "answer")
        bare = [{name: value for name, value in row.items() if name not in unknown} for row in rows[kind][:5]]
        write(root / f"{kind}.test.jsonl", [json.dumps(row) for row in bare])


def make_models(folder: Path) -> None:
    from data.train_vocab import train_vocab

    made = Made(1)
    lines = [made.marked(*MARKS) + made.rng.choice([".", "?", " (so)", ": 12"]) for _ in range(300)]
    lines += ["the quick brown fox jumps over a lazy dog"] * 5
    text = write(folder / "text.txt", lines)
    for name, size in (("model", 60), ("other", 54)):
        vocabulary = train_vocab([str(text)], folder / name / "spiece.model", vocab_size=size)
        tokenizer = AlbertTokenizer.from_file(vocabulary)
        config = AlbertConfig(vocab_size=size, embedding_size=8, hidden_size=16, num_hidden_layers=2,
                              num_attention_heads=2, intermediate_size=32, max_position_embeddings=64)  # fmt: skip
        model = albert_jax.AlbertForPreTraining.from_config(config, tokenizer)
        model.params = jax.tree.map(lambda x: x * 10 if x.ndim > 1 else x, model.params)
        shutil.rmtree(folder / name)
        model.save_pretrained(folder / name)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with models, data of every task, and a configuration."""
    folder = tmp_path_factory.mktemp("finetune")
    make_models(folder)
    for name in GLUE:
        make_glue(folder / "glue", name)
    make_glue(folder / "random", "sst2", random=True)
    make_diagnostic(folder / "glue")
    make_squad(folder / "squad")
    make_choices(folder)
    make_conll(folder / "conll")
    make_tables(folder / "tables")
    (folder / "config.py").write_text(CONFIG)
    return folder


# ---- running


@dataclasses.dataclass
class Done:
    code: int
    out: str
    err: str


def start(folder: Path, *options: object, config: str = "config.py") -> Done:
    """finetune.py's own entry in this process, which saves the seconds of a new one."""
    before = sys.argv, Path.cwd(), {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    out, err = io.StringIO(), io.StringIO()
    try:
        os.chdir(folder)
        sys.argv = ["finetune.py", config, *map(str, options)]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
            exit_cleanly(finetune.main)
    finally:
        sys.argv = before[0]
        os.chdir(before[1])
        for number, handler in before[2].items():
            signal.signal(number, handler)
    return Done(ended.value.code, out.getvalue(), err.getvalue())


def run(folder: Path, *options: object, config: str = "config.py") -> Done:
    done = start(folder, *options, config=config)
    assert done.code == 0, done.out + done.err
    return done


def command(*options: object) -> list[str]:
    return [sys.executable, str(ROOT / "finetune.py"), "config.py", *map(str, options)]


def environment() -> dict[str, str]:
    # One device, as on a laptop: not the suite's eight.
    return os.environ | {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "PYTHONPATH": str(ROOT),
    }


def params(folder: Path):
    return read_source(folder)[0].parameters


def assert_same_params(one: Path, other: Path) -> None:
    first, second = params(one), params(other)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def files(folder: Path) -> dict[str, float]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module", autouse=True)
def offline():
    """A misspelt name must not be looked for on the hub from a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module")
def finished(place) -> Path:
    """The folder of a task with two seeds."""
    done = run(place, "--seeds", 0, 1)
    (place / "output.txt").write_text(done.out)
    return place / "run" / "sst2"


@pytest.fixture
def copied(finished, place, tmp_path) -> Path:
    """Everything that the run needs and made, to be changed."""
    for name in ("model", "glue/SST-2", "run"):
        shutil.copytree(place / name, tmp_path / name)
    shutil.copy(place / "config.py", tmp_path)
    return tmp_path


# ---- one task


def test_a_run_tells_what_it_does_and_what_came_out(finished, place):
    output = (place / "output.txt").read_text()
    for line in (
        "task       SST-2, judged by accuracy",
        "train      64 examples: negative 32 (50.0%), positive 32 (50.0%); 0 (0.0%) truncated",
        "steps      12 of 16 examples (3.0 epochs), learning rate 0.003, warm-up 2",
        "newly initialized (2): classifier/bias, classifier/kernel",
        "step      12/12",
        "finished   seed 1",
    ):
        assert line in output
    result = load_result(finished / "result.json")
    row = next(line for line in output.splitlines() if line.startswith("SST-2 "))
    assert [f"{result.median:.1f}", f"{result.best.score:.1f}"] == row.split()[2:4]


def test_the_result_holds_every_seed(finished):
    result = load_result(finished / "result.json")
    assert [seed.seed for seed in result.seeds] == [0, 1]
    assert (result.task, result.metric, result.baseline, result.error) == ("sst2", "accuracy", 50.0, None)
    assert result.references[0].model == "base_v2", "none is of this size: base v2 stands for it"
    for seed in result.seeds:
        assert (seed.steps, seed.stopped) == (STEPS, "finished")
        assert [point["step"] for point in seed.curve] == [4, 8, 12]
        assert all(np.isfinite(list(point.values())).all() for point in seed.curve)
        scores = {point["step"]: point["score"] for point in seed.curve}
        assert seed.score == max(scores.values()) == scores[seed.best_step]
        assert seed.metrics["dev"]["accuracy"] == seed.score
        assert seed.seconds > 0
        own = load_result(finished / f"seed_{seed.seed}" / "result.json")
        assert own.seeds == [seed]
    assert result.details["config"]["recipe"]["classifier_dropout"] == 0.1, "the recipe has nothing open"
    assert result.details["versions"]["packages"]["jax"] == jax.__version__
    assert {"report.md", "report.json", "report.html", "best", "predictions"} <= {p.name for p in finished.iterdir()}
    assert "SST-2" in (finished / "report.html").read_text()


def test_a_finished_seed_keeps_its_records_and_no_checkpoints(finished):
    folder = finished / "seed_0"
    assert not (folder / "checkpoints").exists()
    assert {"config.json", "versions.json", "metrics.jsonl", "log.txt", "tensorboard", "best"} <= {
        path.name for path in folder.iterdir()
    }
    assert [r["step"] for r in read_metrics(folder) if "train/loss" in r] == list(range(2, STEPS + 1, 2))


def test_the_best_model_is_read_from_every_folder_of_the_run(finished):
    best = load_result(finished / "result.json").best.seed
    assert_same_params(finished / "best", finished / f"seed_{best}" / "best")
    for folder in (finished, finished / "best", finished / f"seed_{best}"):
        model = AlbertForSequenceClassification.from_pretrained(folder)
        assert model.labels == ("negative", "positive")
        model.require_trained_head()
        assert_same_params(folder, finished / "best")


def test_the_best_model_has_a_configuration_for_transformers(finished):
    content = json.loads((finished / "best" / "config.json").read_text())
    assert content["id2label"] == {"0": "negative", "1": "positive"}
    assert content["label2id"] == {"negative": 0, "positive": 1}
    assert content["problem_type"] == "single_label_classification"
    assert (content["model_type"], content["architectures"]) == ("albert", ["AlbertForSequenceClassification"])
    assert content["hidden_dropout_prob"] == content["classifier_dropout_prob"] == 0.1


def test_the_predictions_have_the_score_of_the_best_seed(finished, place):
    lines = (finished / "predictions" / "dev.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction"
    said = [line.split("\t") for line in lines[1:]]
    assert [int(number) for number, _ in said] == list(range(24))
    right = [int(label) == number % 2 for number, (_, label) in enumerate(said)]
    assert 100 * np.mean(right) == pytest.approx(load_result(finished / "result.json").best.score)


def test_evaluation_of_the_best_model_gives_its_score(finished, copied):
    result = load_result(finished / "result.json")
    done = run(copied, "--mode", "evaluate")
    found = load_result(copied / "run/sst2/evaluation/result.json")
    assert found.seeds[0].metrics == result.best.metrics
    assert f"{result.best.score:.1f}" in done.out.splitlines()[-1]
    text = (finished / "predictions" / "dev.tsv").read_text()
    assert (copied / "run/sst2/evaluation/dev.tsv").read_text() == text
    assert load_result(copied / "run/sst2/result.json") == result, "the training's own result stays"


@pytest.mark.parametrize("option", ["--init_from", "--init-from"])
def test_the_model_to_judge_may_be_given_in_either_spelling(copied, option):
    run(copied, "--mode", "evaluate", option, "run/sst2/seed_1")
    details = load_result(copied / "run/sst2/evaluation/result.json").details
    assert "seed_1" in details["source"]


def test_the_same_command_trains_nothing_and_more_seeds_train_only_those(finished, copied):
    before, result = files(copied / "run/sst2/seed_1"), load_result(finished / "result.json")
    done = run(copied, "--seeds", 0, 1, 2)
    assert done.out.count("finished before") == 2
    assert "finished   seed 2" in done.out
    assert {name: t for name, t in files(copied / "run/sst2/seed_1").items() if name != "lock"} == {
        name: t for name, t in before.items() if name != "lock"
    }
    more = load_result(copied / "run/sst2/result.json")
    assert [seed.seed for seed in more.seeds] == [0, 1, 2]
    assert more.seeds[:2] == result.seeds
    again = run(copied, "--seeds", 0, 1)
    assert "step " not in again.out.split("seed 0")[1]
    assert load_result(copied / "run/sst2/result.json").seeds == result.seeds


def assert_refused(done: Done, message: str) -> None:
    assert done.code == 2, done.out + done.err
    assert re.search(message, done.err, re.DOTALL), done.err
    assert "Traceback" not in done.err
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.err


def test_another_configuration_in_the_same_folder_is_refused_with_the_differences(copied):
    before = files(copied / "run")
    done = start(copied, "--recipe.learning_rate", 1e-3, "--recipe.encoder_dropout", 0)
    assert_refused(done, r"another configuration:.*recipe\.learning_rate: 0\.003 -> 0\.001.*Give another --run_dir")
    assert "recipe.encoder_dropout: 0.1 -> 0.0" in done.err
    assert files(copied / "run") == before


def test_what_may_change_within_a_run_does(copied):
    done = run(copied, "--accumulation", 2, "--log_every", 5, "--compare_with", "large_v1")
    assert "finished before" in done.out
    assert load_result(copied / "run/sst2/result.json").references[0].model == "large_v1"


def test_another_training_file_at_the_same_path_is_refused(copied):
    path = copied / "glue/SST-2/train.tsv"
    path.write_text(path.read_text().replace("\t1\n", "\t2\n").replace("\t0\n", "\t1\n").replace("\t2\n", "\t0\n"))
    before = files(copied / "run")
    assert_refused(start(copied, "--seeds", 0, 1, 2), "trained with another training data than is now at that path")
    assert {n: t for n, t in files(copied / "run").items() if not n.endswith("lock")} == {
        n: t for n, t in before.items() if not n.endswith("lock")
    }


OTHER_TARGETS = {
    "tagging": ({"words": ["the", "fox"]}, {"tags": ["O", "B-X"]}, {"tags": ["B-X", "O"]}),
    "question_answering": ({"question": "who", "context": "the fox"}, {"answer": "fox"}, {"answer": "the"}),
    "multiple_choice": ({"text": "the", "choices": ["fox", "dog"]}, {"label": 0}, {"label": 1}),
    "classification": ({"text": "the fox"}, {"label": "a"}, {"label": "b"}),
    "regression": ({"text": "the fox"}, {"label": 0.5}, {"label": 1.5}),
    "multi_label": ({"text": "the fox"}, {"labels": ["a"]}, {"labels": ["b"]}),
}


@pytest.mark.parametrize("kind", OTHER_TARGETS)
def test_the_fingerprint_covers_what_is_to_be_learnt(place, tmp_path, kind):
    """The texts may be the same, and the tags or answers others."""
    texts, one, other = OTHER_TARGETS[kind]
    tokenizer = AlbertTokenizer.from_file(next((place / "model").rglob("spiece.model")))

    def fingerprint_of(*targets: dict) -> str:
        path = write(tmp_path / "a.jsonl", [json.dumps(texts | target) for target in targets])
        files = TableConfig(train_file=str(path), dev_file=str(path), kind=kind)
        task = open_task(FinetuneConfig(task="table", table=files), "table")
        return fingerprint(task.encode("train", task.read("train"), tokenizer, 32))

    assert fingerprint_of(one, other) == fingerprint_of(one, other)
    assert len({fingerprint_of(one, other, one), fingerprint_of(other, one, one), fingerprint_of(one, one, other)}) == 3


def test_checkpoints_of_a_seed_that_was_killed_as_it_finished_go_later(copied):
    left = copied / "run/sst2/seed_0/checkpoints/12"
    left.mkdir(parents=True)
    run(copied, "--seeds", 0, 1)
    assert not left.exists()


def test_separable_labels_are_learnt_and_random_ones_warned_of(place):
    options = ("--recipe.evaluate_every", 16, "--recipe.warmup_steps", 4, "--log_every", 16)
    done = run(place, *options, "--recipe.steps", 64, "--run_dir", "learnt")
    assert load_result(place / "learnt/sst2/result.json").best.score > 75
    assert "at chance" not in done.out + done.err
    options += ("--recipe.steps", 16, "--recipe.learning_rate", 1e-6)
    done = run(place, *options, "--run_dir", "chance", "--data_dir", "random")
    assert "1 of 1 seeds stayed at chance (seed 0)" in done.err
    for remedy in ("more steps", "--recipe.learning_rate 5e-07", "--recipe.warmup_steps 8", "--seeds"):
        assert remedy in done.err
    assert "MNLI" not in done.err, "a start from that helps pairs of texts"
    assert load_result(place / "chance/sst2/result.json").seeds[0].at_chance
    assert "at chance" in done.out.splitlines()[-1]


def test_early_stopping_ends_after_so_many_evaluations_without_a_new_best(place):
    options = ("--early_stopping", 2, "--recipe.steps", 100, "--recipe.learning_rate", 1e-9)
    run(place, "--run_dir", "early", *options)
    (seed,) = load_result(place / "early/sst2/result.json").seeds
    assert (seed.stopped, seed.steps, seed.best_step) == ("early", 12, 4)
    assert not (place / "early/sst2/seed_0/checkpoints").exists()
    assert "finished before" in run(place, "--run_dir", "early", *options).out


def test_an_evaluation_beyond_the_last_step_comes_at_the_last_step(place):
    run(place, "--run_dir", "once", "--recipe.evaluate_every", 1000)
    (seed,) = load_result(place / "once/sst2/result.json").seeds
    assert [point["step"] for point in seed.curve] == [STEPS] == [seed.best_step]


def test_accumulation_changes_no_score(place):
    options = ("--recipe.encoder_dropout", 0, "--recipe.classifier_dropout", 0)
    curves = []
    for parts in (1, 2):
        run(place, "--run_dir", f"parts{parts}", "--accumulation", parts, *options)
        (seed,) = load_result(place / f"parts{parts}/sst2/result.json").seeds
        curves.append(seed.curve)
    for one, two in zip(*curves, strict=True):
        assert one == pytest.approx(two, rel=1e-4)


def test_bfloat16_trains(place):
    run(place, "--run_dir", "bfloat16", "--compute.dtype", "bfloat16", "--compute.remat", "matmuls")
    (seed,) = load_result(place / "bfloat16/sst2/result.json").seeds
    assert len(seed.curve) == 3
    assert all(np.isfinite(point["loss"]) for point in seed.curve)
    assert {str(value.dtype) for value in params(place / "bfloat16/sst2").values()} == {"float32"}


def test_a_run_that_diverges_stops_and_keeps_what_was_good(place):
    options = ("--run_dir", "diverged", "--recipe.learning_rate", 1e30, "--recipe.max_gradient_norm", 1e30)
    done = start(place, *options, "--recipe.evaluate_every", 1, "--recipe.warmup_steps", 0)
    assert_refused(done, r"sst2, seed 0: the loss is not finite at step \d+, training has diverged\. Lower")
    assert not (place / "diverged/sst2/result.json").exists()


def test_a_head_of_other_labels_is_replaced_and_one_of_the_same_kept(place, finished):
    options = ("--recipe.steps", 1, "--recipe.learning_rate", 1e-9, "--recipe.warmup_steps", 0)
    done = run(place, *options, "--init_from", finished, "--run_dir", "continued")
    assert "newly initialized" not in done.out
    kernel = [np.asarray(params(folder)["classifier/kernel"]) for folder in (finished, place / "continued/sst2")]
    np.testing.assert_allclose(*kernel, atol=1e-6)
    done = run(place, *options, "--task", "rte", "--init_from", finished, "--run_dir", "continued")
    assert "newly initialized (2): classifier/bias, classifier/kernel" in done.out
    assert AlbertForSequenceClassification.from_pretrained(place / "continued/rte").labels == (
        "entailment",
        "not_entailment",
    )


# ---- interrupted

LONG = ("--recipe.steps", 240, "--recipe.evaluate_every", 20, "--recipe.warmup_steps", 20, "--log_every", 5)


def prepare_long(place: Path, folder: Path) -> Path:
    for name in ("model", "glue/SST-2"):
        shutil.copytree(place / name, folder / name)
    shutil.copy(place / "config.py", folder)
    return folder


def long_run(folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*LONG), cwd=folder, env=environment(), capture_output=True, text=True, check=False, timeout=200
    )


@pytest.fixture(scope="module")
def uninterrupted(place, tmp_path_factory) -> Path:
    folder = prepare_long(place, tmp_path_factory.mktemp("long"))
    done = long_run(folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_an_interrupted_run_resumes_bit_for_bit(place, uninterrupted, tmp_path, number):
    folder = prepare_long(place, tmp_path)
    process = subprocess.Popen(
        command(*LONG), cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    records = folder / "run/sst2/seed_0/metrics.jsonl"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        # A checkpoint has its checksums once it is whole.
        saved = any((records.parent / "checkpoints").glob("[0-9]*0/checksums.json"))
        if saved and re.search(r'"step": ([3-9]\d|1\d\d),', records.read_text()):
            break
        time.sleep(0.005)
    assert process.poll() is None, f"ended before it could be interrupted:\n{process.stdout.read()}"
    process.send_signal(number)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == (0 if number == signal.SIGTERM else -number), output
    assert not (folder / "run/sst2/result.json").exists()
    if number == signal.SIGTERM:
        assert re.search(r"stopped    on SIGTERM at step \d+, saved; the same command continues", output)
    done = long_run(folder)
    assert done.returncode == 0, done.stderr
    assert "continued from step" in done.stdout
    assert_same_params(folder / "run/sst2/best", uninterrupted / "run/sst2/best")
    found, expected = (load_result(at / "run/sst2/result.json").seeds[0] for at in (folder, uninterrupted))
    assert dataclasses.replace(found, seconds=0, curve=[]) == dataclasses.replace(expected, seconds=0, curve=[])
    assert [(p["step"], p["score"]) for p in found.curve] == [(p["step"], p["score"]) for p in expected.curve]


# ---- all of GLUE

FEW = ("--recipe.steps", 2, "--recipe.evaluate_every", 2, "--recipe.warmup_steps", 0)


@pytest.fixture(scope="module")
def whole(place) -> Path:
    """All of GLUE, RTE's folder being away at first, and back for a second call; then predicted."""
    folder = place / "all"
    folder.mkdir()
    (place / "glue/RTE").rename(folder / "RTE")
    first = start(place, "--task", "all", "--run_dir", "all", *FEW)
    (folder / "times.json").write_text(json.dumps(files(folder)))
    (folder / "RTE").rename(place / "glue/RTE")
    second = start(place, "--task", "all", "--run_dir", "all", *FEW)
    (folder / "calls.json").write_text(json.dumps([dataclasses.asdict(done) for done in (first, second)]))
    return folder


def calls(whole: Path) -> list[Done]:
    return [Done(**done) for done in json.loads((whole / "calls.json").read_text())]


def test_a_broken_task_does_not_stop_the_others(whole):
    first, _ = calls(whole)
    assert first.code == 1
    assert re.search(r"rte failed, the other tasks go on: .*RTE/train\.tsv: no such file", first.err)
    assert "Traceback" not in first.err
    table = first.out.split("\ntask ")[-1]
    for title in ("MNLI matched", "CoLA", "SST-2", "MRPC", "STS-B", "QQP", "QNLI", "RTE", "WNLI", "diagnostic"):
        assert re.search(rf"^{title} ", table, re.MULTILINE), table


def test_the_second_call_heals_it_and_repeats_nothing(whole):
    _, second = calls(whole)
    assert second.code == 0, second.err
    assert second.out.count("finished before") == 8
    assert second.out.count("finished   seed") == 1
    times = json.loads((whole / "times.json").read_text())
    now = files(whole)
    for name in times:
        if "/seed_0/best/" in name or name.endswith("seed_0/versions.json"):
            assert times[name] == now[name]


def test_one_report_holds_the_tasks_in_order(whole):
    names = [entry["task"] for entry in json.loads((whole / "report.json").read_text())]
    assert names == list(finetune.ALL_OF_GLUE)
    assert all(entry["error"] is None for entry in json.loads((whole / "report.json").read_text()))
    page = (whole / "report.html").read_text()
    assert "Mean" in page or "mean" in page
    assert [name for name in ("CoLA", "RTE", "diagnostic") if name not in page] == []


def test_tasks_of_pairs_start_from_mnli_and_the_diagnostic_set_asks_it(whole):
    sources = {}
    for name in ("rte", "stsb", "mrpc", "sst2", "cola", "qnli"):
        sources[name] = json.loads((whole / name / "seed_0/config.json").read_text())["init_from"]
    assert {name for name, source in sources.items() if source == "all/mnli/seed_0"} == {"rte", "stsb", "mrpc"}
    assert set(sources.values()) == {"all/mnli/seed_0", "model"}
    assert load_result(whole / "ax/evaluation/result.json").details["source"] == str(Path("all/mnli/best"))
    assert AlbertForSequenceClassification.from_pretrained(whole / "stsb").labels == ("score",)


def test_predictions_of_all_tasks_are_what_the_leaderboard_takes(whole, place):
    done = run(place, "--task", "all", "--run_dir", "all", "--mode", "predict", "--init_from", "None")
    assert done.code == 0
    for name, submissions in SUBMISSIONS.items():
        for submission in submissions:
            lines = (whole / name / "predictions" / submission).read_text().splitlines()
            count = 12 if name == "ax" else 7
            assert lines[0] == "index\tprediction"
            assert [line.split("\t")[0] for line in lines[1:]] == [str(n) for n in range(count)]
            said = {line.split("\t")[1] for line in lines[1:]}
            if name == "stsb":
                assert all(0 <= float(value) <= 5 for value in said)
            else:
                assert said <= set(GLUE["mnli" if name == "ax" else name][3])


# ---- the other tasks, from training to predictions


def both(place: Path, task: str, *options: object) -> tuple[Path, Done]:
    """Trains a little, then predicts the test data; the folder of the task."""
    folder = f"other{abs(hash((task, *options))) % 10**8}"
    run(place, "--task", task, "--run_dir", folder, *FEW, *options)
    done = run(place, "--task", task, "--run_dir", folder, "--mode", "predict", "--init_from", "None", *options)
    return place / folder / task, done


@pytest.mark.parametrize("head", ["plain", "beam"])
def test_squad_2_keeps_its_threshold_and_uses_it(place, head):
    folder, _ = both(place, "squad2", "--data_dir", "squad", "--squad.head", head)
    result = load_result(folder / "result.json")
    threshold = result.details["thresholds"]["best_f1_thresh"]
    assert not any(name.endswith("thresh") for name in result.best.metrics["dev"])
    for split, count in (("dev", 16), ("test", 6)):
        said, odds, best = (
            json.loads((folder / "predictions" / f"{split}_{name}.json").read_text())
            for name in ("predictions", "null_odds", "nbest_predictions")
        )
        assert len(said) == count
        assert said.keys() == odds.keys() == best.keys()
        for name, answer in said.items():
            likeliest = next((candidate["text"] for candidate in best[name] if candidate["text"]), "")
            assert answer == ("" if odds[name] > threshold else likeliest)
    assert all(("start_log_prob" if head == "beam" else "start_logit") in c for c in best[name] if c["text"])
    if head == "beam":
        return
    always = run(place, "--task", "squad2", "--run_dir", folder.parent, "--mode", "predict", "--init_from", "None",
                 "--data_dir", "squad", "--squad.head", head, "--squad.null_threshold", 1e9)  # fmt: skip
    assert always.code == 0
    said = json.loads((folder / "predictions/test_predictions.json").read_text())
    assert all(said.values())


def test_squad_1_predicts_an_answer_to_every_question(place):
    folder, _ = both(place, "squad1", "--data_dir", "squad")
    said = json.loads((folder / "predictions/test_predictions.json").read_text())
    assert [name for name, answer in said.items() if answer] == [f"q3-{n}" for n in range(6)]
    assert not (folder / "predictions/test_null_odds.json").exists()
    gold = {found["id"]: [found["answers"][0]["text"]] for found in questions(16, False, 2)}
    dev = json.loads((folder / "predictions/dev_predictions.json").read_text())
    metrics = load_result(folder / "result.json").best.metrics["dev"]
    assert squad_v1_metrics(dev, gold)["f1"] == pytest.approx(metrics["f1"])


@pytest.mark.parametrize(("task", "count", "letters"), [("race", 6, "ABCD"), ("swag", 3, "ABCD"), ("dream", 3, "ABC")])
def test_choices_are_predicted_by_their_letters(place, task, count, letters):
    folder, _ = both(place, task, "--data_dir", "." if task == "race" else task)
    lines = (folder / "predictions/test.tsv").read_text().splitlines()
    assert lines[0] == "id\tprediction\tprobabilities"
    assert len(lines) == count + 1
    for line in lines[1:]:
        _, letter, shares = line.split("\t")
        shares = [float(share) for share in shares.split()]
        assert len(shares) == len(letters)
        assert sum(shares) == pytest.approx(1, abs=1e-3)
        assert shares[letters.index(letter)] == max(shares)
    metrics = load_result(folder / "result.json").best.metrics["dev"]
    assert set(metrics) == ({"accuracy", "accuracy_middle", "accuracy_high"} if task == "race" else {"accuracy"})


def test_tags_are_predicted_in_the_columns_of_conlleval(place):
    folder, _ = both(place, "conll", "--data_dir", "conll")
    sentences = (folder / "predictions/test.txt").read_text().rstrip("\n").split("\n\n")
    words = [line.split()[0] for line in (place / "conll/eng.testb").read_text().splitlines()[2:] if line]
    assert [line.split(" ")[0] for sentence in sentences for line in sentence.split("\n")] == words
    labels = set(read_source(folder)[0].labels)
    assert {"O", "B-PER", "B-LOC"} <= labels, "the files have IOB1, the model learns IOB2"
    for sentence in sentences:
        for line in sentence.split("\n"):
            assert len(line.split(" ")) == 3
            assert set(line.split(" ")[1:]) <= labels


def table(kind: str) -> tuple[str, ...]:
    return ("--table.train_file", f"tables/{kind}.jsonl", "--table.test_file", f"tables/{kind}.test.jsonl")


def test_a_model_of_mnli_that_comes_later_does_not_cost_the_results_of_the_others(place, tmp_path):
    """RTE began without one, since MNLI had failed; once that is mended, RTE's result stays in the table."""
    for name in ("model", "glue"):
        shutil.copytree(place / name, tmp_path / name)
    shutil.copy(place / "config.py", tmp_path)
    for folder in (tmp_path / "glue").iterdir():
        if folder.name not in ("MNLI", "RTE"):
            shutil.rmtree(folder)
    (tmp_path / "glue/MNLI").rename(tmp_path / "MNLI")
    start(tmp_path, "--task", "all", *FEW)
    found = load_result(tmp_path / "run/rte/result.json").median
    (tmp_path / "MNLI").rename(tmp_path / "glue/MNLI")
    done = start(tmp_path, "--task", "all", *FEW)
    (row,) = [line for line in done.out.split("\ntask ")[-1].splitlines() if line.startswith("RTE ")]
    assert f"{found:.1f}" in row.split(), row


def test_more_seeds_of_all_tasks_train_only_those_wherever_mnli_is_best_now(place, tmp_path):
    for name in ("model", "glue/MNLI", "glue/RTE"):
        shutil.copytree(place / name, tmp_path / name)
    shutil.copy(place / "config.py", tmp_path)
    start(tmp_path, "--task", "all", *FEW)
    before = load_result(tmp_path / "run/rte/result.json").seeds
    for path in (tmp_path / "run/mnli").glob("seed_0/result.json"):
        content = json.loads(path.read_text())
        content["seeds"][0]["score"] = 0.0  # the new one will be better
        path.write_text(json.dumps(content))
    done = start(tmp_path, "--task", "all", "--seeds", 0, 1, *FEW)
    assert "rte failed" not in done.err, done.err
    assert load_result(tmp_path / "run/mnli/result.json").best.seed == 1
    assert load_result(tmp_path / "run/rte/result.json").seeds[:1] == before


def test_predictions_for_a_leaderboard_are_never_cut_short(copied):
    options = ("--mode", "predict", "--init_from", "None")
    run(copied, *options, "--dev_examples", 3)
    assert len((copied / "run/sst2/predictions/SST-2.tsv").read_text().splitlines()) == 8


@pytest.mark.parametrize("kind", KINDS)
def test_own_data_of_every_kind_is_learnt_and_predicted(place, kind):
    folder, _ = both(place, "table", *table(kind))
    result = load_result(folder / "result.json")
    assert result.title == f"{kind}.jsonl"
    written = sorted(path.name for path in (folder / "predictions").glob("test*"))
    if kind.startswith("qa"):
        assert "test_predictions.json" in written
        assert ("test_null_odds.json" in written) == (kind == "qa_impossible")
        assert result.metric == "f1"
        said = json.loads((folder / "predictions/test_predictions.json").read_text())
        assert len(said) == 5
    elif kind == "multiple_choice":
        assert len((folder / "predictions/test.tsv").read_text().splitlines()) == 6
    elif kind == "tagging":
        assert (folder / "predictions/test.txt").read_text().count("\n\n") == 4
    else:
        said = [json.loads(line) for line in (folder / "predictions/test.jsonl").read_text().splitlines()]
        assert len(said) == 5
        probabilities = {"regression": 0, "multi_label": 4, "classification": 3, "pair": 2}[kind]
        assert {len(line.get("probabilities", ())) for line in said} == {probabilities}
        expected = {"regression": float, "multi_label": list}.get(kind, str)
        assert {type(line["prediction"]) for line in said} == {expected}


# ---- bad input


@pytest.fixture
def fresh(place, tmp_path) -> Path:
    """Models and data of its own, and no run yet."""
    for name in ("model", "other", "glue/SST-2", "glue/RTE", "squad", "conll", "tables", "RACE", "swag"):
        shutil.copytree(place / name, tmp_path / name)
    shutil.copy(place / "config.py", tmp_path)
    return tmp_path


def replaced(name: str, old: str, new: str, count: int = 1):
    def change(folder: Path) -> None:
        path = folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, count))

    return change


def emptied(name: str):
    return lambda folder: (folder / name).write_text("")


def without(name: str):
    def change(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def saved_dataset(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"sentence": ["a"], "label": [0]}
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows)}).save_to_disk(folder / "saved")


def csv(folder: Path) -> None:
    (folder / "mine.csv").write_text("text,label\nthe river,good\nthe stone,bad\n")
    (folder / "dev.csv").write_text("text,label\nthe river,better\n")


def nothing(folder: Path) -> None:
    pass


RTE = ("--task", "rte")
SQUAD = ("--task", "squad2", "--data_dir", "squad")
MINE = ("--task", "table", "--table.train_file", "mine.csv")
BAD_INPUT = {
    "no model to start from": (nothing, ["--init_from", "None"], r"init_from = None: give the model to start from"),
    "a model that is not there": (nothing, ["--init_from", "modle"], r"modle: .*no"),
    "a model without weights": (without("model/model.safetensors"), [], r"model: "),
    "damaged weights": (lambda f: (f / "model/model.safetensors").write_bytes(b"\x08\0\0"), [], r"model\.safetensors"),
    "no data": (nothing, ["--data_dir", "None"], r"data_dir = None: give a folder of the official files, or hf:glue"),
    "a data folder that is not there": (nothing, ["--data_dir", "gleu"], r"gleu/SST-2/train\.tsv: no such file"),
    "a missing file": (without("glue/SST-2/dev.tsv"), [], r"SST-2/dev\.tsv: no such file"),
    "an unknown task": (nothing, ["--task", "sst3"], r"task = 'sst3': there are cola, sst2, .*table"),
    "a misspelt option": (nothing, ["--recipe.learning_rat", "1"], r"recipe\.learning_rat"),
    "a value of the wrong type": (nothing, ["--recipe.steps", "many"], r"recipe\.steps"),
    "an unknown mode": (nothing, ["--mode", "test"], r"mode"),
    "wrong columns": (
        replaced("glue/SST-2/train.tsv", "sentence", "text"),
        [],
        r"train\.tsv, line 1: no column sentence",
    ),
    "an unknown label": (
        replaced("glue/SST-2/train.tsv", "\t1\n", "\t7\n"),
        [],
        r"train\.tsv, line 3: unknown label '7'",
    ),
    "an unknown label to judge by": (
        replaced("glue/SST-2/dev.tsv", "\t1\n", "\t7\n"),
        [],
        r"dev\.tsv, line 3: unknown",
    ),
    "an empty file": (emptied("glue/SST-2/train.tsv"), [], r"train\.tsv: empty"),
    "a header and nothing below": (
        lambda f: (f / "glue/SST-2/dev.tsv").write_text("sentence\tlabel\n"),
        [],
        r"dev split of sst2 is empty",
    ),
    "a SQuAD answer that is nowhere": (
        replaced("squad/train-v2.0.json", '"text": "fox"', '"text": "zebra"'),
        SQUAD,
        r"train-v2\.0\.json: question .*zebra",
    ),
    "SQuAD that is no JSON": (emptied("squad/dev-v2.0.json"), SQUAD, r"dev-v2\.0\.json"),
    "an option beyond D": (
        replaced("RACE/train/high/0.txt", '"answers": ["', '"answers": ["X'),
        ["--task", "race", "--data_dir", "."],
        r"0\.txt, question 1: the answer is 'X.', expected A, B, C or D",
    ),
    "a choice out of range": (
        lambda f: (f / "swag/train.csv").write_text((f / "swag/train.csv").read_text() + "a,b,c,d,e,f,4\n"),
        ["--task", "swag", "--data_dir", "swag"],
        r"train\.csv, line 18: the label is '4', expected 0, 1, 2 or 3",
    ),
    "a tag without a word": (
        replaced("conll/eng.train", "the NN I-NP O", "O"),
        ["--task", "conll", "--data_dir", "conll"],
        r"eng\.train, line \d+: one column|eng\.train, line \d+: \d columns",
    ),
    "a table without its file": (nothing, ["--task", "table"], r"table\.train_file = None: give a \.csv"),
    "a table that is not there": (nothing, MINE, r"mine\.csv: "),
    "a table with a label only to judge by": (
        csv,
        [*MINE, "--table.dev_file", "dev.csv"],
        r"dev\.csv, line 2, column 'label': unknown label 'better'",
    ),
    "an answer that is not in its context": (
        replaced("tables/qa.jsonl", '"answer": "', '"answer": "no'),
        ["--task", "table", *table("qa")],
        r"qa\.jsonl, line 1, column 'answer': '\w+' does not stand in the context",
    ),
    "a tokenizer of another vocabulary": (
        nothing,
        ["--tokenizer", "other/spiece.model"],
        r"tokenizer = other/spiece\.model",
    ),
    "a tokenizer that is not there": (nothing, ["--tokenizer", "no.model"], r"no\.model"),
    "a model without its tokenizer": (
        lambda f: [path.unlink() for path in (f / "model").glob("*") if "token" in path.name or "spiece" in path.name],
        [],
        r"model.*: has no tokenizer beside it; give its SentencePiece model by --tokenizer",
    ),
    "a length beyond the positions": (
        nothing,
        ["--recipe.max_length", "65"],
        r"recipe\.max_length = 65: must be at most the 64 positions",
    ),
    "a batch that does not divide": (
        nothing,
        ["--accumulation", "3"],
        r"recipe\.batch_size = 16: must be a multiple of accumulation = 3",
    ),
    "a batch that the devices do not divide": (nothing, ["--recipe.batch_size", "12"], r"recipe\.batch_size"),
    "steps and epochs": (nothing, ["--recipe.epochs", "2"], r"recipe\.epochs = 2\.0: recipe\.steps = 12 is given too"),
    "a warm-up beyond the end": (
        nothing,
        ["--recipe.warmup_steps", "13"],
        r"recipe\.warmup_steps = 13: must be at most",
    ),
    "the diagnostic set to train on": (nothing, ["--task", "ax"], r"task = 'ax': has no training data"),
    "the beam head for SQuAD 1.1": (
        nothing,
        ["--task", "squad1", "--data_dir", "squad", "--squad.head", "beam"],
        r"squad\.head = 'beam': .*use plain",
    ),
    "a run folder where a file is": (lambda f: (f / "run").write_text(""), [], r"run_dir = run.*: run is in the way"),
    "predictions of no model": (
        nothing,
        ["--mode", "predict", "--init_from", "None"],
        r"run/sst2: .*train.*--init_from",
    ),
    "an evaluation of no model": (
        nothing,
        ["--mode", "evaluate", "--init_from", "None"],
        r"run/sst2: .*train.*--init_from",
    ),
    "predictions of an untrained head": (
        nothing,
        ["--mode", "predict", "--init_from", "model"],
        r"has no trained classifier.*fine-tune it first",
    ),
    "a seed twice": (nothing, ["--seeds", "1", "1"], r"seeds = \(1, 1\): must differ"),
    "a dataset without the split": (
        saved_dataset,
        ["--data_dir", "hf:saved"],
        r"hf:saved.*: no split 'dev', there are train",
    ),
    "a dataset that is not there": (nothing, ["--data_dir", "hf:./nowhere"], r"hf:\./nowhere.*: cannot be opened"),
    "a mesh of other devices": (nothing, ["--mesh.data", "3"], r"mesh = data 3 .* this run has 8"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gets_one_clear_message(fresh, case):
    spoil, options, message = BAD_INPUT[case]
    spoil(fresh)
    done = start(fresh, *options)
    assert done.code == 2, done.out + done.err
    assert re.search(message, done.err, re.DOTALL), done.err
    assert "Traceback" not in done.err
    assert not (fresh / "run").is_dir() or not any((fresh / "run").iterdir()), "nothing is left of it"


CONFIG_FAULTS = {
    "a pretraining configuration": (
        (ROOT / "configs/pretrain/sample.py").read_text(), r"config\.py: .* a PretrainConfig, not a FinetuneConfig"),
    "an unknown field": (CONFIG.replace("log_every=2", "log_evry=2"), r"config\.py, line .*log_evry"),
    "a syntax error": ("def get_config(:\n", r"config\.py, line 1: SyntaxError"),
}  # fmt: skip


@pytest.mark.parametrize("fault", CONFIG_FAULTS)
def test_a_faulty_configuration_file_is_named(fresh, fault):
    text, message = CONFIG_FAULTS[fault]
    (fresh / "config.py").write_text(text)
    assert_refused(start(fresh), message)


def test_a_command_without_a_configuration_says_so(fresh):
    assert_refused(start(fresh, "--task", "rte", config="--help_me"), "give a configuration first")
    assert_refused(start(fresh, config="confg.py"), r"confg\.py: no such configuration file")


@pytest.mark.parametrize("mode", ["evaluate", "predict"])
def test_a_model_of_other_labels_is_refused(finished, copied, mode):
    make_glue(copied / "glue", "rte")
    make_glue(copied / "glue", "mnli")
    for task in ("rte", "mnli"):
        done = start(copied, "--task", task, "--mode", mode, "--init_from", "run/sst2")
        assert_refused(done, rf"its labels are negative, positive, those of {task} .*fine-tuned for this task")
    assert not (copied / "run/rte").exists()


@pytest.mark.parametrize("file", ["result.json", "seed_0/result.json", "seed_1/result.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", '{"task": "sst2"}'])
def test_a_damaged_result_is_named(copied, file, content):
    (copied / "run/sst2" / file).write_text(content)
    if file == "result.json":
        assert run(copied, "--seeds", 0, 1).code == 0, "it is made anew from those of the seeds"
        assert load_result(copied / "run/sst2/result.json").seeds
        return
    assert_refused(start(copied, "--seeds", 0, 1), re.escape(f"run/sst2/{file}"))


def test_a_damaged_result_is_named_when_its_threshold_is_asked_for(copied):
    (copied / "run/sst2/result.json").write_text("{")
    assert_refused(start(copied, "--mode", "predict", "--init_from", "None"), r"run/sst2/result\.json: not JSON")


@pytest.mark.parametrize("damage", ["short", "missing", "folder"])
def test_a_damaged_best_model_is_named(copied, damage):
    for folder in ("best", "seed_0/best", "seed_1/best"):
        path = copied / "run/sst2" / folder / "model.safetensors"
        content = path.read_bytes()
        path.unlink()  # one file under two names
        if damage == "short":
            path.write_bytes(content[:100])
        if damage == "folder":
            shutil.rmtree(path.parent)
    for options in (("--mode", "predict", "--init_from", "None"), ("--seeds", 0, 1)):
        done = start(copied, *options)
        assert_refused(done, r"run/sst2")


def test_a_second_process_is_refused(copied):
    (copied / "run/sst2/result.json").unlink()
    with (copied / "run/sst2/seed_0/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert_refused(start(copied), "another process is training there")


def test_a_beam_model_without_the_option_for_it_is_refused(place):
    folder, _ = both(place, "squad2", "--data_dir", "squad", "--squad.head", "beam")
    done = start(place, *SQUAD, "--mode", "predict", "--init_from", folder)
    assert_refused(done, r"qa_outputs|squad\.head|beam")


def test_a_development_file_may_ask_what_no_training_question_does(place, tmp_path):
    """Questions without an answer, to judge by alone."""
    folder = place / "tables"
    options = ("--table.train_file", folder / "qa.jsonl", "--table.dev_file", folder / "qa_impossible.jsonl")
    done = start(place, "--task", "table", *options, *FEW, "--run_dir", tmp_path / "run")
    assert done.code in (0, 2)
    assert done.code == 0 or "qa_impossible.jsonl" in done.err, done.err
