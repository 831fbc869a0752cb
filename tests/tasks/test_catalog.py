"""What the catalogue says about every task: the paper's recipes, the labels' order, published results, metrics, and the
files that others judge."""

import json
from dataclasses import replace

import numpy as np
import pytest

from albert_jax.errors import UserError
from albert_jax.metrics import squad_v2_metrics
from albert_jax.tasks.catalog import open_task, score_squad_2
from albert_jax.tasks.config import FinetuneConfig, Recipe, SquadConfig, TableConfig, completed
from albert_jax.tasks.examples import ChoiceExample, TaggingExample, TextExample
from albert_jax.tasks.heads import Split
from albert_jax.tasks.squad import Candidate, GoldAnswer, SquadAnswer, SquadExample

TABLE_14 = """
    cola    1e-5   16  0    0.1   5336   320  512
    stsb    2e-5   16  0    0.1   3598   214  512
    sst2    1e-5   32  0    0.1  20935  1256  512
    mnli    3e-5  128  0    0.1  10000  1000  512
    qnli    1e-5   32  0    0.1  33112  1986  512
    qqp     5e-5  128  0.1  0.1  14000  1000  512
    rte     3e-5   32  0.1  0.1    800   200  512
    mrpc    2e-5   32  0    0.1    800   200  512
    wnli    2e-5   16  0.1  0.1   2000   250  512
    squad1  5e-5   48  0    0.1   3649   365  384
    squad2  3e-5   48  0    0.1   8144   814  512
    race    2e-5   32  0.1  0.1  12000  1000  512
"""
"""Paper, Table 14: learning rate, batch, ALBERT DR, classifier DR, steps, warm-up, length. RACE's row: version 1."""
LABELS = {
    # Google's classifier_utils.py; the names are those of the datasets on the hub.
    "cola": ("unacceptable", "acceptable"),
    "sst2": ("negative", "positive"),
    "mrpc": ("not_equivalent", "equivalent"),
    "stsb": ("score",),
    "qqp": ("not_duplicate", "duplicate"),
    "mnli": ("contradiction", "entailment", "neutral"),
    "ax": ("contradiction", "entailment", "neutral"),
    "qnli": ("entailment", "not_entailment"),
    "rte": ("entailment", "not_entailment"),
    "wnli": ("not_entailment", "entailment"),
}
MODELS = [f"{size}_{version}" for version in ("v1", "v2") for size in ("base", "large", "xlarge", "xxlarge")]
README = {
    # google-research/albert: base, large, xlarge and xxlarge of version 1, then of version 2.
    "squad1": (89.3, 90.6, 92.5, 94.8, 90.2, 91.8, 92.9, 94.6),
    "squad2": (80.0, 82.3, 86.1, 90.2, 82.1, 84.9, 87.9, 89.8),
    "mnli": (81.6, 83.5, 86.4, 90.8, 84.6, 86.5, 87.9, 90.6),
    "sst2": (90.3, 91.7, 92.4, 96.9, 92.9, 94.9, 95.4, 96.8),
    "race": (64.0, 68.5, 74.8, 86.5, 66.8, 75.2, 80.7, 86.8),
}
MAIN_METRICS = {"cola": "matthews_correlation", "ax": "matthews_correlation", "stsb": "pearson",
                "squad1": "f1", "squad2": "f1", "conll": "f1"}  # fmt: skip


def task(name: str, **fields):
    return open_task(FinetuneConfig(task=name, **fields), name, ("O",) if name == "conll" else ())


# ---- recipes


@pytest.mark.parametrize("row", TABLE_14.split("\n")[1:-1], ids=lambda row: row.split()[0])
def test_recipe_is_the_papers(row):
    name, *values = row.split()
    rate, batch, encoder, classifier, steps, warmup, length = map(float, values)
    recipe = task(name, model_version="v1").recipe
    assert recipe.learning_rate == rate
    assert (recipe.batch_size, recipe.steps, recipe.warmup_steps, recipe.max_length) == (batch, steps, warmup, length)
    assert (recipe.encoder_dropout, recipe.classifier_dropout) == (encoder, classifier)
    assert recipe.epochs is None
    assert "Table 14" in task(name).recipe_source


def test_race_of_version_2_has_the_rate_and_dropout_of_the_readme():
    first, second = task("race", model_version="v1").recipe, task("race", model_version="v2").recipe
    assert second == replace(first, learning_rate=1e-5, encoder_dropout=0.0)
    assert "README" in task("race").recipe_source


