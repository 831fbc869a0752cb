"""SQuAD from file to windows and from scores to answers, recounted by plain loops, on made-up and on real contexts."""

import io
import json
import lzma
import math
import re
import string
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from albert_jax.errors import UserError
from albert_jax.tasks.squad import (
    MAX_LENGTH,
    MAX_LENGTH_2,
    BeamScores,
    GoldAnswer,
    SquadAnswer,
    SquadExample,
    SquadFeature,
    beam_answers,
    build_features,
    count,
    open_squad,
    plain_answers,
    read_squad,
    squad_file,
    write_predictions,
)
from albert_jax.tokenizer import CLS, MASK, PAD, SEP, UNK, AlbertTokenizer, clean

CONTEXTS = {
    "accents": "La forêt de Fontainebleau s'étend près de Paris, où Émile Zola écrivait à l'été 1868.",
    "spaces": "There  were   two    dogs  and one     cat   in the   old  garden .",
    "tabs": "\tFirst\tsecond third\n\nfourth\u00a0fifth\u3000sixth\t",
    "emoji": "She sent 👩‍👩‍👧 and 🎉🎉 to Anna, then ❤️ to Bob 🇫🇷 at noon.",
    "combining": "The cafe\u0301 in A\u030angstro\u0308m Street serves n\u0303oquis and z\u0302\u0323al daily.",
    "full width": "The ＡＬＢＥＲＴ model has １２ layers；the ﬁrst took ½ hour，the rest ２０１９ …",  # noqa: RUF001
    "capitals": "The İstanbul and STRAẞE signs, ΟΔΥΣΣΕΥΣ, read $1,000,000, not 1,5.",
}
QUESTION = "What is it that was written there?"


@pytest.fixture(scope="module")
def small() -> AlbertTokenizer:
    model = io.BytesIO()
    settings = dict(vocab_size=170, pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, character_coverage=1.0)
    settings |= dict(pad_piece=PAD, unk_piece=UNK, control_symbols=[CLS, SEP, MASK], minloglevel=2)
    lines = [QUESTION, *CONTEXTS.values()] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(clean(line).lower() for line in lines),
        model_writer=model,
        hard_vocab_limit=False,
        **settings,
    )
    return AlbertTokenizer(model.getvalue())


@pytest.fixture
def released(shared_data) -> AlbertTokenizer:
    return AlbertTokenizer.from_file(shared_data / "albert_fixtures" / "spiece.model")


def example(context: str, *answers: str, name: str = "q", question: str = QUESTION, impossible: bool = False):
    found = tuple(GoldAnswer(text, context.index(text)) for text in answers)
    return SquadExample(name, "Title", question, context, found, impossible)


def entry(name: str = "q1", **fields) -> dict:
    return {"id": name, "question": "Who?", "answers": [{"text": "Anna", "answer_start": 4}]} | fields


def write(folder: Path, *entries: dict, context: str = "Now Anna and Bob and Anna.") -> Path:
    path = folder / "squad.json"
    paragraphs = [{"context": context, "qas": list(entries)}]
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "T", "paragraphs": paragraphs}]}))
    return path


