"""The numbers by which fine-tuned models are judged, over plain arrays, lists and dictionaries.

Each agrees to the last digit with what its field quotes: scikit-learn and SciPy for classification, seqeval for
tagging, the official scripts for SQuAD. Apart from models and data, so that anyone's predictions can be scored.
Classification, RACE and tagging give shares between 0 and 1 (correlations between -1 and 1), SQuAD gives percent.
"""

import math
import re
import string
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from seqeval.metrics.sequence_labeling import accuracy_score, precision_recall_fscore_support
from sklearn.metrics import matthews_corrcoef

from albert_jax.errors import UserError

# --- classification ---------------------------------------------------------------------------------------------------


def accuracy(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Share of the classes, integers [n] from 0 on, that are right."""
    predicted, gold = _classes(predictions, labels)
    return float(np.mean(predicted == gold))


def f1(predictions: ArrayLike, labels: ArrayLike) -> float:
    """F1 of class 1 of two, integers [n]; 0 where class 1 occurs on neither side."""
    predicted, gold = _classes(predictions, labels, count=2)
    return float(_f1_of_counts((predicted & gold).sum(), predicted.sum(), gold.sum()))


def matthews_correlation(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Matthews's correlation of classes, integers [n]; 0 where either side is constant."""
    predicted, gold = _classes(predictions, labels)
    if _constant(predicted) or _constant(gold):
        return 0.0
    return float(matthews_corrcoef(gold, predicted))


def pearson(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Pearson's correlation of numbers [n]; 0 where either side is constant, for which SciPy gives nan."""
    predicted, gold = _numbers(predictions, labels)
    if _constant(predicted) or _constant(gold):
        return 0.0
    return float(stats.pearsonr(predicted, gold).statistic)


def spearman(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Spearman's rank correlation of numbers [n]; 0 where either side is constant, for which SciPy gives nan."""
    predicted, gold = _numbers(predictions, labels)
    if _constant(predicted) or _constant(gold):
        return 0.0
    return float(stats.spearmanr(predicted, gold).statistic)


def multilabel_metrics(predictions: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Shares for examples with any number of classes each, 0 and 1 in [n, classes].

    f1_micro pools the decisions of all classes; f1_macro is the mean of the classes' own F1, a class that occurs on
    neither side counting 0; exact_match is the share of examples with every class right.
    """
    predicted, gold = _arrays(predictions, labels, axes=2)
    for name, array in (("predictions", predicted), ("labels", gold)):
        if not np.isin(array, (0, 1)).all():
            raise UserError(f"{name}: holds other numbers than 0 and 1; say of each class whether it applies")
    predicted, gold = predicted.astype(np.int64), gold.astype(np.int64)
    counts = (predicted & gold).sum(axis=0), predicted.sum(axis=0), gold.sum(axis=0)
    return {
        "f1_micro": float(_f1_of_counts(*(count.sum() for count in counts))),
        "f1_macro": float(np.mean(_f1_of_counts(*counts))),
        "exact_match": float(np.mean((predicted == gold).all(axis=1))),
    }


GLUE_METRICS = {
    "cola": (matthews_correlation, accuracy),
    "sst2": (accuracy,),
    "mrpc": (accuracy, f1),
    "qqp": (accuracy, f1),
    "stsb": (pearson, spearman),
    "mnli": (accuracy,),
    "qnli": (accuracy,),
    "rte": (accuracy,),
    "wnli": (accuracy,),
    "ax": (matthews_correlation, accuracy),
}
"""What `glue_metrics` gives for each task, ax being the diagnostic set; the first is the main one."""

GLUE_MAIN_METRICS = {task: metrics[0].__name__ for task, metrics in GLUE_METRICS.items()}
"""The metric of each task that picks runs and fills tables, presumably that of the paper's table 9 (dev).

The paper does not name them. Google's code computes accuracy alone for MRPC and QQP, and of correlations Pearson's.
The GLUE benchmark's own score takes the mean of accuracy and F1, and that of both correlations, instead.
"""


def glue_metrics(task: str, predictions: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """The metrics of one GLUE task, as shares or correlations, named as the functions here and the main one first.

    Args:
        task: a key of `GLUE_METRICS`. Matched and mismatched MNLI are two calls, never one average.
        predictions: classes, integers [n]; numbers [n] for stsb, on any scale.
        labels: likewise; in MRPC and QQP class 1 means "the same", and F1 is its.
    """
    if task not in GLUE_METRICS:
        raise UserError(f"task = {task}: no GLUE task; there are {', '.join(GLUE_METRICS)}")
    if task != "stsb":
        predictions, labels = _classes(predictions, labels, count=3 if task in ("mnli", "ax") else 2)
    return {metric.__name__: metric(predictions, labels) for metric in GLUE_METRICS[task]}


def race_metrics(predictions: ArrayLike, labels: ArrayLike, levels: Sequence[str]) -> dict[str, float]:
    """Share of right options in RACE: `accuracy` on all, `accuracy_middle` and `accuracy_high` where there are any.

    Args:
        predictions: chosen options, integers [n], 0 to 3.
        labels: right options, likewise.
        levels: "middle" or "high" for each question: the school that its passage comes from.
    """
    predicted, gold = _classes(predictions, labels, count=4)
    if len(levels) != len(gold):
        raise UserError(f"levels: {len(levels):,} for {len(gold):,} questions; give one for each")
    if unknown := set(levels) - {"middle", "high"}:
        raise UserError(f"levels: {min(map(str, unknown))!r:.100} is none; there are middle and high")
    result = {"accuracy": accuracy(predicted, gold)}
    for level in ("middle", "high"):
        chosen = np.array([other == level for other in levels])
        if chosen.any():
            result[f"accuracy_{level}"] = accuracy(predicted[chosen], gold[chosen])
    return result


def _f1_of_counts(right: np.ndarray, predicted: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """F1 from the numbers of right, predicted and gold positives; 0 where there are none."""
    return 2 * right / np.maximum(predicted + gold, 1)


def _constant(values: np.ndarray) -> bool:
    return bool((values == values[0]).all())


def _arrays(predictions: ArrayLike, labels: ArrayLike, axes: int) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays of numbers with equal shapes, that many axes, and at least one element."""
    arrays = []
    for name, values in (("predictions", predictions), ("labels", labels)):
        try:
            array = np.asarray(values)
            if array.dtype.kind not in "biuf":
                array = array.astype(np.float64)  # bfloat16 and its like, which NumPy does not know
        except (TypeError, ValueError):
            raise UserError(f"{name}: not an array of numbers; give one of {axes} axes") from None
        if array.ndim != axes:
            raise UserError(f"{name}: shape {array.shape}, expected {axes} axes, examples first")
        arrays.append(array)
    predicted, gold = arrays
    if predicted.shape != gold.shape:
        found = " and ".join("x".join(f"{size:,}" for size in array.shape) for array in arrays)
        raise UserError(f"predictions and labels: {found} of them; give one prediction for each label")
    if predicted.size == 0:
        raise UserError("predictions and labels: empty; there is nothing to score")
    return predicted, gold


def _classes(predictions: ArrayLike, labels: ArrayLike, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Both as int64 [n], each from 0 on and below `count`, where given."""
    predicted, gold = _arrays(predictions, labels, axes=1)
    for name, array in (("predictions", predicted), ("labels", gold)):
        if array.dtype.kind not in "biu":
            raise UserError(f"{name}: of type {array.dtype}, expected integers; give classes, not their logits")
        if array.min() < 0:
            place = int(np.argmin(array))
            raise UserError(
                f"{name}[{place}] = {array[place]}: no class; leave out what has no label, as in a test set"
            )
        if count is not None and array.max() >= count:
            place = int(np.argmax(array))
            raise UserError(f"{name}[{place}] = {array[place]}: there are {count} classes, counted from 0")
    return predicted.astype(np.int64), gold.astype(np.int64)


def _numbers(predictions: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as finite float64 [n]."""
    predicted, gold = (array.astype(np.float64) for array in _arrays(predictions, labels, axes=1))
    for name, array in (("predictions", predicted), ("labels", gold)):
        if not np.isfinite(array).all():
            place = int(np.argmin(np.isfinite(array)))
            raise UserError(f"{name}[{place}] = {array[place]}: not a finite number; find where it comes from")
    return predicted, gold


# --- tagging ----------------------------------------------------------------------------------------------------------

_TAG = re.compile(r"O|[BIES]-.+")


def tagging_metrics(predictions: Sequence[Sequence[str]], labels: Sequence[Sequence[str]]) -> dict[str, float]:
    """Entities found, as shares: `precision`, `recall` and `f1`, then the same with `_LOC` behind for every type.

    An entity is right if its type and both its ends are. The rules are those of CoNLL's conlleval, which are seqeval's
    default: a tag that continues nothing starts an entity, so IOB1, IOB2 and IOBES are all read as they are meant,
    and a model's ill-formed sequences count. Where nothing is predicted precision is 0, where nothing is there
    recall is. `accuracy` is the share of tokens with the right tag, O included.

    Args:
        predictions: tags, one sequence for each sentence: "O", or one of B-, I-, E-, S- and a type.
        labels: likewise, with the same lengths. A type occurs in the result if either side has it.
    """
    sides = []
    for name, sentences in (("predictions", predictions), ("labels", labels)):
        sides.append([[str(tag) for tag in sentence] for sentence in sentences])
        for tag in sorted({tag for sentence in sides[-1] for tag in sentence}):
            if not _TAG.fullmatch(tag):
                raise UserError(f"{name}: tag {tag!r:.100}, expected O, or B-, I-, E- or S- and a type, as in B-LOC")
    predicted, gold = sides
    if len(predicted) != len(gold):
        raise UserError(f"predictions and labels: {len(predicted):,} and {len(gold):,} sentences; give as many of both")
    for i, (ours, theirs) in enumerate(zip(predicted, gold, strict=True)):
        if len(ours) != len(theirs):
            raise UserError(f"predictions[{i}]: {len(ours):,} tags for {len(theirs):,} labels; give one for each word")
    if not any(gold):
        raise UserError("predictions and labels: empty; there is nothing to score")
    *overall, _ = precision_recall_fscore_support(gold, predicted, average="micro", zero_division=0)
    *by_type, _ = precision_recall_fscore_support(gold, predicted, average=None, zero_division=0)
    # Every tag but O belongs to an entity, and seqeval sorts the types by name.
    types = sorted({tag[2:] for side in sides for sentence in side for tag in sentence if tag != "O"})
    names = ("precision", "recall", "f1")
    result = {name: float(value) for name, value in zip(names, overall, strict=True)}
    result["accuracy"] = float(accuracy_score(gold, predicted))
    for kind, *values in zip(types, *by_type, strict=True):
        result |= {f"{name}_{kind}": float(value) for name, value in zip(names, values, strict=True)}
    return result


# --- SQuAD ------------------------------------------------------------------------------------------------------------

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize_answer(text: str) -> str:
    """What SQuAD compares: lower case, no ASCII punctuation, no articles, single spaces; alike in 1.1 and 2.0."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def squad_v1_metrics(predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """What evaluate-v1.1.py gives, in percent: `exact_match` and `f1` over all questions, best of each one's answers.

    A question without a prediction scores 0; `missing` says how many there are, of `total`, and a warning names one.
    Predictions for other questions are not looked at. Where an answer and the prediction are both empty once
    normalised, they match exactly but have an F1 of 0, unlike in 2.0.

    Args:
        predictions: the predicted text for each question's id.
        answers: the accepted texts, at least one, for the id of every question that is to be scored.
    """
    missing = _missing_predictions(predictions, answers, "score 0")
    exact_match = f1_sum = 0.0
    for question, texts in answers.items():
        if not texts:
            raise UserError(f"answers[{question!r}]: none, which SQuAD 1.1 does not know; score by SQuAD 2.0")
        if question in predictions:
            predicted, gold = normalize_answer(predictions[question]), [normalize_answer(text) for text in texts]
            exact_match += predicted in gold
            f1_sum += max(_token_f1(predicted, answer) for answer in gold)
    total = len(answers)
    return {
        "exact_match": 100.0 * exact_match / total,
        "f1": 100.0 * f1_sum / total,
        "total": total,
        "missing": missing,
    }


def squad_v2_metrics(
    predictions: Mapping[str, str],
    answers: Mapping[str, Sequence[str]],
    na_probs: Mapping[str, float] | None = None,
    na_prob_thresh: float | None = None,
) -> dict[str, float]:
    """What evaluate-v2.0.py gives under the same Python (3.12 began to add more exactly), with its names, in percent.

    `exact`, `f1` and their number of questions, `total`; the same with `HasAns_` for questions with an answer and
    `NoAns_` for those without, where there are any. With `na_probs` also `best_exact` and `best_f1`, what the best
    threshold for answering nothing would give on these very questions, and `best_exact_thresh` and `best_f1_thresh`,
    that threshold. A question without a prediction is left out of every number but `missing`, and a warning names
    one; the official script leaves it out as well, only to fail where it splits by `HasAns`.

    Traps in the official search: where answering nothing at all is best, the threshold is 0.0, which means nothing to
    scores that are not probabilities; and it may stop between questions of equal score, as no threshold can. The
    question at the threshold itself is answered, though Google's ALBERT code leaves it unanswered.

    Args:
        predictions: the predicted text for each question's id, "" for no answer. Those for other questions are not
            looked at.
        answers: the accepted texts for the id of every question that is to be scored; none if it has no answer.
        na_probs: for each predicted question how sure the model is that it has no answer; any scale will do.
        na_prob_thresh: questions whose `na_probs` exceed it count as unanswered in all but the four `best_` values.
            None exceeds the official script's own, 1.0, as long as they are probabilities; for logits it matters.
    """
    missing = _missing_predictions(predictions, answers, "are left out")
    if na_prob_thresh is not None and (na_probs is None or math.isnan(na_prob_thresh)):
        raise UserError(f"na_prob_thresh = {na_prob_thresh}: needs na_probs, and a number to compare them with")
    exact: dict[str, float] = {}
    overlap: dict[str, float] = {}
    for question, texts in answers.items():
        if question in predictions:
            predicted = normalize_answer(predictions[question])
            gold = [answer for answer in map(normalize_answer, texts) if answer] or [""]
            exact[question] = int(predicted in gold)
            # Two empty texts have no token in common, and yet agree. That 1 is an integer and the others are floats,
            # as in the script: sum() has added them differently since Python 3.12.
            overlap[question] = max(_token_f1(predicted, answer) for answer in gold) or exact[question]
    if na_probs is not None:
        for question in exact:
            if question not in na_probs:
                raise UserError(f"na_probs: lacks question {question!r}, which has a prediction; give one for each")
            try:
                comparable = not math.isnan(na_probs[question])
            except TypeError:
                comparable = False
            if not comparable:
                raise UserError(f"na_probs[{question!r}] = {na_probs[question]!r:.100}: expected a number")

    def average(scores: Mapping[str, float], questions: Sequence[str]) -> float:
        if na_probs is not None and na_prob_thresh is not None:
            scores = {
                question: float(not answers[question]) if na_probs[question] > na_prob_thresh else score
                for question, score in scores.items()
            }
        # sum(), as in the script: where in the last digit it errs depends on how it adds.
        return 100.0 * sum(scores[question] for question in questions) / len(questions)

    result = {}
    for prefix, questions in (
        ("", list(exact)),
        ("HasAns_", [question for question in exact if answers[question]]),
        ("NoAns_", [question for question in exact if not answers[question]]),
    ):
        if questions:
            result[f"{prefix}exact"] = average(exact, questions)
            result[f"{prefix}f1"] = average(overlap, questions)
            result[f"{prefix}total"] = len(questions)
    if na_probs is not None:
        for name, scores in (("exact", exact), ("f1", overlap)):
            best, threshold = _best_threshold(scores, predictions, answers, na_probs)
            result |= {f"best_{name}": best, f"best_{name}_thresh": threshold}
    return result | {"missing": missing}


def _token_f1(predicted: str, gold: str) -> float:
    """F1 of the tokens, each as often as it occurs, of two normalised texts; 0 where they share none."""
    predicted_tokens, gold_tokens = predicted.split(), gold.split()
    shared = (Counter(predicted_tokens) & Counter(gold_tokens)).total()
    if shared == 0:
        return 0.0
    precision, recall = shared / len(predicted_tokens), shared / len(gold_tokens)
    return 2 * precision * recall / (precision + recall)


def _best_threshold(
    scores: Mapping[str, float],
    predictions: Mapping[str, str],
    answers: Mapping[str, Sequence[str]],
    na_probs: Mapping[str, float],
) -> tuple[float, float]:
    """The best mean score in percent, and its threshold, from answering nothing to one more question at a time.

    Equal `na_probs` go in their own order, as in the official script.
    """
    score = best = sum(not answers[question] for question in scores)
    threshold = 0.0
    for question in sorted((question for question in na_probs if question in scores), key=na_probs.__getitem__):
        if answers[question]:
            score += scores[question]
        elif predictions[question]:
            score -= 1
        if score > best:
            best, threshold = score, float(na_probs[question])
    return 100.0 * best / len(scores), threshold


def _missing_predictions(predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]], consequence: str) -> int:
    """How many questions have no prediction; warns of them, and refuses what cannot be scored at all."""
    for name, texts in (("predictions", predictions), ("answers", answers)):
        if not isinstance(texts, Mapping):
            raise UserError(f"{name}: a {type(texts).__name__}, expected a dictionary from the questions' ids")
        if not texts:
            raise UserError(f"{name}: empty; there is nothing to score")
    for question, texts in answers.items():
        if (
            isinstance(texts, str)
            or not isinstance(texts, Iterable)
            or not all(isinstance(text, str) for text in texts)
        ):
            raise UserError(f"answers[{question!r}] = {texts!r:.100}: expected a list of texts, [] for no answer")
    missing = [question for question in answers if question not in predictions]
    if len(missing) == len(answers):
        raise UserError(
            f"predictions: for none of the questions; the first is {missing[0]!r} here and "
            f"{next(iter(predictions))!r} there; give those of the same data"
        )
    for question in answers:
        if question in predictions and not isinstance(predictions[question], str):
            raise UserError(f"predictions[{question!r}] = {predictions[question]!r:.100}: expected a text")
    if missing:
        message = f"{len(missing):,} of {len(answers):,} questions have no prediction and {consequence}: {missing[0]!r}"
        warnings.warn(message + (" and others" if len(missing) > 1 else ""), stacklevel=3)
    return len(missing)