@pytest.mark.parametrize("name", ["ax", "swag", "dream", "conll"])
def test_what_the_paper_has_no_recipe_for_says_so(name):
    assert "our choice" in task(name).recipe_source
    recipe = task(name).recipe
    assert recipe.steps is None
    assert recipe.epochs > 0


def test_evaluations_come_as_often_as_in_googles_script_and_seldom_where_they_are_long():
    every = {name: task(name).recipe.evaluate_every for name in LABELS if name != "ax"}
    assert every.pop("qnli") == 200
    assert every.pop("mnli") == every.pop("qqp") == 500
    assert set(every.values()) == {100}


PUBLISHED = Recipe(
    learning_rate=1e-5, batch_size=32, steps=1000, warmup_steps=100, encoder_dropout=0.1, classifier_dropout=0.1,
    max_length=512, evaluate_every=200,
)  # fmt: skip
OURS = replace(PUBLISHED, steps=None, warmup_steps=None, evaluate_every=None, epochs=3.0)


def test_what_a_recipe_says_stays_and_the_rest_is_the_published():
    assert completed(Recipe(), PUBLISHED, 640) == PUBLISHED
    changed = completed(Recipe(learning_rate=1e-3, encoder_dropout=0.0, max_length=64), PUBLISHED, 640)
    assert changed == replace(PUBLISHED, learning_rate=1e-3, encoder_dropout=0.0, max_length=64)


@pytest.mark.parametrize(
    ("given", "published", "steps", "warmup", "every"),
    [
        (Recipe(steps=500), PUBLISHED, 500, 50, 200),
        (Recipe(steps=100), PUBLISHED, 100, 10, 10),
        (Recipe(steps=101), PUBLISHED, 101, 10, 11),
        (Recipe(steps=100, evaluate_every=1000), PUBLISHED, 100, 10, 1000),
        (Recipe(steps=100, warmup_steps=0), PUBLISHED, 100, 0, 10),
        (Recipe(epochs=2), PUBLISHED, 40, 4, 4),
        (Recipe(epochs=2, batch_size=64), PUBLISHED, 20, 2, 2),
        (Recipe(epochs=0.001), PUBLISHED, 1, 0, 1),
        (Recipe(), OURS, 60, 6, 6),
        (Recipe(epochs=1), OURS, 20, 2, 2),
        (Recipe(steps=7), OURS, 7, 1, 1),
        (Recipe(batch_size=16), OURS, 120, 12, 12),
    ],
)
def test_epochs_become_steps_and_the_warm_up_keeps_its_share(given, published, steps, warmup, every):
    found = completed(given, published, 640)
    assert (found.steps, found.warmup_steps, found.evaluate_every, found.epochs) == (steps, warmup, every, None)


def test_the_papers_squad_steps_are_its_epochs():
    # ../shared/reference/albert.md 5.1: 87,599 questions twice and 130,319 three times.
    assert completed(Recipe(epochs=2), task("squad1").recipe, 87_599).steps == pytest.approx(3649, abs=1)
    assert completed(Recipe(epochs=3), task("squad2").recipe, 130_319).steps == pytest.approx(8144, abs=1)


def test_a_warm_up_longer_than_the_training_is_refused():
    with pytest.raises(UserError, match=r"recipe\.warmup_steps = 200: must be at most recipe\.steps = 100"):
        completed(Recipe(steps=100, warmup_steps=200), PUBLISHED, 640)


# ---- what is known of every task


@pytest.mark.parametrize("name", LABELS)
def test_labels_have_googles_order(name):
    assert task(name).labels == LABELS[name]
    assert task(name).problem_type == ("regression" if name == "stsb" else "single_label_classification")


@pytest.mark.parametrize("name", README)
def test_references_are_those_of_the_readme(name):
    references = task(name).references
    assert sorted((r.model, r.value) for r in references) == sorted(zip(MODELS, README[name], strict=True))
    assert {reference.source for reference in references} == {"google-research/albert, README"}


@pytest.mark.parametrize(
    ("name", "value"), {"cola": 71.4, "mrpc": 90.9, "stsb": 93.0, "qqp": 92.2, "qnli": 95.3, "rte": 89.2}.items()
)
def test_other_references_are_the_papers_table_9(name, value):
    (reference,) = task(name).references
    assert (reference.model, reference.value) == ("xxlarge_v1", value)
    assert "Table 9" in reference.source


