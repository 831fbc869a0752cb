"""Metrics against hand counts, against the libraries that define them, and SQuAD's against another way to count."""

import itertools
import json
import lzma
import random
import warnings

import numpy as np
import pytest
from scipy import stats
from seqeval.metrics import classification_report
from sklearn import metrics as sklearn_metrics

from albert_jax.errors import UserError
from albert_jax.metrics import (
    GLUE_MAIN_METRICS,
    GLUE_METRICS,
    accuracy,
    f1,
    glue_metrics,
    matthews_correlation,
    multilabel_metrics,
    normalize_answer,
    pearson,
    race_metrics,
    spearman,
    squad_v1_metrics,
    squad_v2_metrics,
    tagging_metrics,
)

pytestmark = pytest.mark.filterwarnings("error")

# --- classification ---------------------------------------------------------------------------------------------------


def test_classification_by_hand():
    predictions, labels = [1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 1, 1, 0, 0, 0]  # 2 true positives, 1 false, 2 missed
    assert accuracy(predictions, labels) == 5 / 8
    assert f1(predictions, labels) == 2 * 2 / (3 + 4)
    assert matthews_correlation(predictions, labels) == pytest.approx((2 * 3 - 1 * 2) / (3 * 4 * 4 * 5) ** 0.5)


def test_correlations_by_hand():
    assert pearson([1.0, 2.0, 4.0], [1.0, 3.0, 2.0]) == pytest.approx(1 / (14 / 3 * 2) ** 0.5)
    assert spearman([1.0, 2.0, 40.0], [1.0, 3.0, 2.0]) == pytest.approx(1 - 6 * (0 + 1 + 1) / (3 * 8))


@pytest.mark.parametrize("seed", range(20))
def test_classification_agrees_with_scikit_learn_to_the_last_digit(seed):
    rng = np.random.default_rng(seed)
    predictions, labels = rng.integers(0, 2, (2, rng.integers(1, 40)))
    assert accuracy(predictions, labels) == sklearn_metrics.accuracy_score(labels, predictions)
    assert f1(predictions, labels) == sklearn_metrics.f1_score(labels, predictions, zero_division=0)
    predictions, labels = rng.integers(0, 2, (2, rng.integers(1, 30), rng.integers(2, 6)))
    ours = multilabel_metrics(predictions, labels)
    for average in ("micro", "macro"):
        expected = sklearn_metrics.f1_score(labels, predictions, average=average, zero_division=0)
        assert ours[f"f1_{average}"] == expected
    assert ours["exact_match"] == sklearn_metrics.accuracy_score(labels, predictions)


@pytest.mark.parametrize("seed", range(5))
def test_correlations_agree_with_scipy_to_the_last_digit(seed):
    predictions, labels = np.random.default_rng(seed).integers(0, 20, (2, 50)) / 4  # with ties, as in STS-B
    assert pearson(predictions, labels) == stats.pearsonr(predictions, labels).statistic
    assert spearman(predictions, labels) == stats.spearmanr(predictions, labels).statistic


def test_one_class_of_many_counts_positives_only():
    # scikit-learn takes a single column for two classes, of which it would count both.
    assert multilabel_metrics([[1], [0], [0]], [[1], [1], [0]])["f1_micro"] == 2 / 3


def test_a_multi_label_class_that_nobody_uses_counts_zero():
    result = multilabel_metrics([[1, 0], [1, 0]], [[1, 0], [1, 0]])
    assert result == {"f1_micro": 1.0, "f1_macro": 0.5, "exact_match": 1.0}


@pytest.mark.parametrize("metric", [pearson, spearman, matthews_correlation])
@pytest.mark.parametrize("constant", [[1, 1, 1], [0, 0, 0]])
def test_a_constant_side_correlates_zero(metric, constant):
    assert metric(constant, [0, 1, 1]) == metric([0, 1, 1], constant) == metric(constant, constant) == 0.0
    assert metric([1], [1]) == 0.0


def test_f1_is_zero_where_class_1_is_nowhere():
    assert f1([0, 0], [0, 0]) == 0.0


