"""GLUE is read the same from every layout, with its traps, and wrong files are named; and what `encode_texts` makes."""

import io
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from albert_jax import metrics
from albert_jax.errors import UserError
from albert_jax.tasks.examples import TextExample, count_labels, describe_labels, encode_texts
from albert_jax.tasks.glue import GLUE_TASKS, format_submission, glue_file, read_glue
from albert_jax.tokenizer import CLS, MASK, PAD, SEP, UNK, AlbertTokenizer

PROSE = [
    "the end of the day was so far from the word he had in mind, that nobody knew what it meant to him _ .",
    "who is he? she asked; one or two of them said that he was the last to be seen there.",
]

# task, split: rows (the official count, or the sample's), and how many of each label
SHARED = {
    ("cola", "train"): (8551, (2528, 6023)),
    ("cola", "dev"): (1043, (322, 721)),
    ("cola", "test"): (1063, None),
    ("sst2", "train"): (67349, (29780, 37569)),
    ("sst2", "dev"): (872, (428, 444)),
    ("sst2", "test"): (1821, None),
    ("mrpc", "train"): (3668, (1194, 2474)),
    ("mrpc", "dev"): (408, (129, 279)),
    ("mrpc", "test"): (1725, None),
    ("stsb", "train"): (5749, None),
    ("stsb", "dev"): (1500, None),
    ("stsb", "test"): (1379, None),
    ("qqp", "train"): (9372, (5981, 3391)),
    ("qqp", "dev"): (23496, (14749, 8747)),
    ("mnli", "train"): (9999, (3278, 3408, 3313)),
    ("mnli", "dev_matched"): (9815, (3213, 3479, 3123)),
    ("mnli", "dev_mismatched"): (9832, (3265, 3492, 3075)),
    ("qnli", "train"): (9999, (5027, 4972)),
    ("qnli", "dev"): (5463, (2702, 2761)),
    ("qnli", "test"): (5463, None),
    ("rte", "train"): (2490, (1249, 1241)),
    ("rte", "dev"): (277, (146, 131)),
    ("rte", "test"): (3000, None),
    ("wnli", "train"): (635, (323, 312)),
    ("wnli", "dev"): (71, (40, 31)),
    ("wnli", "test"): (146, None),
    ("ax", "test"): (1104, None),
    ("ax", "dev_diagnostic"): (1104, (258, 460, 386)),
}


def write(folder: Path, name: str, *rows: str, bom: bool = False, end: str = "\n") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(row + end for row in rows).encode()
    path.write_bytes(b"\xef\xbb\xbf" + content if bom else content)
    return folder


# ---- the table


def test_every_task_has_the_papers_settings_and_each_of_their_columns_its_own():
    with_settings = {name: task.hyperparameters for name, task in GLUE_TASKS.items() if task.hyperparameters}
    assert set(GLUE_TASKS) - set(with_settings) == {"ax"}
    assert all(h.max_length == 512 and h.classifier_dropout == 0.1 for h in with_settings.values())
    assert {name for name, h in with_settings.items() if h.encoder_dropout == 0.1} == {"qqp", "rte", "wnli"}
    assert {name for name, task in GLUE_TASKS.items() if task.from_mnli} == {"rte", "stsb", "mrpc"}
    qnli = with_settings["qnli"]
    assert (qnli.learning_rate, qnli.batch_size, qnli.steps, qnli.warmup_steps) == (1e-5, 32, 33112, 1986)


def test_the_main_metrics_are_those_that_metrics_computes():
    assert {name: task.metric for name, task in GLUE_TASKS.items()} == metrics.GLUE_MAIN_METRICS


def test_published_results_of_xxlarge_are_the_papers_table_9():
    row = {"mnli": 90.8, "qnli": 95.3, "qqp": 92.2, "rte": 89.2, "sst2": 96.9, "mrpc": 90.9, "cola": 71.4, "stsb": 93.0}
    found = {name: {p.model: p.value for p in task.published} for name, task in GLUE_TASKS.items()}
    assert {name: values["xxlarge_v1"] for name, values in found.items() if values} == row
    assert (found["mnli"]["base_v2"], found["sst2"]["large_v1"]) == (84.6, 91.7)