def normalize_answer(text: str) -> str:
    """The official evaluation's."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def recovered(feature: SquadFeature, context: str) -> str:
    """What the labelled pieces hold, from the offsets one by one."""
    spans = feature.offsets[feature.start - feature.first : feature.end - feature.first + 1].tolist()
    return context[min(start for start, _ in spans) : max(stop for _, stop in spans)]


# ---- reading


def test_a_file_is_read_in_its_order(tmp_path):
    entries = entry("b"), entry("a", answers=[], is_impossible=True, question="Why?")
    b, a = read_squad(write(tmp_path, *entries))
    assert b == SquadExample("b", "T", "Who?", "Now Anna and Bob and Anna.", (GoldAnswer("Anna", 4),), False, 0)
    assert (a.id, a.question, a.answers, a.is_impossible) == ("a", "Why?", (), True)
    assert a.context is b.context


def test_a_compressed_file_is_read_alike(tmp_path):
    path = write(tmp_path, entry())
    packed = tmp_path / "squad.json.xz"
    packed.write_bytes(lzma.compress(path.read_bytes()))
    assert read_squad(packed) == read_squad(path)


def test_files_without_labels_are_read(tmp_path):
    bare = entry()
    del bare["answers"]
    (found,) = read_squad(write(tmp_path, bare))
    assert found.answers == () and not found.is_impossible


@pytest.mark.parametrize(
    "stated, start", [(4, 4), (5, 4), (0, 4), (-9, 4), (12, 4), (13, 21), (21, 21), (22, 21), (9999, 21)]
)
def test_an_answer_elsewhere_is_moved_to_the_nearest_and_counted(tmp_path, stated, start):
    (found,) = read_squad(write(tmp_path, entry(answers=[{"text": "Anna", "answer_start": stated}])))
    assert found.answers == (GoldAnswer("Anna", start),)
    assert found.moved == (stated != start)


def test_of_two_equally_near_occurrences_the_earlier_is_taken(tmp_path):
    path = write(tmp_path, entry(answers=[{"text": "x", "answer_start": 2}]), context="x...x")
    assert read_squad(path)[0].answers == (GoldAnswer("x", 0),)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(answers=[{"text": "Carl", "answer_start": 4}]), "'q1': answer 'Carl' is nowhere in its context"),
        (dict(answers=[{"text": " ", "answer_start": 3}]), "'q1': has a blank answer"),
        (dict(answers=[{"text": "Anna"}]), "'q1': expected an object with 'answer_start'"),
        (dict(answers=[{"text": "Anna", "answer_start": "4"}]), "'q1': answer_start is '4', expected an integer"),
        (dict(answers={"text": ["Anna"]}), "'q1': answers is .*, expected a list"),
        (dict(question=None), "'q1': question is None, expected a string"),
        (dict(is_impossible=True), "'q1': is_impossible, but has answers"),
        (dict(is_impossible="no"), "'q1': is_impossible is 'no', expected true or false"),
        (dict(id=7), r"data\[0\].paragraphs\[0\].qas\[0\]: id is 7, expected a string"),
    ],
)
def test_what_is_wrong_is_named_with_its_question(tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        read_squad(write(tmp_path, entry() | fields))


def test_two_questions_with_one_id_are_refused(tmp_path):
    with pytest.raises(UserError, match="question 'q1' occurs twice"):
        read_squad(write(tmp_path, entry(), entry()))


@pytest.mark.parametrize(
    "content, message",
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON in UTF-8"),
        (b"[]", "expected an object with 'data', but it is"),
        (b"{}", "expected an object with 'data', but it has none"),
        (b'{"data": [{"title": "T"}]}', r"data\[0\]: expected an object with 'paragraphs'"),
        (b'{"data": [{"paragraphs": [{"qas": []}]}]}', r"paragraphs\[0\]: expected an object with 'context'"),
        (b'{"data": []}', "has no questions"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "squad.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_squad(path)


def test_missing_and_broken_files_are_explained(tmp_path):
    with pytest.raises(UserError, match=r"none\.json: no such file"):
        read_squad(tmp_path / "none.json")
    with pytest.raises(UserError, match="is a folder, expected a file"):
        read_squad(tmp_path)
    broken = tmp_path / "squad.json.xz"
    broken.write_bytes(lzma.compress(b"{}" * 999)[:-20])
    with pytest.raises(UserError, match=r"not a whole \.xz file"):
        read_squad(broken)


# ---- folders and datasets


def official(folder: Path, name: str, *paragraphs: tuple[str, list[dict]]) -> Path:
    """A file in the official layout, of an article for each paragraph."""
    data = [
        {"title": f"T{n}", "paragraphs": [{"context": context, "qas": qas}]}
        for n, (context, qas) in enumerate(paragraphs)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps({"version": "v", "data": data}))
    return folder


def flat(path: Path) -> list[dict]:
    """An official file's questions as the rows of Hugging Face's squad and squad_v2."""
    content = path.read_bytes()
    squad = json.loads(lzma.decompress(content) if path.suffix == ".xz" else content)
    return [
        {
            "id": asked["id"],
            "title": article["title"],
            "context": paragraph["context"],
            "question": asked["question"],
            "answers": {key: [answer[key] for answer in asked["answers"]] for key in ("text", "answer_start")},
        }
        for article in squad["data"]
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]


def save(folder: Path, rows: list[dict], split: str = "validation") -> str:
    from datasets import Dataset, DatasetDict, Features, Value

    answers = {"text": [Value("string")], "answer_start": [Value("int32")]}
    columns = dict.fromkeys(("id", "title", "context", "question"), Value("string")) | {"answers": answers}
    dataset = Dataset.from_dict({name: [row[name] for row in rows] for name in columns}, Features(columns))
    DatasetDict({split: dataset}).save_to_disk(folder)
    return f"hf:{folder}"


PARAGRAPHS = (
    ("Now Anna and Bob and Anna.", [entry("a"), entry("b", answers=[{"text": "Anna", "answer_start": 20}] * 2)]),
    ("Émile wrote it.", [entry("c", question=" Who wrote? ", answers=[{"text": "Émile", "answer_start": 0}])]),
)
UNANSWERED = ("Nobody did.", [entry("d", answers=[], is_impossible=True)])


@pytest.mark.parametrize(("version", "extra"), [("1.1", ()), ("2.0", (UNANSWERED,))])
def test_a_saved_hugging_face_dataset_gives_the_questions_of_the_files(tmp_path, version, extra):
    official(tmp_path, f"dev-v{version}.json", *PARAGRAPHS, *extra)
    expected = open_squad(version, "dev", tmp_path)
    assert expected == read_squad(tmp_path / f"dev-v{version}.json")
    source = save(tmp_path / "saved", flat(tmp_path / f"dev-v{version}.json"))
    found = open_squad(version, "dev", source)
    assert found == expected and found[0].context is found[1].context
    assert [e.moved for e in found[:3]] == [0, 2, 0] and sum(e.is_impossible for e in found) == len(extra)


def test_a_tensorflow_dataset_gives_the_questions_of_the_files_in_its_own_order(tmp_path):
    import tensorflow_datasets as tfds

    answers = tfds.features.Sequence({"text": tfds.features.Text(), "answer_start": np.int32})
    columns = dict.fromkeys(("title", "context", "question"), tfds.features.Text()) | {"id": np.str_}
    columns |= {"answers": answers}
    official(tmp_path, "dev-v1.1.json", *PARAGRAPHS)
    official(tmp_path, "dev-v2.0.json", *PARAGRAPHS, UNANSWERED)

    class TinySquad(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("3.0.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="v1.1"), tfds.core.BuilderConfig(name="v2.0")]  # noqa: RUF012
        pkg_dir_path = tmp_path

        def _info(self):
            more = {"is_impossible": np.bool_, "plausible_answers": answers}
            features = columns | (more if self.builder_config.name == "v2.0" else {})
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {"validation": self._generate_examples()}

        def _generate_examples(self):
            for row in flat(tmp_path / f"dev-{self.builder_config.name}.json"):
                more = {"is_impossible": not row["answers"]["text"], "plausible_answers": {"text": ["x"]}}
                more["plausible_answers"]["answer_start"] = [0]
                yield row["id"], row | (more if self.builder_config.name == "v2.0" else {})

    for version in ("1.1", "2.0"):
        TinySquad(config=f"v{version}", data_dir=tmp_path, file_format="array_record").download_and_prepare()
        for name in ("tiny_squad", f"tiny_squad/v{version}"):
            found = open_squad(version, "dev", f"tfds:{name}#data_dir={tmp_path}")
            assert sorted(found) == sorted(open_squad(version, "dev", tmp_path))
            assert all(type(answer.start) is int for e in found for answer in e.answers)


def test_the_official_name_goes_before_others_that_begin_so(tmp_path):
    def found() -> str:
        return squad_file("2.0", "train", tmp_path).name

    with pytest.raises(UserError, match=r"no train-v2\.0\.json, plain or as \.xz, and no other"):
        found()
    (tmp_path / "train-v2.0-part.json.xz").touch()
    (tmp_path / "train-v2.0.md").touch()
    assert found() == "train-v2.0-part.json.xz"
    (tmp_path / "train-v2.0-b.json").touch()
    with pytest.raises(UserError, match=r"several like it \(train-v2\.0-b\.json, train-v2\.0-part\.json\.xz\)"):
        found()
    for name in ("train-v2.0.json.xz", "train-v2.0.json"):
        (tmp_path / name).touch()
        assert found() == name


def test_a_test_split_has_no_answers_and_no_unanswerable_questions(tmp_path):
    official(tmp_path, "test-v2.0.json", *PARAGRAPHS, UNANSWERED)
    found = open_squad("2.0", "test", tmp_path)
    assert {(e.answers, e.is_impossible, e.moved) for e in found} == {((), False, 0)}
    rows = flat(tmp_path / "test-v2.0.json")
    assert open_squad("2.0", "test", save(tmp_path / "saved", rows, "test")) == found
    from datasets import Dataset, DatasetDict

    bare = [{key: value for key, value in row.items() if key != "answers"} for row in rows]
    DatasetDict(test=Dataset.from_list(bare)).save_to_disk(tmp_path / "bare")
    assert open_squad("2.0", "test", f"hf:{tmp_path / 'bare'}") == found
    DatasetDict(train=Dataset.from_list(bare)).save_to_disk(tmp_path / "train")
    with pytest.raises(UserError, match="train, row 0 of train: no column answers, found id, title, context, question"):
        open_squad("2.0", "train", f"hf:{tmp_path / 'train'}")


def test_faults_of_folders_and_datasets_name_source_split_and_row(tmp_path):
    official(tmp_path, "dev-v1.1.json", *PARAGRAPHS, UNANSWERED)
    rows = flat(tmp_path / "dev-v1.1.json")
    for source in (tmp_path, save(tmp_path / "saved", rows)):
        with pytest.raises(UserError, match=r"dev: question 'd' has no answer; state version 2\.0, or mend it"):
            open_squad("1.1", "dev", source)
    with pytest.raises(UserError, match=r"no version '2'; there are 1\.1, 2\.0"):
        open_squad("2", "dev", tmp_path)
    with pytest.raises(UserError, match="SQuAD has no split 'validation'; there are train, dev, test"):
        open_squad("2.0", "validation", tmp_path)
    with pytest.raises(UserError, match=r"dev-v1\.1\.json: no such folder; give the one that holds dev-v1\.1\.json"):
        open_squad("1.1", "dev", tmp_path / "dev-v1.1.json")
    for number, (change, message) in enumerate(
        (
            ({"answers": {"text": ["Carl"], "answer_start": [0]}}, r"row 1 of dev \('b'\): answer 'Carl' is nowhere"),
            ({"answers": {"text": ["Anna"], "answer_start": []}}, "row 1 of dev: answers is .*, expected text and"),
            ({"id": "a"}, "row 1 of dev: question 'a' occurs twice"),
            ({"question": None}, r"row 1 of dev \('b'\): question is None, expected a string"),
            ({"context": None}, "row 1 of dev: context is None, expected a string"),
        )
    ):
        with pytest.raises(UserError, match=message):
            open_squad("2.0", "dev", save(tmp_path / f"fault{number}", [rows[0], rows[1] | change]))


@pytest.mark.parametrize(("version", "questions", "unanswerable"), [("1.1", 10570, 0), ("2.0", 11873, 5945)])
def test_the_real_dev_sets_are_the_same_as_files_and_datasets(shared_data, tmp_path, version, questions, unanswerable):
    found = open_squad(version, "dev", shared_data / "squad")
    assert (len(found), sum(e.is_impossible for e in found)) == (questions, unanswerable)
    rows = flat(shared_data / f"squad/dev-v{version}.json.xz")
    assert open_squad(version, "dev", save(tmp_path / "saved", rows)) == found


def test_the_real_training_files_are_found_by_name(shared_data):
    assert squad_file("1.1", "train", shared_data / "squad").name == "train-v1.1.json.xz"
    assert squad_file("2.0", "train", shared_data / "squad").name == "train-v2.0-11articles-genuine.json.xz"
    assert len(open_squad("2.0", "train", shared_data / "squad")) == 5147


# ---- windows


def plain_windows(pieces: int, room: int, stride: int) -> list[tuple[int, int]]:
    """Google's loop."""
    found, start = [], 0
    while True:
        length = min(pieces - start, room)
        found.append((start, start + length))
        if start + length == pieces:
            return found
        start += min(length, stride)


