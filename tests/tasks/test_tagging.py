"""CoNLL's columns and datasets become words with tags, IOB1 and IOB2 turn into one another, and no word is lost to the
length."""

import io
import random

import numpy as np
import pytest
import sentencepiece

from albert_jax.errors import UserError
from albert_jax.tasks.examples import TaggingExample, count_labels, describe_labels
from albert_jax.tasks.tagging import (
    encode_tagging,
    find_entities,
    open_conll,
    read_conll,
    tag_labels,
    to_iob1,
    to_iob2,
)
from albert_jax.tokenizer import CLS, MASK, PAD, SEP, UNK, AlbertTokenizer

PROSE = [
    "the end of the day was so far from the word he had in mind, that nobody knew what it meant to him _ .",
    "who is he? she asked; one or two of them said that he was the last to be seen there.",
]


@pytest.fixture(scope="module")
def tokenizer() -> AlbertTokenizer:
    model = io.BytesIO()
    settings = dict(vocab_size=150, pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, hard_vocab_limit=False)
    settings |= dict(pad_piece=PAD, unk_piece=UNK, control_symbols=[CLS, SEP, MASK], minloglevel=2)
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(PROSE * 20), model_writer=model, **settings)
    return AlbertTokenizer(model.getvalue())


def write(folder, text: str):
    path = folder / "eng.train"
    path.write_text(text)
    return path


def test_four_columns_documents_and_blank_lines(tmp_path):
    path = write(
        tmp_path,
        "-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\nrejects VBZ I-VP O\n\n\n-DOCSTART- -X- O O\n\n2 CD I-NP O",
    )
    assert read_conll(path) == [
        TaggingExample("0", ("EU", "rejects"), ("I-ORG", "O")),
        TaggingExample("1", ("2",), ("O",)),
    ]


def test_two_columns_by_tabs_or_spaces_and_no_break_spaces_within_words(tmp_path):
    path = write(tmp_path, "New York\tB-LOC\r\nis\tO\r\n\r\n1\u00a0000 O\n-DOCSTART- O\nx O\n")
    assert read_conll(path) == [
        TaggingExample("0", ("New York", "is"), ("B-LOC", "O")),
        TaggingExample("1", ("1\u00a0000",), ("O",)),
        TaggingExample("2", ("x",), ("O",)),
    ]


def test_words_alone_are_read_without_labels(tmp_path):
    assert read_conll(write(tmp_path, "a\nb\n"), labelled=False) == [TaggingExample("0", ("a", "b"), None)]
    four = write(tmp_path, "EU NNP I-NP I-ORG\n")
    assert read_conll(four, labelled=False) == [TaggingExample("0", ("EU",), None)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"eng\.train: holds no words"),
        ("-DOCSTART- O\n\n", r"holds no words"),
        ("a O\nb\n", r"line 2: 1 columns, expected 2 as above: 'b'"),
        ("a\n", r"line 1: one column, expected a word and its tag"),
        ("a O\nb I-GOD\n", r"line 2: the tag is 'I-GOD', expected one of I-LOC, O"),
    ],
)
def test_a_fault_names_file_and_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_conll(write(tmp_path, text), ["I-LOC", "O"])


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such file"):
        read_conll(tmp_path / "nowhere")


# ---- folders and datasets

NAMES = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"]
OFFICIAL = (
    "-DOCSTART- -X- O O\n\nEU X X I-ORG\nand X X O\n\n-DOCSTART- -X- O O\n\nA X X I-LOC\nB X X B-LOC\nC X X I-LOC\n"
)