@pytest.mark.parametrize("name", [*LABELS, "squad1", "squad2", "race", "swag", "dream", "conll"])
def test_main_metric_and_splits(name):
    found = task(name)
    assert found.metric == MAIN_METRICS.get(name, "accuracy")
    dev, test = ("dev",), ("test",)
    if name == "mnli":
        dev, test = ("dev_matched", "dev_mismatched"), ("test_matched", "test_mismatched")
    if name == "ax":
        dev = ("dev_diagnostic",)
    assert (found.dev_splits, found.test_splits) == (dev, test)
    assert ("train" in found.splits) == (name != "ax")
    assert found.from_mnli == (name in ("rte", "mrpc", "stsb"))


def test_an_unknown_task_is_answered_with_those_there_are():
    with pytest.raises(UserError, match=r"task = 'glue': there are cola, .*, all, squad1, .*conll, table"):
        task("glue")


@pytest.mark.parametrize("name", [*LABELS, "squad1", "squad2", "race", "swag", "dream"])
def test_data_is_asked_for_when_it_is_needed(name):
    with pytest.raises(UserError, match=r"data_dir = None: give a folder of the official files, or hf:"):
        task(name).read("dev" if name != "mnli" else "dev_matched")


# ---- SQuAD 2.0


def answer(name: str, text: str, odds: float) -> SquadAnswer:
    return SquadAnswer(name, [Candidate(text, 0, len(text), 1.0, 0.5, 1.0)], odds, False)


def squad_split(*gold: str) -> Split:
    """Questions q0, q1 ... of these answers; "" for none."""
    examples = [
        SquadExample(f"q{n}", "", "?", text, (GoldAnswer(text, 0),) if text else (), not text)
        for n, text in enumerate(gold)
    ]
    return Split("dev", examples, [], 0)


def test_squad_2_is_scored_at_the_threshold_that_is_best_for_f1():
    split = squad_split("fox", "", "the old dog", "", "cat")
    answers = [answer("q0", "fox", -3.0), answer("q1", "fox", 2.0), answer("q2", "old dog", 1.0),
               answer("q3", "dog", -1.0), answer("q4", "dog", 0.5)]  # fmt: skip
    found = score_squad_2(split, answers)
    gold = {example.id: [a.text for a in example.answers] for example in split.examples}
    odds = {one.id: one.null_odds for one in answers}
    official = squad_v2_metrics({one.id: one.text for one in answers}, gold, odds)
    for name in ("best_f1", "best_exact", "best_exact_thresh", "best_f1_thresh"):
        assert found[name] == official[name]
    assert next(iter(found)) == "f1"
    assert found["f1"] == pytest.approx(official["best_f1"])
    at = squad_v2_metrics({one.id: one.predict(found["best_f1_thresh"]) for one in answers}, gold)
    assert found["exact"] == at["exact"]
    assert {"HasAns_f1", "HasAns_exact", "NoAns_f1", "NoAns_exact"} <= found.keys()
    assert not any(name.endswith("total") for name in found)


@pytest.mark.parametrize("shift", [0.0, 5.0, -5.0])
def test_answering_nothing_may_be_best(shift):
    split = squad_split("fox", "", "")
    answers = [answer("q0", "dog", 1.0 + shift), answer("q1", "fox", 2.0 + shift), answer("q2", "fox", -1.0 + shift)]
    found = score_squad_2(split, answers)
    assert found["f1"] == found["best_f1"] == pytest.approx(200 / 3)
    assert {one.predict(found["best_f1_thresh"]) for one in answers} == {""}


def test_random_answers_never_have_less_than_the_official_best():
    rng = np.random.default_rng(0)
    for _ in range(200):
        gold = rng.choice(["", "fox", "old dog"], 6).tolist()
        answers = [
            answer(f"q{n}", str(rng.choice(["fox", "dog"])), float(rng.choice([-1.0, 0.0, 0.5, 3.0]))) for n in range(6)
        ]
        odds = {one.id: one.null_odds for one in answers}
        split = squad_split(*gold)
        texts = {example.id: [a.text for a in example.answers] for example in split.examples}
        official = squad_v2_metrics({one.id: one.text for one in answers}, texts, odds)
        found = score_squad_2(split, answers)
        levels = [min(odds.values()) - 1, *odds.values()]
        reachable = max(
            squad_v2_metrics({one.id: one.predict(level) for one in answers}, texts)["f1"] for level in levels
        )
        assert found["f1"] <= reachable + 1e-9
        if len(set(odds.values())) == len(odds):  # between equal odds no threshold can stop, the official search does
            assert found["f1"] == pytest.approx(reachable) == pytest.approx(official["best_f1"])