@pytest.mark.parametrize("max_length, stride", [(384, 128), (60, 16), (40, 7), (38, 100), (41, 1)])
@pytest.mark.parametrize("name", CONTEXTS)
def test_windows_are_laid_out_as_googles(small, name, max_length, stride):
    context = CONTEXTS[name]
    features = build_features([example(context)], small, training=False, max_length=max_length, stride=stride)
    asked, (pieces, offsets) = small.encode(QUESTION), small.encode_with_offsets(context)
    windows = plain_windows(len(pieces), max_length - len(asked) - 3, stride)
    assert len(features) == len(windows)
    for feature, (begin, stop) in zip(features, windows, strict=True):
        head = [small.cls_id, *asked, small.sep_id]
        assert feature.input_ids.tolist() == [*head, *pieces[begin:stop], small.sep_id]
        assert len(feature.input_ids) <= max_length
        assert feature.token_type_ids.tolist() == [0] * len(head) + [1] * (stop - begin + 1)
        allowed = [True] + [False] * (len(head) - 1) + [True] * (stop - begin) + [False]
        assert feature.answerable.tolist() == allowed
        assert feature.offsets.tolist() == offsets[begin:stop].tolist()
        assert (feature.start, feature.end, feature.is_impossible) == (0, 0, False)


@pytest.mark.parametrize(
    "max_length, stride", [(384, 128), (384, 5), (384, 999), (160, 50), (60, 16), (40, 7), (41, 1)]
)
@pytest.mark.parametrize("times", [1, 2, 3])
def test_max_context_agrees_with_its_definition(small, times, max_length, stride):
    context = " ".join([*CONTEXTS.values()] * times)
    features = build_features([example(context)], small, training=False, max_length=max_length, stride=stride)
    pieces, room = len(small.encode(context)), max_length - features[0].first - 1
    windows = plain_windows(pieces, room, stride)
    for place in range(pieces):
        scores = {
            number: min(place - begin, stop - 1 - place) + 0.01 * (stop - begin)
            for number, (begin, stop) in enumerate(windows)
            if begin <= place < stop
        }
        best = min(number for number, score in scores.items() if score == max(scores.values()))
        for number in scores:
            assert features[number].max_context[place - windows[number][0]] == (number == best)