def test_single_precision_is_scored_in_double():
    rng = np.random.default_rng(0)
    predictions, labels = rng.normal(size=(2, 100)).astype(np.float32) + 100
    expected = stats.pearsonr(predictions.astype(np.float64), labels.astype(np.float64)).statistic
    assert pearson(predictions, labels) == expected


# --- GLUE and RACE ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("cola", ["matthews_correlation", "accuracy"]),
        ("sst2", ["accuracy"]),
        ("mrpc", ["accuracy", "f1"]),
        ("qqp", ["accuracy", "f1"]),
        ("stsb", ["pearson", "spearman"]),
        ("mnli", ["accuracy"]),
        ("qnli", ["accuracy"]),
        ("rte", ["accuracy"]),
        ("wnli", ["accuracy"]),
        ("ax", ["matthews_correlation", "accuracy"]),
    ],
)
def test_every_glue_task_has_its_metrics_the_main_one_first(task, names):
    result = glue_metrics(task, [1, 1, 0, 0], [1, 0, 0, 0])
    assert list(result) == names
    assert GLUE_MAIN_METRICS[task] == names[0]
    assert all(type(value) is float for value in result.values())


def test_glue_has_nine_tasks_and_the_diagnostic_set():
    assert len(GLUE_METRICS) == len(GLUE_MAIN_METRICS) == 10


def test_three_classes_have_a_matthews_correlation():
    predictions, labels = np.random.default_rng(0).integers(0, 3, (2, 50))
    expected = sklearn_metrics.matthews_corrcoef(labels, predictions)
    assert glue_metrics("ax", predictions, labels)["matthews_correlation"] == expected


def test_glue_values_by_hand():
    assert glue_metrics("mrpc", [1, 1, 0, 0], [1, 0, 0, 0]) == {"accuracy": 0.75, "f1": 2 / 3}
    assert glue_metrics("mnli", np.array([2, 1, 0]), [2, 1, 1]) == {"accuracy": 2 / 3}
    assert glue_metrics("stsb", [1.0, 2.5, 3.0], [0.0, 3.0, 4.0])["spearman"] == pytest.approx(1.0)


def test_race_is_split_by_school():
    levels = ["middle", "high", "high", "middle", "high"]
    result = race_metrics([0, 1, 2, 3, 0], [0, 1, 2, 0, 3], levels)
    assert result == {"accuracy": 3 / 5, "accuracy_middle": 1 / 2, "accuracy_high": 2 / 3}
    assert race_metrics([0, 1], [0, 0], ["high", "high"]) == {"accuracy": 0.5, "accuracy_high": 0.5}


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda: accuracy([0, 1], [0, 1, 1]), "2 and 3 of them"),
        (lambda: accuracy([], []), "empty"),
        (lambda: accuracy([0.2, 0.8], [0, 1]), "give classes, not their logits"),
        (lambda: accuracy([[0, 1]], [[0, 1]]), "expected 1 axes"),
        (lambda: accuracy([0, 1], [0, -1]), r"labels\[1\] = -1"),
        (lambda: accuracy(["A"], ["B"]), "predictions: not an array of numbers"),
        (lambda: f1([0, 2], [0, 1]), r"predictions\[1\] = 2: there are 2 classes"),
        (lambda: pearson([1.0, float("nan")], [1.0, 2.0]), r"predictions\[1\] = nan"),
        (lambda: spearman([1.0, 2.0], [1.0, None]), r"labels\[1\] = nan"),
        (lambda: multilabel_metrics([[0, 1], [1]], [[0, 1], [1, 1]]), "predictions: not an array"),
        (lambda: multilabel_metrics([[0.5, 1]], [[0, 1]]), "other numbers than 0 and 1"),
        (lambda: multilabel_metrics(np.zeros((2, 3)), np.zeros((2, 4))), "2x3 and 2x4"),
        (lambda: glue_metrics("sst-2", [0], [0]), "task = sst-2.*cola, sst2"),
        (lambda: glue_metrics("rte", [0, 2], [0, 1]), "there are 2 classes"),
        (lambda: glue_metrics("mnli", [0, 3], [0, 1]), "there are 3 classes"),
        (lambda: race_metrics([0], [4], ["high"]), "there are 4 classes"),
        (lambda: race_metrics([0], [1], ["high", "high"]), "levels: 2 for 1"),
        (lambda: race_metrics([0], [1], ["college"]), "'college'"),
    ],
)
def test_what_cannot_be_scored_is_refused(score, message):
    with pytest.raises(UserError, match=message):
        score()