def test_a_submission_has_the_benchmarks_spelling():
    assert format_submission("mnli", "test_matched", [0, 2]) == "index\tprediction\n0\tcontradiction\n1\tneutral\n"
    assert format_submission("wnli", "test", [1]) == "index\tprediction\n0\t1\n"
    assert (
        format_submission("stsb", "test", [5.2, -0.1, 3.14159]) == "index\tprediction\n0\t5.000\n1\t0.000\n2\t3.142\n"
    )
    with pytest.raises(UserError, match=r"no predictions for 'dev' of rte; it does for test"):
        format_submission("rte", "dev", [0])


# ---- the traps of the official files


def test_cola_has_no_header_but_for_its_test_file(tmp_path):
    write(tmp_path, "CoLA/train.tsv", "gj04\t1\t\tFine.", "gj04\t0\t*\tNot was.")
    write(tmp_path, "CoLA/test.tsv", "index\tsentence", "0\tBill left.")
    assert read_glue("cola", "train", tmp_path) == [
        TextExample("train-0", "Fine.", None, 1),
        TextExample("train-1", "Not was.", None, 0),
    ]
    assert read_glue("cola", "test", tmp_path) == [TextExample("test-0", "Bill left.", None, None)]


def test_quotation_marks_byte_order_mark_and_strange_line_ends_are_text_or_nothing(tmp_path):
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    rows = ['1\t10\t20\t" He said .\tHe " said', "0\t11\t21\ta\u2028b\x85c\x0cd\te"]
    write(tmp_path, "MRPC/train.tsv", header, *rows, bom=True, end="\r\n")
    assert read_glue("mrpc", "train", tmp_path) == [
        TextExample("train-0", '" He said .', 'He " said', 1),
        TextExample("train-1", "a\u2028b\x85c\x0cd", "e", 0),
    ]


def test_microsofts_layout_of_mrpc_is_parted_by_the_ids(tmp_path):
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    rows = [f"{i % 2}\t{i}\t{i + 100}\tone {i}\ttwo {i}" for i in range(5)]
    write(tmp_path, "MRPC/msr_paraphrase_train.txt", header, *rows, bom=True)
    write(tmp_path, "MRPC/msr_paraphrase_test.txt", header, rows[0], bom=True)
    with pytest.raises(UserError, match=r"dev_ids\.tsv: no such file"):
        read_glue("mrpc", "dev", tmp_path)
    write(tmp_path, "MRPC/dev_ids.tsv", "3\t103", "1\t101")
    assert [e.text for e in read_glue("mrpc", "train", tmp_path)] == ["one 0", "one 2", "one 4"]
    assert [(e.id, e.pair, e.label) for e in read_glue("mrpc", "dev", tmp_path)] == [
        ("dev-0", "two 1", 1),
        ("dev-1", "two 3", 1),
    ]
    # Microsoft's file has labels; a test split has none.
    assert [e.label for e in read_glue("mrpc", "test", tmp_path)] == [None]
    write(tmp_path, "MRPC/dev_ids.tsv", "3\t103", "9\t109")
    with pytest.raises(UserError, match=r"lacks 1 of the pairs in dev_ids\.tsv, such as 9 109"):
        read_glue("mrpc", "dev", tmp_path)


def test_short_rows_of_qqp_are_left_out_with_a_warning_but_not_in_its_test_file(tmp_path):
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
    write(tmp_path, "QQP/train.tsv", header, "0\t1\t2\tA?\tB?\t1", "1\t1\t2\tbroken", "2\t1\t2\tC?\tD?\t0")
    with pytest.warns(UserWarning, match=r"train\.tsv: left out 1 rows that lack columns, lines 3$"):
        found = read_glue("qqp", "train", tmp_path)
    assert [(e.id, e.text, e.label) for e in found] == [("train-0", "A?", 1), ("train-1", "C?", 0)]
    write(tmp_path, "QQP/test.tsv", "id\tquestion1\tquestion2", "0\tA?\tB?", "1\tA?")
    with pytest.raises(UserError, match=r"test\.tsv, line 3: 2 columns, expected 3: id, question1, question2"):
        read_glue("qqp", "test", tmp_path)