def test_questions_are_cut_and_counted(small):
    long = example(CONTEXTS["spaces"], question="written there " * 40, name="long")
    short = example(CONTEXTS["spaces"], name="short")
    features = build_features([long, short], small, training=False, max_query_length=20)
    assert features[0].first == 22
    assert features[0].question_cut == len(small.encode(long.question)) - 20
    assert features[0].input_ids[1:21].tolist() == small.encode(long.question)[:20]
    assert count([long, short], features).cut_questions == 1 + (len(small.encode(QUESTION)) > 20)


def test_a_context_without_text_is_one_empty_window(small):
    (feature,) = build_features([example(" \t")], small, training=False)
    assert len(feature.offsets) == len(feature.max_context) == 0
    assert feature.answerable.tolist() == [True] + [False] * (len(feature.input_ids) - 1)
    (answer,) = plain_answers([example(" \t")], [feature], [np.zeros((99, 2))])
    assert answer.text == ""


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(max_length=20), "max_length = 20: question 'q' of .* leaves .* for its context"),
        (dict(stride=0), "stride = 0: must be at least 1"),
        (dict(max_query_length=0), "max_query_length = 0: must be at least 1"),
    ],
)
def test_windows_that_cannot_be_are_refused(small, options, message):
    with pytest.raises(UserError, match=message):
        build_features([example(CONTEXTS["emoji"])], small, training=False, **options)