# --- tagging ----------------------------------------------------------------------------------------------------------


def test_entities_by_hand():
    labels = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-LOC"]]
    predictions = [["B-PER", "O", "O", "B-LOC"], ["B-LOC", "B-LOC"]]
    assert tagging_metrics(predictions, labels) == {
        "precision": 2 / 4, "recall": 2 / 3, "f1": pytest.approx(4 / 7), "accuracy": 4 / 6,
        "precision_LOC": 2 / 3, "recall_LOC": 1.0, "f1_LOC": pytest.approx(4 / 5),
        "precision_PER": 0.0, "recall_PER": 0.0, "f1_PER": 0.0,
    }  # fmt: skip


def test_iob1_and_iob2_say_the_same():
    iob1 = [["I-ORG", "B-ORG", "O", "I-PER", "I-PER", "I-LOC"]]
    iob2 = [["B-ORG", "B-ORG", "O", "B-PER", "I-PER", "B-LOC"]]
    for predictions, labels in itertools.product((iob1, iob2), repeat=2):
        assert tagging_metrics(predictions, labels)["f1"] == 1.0
    wrong = [["I-ORG", "I-ORG", "O", "I-PER", "I-PER", "I-LOC"]]  # one organisation for two
    assert tagging_metrics(wrong, iob1)["f1"] == tagging_metrics(wrong, iob2)["f1"] == pytest.approx(2 * 2 / (3 + 4))


def test_sentences_without_entities_score_zero_and_not_an_error():
    result = tagging_metrics([["O", "O"], []], [["O", "O"], []])
    assert result == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "accuracy": 1.0}


def entities_of(tags: list[str]) -> set[tuple[int, int, str]]:
    """Conlleval's rules in few words: a run of one type, cut before every B."""
    found, start = set(), 0
    for i in range(1, len(tags) + 1):
        if i == len(tags) or tags[i][0] != "I" or tags[i][2:] != tags[i - 1][2:]:
            if tags[start] != "O":
                found.add((start, i, tags[start][2:]))
            start = i
    return found


@pytest.mark.parametrize("seed", range(20))
def test_random_tags_agree_with_seqeval_and_with_counted_entities(seed):
    rng = random.Random(seed)
    tags = ["O", "O", "B-LOC", "I-LOC", "B-PER", "I-PER", "I-A-B"]
    labels = [rng.choices(tags, k=rng.randint(1, 12)) for _ in range(rng.randint(1, 20))]
    predictions = [[rng.choice([tag, rng.choice(tags)]) for tag in sentence] for sentence in labels]
    ours = tagging_metrics([tuple(sentence) for sentence in predictions], np.array(labels, dtype=object))
    with warnings.catch_warnings(action="ignore"):
        report = classification_report(labels, predictions, output_dict=True, zero_division=0)
    kinds = sorted(set(report) - {"micro avg", "macro avg", "weighted avg"})
    assert list(ours) == ["precision", "recall", "f1", "accuracy"] + [
        f"{name}_{kind}" for kind in kinds for name in ("precision", "recall", "f1")
    ]
    for kind in [*kinds, None]:
        theirs, suffix = report[kind or "micro avg"], f"_{kind}" if kind else ""
        assert ours[f"precision{suffix}"] == theirs["precision"]
        assert ours[f"recall{suffix}"] == theirs["recall"]
        assert ours[f"f1{suffix}"] == theirs["f1-score"]
    found, gold = (
        {(i, *entity) for i, sentence in enumerate(side) for entity in entities_of(sentence)}
        for side in (predictions, labels)
    )
    assert ours["f1"] == pytest.approx(2 * len(found & gold) / max(len(found) + len(gold), 1))