def save(folder, examples, named: bool = True, **more) -> str:
    """As Hugging Face's conll2003, with sentences of -DOCSTART- and empty ones as some have them."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    tags = ClassLabel(names=NAMES) if named else Value("int64")
    columns = Features(id=Value("string"), tokens=[Value("string")], ner_tags=[tags])
    rows = [dict(tokens=["-DOCSTART-"], ner_tags=[0]), dict(tokens=[], ner_tags=[])]
    rows += [dict(tokens=e.words, ner_tags=[NAMES.index(tag) for tag in to_iob2(e.labels)]) for e in examples]
    rows = [dict(row, id=str(n)) for n, row in enumerate(rows)]
    rows[-1] |= more
    DatasetDict(validation=Dataset.from_list(rows, columns)).save_to_disk(folder)
    return f"hf:{folder}"


def test_files_and_hugging_faces_dataset_give_the_same_sentences_in_either_scheme(tmp_path):
    (tmp_path / "valid.txt").write_text("only X X O\n")
    assert open_conll("dev", tmp_path) == [TaggingExample("0", ("only",), ("O",))]
    (tmp_path / "eng.testa").write_text(OFFICIAL)
    source = save(tmp_path / "saved", read_conll(tmp_path / "eng.testa"))
    iob2 = [
        TaggingExample("0", ("EU", "and"), ("B-ORG", "O")),
        TaggingExample("1", tuple("ABC"), ("B-LOC", "B-LOC", "I-LOC")),
    ]
    assert open_conll("dev", tmp_path) == open_conll("dev", source) == open_conll("dev", source, "as_is") == iob2
    assert (
        open_conll("dev", tmp_path, "iob1") == open_conll("dev", source, "iob1") == read_conll(tmp_path / "eng.testa")
    )
    assert open_conll("dev", tmp_path, "as_is") == read_conll(tmp_path / "eng.testa")


def test_tensorflows_dataset_gives_the_sentences_of_the_files_in_its_own_order(tmp_path):
    import tensorflow_datasets as tfds

    (tmp_path / "eng.testa").write_text(OFFICIAL)
    expected = open_conll("dev", tmp_path)

    class TinyConll(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="conll2003")]  # noqa: RUF012
        pkg_dir_path = tmp_path

        def _info(self):
            text, label = tfds.features.Text(), tfds.features.ClassLabel(names=NAMES)
            features = {"tokens": tfds.features.Sequence(text), "ner": tfds.features.Sequence(label)}
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {"dev": self._generate_examples()}

        def _generate_examples(self):
            for number, example in enumerate(expected):
                yield number, {"tokens": example.words, "ner": example.labels}

    TinyConll(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    found = open_conll("dev", f"tfds:tiny_conll#data_dir={tmp_path}")
    assert sorted(e.words for e in found) == sorted(e.words for e in expected)
    assert {(e.words, e.labels) for e in found} == {(e.words, e.labels) for e in expected}
    assert [e.id for e in found] == ["0", "1"]


def test_faults_of_folders_and_datasets_name_source_split_and_row(tmp_path):
    one = [TaggingExample("0", ("EU", "and"), ("B-ORG", "O"))]
    for number, (more, message) in enumerate(
        (
            ({"ner_tags": [0]}, "row 2 of dev: 1 ner_tags for 2 tokens"),
            ({"ner_tags": None}, "row 2 of dev: expected a list of texts as tokens and a list of tags as ner_tags"),
            ({"tokens": ["EU", None]}, "row 2 of dev: expected a list of texts as tokens"),
        )
    ):
        with pytest.raises(UserError, match=message):
            open_conll("dev", save(tmp_path / f"{number}", one, **more))
    with pytest.raises(UserError, match="row 2 of dev: the tag of 'EU' is the number 3, and the dataset does not say"):
        open_conll("dev", save(tmp_path / "nameless", one, named=False))
    with pytest.raises(UserError, match="the dev split holds no words"):
        open_conll("dev", save(tmp_path / "nothing", []))
    with pytest.raises(UserError, match=r"holds neither eng\.train nor train\.txt"):
        open_conll("train", tmp_path)
    (tmp_path / "eng.train").write_text("a O\n\nb E-LOC\n")
    with pytest.raises(UserError, match="sentence 1 of train: tag 'E-LOC': expected O, or B- or I-"):
        open_conll("train", tmp_path)
    with pytest.raises(UserError, match="scheme is 'bio', expected one of iob1, iob2, as_is"):
        open_conll("train", tmp_path, "bio")
    with pytest.raises(UserError, match="CoNLL-2003 has no split 'testa'; there are train, dev, test"):
        open_conll("testa", tmp_path)


# ---- kinds of tags


def test_iob1_and_iob2_turn_into_one_another():
    iob1 = ("I-PER", "I-PER", "O", "I-LOC", "B-LOC", "I-LOC", "I-ORG", "B-ORG")
    iob2 = ("B-PER", "I-PER", "O", "B-LOC", "B-LOC", "I-LOC", "B-ORG", "B-ORG")
    assert to_iob2(iob1) == iob2 and to_iob1(iob2) == iob1
    assert to_iob2(iob2) == iob2 and to_iob1(iob1) == iob1
    assert find_entities(iob1) == find_entities(iob2)
    assert find_entities(iob1)[1:3] == [("LOC", 3, 4), ("LOC", 4, 6)]
    for wrong in ("E-PER", "B-", "PER"):
        with pytest.raises(UserError, match=f"tag '{wrong}': expected O, or B- or I-"):
            to_iob2([wrong])


def test_entities_survive_every_conversion():
    generator = random.Random(0)
    for _ in range(300):
        tags = generator.choices(["O", "B-X", "I-X", "B-Y", "I-Y-Z"], k=12)
        found = find_entities(tags)
        assert find_entities(to_iob1(tags)) == found and find_entities(to_iob2(tags)) == found
        assert to_iob2(to_iob1(tags)) == to_iob2(tags)


# ---- sequences


def test_the_first_piece_of_each_word_has_its_label(tokenizer):
    example = TaggingExample("0", ("nobody", "Knew", "zzz", "."), ("O", "B-X", "I-X", "O"))
    (sequence,) = encode_tagging([example], tokenizer, 64, tag_labels([example])).sequences
    pieces = [tokenizer.encode(word) for word in example.words]
    together = [id for word in pieces for id in word]
    assert sequence.input_ids.tolist() == [tokenizer.cls_id, *together, tokenizer.sep_id]
    assert len(together) > 4 and tokenizer.id_to_piece(pieces[0][0]).startswith("▁")
    assert tag_labels([example]) == ("B-X", "I-X", "O")
    assert sequence.labels[sequence.word_starts].tolist() == [2, 0, 1, 2]
    assert (np.delete(sequence.labels, sequence.word_starts) == -100).all()
    assert sequence.input_ids[sequence.word_starts].tolist() == [word[0] for word in pieces]
    assert not sequence.token_type_ids.any() and sequence.word_starts.dtype == np.int32


def test_long_sentences_are_parted_between_words_and_nothing_is_dropped(tokenizer):
    generator = random.Random(0)
    vocabulary = " ".join(PROSE).split()
    examples = [
        TaggingExample(str(i), words, tuple(generator.choices(["O", "I-X"], k=len(words))))
        for i in range(50)
        for words in [tuple(generator.choices(vocabulary, k=generator.randint(1, 60)))]
    ]
    encoded = encode_tagging(examples, tokenizer, 24, ["I-X", "O"])
    assert encoded.truncated == 0 and len(encoded.sequences) > 50
    assert max(map(len, encoded.sequences)) <= 24
    for number, example in enumerate(examples):
        parts = [s for s in encoded.sequences if s.example == number]
        tags = [["I-X", "O"][label] for s in parts for label in s.labels[s.word_starts]]
        assert tuple(tags) == example.labels
        assert [s.first_word for s in parts] == np.cumsum([0, *(len(s.word_starts) for s in parts[:-1])]).tolist()
        ids = [id for s in parts for id in s.input_ids[1:-1].tolist()]
        assert ids == [id for word in example.words for id in tokenizer.encode(word)]


def test_words_too_long_or_without_pieces_keep_their_label(tokenizer):
    example = TaggingExample("0", ("nobodyknewwhatitmeant", "\u200b", "he"), ("A", "B", "C"))
    assert tokenizer.encode("\u200b") == []
    encoded = encode_tagging([example], tokenizer, 6, "ABC")
    assert encoded.truncated == 1
    assert [s.labels[s.word_starts].tolist() for s in encoded.sequences] == [[0], [1, 2]]
    assert len(encoded.sequences[0]) == 6 and encoded.sequences[1].input_ids[1] == tokenizer.unk_id


def test_unlabelled_words_have_no_labels_and_unknown_tags_are_refused(tokenizer):
    (sequence,) = encode_tagging([TaggingExample("0", ("he",), None)], tokenizer, 8).sequences
    assert sequence.labels is None and sequence.word_starts.tolist() == [1]
    with pytest.raises(UserError, match="example 7: unknown tag X; known are O"):
        encode_tagging([TaggingExample("7", ("he",), ("X",))], tokenizer, 8, ["O"])
    with pytest.raises(UserError, match="max_length is 2, expected at least 3"):
        encode_tagging([], tokenizer, 2)


# ---- the real files


def test_real_conll_has_the_official_sentences_and_entities(shared_data):
    counts = {}
    for part in ("train", "testa", "testb"):
        examples = read_conll(shared_data / f"conll2003/eng.{part}")
        words = sum(len(e.words) for e in examples)
        counts[part] = len(examples), words, sum(len(find_entities(e.labels)) for e in examples)
        assert all(to_iob1(to_iob2(e.labels)) == e.labels for e in examples)
        if part == "train":
            assert examples[0].words[:3] == ("EU", "rejects", "German")
            assert examples[0].labels[:3] == ("I-ORG", "O", "I-MISC")
            known = tag_labels(examples)
            assert known == ("B-LOC", "B-MISC", "B-ORG", "I-LOC", "I-MISC", "I-ORG", "I-PER", "O")
            assert count_labels(examples, known)["O"] == 169578
            assert describe_labels(examples, known).startswith("14,041 examples of 203,621 tags: B-LOC 11 (0.0%)")
        else:
            assert examples == read_conll(shared_data / f"conll2003/eng.{part}", known)
    # Counts of Tjong Kim Sang and De Meulder (2003), tables 1 and 2, but for the sentences that are -DOCSTART- lines.
    assert counts == {
        "train": (14041, 203621, 23499),
        "testa": (3250, 51362, 5942),
        "testb": (3453, 46435, 5648),
    }


def test_real_conll_is_the_same_as_a_dataset_in_every_scheme(shared_data, tmp_path):
    files = shared_data / "conll2003"
    source = save(tmp_path / "saved", read_conll(files / "eng.testa"))
    for scheme in ("iob1", "iob2"):
        assert open_conll("dev", source, scheme) == open_conll("dev", files, scheme)
    assert open_conll("dev", files, "iob1") == read_conll(files / "eng.testa")
    assert [len(open_conll(split, files)) for split in ("train", "test")] == [14041, 3453]