def test_leaving_all_unanswered_is_the_baseline_of_squad_2():
    assert task("squad2").baseline(squad_split("fox", "", "", "").examples) == 75.0
    assert task("squad1").baseline(squad_split("fox").examples) == 0.0


# ---- files


def split_of(name: str, examples) -> Split:
    return Split(name, examples, [], 0)


def texts(count: int) -> list[TextExample]:
    return [TextExample(f"test-{n}", "a", None, None) for n in range(count)]


def test_glue_files_have_the_spelling_of_the_benchmark(tmp_path):
    logits = np.array([[0.0, 1.0], [1.0, 0.0]])
    (path,) = task("rte").write(tmp_path, split_of("test", texts(2)), logits, None)
    assert (path.name, path.read_text()) == ("RTE.tsv", "index\tprediction\n0\tnot_entailment\n1\tentailment\n")
    (path,) = task("cola").write(tmp_path, split_of("test", texts(2)), logits, None)
    assert (path.name, path.read_text()) == ("CoLA.tsv", "index\tprediction\n0\t1\n1\t0\n")
    (path,) = task("stsb").write(tmp_path, split_of("test", texts(3)), np.array([-1.0, 2.5, 9.0]), None)
    assert (path.name, path.read_text()) == ("STS-B.tsv", "index\tprediction\n0\t0.000\n1\t2.500\n2\t5.000\n")
    (path,) = task("mnli").write(tmp_path, split_of("test_mismatched", texts(1)), np.eye(3)[[2]], None)
    assert (path.name, path.read_text()) == ("MNLI-mm.tsv", "index\tprediction\n0\tneutral\n")
    (path,) = task("sst2").write(tmp_path, split_of("dev", texts(2)), logits, None)
    assert (path.name, path.read_text()) == ("dev.tsv", "index\tprediction\n0\t1\n1\t0\n"), "as the files spell it"


def test_chosen_letters_are_written_with_the_probabilities(tmp_path):
    examples = [
        ChoiceExample("high1-0", "t", "q", ("a", "b", "c", "d"), None),
        ChoiceExample("x", "t", "", ("a", "b"), 0),
    ]
    logits = [np.log(np.array([0.1, 0.2, 0.3, 0.4])), np.array([3.0, -3.0])]
    (path,) = task("race").write(tmp_path, split_of("test", examples), logits, None)
    assert path.read_text() == (
        "id\tprediction\tprobabilities\nhigh1-0\tD\t0.1000 0.2000 0.3000 0.4000\nx\tA\t0.9975 0.0025\n"
    )


def test_race_is_judged_by_school_too():
    examples = [
        ChoiceExample(str(n), "t", "q", ("a", "b", "c", "d"), 1, "middle" if n < 2 else "high") for n in range(5)
    ]
    chosen = [np.eye(4)[letter] for letter in (1, 1, 1, 0, 0)]
    found = task("race").score(split_of("dev", examples), chosen)
    assert found == pytest.approx({"accuracy": 60.0, "accuracy_middle": 100.0, "accuracy_high": 100 / 3})


def test_tags_are_written_as_conlleval_reads_them(tmp_path):
    labels = ("B-PER", "I-PER", "O")
    found = open_task(FinetuneConfig(task="conll"), "conll", labels)
    assert found.labels == labels
    known = TaggingExample("0", ("John", "lives"), ("B-PER", "O"))
    unknown = TaggingExample("1", ("Mary",), None)
    said = [np.array([0, 2]), np.array([1])]
    (path,) = found.write(tmp_path, split_of("dev", [known]), said[:1], None)
    assert path.read_text() == "John B-PER B-PER\nlives O O\n"
    (path,) = found.write(tmp_path, split_of("test", [known, unknown, known]), [said[0], said[1], said[0]], None)
    assert path.read_text() == "John B-PER B-PER\nlives O O\n\nMary I-PER\n\nJohn B-PER B-PER\nlives O O\n"
    score = found.score(split_of("dev", [known]), said[:1])
    assert next(iter(score)) == "f1"
    assert score["f1"] == score["precision"] == score["recall"] == 100.0