def test_mnli_takes_the_gold_label_and_not_an_annotators(tmp_path):
    header = "index\tsentence1\tsentence2\tlabel1\tgold_label"
    write(tmp_path, "MNLI/dev_mismatched.tsv", header, "0\tp\th\tneutral\tentailment")
    assert read_glue("mnli", "dev_mismatched", tmp_path) == [TextExample("dev_mismatched-0", "p", "h", 1)]


def test_scores_of_stsb_are_numbers_from_0_to_5(tmp_path):
    write(tmp_path, "STS-B/dev.tsv", "index\tsentence1\tsentence2\tscore", "0\ta\tb\t3.800")
    assert read_glue("stsb", "dev", tmp_path)[0].label == 3.8
    for wrong in ("five", "5.2", "nan", ""):
        write(tmp_path, "STS-B/dev.tsv", "index\tsentence1\tsentence2\tscore", "0\ta\tb\t1", f"0\ta\tb\t{wrong}")
        with pytest.raises(
            UserError, match=rf"dev\.tsv, line 3: the score is '{wrong}', expected a number from 0 to 5"
        ):
            read_glue("stsb", "dev", tmp_path)


def test_a_sample_is_taken_where_the_official_file_is_absent_if_there_is_only_one(tmp_path):
    write(tmp_path, "SST-2/train.sample.tsv", "sentence\tlabel", "good\t1")
    assert glue_file("sst2", "train", tmp_path).name == "train.sample.tsv"
    write(tmp_path, "SST-2/train.other.tsv", "sentence\tlabel", "good\t1")
    with pytest.raises(UserError, match=r"several like it \(train\.other\.tsv, train\.sample\.tsv\)"):
        read_glue("sst2", "train", tmp_path)
    write(tmp_path, "SST-2/train.tsv", "sentence\tlabel", "good\t1")
    assert glue_file("sst2", "train", tmp_path).name == "train.tsv"