def test_half_a_surrogate_pair_names_its_question(small):
    with pytest.raises(UserError, match=r"question 'q': a text has half a surrogate pair, U\+D83D"):
        build_features([example("ab \ud83d c")], small, training=False)


# ---- labels


def word_spans(context: str) -> list[tuple[int, int]]:
    """From the start of any word to the end of any later one."""
    words = [match.span() for match in re.finditer(r"\S+", context)]
    return [(start, stop) for i, (start, _) in enumerate(words) for _, stop in words[i : i + 4]]


@pytest.mark.parametrize("name", CONTEXTS)
def test_every_run_of_words_is_recovered_exactly(small, name):
    context = CONTEXTS[name]
    for start, stop in word_spans(context):
        answer = GoldAnswer(context[start:stop], start)
        (feature,) = build_features([example(context)._replace(answers=(answer,))], small, training=True)
        assert not feature.is_impossible
        assert recovered(feature, context) == answer.text
        assert feature.characters(feature.start, feature.end) == (start, stop)


def test_an_answer_inside_a_piece_takes_the_whole_of_it(released):
    context = "He was a Japanese economist."
    (feature,) = build_features([example(context, "Japan")], released, training=True)
    assert recovered(feature, context) == "Japanese"
    assert feature.start == feature.end


def test_white_space_around_an_answer_is_not_part_of_its_pieces(small):
    context = CONTEXTS["spaces"]
    (feature,) = build_features([example(context, "   two    dogs  ")], small, training=True)
    assert recovered(feature, context) == "two    dogs"


def test_windows_without_the_whole_answer_are_unanswerable_and_kept(small):
    context = " ".join([CONTEXTS["accents"]] * 3)
    text = "Fontainebleau s'étend près de Paris"
    start = context.rindex(text)
    stop = start + len(text)
    one = example(context)._replace(answers=(GoldAnswer(text, start),))
    features = build_features([one], small, training=True, max_length=80, stride=1)
    kinds = set()
    for feature in features:
        inside = feature.offsets[0, 0] <= start and feature.offsets[-1, 1] >= stop
        kinds.add(inside)
        assert feature.is_impossible == (not inside)
        assert recovered(feature, context) == text if inside else feature.start == feature.end == 0
    assert kinds == {True, False}


def test_unanswerable_questions_are_labelled_so_in_every_window(small):
    impossible = example(" ".join(CONTEXTS.values()), impossible=True)
    features = build_features([impossible], small, training=True, max_length=80)
    assert len(features) > 1
    assert all((f.start, f.end, f.is_impossible) == (0, 0, True) for f in features)
    assert count([impossible], features)[:3] == (1, 1, 0)
    assert count([impossible], features).unreachable == 0


def test_an_answer_longer_than_a_window_is_counted(small):
    context = " ".join(CONTEXTS.values())
    examples = [example(context, context[:-20]), example(context, "Paris")]
    features = build_features(examples, small, training=True, max_length=80)
    assert count(examples, features).unreachable == 1


def test_training_needs_labels(small):
    with pytest.raises(UserError, match="question 'q': has no answer to train on"):
        build_features([example("abc")], small, training=True)


# ---- scores to answers


def perfect_logits(features: list[SquadFeature]) -> list[np.ndarray]:
    logits = [np.zeros((len(feature.input_ids), 2), np.float32) for feature in features]
    for feature, scores in zip(features, logits, strict=True):
        scores[feature.start, 0] = scores[feature.end, 1] = 10.0
    return logits


def perfect_beams(features: list[SquadFeature]) -> list[BeamScores]:
    beams = []
    for feature in features:
        # Four useless starts come first, the answer's last; in other windows [CLS] is best.
        starts = np.array([1, 1, 1, 1, feature.start])
        ends = np.array([[0, 1, 2, feature.end, 1]] * 5)
        scores = np.full((5, 5), -9.0)
        scores[4, 3] = -0.1
        log_probs = np.array([-3.0, -3.0, -3.0, -3.0, -0.1])
        beams.append(BeamScores(log_probs, starts, scores, ends, 4.0 if feature.is_impossible else -4.0))
    return beams


def check_perfect_scores(examples: list[SquadExample], tokenizer: AlbertTokenizer, **sizes: int) -> int:
    """Scores that point at the labels give the text under them back, and know what has no answer. How many could not,
    for having more pieces than an answer may."""
    features = build_features(examples, tokenizer, training=True, **sizes)
    labelled: dict[int, list[SquadFeature]] = {}
    for feature in features:
        if not feature.is_impossible:
            labelled.setdefault(feature.example, []).append(feature)
    plain = plain_answers(examples, features, perfect_logits(features), no_answer=True)
    beam = beam_answers(examples, features, perfect_beams(features))
    too_long = 0
    for number, (one, two) in enumerate(zip(plain, beam, strict=True)):
        if number not in labelled:
            assert one.predict(0.0) == two.predict(0.0) == ""
        elif labelled[number][0].end - labelled[number][0].start >= 30:
            too_long += 1
        else:
            (text,) = {recovered(feature, examples[number].context) for feature in labelled[number]}
            assert one.predict(None) == two.predict(None) == two.predict(0.0) == text
    return too_long