def test_squad_files_are_those_of_the_official_scripts(tmp_path):
    split = squad_split("fox", "")
    answers = [answer("q0", "fox", -1.0), answer("q1", "dog", 2.0)]
    written = task("squad2").write(tmp_path, split, answers, 0.5)
    assert [path.name for path in written] == [
        "dev_nbest_predictions.json",
        "dev_null_odds.json",
        "dev_predictions.json",
    ]
    assert json.loads((tmp_path / "dev_predictions.json").read_text()) == {"q0": "fox", "q1": ""}
    assert json.loads((tmp_path / "dev_null_odds.json").read_text()) == {"q0": -1.0, "q1": 2.0}
    task("squad2").write(tmp_path, split, answers, None)
    assert json.loads((tmp_path / "dev_predictions.json").read_text()) == {"q0": "fox", "q1": "dog"}


def test_the_beam_head_is_for_squad_2_alone():
    beam = SquadConfig(head="beam")
    assert task("squad2", squad=beam).head.model == "AlbertForBeamQuestionAnswering"
    assert task("squad2").head.model == task("squad1").head.model == "AlbertForQuestionAnswering"
    with pytest.raises(UserError, match=r"squad\.head = 'beam': .*use plain"):
        task("squad1", squad=beam)


# ---- own data


def rows_file(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_part_of_a_table_is_kept_apart_and_always_the_same(tmp_path):
    rows = [{"text": str(n), "label": "ab"[n % 2]} for n in range(30)]
    files = TableConfig(train_file=rows_file(tmp_path / "a.jsonl", rows))
    found, again = (task("table", table=files) for _ in range(2))
    train, dev = found.read("train"), found.read("dev")
    assert (len(train), len(dev)) == (27, 3)
    assert {e.text for e in train} | {e.text for e in dev} == {str(n) for n in range(30)}
    assert again.read("dev") == dev
    half = task("table", table=replace(files, dev_fraction=0.5))
    assert len(half.read("dev")) == 15


def test_a_table_of_one_row_says_that_there_is_nothing_to_judge_by(tmp_path):
    row = {"question": "who", "context": "the fox", "answer": "fox"}
    files = TableConfig(train_file=rows_file(tmp_path / "a.jsonl", [row]))
    with pytest.raises(UserError, match=r"a\.jsonl: one example; give more, or a dev_file"):
        task("table", table=files).read("train")


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_neither_part_of_a_table_is_empty(tmp_path, share):
    rows = [{"text": str(n), "label": "ab"[n % 2]} for n in range(4)]
    files = TableConfig(train_file=rows_file(tmp_path / "a.jsonl", rows), dev_fraction=share)
    found = task("table", table=files)
    assert found.read("train")
    assert found.read("dev")


def test_tables_are_judged_by_what_they_are_for(tmp_path):
    kinds = {
        "accuracy": [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}],
        "pearson": [{"text": "a", "label": 0.5}, {"text": "b", "label": 1.5}],
        "f1_micro": [{"text": "a", "labels": ["x"]}, {"text": "b", "labels": ["x", "y"]}],
    }
    for metric, rows in kinds.items():
        found = task("table", table=TableConfig(train_file=rows_file(tmp_path / f"{metric}.jsonl", rows)))
        assert found.metric == metric
        examples = found.read("train") + found.read("dev")
        labels = [example.label for example in examples]
        if metric == "accuracy":
            perfect = np.eye(2)[labels]
        elif metric == "pearson":
            perfect = np.array(labels)
        else:
            perfect = np.array([[1.0 if number in some else -1.0 for number in range(2)] for some in labels])
        assert found.score(split_of("dev", examples), perfect)[metric] == pytest.approx(100.0)


def test_predictions_of_a_table_name_labels_and_probabilities(tmp_path):
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    found = task("table", table=TableConfig(train_file=rows_file(tmp_path / "a.jsonl", rows)))
    (path,) = found.write(
        tmp_path / "p", split_of("test", texts(2)), np.log(np.array([[0.25, 0.75], [0.5, 0.5]])), None
    )
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"id": "test-0", "prediction": "y", "probabilities": {"x": 0.25, "y": 0.75}},
        {"id": "test-1", "prediction": "x", "probabilities": {"x": 0.5, "y": 0.5}},
    ]