FAULTS = {
    "missing": ((), r"RTE/dev\.tsv: no such file, and none like dev\*\.tsv; give the folder that holds RTE"),
    "empty": (("",), r"dev\.tsv, line 1: no column sentence1, sentence2, label in the header"),
    "no rows": (("index\tsentence1\tsentence2\tlabel",), r"the dev split of rte is empty"),
    "no label": (("index\tsentence1\tsentence2", "0\ta\tb"), r"line 1: no column label in the header, found index, s"),
    "short": (("index\tsentence1\tsentence2\tlabel", "0\ta\tb"), r"line 2: 3 columns, expected 4: index, sentence1"),
    "unknown": (
        ("index\tsentence1\tsentence2\tlabel", "0\ta\tb\tentailment", "1\ta\tb\tneutral"),
        r"line 3: unknown label 'neutral'; rte has entailment, not_entailment",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_names_file_line_and_what_was_expected(tmp_path, name):
    rows, message = FAULTS[name]
    if rows:
        write(tmp_path, "RTE/dev.tsv", *rows)
    with pytest.raises(UserError, match=message):
        read_glue("rte", "dev", tmp_path)


def test_wrong_bytes_and_an_empty_file_are_named(tmp_path):
    (tmp_path / "RTE").mkdir()
    (tmp_path / "RTE/dev.tsv").write_bytes(b"index\tsentence1\tsentence2\tlabel\n0\ta\xff\tb\tentailment\n")
    with pytest.raises(UserError, match=r"dev\.tsv, line 2: not UTF-8 \(byte 0xff\)"):
        read_glue("rte", "dev", tmp_path)
    (tmp_path / "RTE/dev.tsv").write_bytes(b"")
    with pytest.raises(UserError, match=r"dev\.tsv: empty file"):
        read_glue("rte", "dev", tmp_path)


def test_unknown_tasks_and_splits_are_answered_with_those_there_are(tmp_path):
    with pytest.raises(UserError, match=r"no task 'MNLI'; there are cola, sst2"):
        read_glue("MNLI", "train", tmp_path)
    with pytest.raises(UserError, match=r"mnli has no split 'dev'; there are train, dev_matched, dev_mismatched"):
        read_glue("mnli", "dev", tmp_path)


# ---- datasets


def test_a_saved_hugging_face_dataset_gives_the_examples_of_the_files(tmp_path):
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    write(
        tmp_path,
        "MNLI/dev_matched.tsv",
        "index\tsentence1\tsentence2\tgold_label",
        "0\tp\th\tneutral",
        "1\tq\ti\tentailment",
    )
    # Another order of labels than Google's.
    label = ClassLabel(names=["entailment", "neutral", "contradiction"])
    features = Features(premise=Value("string"), hypothesis=Value("string"), label=label, idx=Value("int32"))
    rows = [dict(premise="p", hypothesis="h", label=1, idx=0), dict(premise="q", hypothesis="i", label=0, idx=1)]
    dataset = DatasetDict(
        validation_matched=Dataset.from_list(rows, features),
        test_matched=Dataset.from_list([row | {"label": -1} for row in rows], features),
    )
    for folder, place in ((tmp_path / "one", "one"), (tmp_path / "all/mnli", "all")):
        dataset.save_to_disk(folder)
        source = f"hf:{tmp_path / place}"
        assert read_glue("mnli", "dev_matched", source) == read_glue("mnli", "dev_matched", tmp_path)
        assert [e.label for e in read_glue("mnli", "test_matched", source)] == [None, None]
        with pytest.raises(UserError, match="mnli: no split 'train', there are validation_matched, test_matched"):
            read_glue("mnli", "train", source)
    with pytest.raises(UserError, match=r"row 0 of test: no column sentence1, sentence2, found premise"):
        DatasetDict(test=dataset["test_matched"]).save_to_disk(tmp_path / "wrong")
        read_glue("rte", "test", f"hf:{tmp_path / 'wrong'}")


def test_numbers_without_names_are_labels_only_where_the_task_has_numbers(tmp_path):
    from datasets import Dataset, DatasetDict

    DatasetDict(train=Dataset.from_list([dict(sentence="good", label=1)])).save_to_disk(tmp_path / "sst2")
    assert read_glue("sst2", "train", f"hf:{tmp_path}")[0].label == 1
    DatasetDict(train=Dataset.from_list([dict(sentence1="a", sentence2="b", label=1)])).save_to_disk(tmp_path / "rte")
    with pytest.raises(
        UserError, match=r"rte, row 0 of train: the label is the number 1, and the dataset does not say"
    ):
        read_glue("rte", "train", f"hf:{tmp_path}")
    with pytest.raises(UserError, match=r"wnli: cannot be opened: "):
        read_glue("wnli", "train", f"hf:{tmp_path}")
    with pytest.raises(UserError, match="names no dataset; write hf:glue"):
        read_glue("wnli", "train", "hf:")


def test_scores_in_float32_are_those_of_the_files(tmp_path):
    from datasets import Dataset, DatasetDict, Features, Value

    write(tmp_path, "STS-B/dev.tsv", "index\tsentence1\tsentence2\tscore", "0\ta\tb\t3.800", "1\ta\tb\t4.917")
    columns = Features(sentence1=Value("string"), sentence2=Value("string"), label=Value("float32"))
    rows = [dict(sentence1="a", sentence2="b", label=score) for score in (3.8, 4.917)]
    DatasetDict(validation=Dataset.from_list(rows, columns)).save_to_disk(tmp_path / "saved")
    assert read_glue("stsb", "dev", f"hf:{tmp_path / 'saved'}") == read_glue("stsb", "dev", tmp_path)


def test_a_tensorflow_dataset_gives_the_examples_in_the_official_order(tmp_path):
    import tensorflow_datasets as tfds

    class TinyGlue(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="rte"), tfds.core.BuilderConfig(name="stsb")]  # noqa: RUF012
        pkg_dir_path = tmp_path

        def _info(self):
            rte = self.builder_config.name == "rte"
            # Another order of labels than Google's.
            label = tfds.features.ClassLabel(names=["not_entailment", "entailment"]) if rte else np.float32
            texts = {name: tfds.features.Text() for name in ("sentence1", "sentence2")}
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(texts | {"label": label, "idx": np.int32})
            )

        def _split_generators(self, manager):
            return {"validation": self._generate_examples()}

        def _generate_examples(self):
            for i in range(20):
                label = i % 2 if self.builder_config.name == "rte" else i / 4
                yield i, {"sentence1": f"first {i}", "sentence2": "é", "label": label, "idx": i}

    for name in ("rte", "stsb"):
        TinyGlue(config=name, data_dir=tmp_path, file_format="array_record").download_and_prepare()
    source = f"tfds:tiny_glue#data_dir={tmp_path}"
    assert read_glue("rte", "dev", source) == [TextExample(f"dev-{i}", f"first {i}", "é", 1 - i % 2) for i in range(20)]
    assert [e.label for e in read_glue("stsb", "dev", source)] == [i / 4 for i in range(20)]
    with pytest.raises(UserError, match="after # only data_dir=DATA_DIR is known"):
        read_glue("rte", "dev", "tfds:tiny_glue#split=x")
    with pytest.raises(UserError, match="rte: cannot be opened"):
        read_glue("rte", "dev", "tfds:no_such_dataset_here")