def test_conll_scores_perfectly_against_itself(shared_data):
    sentences, tags = [], []
    for line in (shared_data / "conll2003" / "eng.testb").read_text().splitlines():
        if line and not line.startswith("-DOCSTART-"):
            tags.append(line.split()[-1])
        elif tags:
            sentences.append(tags)
            tags = []
    sentences += [tags] * bool(tags)
    result = tagging_metrics(sentences, sentences)
    assert set(result.values()) == {1.0}
    assert set(result) > {"f1_LOC", "f1_MISC", "f1_ORG", "f1_PER"}
    silent = tagging_metrics([["O"] * len(sentence) for sentence in sentences], sentences)
    assert (silent["f1"], round(silent["accuracy"], 3)) == (0.0, 0.825)


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        ([["O"]], [["O"], ["O"]], "1 and 2 sentences"),
        ([["O"], ["O"]], [["O"], ["O", "O"]], r"predictions\[1\]: 1 tags for 2 labels"),
        ([["PER"]], [["O"]], "predictions: tag 'PER'"),
        ([[0]], [[0]], "predictions: tag '0'"),
        (["O"], [["B"]], "labels: tag 'B'"),
        ([], [], "empty"),
        ([[]], [[]], "empty"),
    ],
)
def test_tags_that_cannot_be_scored_are_refused(predictions, labels, message):
    with pytest.raises(UserError, match=message):
        tagging_metrics(predictions, labels)


# --- SQuAD ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat!", "cat"),
        ("an apple, a day", "apple day"),
        ("theatre and Ana", "theatre and ana"),
        ("U.S.A.", "usa"),
        ("a.", ""),
        ("a-the", "athe"),  # punctuation goes first, and the articles are none any more
        ("a\u2013b", "\u2013b"),  # the dash is no ASCII punctuation, and ends a word
        ("“The” $5_000\u00a0m", "“ ” 5000 m"),
        ("\n", ""),
    ],
)
def test_answers_are_normalised_as_the_scripts_do(text, expected):
    assert normalize_answer(text) == expected
    assert " ".join(tokens_of(text)) == expected


def test_squad_v1_by_hand():
    answers = {"1": ["the Denver Broncos", "Broncos"], "2": ["1066"], "3": ["Saint Bernadette Soubirous"]}
    predictions = {"1": "broncos.", "2": "in 1067", "3": "Saint Saint Bernadette", "4": "not asked"}
    # Third question: two of three tokens right on both sides, as "saint" counts once.
    f1_sum = 1 + 0 + 2 / 3
    assert squad_v1_metrics(predictions, answers) == {
        "exact_match": pytest.approx(100 / 3), "f1": pytest.approx(100 * f1_sum / 3), "total": 3, "missing": 0
    }  # fmt: skip


def test_a_question_of_squad_v1_without_a_prediction_scores_zero():
    with pytest.warns(UserWarning, match=r"1 of 2 questions have no prediction and score 0: 'b'"):
        result = squad_v1_metrics({"a": "x"}, {"a": ["x"], "b": ["y"]})
    assert result == {"exact_match": 50.0, "f1": 50.0, "total": 2, "missing": 1}


def test_two_empty_texts_have_no_f1_in_squad_v1_and_a_full_one_in_v2():
    assert squad_v1_metrics({"1": "the"}, {"1": ["a"]}) == {"exact_match": 100.0, "f1": 0.0, "total": 1, "missing": 0}
    assert squad_v2_metrics({"1": "the"}, {"1": ["a"]})["f1"] == 100.0


def test_squad_v2_by_hand():
    answers = {"1": ["red fox"], "2": [], "3": [], "4": ["blue"]}
    predictions = {"1": "fox", "2": "", "3": "green", "4": ""}
    assert squad_v2_metrics(predictions, answers) == {
        "exact": 25.0, "f1": pytest.approx(100 * (2 / 3 + 1) / 4), "total": 4,
        "HasAns_exact": 0.0, "HasAns_f1": pytest.approx(100 * (2 / 3) / 2), "HasAns_total": 2,
        "NoAns_exact": 50.0, "NoAns_f1": 50.0, "NoAns_total": 2, "missing": 0,
    }  # fmt: skip