@pytest.mark.parametrize("name", CONTEXTS)
def test_perfect_scores_give_the_gold_answers(small, name):
    context = CONTEXTS[name]
    spans = [GoldAnswer(context[start:stop], start) for start, stop in word_spans(context)]
    examples = [example(context, name=str(i))._replace(answers=(gold,)) for i, gold in enumerate(spans)]
    check_perfect_scores([*examples, example(context, name="none", impossible=True)], small)


def plain_ranking(
    context: str, features: list[SquadFeature], spans: list[list[tuple[int, int, float, float]]], n_best: int
) -> list[tuple[str, float]]:
    """Google's filters and ranking, span by span: (start, end, start score, end score) of each window."""
    found = []
    for feature, those in zip(features, spans, strict=True):
        for start, end, start_score, end_score in those:
            last = len(feature.input_ids) - 2
            if not (feature.first <= start <= last and start <= end <= last and end - start + 1 <= 30):
                continue
            if not feature.max_context[start - feature.first]:
                continue
            text = context[feature.offsets[start - feature.first][0] : feature.offsets[end - feature.first][1]]
            found.append((text, start_score + end_score))
    found.sort(key=lambda pair: pair[1], reverse=True)
    ranking: dict[str, float] = {}
    for text, score in found:
        if text and text not in ranking and len(ranking) < n_best:
            ranking[text] = score
    return list(ranking.items())


def check_ranking(answer: SquadAnswer, expected: list[tuple[str, float]]) -> None:
    assert [candidate.text for candidate in answer.candidates] == [text for text, _ in expected]
    scores = [score for _, score in expected]
    np.testing.assert_allclose([candidate.score for candidate in answer.candidates], scores, rtol=1e-12)
    total = math.fsum(math.exp(score) for score in scores)
    shares = [math.exp(score) / total for score in scores]
    np.testing.assert_allclose([candidate.probability for candidate in answer.candidates], shares, rtol=1e-9)


CLIPPED = dict(max_length=80, stride=15)
"""So short that each of `LONG` has several windows, and so long that these hold more than an answer may."""
LONG = {name: " ".join([context] * 4) for name, context in CONTEXTS.items()}


