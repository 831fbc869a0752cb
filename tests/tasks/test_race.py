"""RACE in both layouts, DREAM and SWAG become choices, the same ones from files and datasets; articles give way and the
ends of the options stay."""

import io
import json
import tarfile
from pathlib import Path

import pytest
import sentencepiece

from albert_jax.errors import UserError
from albert_jax.tasks.examples import ChoiceExample, count_labels, encode_choices
from albert_jax.tasks.race import (
    RACE_V1,
    RACE_V2,
    encode_race,
    open_dream,
    open_swag,
    read_dream,
    read_race,
    read_swag,
)
from albert_jax.tokenizer import CLS, MASK, PAD, SEP, UNK, AlbertTokenizer

PROSE = [
    "the end of the day was so far from the word he had in mind, that nobody knew what it meant to him _ .",
    "who is he? she asked; one or two of them said that he was the last to be seen there.",
]
OPTIONS = ["one", "two", "three", "four"]


@pytest.fixture(scope="module")
def tokenizer() -> AlbertTokenizer:
    model = io.BytesIO()
    settings = dict(vocab_size=150, pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, hard_vocab_limit=False)
    settings |= dict(pad_piece=PAD, unk_piece=UNK, control_symbols=[CLS, SEP, MASK], minloglevel=2)
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(PROSE * 20), model_writer=model, **settings)
    return AlbertTokenizer(model.getvalue())


def article(name: str, questions: int = 1, **changes) -> dict:
    return {
        "id": name,
        "article": f"text of {name}",
        "questions": [f"question {i} _ ?" for i in range(questions)],
        "options": [OPTIONS] * questions,
        "answers": ["B"] * questions,
    } | changes


def write(root: Path, place: str, *articles: dict) -> Path:
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in articles))
    return root


def test_articles_come_by_group_and_number_from_either_folder(tmp_path):
    for number in (10, 9, 100):
        write(tmp_path, f"RACE/dev/high/{number}.txt", article(f"high{number}.txt", 2))
    write(tmp_path, "RACE/dev/middle/500.txt", article("middle500.txt"))
    found = read_race(tmp_path, "dev")
    assert [e.id for e in found] == [
        "middle500-0", "high9-0", "high9-1", "high10-0", "high10-1", "high100-0", "high100-1",
    ]  # fmt: skip
    assert found[1] == ChoiceExample("high9-0", "text of high9.txt", "question 0 _ ?", tuple(OPTIONS), 1, "high")
    assert read_race(tmp_path / "RACE", "dev", ["middle"]) == found[:1]


def test_one_file_of_all_articles_gives_the_same(tmp_path):
    articles = [article(f"high{number}.txt", 3) for number in range(4)]
    for number, one in enumerate(articles):
        write(tmp_path, f"parts/RACE/test/high/{number}.txt", one)
    write(tmp_path, "whole/RACE/test/high/all.txt", *articles)
    found = read_race(tmp_path / "whole", "test", ["high"])
    assert found == read_race(tmp_path / "parts", "test", ["high"])
    write(tmp_path, "whole/RACE/test/high/1.txt", articles[1])
    with pytest.raises(UserError, match=r"holds all\.txt and 1 other \.txt files"):
        read_race(tmp_path / "whole", "test", ["high"])


def test_an_article_over_several_lines_and_one_without_answers(tmp_path):
    path = tmp_path / "train/middle/1.txt"
    path.parent.mkdir(parents=True)
    without = {key: value for key, value in article("middle1.txt").items() if key != "answers"}
    path.write_text(json.dumps(without, indent=2))
    assert [e.label for e in read_race(tmp_path, "train", ["middle"])] == [None]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": ["E"]}, r"all\.txt, line 2, question 1: the answer is 'E', expected A, B, C or D"),
        ({"answers": []}, r"line 2: questions, options and answers differ in number: 0, 1"),
        ({"options": [["a", "b"]]}, r"line 2, question 1: expected a text and a list of 4 options"),
        ({"options": [["a", "b", "c", 4]]}, r"line 2, question 1: expected options that are texts"),
        ({"article": None}, r"line 2: expected article, questions, options and answers, found id, article"),
    ],
)
def test_a_fault_in_an_article_names_file_line_and_question(tmp_path, changes, message):
    write(tmp_path, "dev/high/all.txt", article("high0.txt"), article("high1.txt", **changes))
    with pytest.raises(UserError, match=message):
        read_race(tmp_path, "dev", ["high"])