def test_squad_v2_lists_only_the_kinds_of_questions_that_there_are():
    assert list(squad_v2_metrics({"1": "x"}, {"1": ["x"]})) == [
        "exact", "f1", "total", "HasAns_exact", "HasAns_f1", "HasAns_total", "missing"
    ]  # fmt: skip


def test_a_question_of_squad_v2_without_a_prediction_is_left_out():
    answers = {"1": ["x"], "2": [], "3": ["y"], "4": []}
    with pytest.warns(UserWarning, match=r"2 of 4 questions have no prediction and are left out: '3' and others"):
        result = squad_v2_metrics({"1": "x", "2": ""}, answers, na_probs={"1": 0.1, "2": 0.9})
    assert (result["exact"], result["total"], result["missing"]) == (100.0, 2, 2)
    assert (result["HasAns_total"], result["NoAns_total"], result["best_f1"]) == (1, 1, 100.0)


def test_a_question_at_the_threshold_is_answered():
    answers, predictions, na_probs = {"1": ["x"], "2": ["y"]}, {"1": "x", "2": "y"}, {"1": 0.5, "2": 0.6}
    assert squad_v2_metrics(predictions, answers, na_probs, 0.6)["exact"] == 100.0
    assert squad_v2_metrics(predictions, answers, na_probs, 0.5)["exact"] == 50.0
    assert squad_v2_metrics(predictions, answers, na_probs, 0.4)["exact"] == 0.0
    assert squad_v2_metrics(predictions, answers, na_probs)["exact"] == 100.0


def test_the_best_threshold_by_hand():
    answers = {"1": ["x"], "2": [], "3": ["y"], "4": []}
    predictions = {"1": "x", "2": "wrong", "3": "y", "4": ""}
    # In the order of the scores: 1 right, 2 wrong, 3 right, 4 silent: 2 + 1, - 1, + 1, + 0. The first of equals counts.
    result = squad_v2_metrics(predictions, answers, {"1": -3.0, "2": -2.0, "3": 1.5, "4": 2.0}, 1.5)
    assert (result["best_exact"], result["best_exact_thresh"]) == (75.0, -3.0)
    assert (result["best_f1"], result["best_f1_thresh"]) == (75.0, -3.0)
    assert (result["exact"], result["NoAns_exact"]) == (75.0, 50.0)


def test_the_threshold_is_zero_where_silence_is_best():
    result = squad_v2_metrics({"1": "x", "2": "z"}, {"1": ["y"], "2": []}, {"1": -5.0, "2": -4.0})
    assert (result["best_f1"], result["best_f1_thresh"]) == (50.0, 0.0)


def tokens_of(text: str) -> list[str]:
    """`normalize_answer` without regular expressions: runs of letters and digits, compared with the articles."""
    kept = "".join(character for character in text.lower() if not (character.isascii() and is_punctuation(character)))
    runs = ("".join(run) for _, run in itertools.groupby(kept, str.isalnum))
    return "".join(" " if run in ("a", "an", "the") else run for run in runs).split()


def is_punctuation(character: str) -> bool:
    return character.isprintable() and not character.isalnum() and character != " "


def overlap_of(predicted: list[str], gold: list[str]) -> float:
    """F1 as twice the shared tokens over all tokens, each shared one crossed out."""
    left, shared = list(gold), 0
    for token in predicted:
        if token in left:
            left.remove(token)
            shared += 1
    return 2 * shared / (len(predicted) + len(gold)) if shared else 0.0


def counted_scores(predictions, answers, both_empty: float) -> tuple[list[float], list[float]]:
    """Exact match and F1 of every question."""
    exact, overlap = [], []
    for question, texts in answers.items():
        predicted = tokens_of(predictions[question])
        gold = [tokens_of(text) for text in texts] or [[]]
        exact.append(float(any(predicted == answer for answer in gold)))
        overlap.append(max(overlap_of(predicted, answer) if predicted or answer else both_empty for answer in gold))
    return exact, overlap