# ---- the real files


@pytest.mark.parametrize(("task", "split"), SHARED, ids=map("-".join, SHARED))
def test_real_files_have_the_official_counts_and_balance(shared_data, task, split):
    rows, balance = SHARED[task, split]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        examples = read_glue(task, split, shared_data / "glue")
    assert len(examples) == rows
    assert [e.id for e in examples[:: rows - 1]] == [f"{split}-0", f"{split}-{rows - 1}"]
    assert all(e.text and (e.pair is None) == (len(GLUE_TASKS[task].columns) == 1) for e in examples)
    if balance:
        assert tuple(count_labels(examples, GLUE_TASKS[task].labels).values()) == balance
    elif split == "test":
        assert all(e.label is None for e in examples)


def test_first_and_last_rows_of_real_files(shared_data):
    def ends(task, split):
        examples = read_glue(task, split, shared_data / "glue")
        return [(e.text, e.pair, e.label) for e in (examples[0], examples[-1])]

    assert ends("cola", "dev") == [
        ("The sailors rode the breeze clear of the rocks.", None, 1),
        ("John talked to Bill about himself.", None, 1),
    ]
    first, last = ends("mrpc", "dev")
    assert first[1:] == ('" The foodservice pie business does not fit our long-term growth strategy .', 1)
    assert last[1:] == ("In Soviet times the Beatles ' music \" was considered propaganda of an alien ideology .", 1)
    assert ends("stsb", "dev")[0] == ("A man with a hard hat is dancing.", "A man wearing a hard hat is dancing.", 5.0)
    assert ends("ax", "dev_diagnostic")[0] == ("The cat sat on the mat.", "The cat did not sit on the mat.", 0)
    assert ends("rte", "train")[0][2] == 1
    described = describe_labels(read_glue("stsb", "train", shared_data / "glue"))
    assert described == "5,749 numbers from 0 to 5, mean 2.70, standard deviation 1.46"


def test_both_layouts_of_the_real_mrpc_agree(shared_data, tmp_path):
    (tmp_path / "MRPC").mkdir()
    for name in ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt", "dev_ids.tsv"):
        (tmp_path / "MRPC" / name).symlink_to(shared_data / "glue/MRPC" / name)
    for split in ("train", "dev", "test"):
        official = {(e.text, e.pair, e.label) for e in read_glue("mrpc", split, shared_data / "glue")}
        assert {(e.text, e.pair, e.label) for e in read_glue("mrpc", split, tmp_path)} == official