def test_missing_folders_and_unknown_names_are_said(tmp_path):
    with pytest.raises(UserError, match=r"dev/middle: no such folder; expected RACE/"):
        read_race(tmp_path, "dev")
    (tmp_path / "dev/middle").mkdir(parents=True)
    with pytest.raises(UserError, match=r"dev/middle: holds no articles; expected all\.txt or"):
        read_race(tmp_path, "dev")
    (tmp_path / "dev/middle/1.txt").write_text("{")
    with pytest.raises(UserError, match=r"1\.txt: not JSON"):
        read_race(tmp_path, "dev")
    with pytest.raises(UserError, match="no split 'validation'; there are train, dev, test"):
        read_race(tmp_path, "validation")
    with pytest.raises(UserError, match="no group low; there are middle, high"):
        read_race(tmp_path, "dev", ["low"])


def test_settings_are_the_papers_and_the_readmes():
    assert (RACE_V1.learning_rate, RACE_V1.encoder_dropout) == (2e-5, 0.1)
    assert (RACE_V2.learning_rate, RACE_V2.encoder_dropout) == (1e-5, 0.0)
    assert (RACE_V1.steps, RACE_V1.warmup_steps, RACE_V1.batch_size) == (12000, 1000, 32)


# ---- datasets


def save(folder: Path, **splits: list[dict]) -> str:
    from datasets import Dataset, DatasetDict

    DatasetDict({split: Dataset.from_list(rows) for split, rows in splits.items()}).save_to_disk(folder)
    return f"hf:{folder}"


def race_rows(*articles: dict) -> list[dict]:
    """The rows of Hugging Face's race."""
    return [
        {"example_id": one["id"], "article": one["article"], "answer": answer, "question": question, "options": options}
        for one in articles
        for question, options, answer in zip(one["questions"], one["options"], one["answers"], strict=True)
    ]


# In the order of their names as texts, as the datasets have them; the readers' is that of the numbers.
RACE_ARTICLES = [article(f"high{number}.txt", 2, answers=["D", "A"]) for number in (10, 100, 9)]
RACE_ARTICLES += [article("middle5.txt", 3)]


def write_race(root: Path) -> list[ChoiceExample]:
    for one in RACE_ARTICLES:
        group = "high" if one["id"].startswith("high") else "middle"
        write(root, f"RACE/dev/{group}/{one['id'].removeprefix(group)}", one)
    return read_race(root, "dev")


def test_hugging_faces_race_gives_the_questions_of_the_files(tmp_path):
    expected = write_race(tmp_path)
    assert [e.group for e in expected] == ["middle"] * 3 + ["high"] * 6
    both = save(tmp_path / "both", validation=race_rows(*RACE_ARTICLES))
    assert read_race(both, "dev") == expected
    assert read_race(both, "dev", ["high"]) == expected[3:]
    save(tmp_path / "apart/high", validation=race_rows(*RACE_ARTICLES[:3]))
    save(tmp_path / "apart/middle", validation=race_rows(*RACE_ARTICLES[3:]))
    assert read_race(f"hf:{tmp_path / 'apart'}", "dev") == expected
    high = f"hf:{tmp_path / 'apart/high'}"
    assert read_race(high, "dev", ["high"]) == expected[3:]
    with pytest.raises(UserError, match="high, middle, dev: holds no questions of the group middle"):
        read_race(high, "dev")
    unlabelled = save(tmp_path / "test", test=[row | {"answer": None} for row in race_rows(*RACE_ARTICLES)])
    assert {e.label for e in read_race(unlabelled, "test")} == {None}