def every_threshold(scores, predictions, answers, na_probs) -> float:
    """The best mean score that any threshold gives, in percent, each tried by itself on all questions."""
    questions = np.array([na_probs[question] for question in answers])
    silent = np.array([float(not texts) for texts in answers.values()])
    return max(
        100 * float(np.where(questions > threshold, silent, scores).mean())
        for threshold in [-np.inf, *sorted(set(questions))]
    )


def random_squad(rng: random.Random, count: int):
    words = ["the", "a", "Red", "red", "fox.", "1066", "“fox”", "of", "of,"]

    def text(least: int) -> str:
        found = " ".join(rng.choices(words, k=rng.randint(least, 5)))
        return found if tokens_of(found) else "fox"

    answers = {str(i): [text(1) for _ in range(rng.choice((0, 1, 3)))] for i in range(count)}
    predictions = {question: rng.choice(["", text(1), (texts or [""])[-1]]) for question, texts in answers.items()}
    na_probs = {question: rng.gauss(1 - bool(texts), 1) for question, texts in answers.items()}
    return predictions, answers, dict(rng.sample(list(na_probs.items()), count))


@pytest.mark.parametrize("seed", range(20))
def test_random_predictions_score_as_counted_in_another_way(seed):
    rng = random.Random(seed)
    predictions, answers, na_probs = random_squad(rng, rng.randint(2, 60))
    threshold = rng.choice(list(na_probs.values()))
    exact, overlap = counted_scores(predictions, answers, both_empty=1.0)
    result = squad_v2_metrics(predictions, answers, na_probs, threshold)
    for name, scores in (("exact", exact), ("f1", overlap)):
        thresholded = [
            (not answers[question]) * 1.0 if na_probs[question] > threshold else score
            for question, score in zip(answers, scores, strict=True)
        ]
        assert result[name] == pytest.approx(100 * np.mean(thresholded))
        for prefix, kind in (("HasAns", True), ("NoAns", False)):
            chosen = [s for s, texts in zip(thresholded, answers.values(), strict=True) if bool(texts) == kind]
            if chosen:
                assert result[f"{prefix}_{name}"] == pytest.approx(100 * np.mean(chosen))
                assert result[f"{prefix}_total"] == len(chosen)
        assert result[f"best_{name}"] == pytest.approx(every_threshold(scores, predictions, answers, na_probs))
        at_best = squad_v2_metrics(predictions, answers, na_probs, result[f"best_{name}_thresh"])
        if result[f"best_{name}_thresh"] != 0.0:  # silence
            assert at_best[name] == pytest.approx(result[f"best_{name}"])
    answerable = {question: texts for question, texts in answers.items() if texts}
    if answerable:
        exact, overlap = counted_scores(predictions, answerable, both_empty=0.0)
        result = squad_v1_metrics(predictions, answerable)
        assert result["exact_match"] == pytest.approx(100 * np.mean(exact))
        assert result["f1"] == pytest.approx(100 * np.mean(overlap))