# ---- sequences


@pytest.fixture(scope="module")
def tokenizer() -> AlbertTokenizer:
    model = io.BytesIO()
    settings = dict(vocab_size=150, pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, hard_vocab_limit=False)
    settings |= dict(pad_piece=PAD, unk_piece=UNK, control_symbols=[CLS, SEP, MASK], minloglevel=2)
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(PROSE * 20), model_writer=model, **settings)
    return AlbertTokenizer(model.getvalue())


def googles_truncation(first: list[int], second: list[int], room: int) -> None:
    """Pops pieces one by one: the longer's last, on a tie the second's."""
    while len(first) + len(second) > room:
        (first if len(first) > len(second) else second).pop()


def test_pairs_lose_the_pieces_that_googles_code_takes(tokenizer):
    generator = random.Random(0)
    words = "the a of and to in he was that his".split()
    examples = [
        TextExample(str(i), *(" ".join(generator.choices(words, k=generator.randint(0, 24))) for _ in range(2)), None)
        for i in range(300)
    ]
    for max_length in (3, 4, 15, 16):
        encoded = encode_texts(examples, tokenizer, max_length)
        cut = 0
        for number, (example, sequence) in enumerate(zip(examples, encoded.sequences, strict=True)):
            first, second = tokenizer.encode(example.text), tokenizer.encode(example.pair)
            whole = len(first) + len(second)
            googles_truncation(first, second, max_length - 3)
            cut += len(first) + len(second) < whole
            cls, sep = tokenizer.cls_id, tokenizer.sep_id
            assert sequence.input_ids.tolist() == [cls, *first, sep, *second, sep]
            assert sequence.token_type_ids.tolist() == [0] * (len(first) + 2) + [1] * (len(second) + 1)
            assert sequence.example == number
        assert encoded.truncated == cut and encoded.truncated_share == cut / 300


def test_single_texts_lose_their_end_and_are_counted(tokenizer):
    examples = [TextExample("a", "the " * 20, None, 1), TextExample("b", "the", None, 0), TextExample("c", "", None, 0)]
    encoded = encode_texts(examples, tokenizer, 8)
    assert [len(sequence) for sequence in encoded.sequences] == [8, 3, 2]
    assert encoded.truncated == 1
    assert encoded.sequences[0].input_ids.dtype == np.uint16
    assert encoded.sequences[0].token_type_ids.tolist() == [0] * 8
    built = tokenizer.build(examples[0].text, truncation="longest_first", max_length=8)
    assert encoded.sequences[0].input_ids.tolist() == built.input_ids.tolist()
    with pytest.raises(UserError, match="max_length is 1, expected at least 2"):
        encode_texts(examples, tokenizer, 1)


def test_a_text_that_cannot_be_encoded_is_named(tokenizer):
    examples = [TextExample("train-0", "fine", None, 1), TextExample("train-1", "half \ud800", None, 1)]
    with pytest.raises(UserError, match=r"example train-1: a text has half a surrogate pair"):
        encode_texts(examples, tokenizer, 8)


def test_the_balance_of_classes_in_words():
    examples = [TextExample(str(i), "", None, label) for i, label in enumerate([0, 1, 1, None])]
    assert count_labels(examples, ["no", "yes", "never"]) == {"no": 1, "yes": 2, "never": 0, None: 1}
    assert (
        describe_labels(examples, ["no", "yes"]) == "4 examples: no 1 (25.0%), yes 2 (50.0%), without label 1 (25.0%)"
    )
    several = [TextExample("0", "", None, (0, 1)), TextExample("1", "", None, ())]
    assert describe_labels(several, ["x", "y"]) == "2 examples: x 1 (50.0%), y 1 (50.0%)"
    assert describe_labels(examples[3:], ["no", "yes"]) == "1 examples without labels"
    assert describe_labels([]) == "no examples"