def test_tensorflows_race_gives_the_questions_of_the_files(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    # For lists of lists its writer, though not its reader, asks TensorFlow for the name of a type.
    monkeypatch.setattr(tfds.features.TensorInfo, "dtype", property(lambda info: info.np_dtype))

    class TinyRace(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("2.0.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="high"), tfds.core.BuilderConfig(name="middle")]  # noqa: RUF012
        pkg_dir_path = tmp_path

        def _info(self):
            text = tfds.features.Text()
            features = {"article": text, "example_id": text}
            features |= dict.fromkeys(("questions", "answers"), tfds.features.Sequence(text))
            features["options"] = tfds.features.Sequence(tfds.features.Sequence(text))
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {"dev": self._generate_examples()}

        def _generate_examples(self):
            for one in RACE_ARTICLES:
                if one["id"].startswith(self.builder_config.name):
                    row = dict(one)
                    yield one["id"], row | {"example_id": row.pop("id")}

    for group in ("high", "middle"):
        TinyRace(config=group, data_dir=tmp_path, file_format="array_record").download_and_prepare()
    source = f"tfds:tiny_race#data_dir={tmp_path}"
    expected = write_race(tmp_path)
    assert read_race(source, "dev") == expected
    assert read_race(source, "dev", ["high"]) == expected[3:]
    with pytest.raises(UserError, match=r"tiny_race#.*, middle: no split 'train', there are dev"):
        read_race(source, "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"example_id": "college1.txt"}, r"row 1 of dev: expected an example_id such as middle1\.txt or high1\.txt"),
        ({"article": None}, "row 1 of dev: expected an example_id such as .*, and a text as article"),
        ({"answer": "E"}, "row 1 of dev: the answer is 'E', expected A, B, C or D"),
        ({"options": ["a"]}, "row 1 of dev: expected a text and a list of 4 options"),
        ({"question": None}, "row 1 of dev: expected a text and a list of 4 options"),
    ],
)
def test_a_fault_in_a_dataset_of_race_names_its_row(tmp_path, change, message):
    rows = race_rows(article("high1.txt", 2))
    source = save(tmp_path / "saved", validation=[rows[0], rows[1] | change])
    with pytest.raises(UserError, match=message):
        read_race(source, "dev", ["high"])


def test_dream_and_its_dataset_give_the_same(tmp_path):
    choice = ["He.", "She.", "They."]
    dialogues = [
        [["M: Hello.", "W: Hi."], [dict(question=q, choice=choice, answer="She.") for q in ("Who?", "Whom?")], "4-1"],
        [["M: Bye."], [dict(question="Why?", choice=choice, answer="He.")], "4-2"],
    ]
    (tmp_path / "dev.json").write_text(json.dumps(dialogues))
    expected = open_dream("dev", tmp_path)
    assert [e.id for e in expected] == ["4-1-0", "4-1-1", "4-2-0"]
    rows = [
        dict(id=n, dialogue_id=name, dialogue=turns) | question
        for turns, questions, name in dialogues
        for n, question in enumerate(questions)
    ]
    assert open_dream("dev", save(tmp_path / "saved", validation=rows)) == expected
    for number, (change, message) in enumerate(
        (
            ({"answer": "It."}, r"row 2 of dev \(4-2\): the answer is 'It\.', which is none of its choices: He"),
            ({"dialogue": None}, "row 2 of dev: expected a text as dialogue_id and a list of texts as dialogue"),
            ({"question": None}, r"row 2 of dev \(4-2\): expected question, choice and answer"),
        )
    ):
        with pytest.raises(UserError, match=message):
            open_dream("dev", save(tmp_path / f"{number}", validation=[*rows[:2], rows[2] | change]))
    with pytest.raises(UserError, match="DREAM has no split 'validation'; there are train, dev, test"):
        open_dream("validation", tmp_path)
    with pytest.raises(UserError, match=r"train\.json: no such file"):
        open_dream("train", tmp_path)


def test_swag_and_its_dataset_give_the_same(tmp_path):
    from datasets import ClassLabel, Dataset, DatasetDict

    header = ["", "startphrase", "sent1", "sent2", "ending0", "ending1", "ending2", "ending3", "label"]
    cells = [
        ["0", "A man. He", "A man.", "He", "a", "b", "c", "d", "2"],
        ["1", "x y", "x", "y", "e", "f", "g", "h", "0"],
    ]
    (tmp_path / "val.csv").write_text("".join(",".join(row) + "\n" for row in [header, *cells]))
    (tmp_path / "test.csv").write_text("".join(",".join(row[:-1]) + "\n" for row in [header, *cells]))
    expected = open_swag("dev", tmp_path)
    assert [(e.text, e.question, e.label) for e in expected] == [("A man.", "He", 2), ("x", "y", 0)]
    assert [e.label for e in open_swag("test", tmp_path)] == [None, None]
    rows = [dict(zip(header[1:], row[1:], strict=True)) | {"label": int(row[-1])} for row in cells]
    label = ClassLabel(names=["0", "1", "2", "3"])
    dev, test = (
        Dataset.from_list([row | more for row in rows]).cast_column("label", label) for more in ({}, {"label": -1})
    )
    DatasetDict(validation=dev, test=test, train=test).save_to_disk(tmp_path / "saved")
    source = f"hf:{tmp_path / 'saved'}"
    assert open_swag("dev", source) == expected
    assert open_swag("test", source) == open_swag("test", tmp_path)
    with pytest.raises(UserError, match=r"saved, regular, row 0 of train: the label is '-1', expected 0, 1, 2 or 3"):
        open_swag("train", source)
    (tmp_path / "test.csv").rename(tmp_path / "train.csv")
    with pytest.raises(UserError, match=r"train\.csv, line 1: no column label in the header"):
        open_swag("train", tmp_path)
    for number, (change, message) in enumerate(
        (
            ({"ending3": None}, "row 1 of dev: ending3 is None, expected a text"),
            ({"label": None}, "row 1 of dev: the label is 'None', expected 0"),
        )
    ):
        with pytest.raises(UserError, match=message):
            open_swag("dev", save(tmp_path / f"{number}", validation=[rows[0], rows[1] | change]))
    with pytest.raises(UserError, match="row 0 of dev: no column ending3, label, found sent1"):
        open_swag("dev", save(tmp_path / "short", validation=[{name: "x" for name in header[2:-2]}]))


# ---- sequences


@pytest.mark.parametrize(
    ("question", "blanks", "second"),
    [
        ("he is ___ to _ .", "runs", "he is so to so ."),
        ("he is ___ to _ .", "characters", "he is sososo to so ."),
        ("he is ___ to _ .", "none", "he is ___ to _ . so"),
        ("who is he?", "runs", "who is he? so"),
        ("", "none", "so"),
    ],
)
def test_an_option_fills_the_blanks_or_follows_the_question(tokenizer, question, blanks, second):
    example = ChoiceExample("0", "The text.", question, ("so",), 0)
    (sequence,) = encode_choices([example], tokenizer, 64, blanks=blanks).sequences
    ids = sequence.input_ids.tolist()
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    assert ids == [cls, *tokenizer.encode("The text."), sep, *tokenizer.encode(second), sep]
    assert sequence.token_type_ids.sum() == len(tokenizer.encode(second)) + 1


def test_options_keep_their_last_pieces_and_articles_their_first(tokenizer):
    text, question = "the end of the day " * 20, "word " * 200
    pieces, whole = tokenizer.encode(text), tokenizer.encode(f"{question} last")
    assert len(whole) > 128
    examples = [ChoiceExample("0", text, question, ("last", "one"), 0), ChoiceExample("1", "he", "who", ("it",), 0)]
    encoded = encode_choices(examples, tokenizer, 192)
    assert [s.example for s in encoded.sequences] == [0, 0, 1]
    ids = encoded.sequences[0].input_ids.tolist()
    assert len(ids) == 192
    assert ids[1 : encoded.sequences[0].first - 1] == pieces[: 192 - 3 - 128]
    assert ids[encoded.sequences[0].first : -1] == whole[-128:]
    assert encoded.truncated == 1 and encoded.truncated_share == 0.5
    # Where the options alone would fill the sequence, nothing of the article stays.
    (short,) = encode_choices(examples[:1], tokenizer, 64).sequences[:1]
    assert short.first == 2 and short.input_ids.tolist()[2:-1] == whole[-61:]


def test_nonsense_settings_are_refused(tokenizer):
    with pytest.raises(UserError, match="max_length is 3, expected at least 4"):
        encode_race([], tokenizer, 3)
    with pytest.raises(UserError, match="blanks is 'all', expected one of none, runs, characters"):
        encode_choices([], tokenizer, 64, blanks="all")
    with pytest.raises(UserError, match="longest_choice is 0"):
        encode_choices([], tokenizer, 64, longest_choice=0)


# ---- others


def test_dream_gives_the_place_of_its_answer(tmp_path):
    path = tmp_path / "dev.json"
    question = {"question": "Who?", "choice": ["He.", "She.", "They."], "answer": "She."}
    path.write_text(json.dumps([[["M: Hello.", "W: Hi."], [question], "4-1"]]))
    assert read_dream(path) == [ChoiceExample("4-1-0", "M: Hello.\nW: Hi.", "Who?", ("He.", "She.", "They."), 1)]
    path.write_text(json.dumps([[["M: Hello."], [question | {"answer": "It."}], "4-1"]]))
    with pytest.raises(UserError, match=r"dialogue 1 \(4-1\), question 1: the answer is 'It\.', which is none of its"):
        read_dream(path)
    path.write_text("[[1, 2, 3]]")
    with pytest.raises(UserError, match=r"dialogue 1: expected \[\[turns\], \[questions\], id\]"):
        read_dream(path)


def test_swag_is_read_with_quotes_and_without_labels(tmp_path):
    path = tmp_path / "val.csv"
    header = ",startphrase,sent1,sent2,ending0,ending1,ending2,ending3"
    path.write_text(f'{header},label\n0,A man. He,"A man, old.",He,"runs, fast",sits,"says ""no""",eats,2\n')
    (example,) = read_swag(path)
    assert example == ChoiceExample("0", "A man, old.", "He", ("runs, fast", "sits", 'says "no"', "eats"), 2)
    path.write_text("startphrase,ending0,ending1,ending2,ending3\nA man,a,b,c,d\n")
    assert read_swag(path) == [ChoiceExample("0", "A man", "", ("a", "b", "c", "d"), None)]
    for content, message in (
        ("startphrase,ending0,ending1,ending2\n", r"line 1: no column ending3; expected sent1"),
        (f"{header},label\n0,a,b,c,d,e,f,g,4\n", r"line 2: the label is '4', expected 0, 1, 2 or 3"),
        (f"{header},label\n0,a,b\n", r"line 2: 3 cells, expected 9"),
        (f"{header},label\n", r"no rows below the header"),
        ("", r"line 1: no column startphrase"),
        (f'{header},label\n0,"a', r"line 2: not csv"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            read_swag(path)


# ---- the real files


@pytest.fixture
def some_articles(shared_data, tmp_path) -> tuple[Path, dict[str, int]]:
    """The first 40 articles of each folder of the real archive, unpacked, and how many each holds."""
    archive, folder, counts = shared_data / "race/RACE.tar.xz", tmp_path, {}
    with tarfile.open(archive, "r|xz") as tar:
        for member in tar:
            if member.isfile():
                place = str(Path(member.name).parent)
                counts[place] = counts.get(place, 0) + 1
                if counts[place] <= 40:
                    path = folder / member.name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(tar.extractfile(member).read())
    return folder, counts


def test_the_real_archive_is_read_and_both_rules_for_blanks_agree_on_it(some_articles, tokenizer):
    folder, counts = some_articles
    for split in ("train", "dev"):
        paths = sorted(folder.glob(f"RACE/{split}/*/*.txt"))
        rows = race_rows(*(json.loads(path.read_text()) for path in paths))
        assert read_race(save(folder / f"saved_{split}", **{split: rows}), split) == read_race(folder, split)
    # RACE has 18,728 train/high articles; the other three are complete.
    assert counts == {
        "RACE/train/middle": 6409,
        "RACE/train/high": 15137,
        "RACE/dev/middle": 368,
        "RACE/dev/high": 1021,
    }
    for split in ("train", "dev"):
        examples = read_race(folder, split)
        assert len({e.text for e in examples}) == 80 and 200 < len(examples) < 400
        assert [e.group for e in examples] == sorted((e.group for e in examples), reverse=True)
        balance = count_labels(examples, "ABCD")
        assert all(0.15 < balance[letter] / len(examples) < 0.35 for letter in "ABCD")
        assert any("_" in e.question for e in examples[:60])
        runs, characters = (encode_race(examples[:60], tokenizer, blanks=b) for b in ("runs", "characters"))
        assert [s.input_ids.tolist() for s in runs.sequences] == [s.input_ids.tolist() for s in characters.sequences]
        assert max(map(len, runs.sequences)) <= 512


def test_real_dream_has_its_questions(shared_data):
    found = {split: open_dream(split, shared_data / "dream") for split in ("train", "dev", "test")}
    assert [len(examples) for examples in found.values()] == [6116, 2040, 2041]
    assert [len({e.id.rpartition("-")[0] for e in examples}) for examples in found.values()] == [3869, 1288, 1287]
    assert tuple(count_labels(found["train"], "012").values()) == (1979, 2067, 2070)


def test_real_dream_is_the_same_as_a_dataset(shared_data, tmp_path):
    dialogues = json.loads((shared_data / "dream/dev.json").read_text())
    rows = [
        dict(id=n, dialogue_id=name, dialogue=turns) | question
        for turns, questions, name in dialogues
        for n, question in enumerate(questions)
    ]
    assert open_dream("dev", save(tmp_path / "saved", validation=rows)) == open_dream("dev", shared_data / "dream")