def squad(shared_data, version: str) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The answers and the passage of every question."""
    answers, passages = {}, {}
    with lzma.open(shared_data / "squad" / f"dev-v{version}.json.xz", "rt", encoding="utf-8") as file:
        for article in json.load(file)["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    answers[question["id"]] = [answer["text"] for answer in question["answers"]]
                    passages[question["id"]] = paragraph["context"]
    return answers, passages


def test_squad_v1_matches_its_own_answers_and_scores_first_words_as_counted(shared_data):
    answers, passages = squad(shared_data, "1.1")
    first, last = ({question: texts[place] for question, texts in answers.items()} for place in (0, -1))
    assert squad_v1_metrics(first, answers) == {"exact_match": 100.0, "f1": 100.0, "total": 10_570, "missing": 0}
    # One question's last answer is a full stop, which normalises to nothing.
    result = squad_v1_metrics(last, answers)
    assert (result["exact_match"], result["f1"]) == (100.0, pytest.approx(100 * 10_569 / 10_570))
    for predictions in (
        {question: " ".join(texts[0].split()[:3]) for question, texts in answers.items()},
        {question: " ".join(text.split()[:3]) for question, text in passages.items()},
    ):
        exact, overlap = counted_scores(predictions, answers, both_empty=0.0)
        result = squad_v1_metrics(predictions, answers)
        assert result["exact_match"] == pytest.approx(100 * np.mean(exact))
        assert result["f1"] == pytest.approx(100 * np.mean(overlap))


def test_squad_v2_scores_its_own_answers_perfectly_and_first_words_as_counted(shared_data):
    answers, passages = squad(shared_data, "2.0")
    result = squad_v2_metrics({question: (texts or [""])[0] for question, texts in answers.items()}, answers)
    assert (result["exact"], result["f1"], result["total"]) == (100.0, 100.0, 11_873)
    assert (result["HasAns_total"], result["NoAns_total"]) == (5_928, 5_945)
    silent = squad_v2_metrics(dict.fromkeys(answers, ""), answers)
    assert silent["exact"] == silent["f1"] == pytest.approx(100 * 5_945 / 11_873)
    assert (silent["HasAns_f1"], silent["NoAns_f1"]) == (0.0, 100.0)
    rng = random.Random(0)
    predictions = {
        question: " ".join((texts[0] if texts else passages[question]).split()[:3])
        for question, texts in answers.items()
    }
    na_probs = {question: rng.gauss(-bool(texts), 1) for question, texts in answers.items()}
    exact, overlap = counted_scores(predictions, answers, both_empty=1.0)
    result = squad_v2_metrics(predictions, answers, na_probs)
    assert result["exact"] == pytest.approx(100 * np.mean(exact))
    assert result["f1"] == pytest.approx(100 * np.mean(overlap))
    # The running sum in the order of the scores, and its highest point, start included.
    order = np.argsort([na_probs[question] for question in answers])
    silent = np.array([float(not texts) for texts in answers.values()])
    for name, scores in (("exact", exact), ("f1", overlap)):
        best = np.concatenate([[0.0], np.cumsum((np.array(scores) - silent)[order])]).max() + silent.sum()
        assert result[f"best_{name}"] == pytest.approx(100 * best / len(answers))
        at_best = squad_v2_metrics(predictions, answers, na_probs, result[f"best_{name}_thresh"])
        assert at_best[name] == pytest.approx(result[f"best_{name}"])
        assert at_best[name] > result[name]


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda: squad_v1_metrics({}, {"1": ["x"]}), "predictions: empty"),
        (lambda: squad_v1_metrics({"1": "x"}, {}), "answers: empty"),
        (lambda: squad_v1_metrics(["x"], {"1": ["x"]}), "predictions: a list"),
        (lambda: squad_v1_metrics({"2": "x"}, {"1": ["x"]}), "for none of the questions"),
        (lambda: squad_v1_metrics({"1": "x"}, {"1": []}), "score by SQuAD 2.0"),
        (lambda: squad_v1_metrics({"1": "x"}, {"1": "x"}), r"answers\['1'\] = 'x': expected a list"),
        (lambda: squad_v1_metrics({"1": None}, {"1": ["x"]}), r"predictions\['1'\] = None"),
        (lambda: squad_v2_metrics({"1": "x"}, {"1": [{"text": "x"}]}), "expected a list of texts"),
        (lambda: squad_v2_metrics({"1": "x"}, {"1": []}, {"2": 0.5}), "na_probs: lacks question '1'"),
        (lambda: squad_v2_metrics({"1": "x"}, {"1": []}, {"1": float("nan")}), r"na_probs\['1'\] = nan"),
        (lambda: squad_v2_metrics({"1": "x"}, {"1": []}, {"1": "0.5"}), r"na_probs\['1'\] = '0.5'"),
        (lambda: squad_v2_metrics({"1": "x"}, {"1": []}, None, 0.5), "na_prob_thresh = 0.5"),
        (lambda: squad_v2_metrics({"1": "x"}, {"1": []}, {"1": 0.5}, float("nan")), "na_prob_thresh = nan"),
    ],
)
def test_answers_that_cannot_be_scored_are_refused(score, message):
    with pytest.raises(UserError, match=message):
        score()