@pytest.mark.parametrize("no_answer", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_plain_answers_are_those_of_a_plain_loop(small, seed, no_answer):
    generator = np.random.default_rng(seed)
    examples = [example(context, name=name) for name, context in LONG.items()]
    features = build_features(examples, small, training=False, **CLIPPED)
    # Longer than the windows, with the best scores behind them; coarse, so that there are ties.
    logits = generator.normal(size=(len(features), 90, 2)).round(1).astype(np.float32)
    for feature, scores in zip(features, logits, strict=True):
        scores[len(feature.input_ids) :] = 99.0
    answers = plain_answers(examples, features, logits, no_answer=no_answer)
    for number, answer in enumerate(answers):
        mine = [(f, x.astype(float)) for f, x in zip(features, logits, strict=True) if f.example == number]
        spans = []
        for feature, scores in mine:
            size = len(feature.input_ids)
            starts, ends = (sorted(range(size), key=lambda i: -scores[i, side])[:20] for side in (0, 1))
            spans.append([(s, e, scores[s, 0], scores[e, 1]) for s in starts for e in ends])
        expected = plain_ranking(examples[number].context, [feature for feature, _ in mine], spans, 20)
        assert len(mine) > 1 and len(expected) > 1
        null = min(scores[0].sum() for _, scores in mine)
        assert answer.text == expected[0][0]
        if no_answer:
            assert answer.null_odds == pytest.approx(null - expected[0][1], abs=1e-12)
            expected = sorted([*expected, ("", null)], key=lambda pair: -pair[1])
        else:
            assert answer.null_odds is None
        check_ranking(answer, expected)


@pytest.mark.parametrize("seed", range(4))
def test_beam_answers_are_those_of_a_plain_loop(small, seed):
    generator = np.random.default_rng(seed)
    examples = [example(context, name=name) for name, context in LONG.items()]
    features = build_features(examples, small, training=False, **CLIPPED)
    beams = []
    for feature in features:
        places = np.flatnonzero(feature.answerable)
        # As from a device: float32, and the ends of all starts in one row.
        log_probs = -generator.exponential(size=30).astype(np.float32)
        starts, ends = generator.choice(places, 5), generator.choice(places, 25)
        beams.append(BeamScores(log_probs[:5], starts, log_probs[5:], ends, generator.normal()))
    answers = beam_answers(examples, features, beams)
    assert sum(len(answer.candidates) for answer in answers) > 3 * len(answers)
    for number, answer in enumerate(answers):
        mine = [(f, beam) for f, beam in zip(features, beams, strict=True) if f.example == number]
        spans = [
            [
                (
                    int(beam.start_top_index[i]),
                    int(beam.end_top_index[5 * i + j]),
                    float(beam.start_top_log_probs[i]),
                    float(beam.end_top_log_probs[5 * i + j]),
                )
                for i in range(5)
                for j in range(5)
            ]
            for _, beam in mine
        ]
        expected = plain_ranking(examples[number].context, [feature for feature, _ in mine], spans, 20)
        assert answer.null_odds == min(beam.answer_class for _, beam in mine)
        check_ranking(answer, expected or [("", -2e6)])


def test_without_a_span_the_answer_is_empty(small):
    examples = [example(CONTEXTS["emoji"])]
    features = build_features(examples, small, training=False)
    logits = np.zeros((len(features[0].input_ids), 2))
    logits[: features[0].first] = 5.0  # the question takes all places
    for answers in (
        plain_answers(examples, features, [logits], n_best=2),
        plain_answers(examples, features, [logits], n_best=2, no_answer=True),
        beam_answers(
            examples, features, [BeamScores(np.zeros(1), np.zeros(1, int), np.zeros(1), np.zeros(1, int), -3)]
        ),
    ):
        assert answers[0].predict(None) == answers[0].text == ""
        assert [(c.text, c.start, c.stop, c.probability) for c in answers[0].candidates] == [("", 0, 0, 1.0)]


def test_the_threshold_is_exceeded_strictly():
    answer = SquadAnswer("q", [], 1.5, False)
    answer = answer._replace(candidates=plain_candidates())
    assert [answer.predict(threshold) for threshold in (None, 2.0, 1.5, 1.4)] == ["Paris", "Paris", "Paris", ""]
    with pytest.raises(UserError, match=r"threshold = 0\.0: these answers have no null odds"):
        answer._replace(null_odds=None).predict(0.0)


def plain_candidates():
    context = "Paris"
    feature = SquadFeature(
        0, np.array([2, 9, 3], np.uint16), 1, np.array([[0, 5]], np.int32), np.ones(1, bool), 0, 0, False, 0
    )
    return plain_answers([example(context)], [feature], [np.ones((3, 2))])[0].candidates


def test_scores_that_do_not_belong_are_refused(small):
    examples = [example(CONTEXTS["emoji"])]
    features = build_features(examples, small, training=False)
    size = len(features[0].input_ids)
    beam = BeamScores(np.zeros(2), np.zeros(2, int), np.zeros((2, 2)), np.zeros((2, 2), int), 0.0)
    for call, message in [
        (lambda: plain_answers(examples, features, []), "1 windows but scores for 0"),
        (lambda: plain_answers(examples, features, [np.zeros((size - 1, 2))]), "expected"),
        (lambda: plain_answers(examples, features, [np.full((size, 2), np.nan)]), "'q': .* not finite"),
        (lambda: plain_answers(examples, features, [np.zeros((size, 2))], n_best=0), "n_best = 0"),
        (lambda: plain_answers([*examples, *examples], features, [np.zeros((size, 2))]), "'q' has no window"),
        (lambda: plain_answers([], features, [np.zeros((size, 2))]), "there are 0 examples"),
        (lambda: beam_answers(examples, features, [beam._replace(answer_class=math.nan)]), "not finite"),
        (lambda: beam_answers(examples, features, [beam._replace(end_top_index=np.zeros(2, int))]), "differ in shape"),
        (
            lambda: beam_answers(examples, features, [beam._replace(end_top_log_probs=[0] * 3, end_top_index=[0] * 3)]),
            "3 ends for 2 starts",
        ),
    ]:
        with pytest.raises(UserError, match=message):
            call()


# ---- files


def test_predictions_are_written_in_the_official_formats(small, tmp_path):
    examples = [example(CONTEXTS["accents"], "Émile Zola", name="a"), example(CONTEXTS["emoji"], "🎉🎉", name="b")]
    examples.append(example(CONTEXTS["tabs"], name="none", impossible=True))
    features = build_features(examples, small, training=True)
    plain = plain_answers(examples, features, perfect_logits(features), no_answer=True)
    beam = beam_answers(examples, features, perfect_beams(features))
    for answers, kind in ((plain, "logit"), (beam, "log_prob")):
        written = write_predictions(tmp_path / kind, answers, threshold=0.0, prefix="eval_")
        files = {path.name: json.loads(path.read_text("ascii")) for path in (tmp_path / kind).iterdir()}
        assert sorted(files) == ["eval_nbest_predictions.json", "eval_null_odds.json", "eval_predictions.json"]
        assert files["eval_predictions.json"] == written == {"a": "Émile Zola", "b": "🎉🎉", "none": ""}
        assert files["eval_null_odds.json"] == {answer.id: answer.null_odds for answer in answers}
        for answer in answers:
            entries = files["eval_nbest_predictions.json"][answer.id]
            assert entries == [
                {
                    "text": c.text,
                    "probability": c.probability,
                    f"start_{kind}": c.start_score,
                    f"end_{kind}": c.end_score,
                }
                for c in answer.candidates
            ]


def test_without_null_odds_there_is_no_such_file(small, tmp_path):
    examples = [example(CONTEXTS["accents"], "Émile Zola")]
    features = build_features(examples, small, training=True)
    assert write_predictions(tmp_path, plain_answers(examples, features, perfect_logits(features))) == {
        "q": "Émile Zola"
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nbest_predictions.json", "predictions.json"]


# ---- real files


def some(examples: list[SquadExample], paragraphs: int) -> list[SquadExample]:
    contexts = list(dict.fromkeys(example.context for example in examples))
    chosen = set(contexts[:: max(1, len(contexts) // paragraphs)])
    return [example for example in examples if example.context in chosen]


def check_recovery(examples: list[SquadExample], tokenizer: AlbertTokenizer, max_length: int) -> dict[str, int]:
    """Every answer of every question is under its labels. Only where an annotator's answer begins or ends inside a word
    may there be more: the rest of that word, never another."""
    each = [e._replace(answers=(answer,)) for e in examples for answer in e.answers]
    questions: dict[str, list[tuple[bool, bool]]] = {}
    labelled = set()
    exact = 0
    for feature in build_features(each, tokenizer, training=True, max_length=max_length):
        if feature.is_impossible or feature.example in labelled:
            continue
        labelled.add(feature.example)
        one = each[feature.example]
        ((text, start),) = one.answers
        found = recovered(feature, one.context)
        begin = feature.offsets[feature.start - feature.first, 0]
        assert one.context[begin : begin + len(found)] == found
        before, behind = one.context[begin:start], one.context[start + len(text) : begin + len(found)]
        assert text in found and not re.search(r"\s", before + behind), (found, text)
        assert (found == text) == (before == behind == "")
        exact += found == text
        same = normalize_answer(found) == normalize_answer(text)
        questions.setdefault(one.id, []).append((found == text, same))
    assert len(labelled) == len(each)
    return dict(
        questions=len(questions),
        answers=len(each),
        exact=exact,
        normalized=sum(same for those in questions.values() for _, same in those),
        questions_exact=sum(any(e for e, _ in those) for those in questions.values()),
        questions_normalized=sum(any(same for _, same in those) for those in questions.values()),
    )


@pytest.mark.parametrize("name, max_length", [("dev-v1.1", MAX_LENGTH), ("dev-v2.0", MAX_LENGTH_2)])
def test_real_answers_are_recovered(released, shared_data, name, max_length):
    examples = some(read_squad(shared_data / "squad" / f"{name}.json.xz"), 100)
    counts = check_recovery(examples, released, max_length)
    assert counts["questions"] > 400
    assert counts["exact"] >= 0.99 * counts["answers"]
    assert counts["questions_exact"] >= 0.999 * counts["questions"]


@pytest.mark.parametrize("name, max_length", [("dev-v1.1", MAX_LENGTH), ("dev-v2.0", MAX_LENGTH_2)])
def test_perfect_scores_give_real_answers(released, shared_data, name, max_length):
    examples = some(read_squad(shared_data / "squad" / f"{name}.json.xz"), 100)
    too_long = check_perfect_scores(examples, released, max_length=max_length)
    assert too_long <= 0.03 * len(examples)


def test_every_piece_of_real_contexts_has_one_maximum_context(released, shared_data):
    examples = some(read_squad(shared_data / "squad" / "dev-v1.1.json.xz"), 100)
    features = build_features(examples, released, training=False, max_length=160, stride=50)
    parts: list[list[np.ndarray]] = [[] for _ in examples]
    for feature in features:
        parts[feature.example].append(feature.offsets[feature.max_context])
    assert max(map(len, parts)) > 3
    for one, those in zip(examples, parts, strict=True):
        _, offsets = released.encode_with_offsets(one.context)
        assert sorted(np.concatenate(those).tolist()) == sorted(offsets.tolist())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, max_length, questions, answers, exact, normalized",
    [
        # Of 107 and 58 answers that are not exact, each begins or ends inside a piece: "Japan" of "Japanese". One
        # question of the first file has no other: "four" of "fourth".
        ("dev-v1.1", MAX_LENGTH, 10_570, 34_726, 34_619, 34_653),
        ("dev-v2.0", MAX_LENGTH_2, 5_928, 20_302, 20_244, 20_273),
    ],
)
def test_all_real_answers_are_recovered(released, shared_data, name, max_length, questions, answers, exact, normalized):
    counts = check_recovery(read_squad(shared_data / "squad" / f"{name}.json.xz"), released, max_length)
    assert (counts["questions"], counts["answers"]) == (questions, answers)
    assert counts["exact"] >= exact and counts["normalized"] >= normalized
    assert counts["questions_exact"] >= 0.9999 * questions
    assert counts["questions_normalized"] >= 0.9999 * questions
