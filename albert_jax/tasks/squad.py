"""SQuAD 1.1 and 2.0 around the model: from the official file to windows of pieces, and from scores back to answers.

Without JAX, so that reading, windows and ranking can be tested, and run in workers, on their own. What a model has to
give is said in `plain_answers` (two logits for each piece) and `beam_answers` (Google's head for SQuAD 2.0).
"""

import json
import lzma
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from albert_jax.errors import UserError
from albert_jax.files import require_file
from albert_jax.tasks.datasets import is_dataset, open_dataset, require_columns, require_split
from albert_jax.tasks.examples import listing
from albert_jax.tokenizer import AlbertTokenizer, write_file

MAX_LENGTH, MAX_LENGTH_2 = 384, 512
"""Pieces of a window for SQuAD 1.1 and 2.0 (paper, table 14)."""
MAX_FILE_BYTES = 2**30  # the official files have 42 MB
N_BEST = 20
MAX_ANSWER_LENGTH = 30  # pieces
LEAST_ROOM = 16  # pieces of a context beside its question; fewer hold hardly an answer with its surroundings
NO_SPAN_SCORE = -2e6
"""Google's score of "" where no span is left; finite, as JSON has no infinity."""

Version = Literal["1.1", "2.0"]


# ---- the official files, and datasets


class GoldAnswer(NamedTuple):
    """An annotator's answer; `start` is its first character in the context."""

    text: str
    start: int


class SquadExample(NamedTuple):
    """A question to a paragraph. Examples of one paragraph share one string `context`.

    `answers` is empty where `is_impossible`, and in a file without labels. `moved` of them did not stand where the file
    says and are now at the nearest place where they do.
    """

    id: str
    title: str
    question: str
    context: str
    answers: tuple[GoldAnswer, ...]
    is_impossible: bool
    moved: int = 0


def open_squad(version: Version, split: str, data_dir: str | Path) -> list[SquadExample]:
    """The questions of a split, "train", "dev" or "test", the same ones from every source.

    `data_dir` is a folder of the official files, see `squad_file`; or a dataset as in `open_dataset`: `hf:squad`,
    `hf:squad_v2`, `hf:FOLDER` or `tfds:squad`. Those on the hub have the files' order; TensorFlow Datasets shuffles as
    it writes and keeps no index, so its own order stays. A test split has no answers, even where the source has.

    Raises:
        UserError: as `read_squad`; or no such version, split or file; or of 1.1 a question without an answer.
    """
    if version not in get_args(Version):
        raise UserError(f"SQuAD has no version {version!r}; there are {listing(get_args(Version))}")
    require_split("SQuAD", split)
    if is_dataset(data_dir):
        examples = _dataset_examples(version, split, data_dir)
    else:
        examples = read_squad(squad_file(version, split, data_dir))
    if split == "test":
        return [example._replace(answers=(), is_impossible=False, moved=0) for example in examples]
    unanswered = next((example.id for example in examples if not example.answers), None)
    if version == "1.1" and unanswered is not None:
        raise UserError(f"{data_dir}, {split}: question {unanswered!r} has no answer; state version 2.0, or mend it")
    return examples


def squad_file(version: Version, split: str, data_dir: str | Path) -> Path:
    """The file that a split is read from: of the official name, such as train-v2.0.json, plain or as .xz, or else the
    only one whose name begins so. Raises UserError where there is none, or several."""
    folder, stem = Path(data_dir).expanduser(), f"{split}-v{version}"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the one that holds {stem}.json, hf:NAME or tfds:NAME")
    for path in (folder / f"{stem}.json", folder / f"{stem}.json.xz"):
        if path.is_file():
            return path
    found = sorted(path for path in folder.glob(f"{stem}*") if path.name.endswith((".json", ".json.xz")))
    if len(found) > 1:
        raise UserError(f"{folder}: no {stem}.json, and several like it ({listing(p.name for p in found)}); rename one")
    if not found:
        raise UserError(f"{folder}: no {stem}.json, plain or as .xz, and no other .json that begins with {stem}")
    return found[0]


def read_squad(path: str | Path) -> list[SquadExample]:
    """The questions of a file in SQuAD's official JSON, plain or as .xz, in its order.

    `title`, `answers` and `is_impossible` may be missing: "", none (a test file) and false. An answer that is not at
    its `answer_start` is taken at its nearest occurrence, the earlier of two, and counted in `moved`: some files have a
    percent of such offsets.

    Raises:
        UserError: no such file, not the official layout, two questions with one id, an unanswerable question with
            answers, or an answer that is blank or nowhere in its context; names the question.
    """
    path = Path(path)
    examples: list[SquadExample] = []
    seen: set[str] = set()
    for a, article in enumerate(_field(_read_json(path), "data", list, str(path))):
        for p, paragraph in enumerate(_field(article, "paragraphs", list, f"{path}: data[{a}]")):
            place = f"{path}: data[{a}].paragraphs[{p}]"
            context = _field(paragraph, "context", str, place)
            for q, entry in enumerate(_field(paragraph, "qas", list, place)):
                name = _field(entry, "id", str, f"{place}.qas[{q}]")
                if name in seen:
                    raise UserError(f"{path}: question {name!r} occurs twice; predictions go by id, so rename one")
                seen.add(name)
                title = _field(article, "title", str, place) if "title" in article else ""
                examples.append(_example(name, title, context, entry, f"{path}: question {name!r}"))
    if not examples:
        raise UserError(f"{path}: has no questions")
    return examples


def _dataset_examples(version: Version, split: str, source: str | Path) -> list[SquadExample]:
    """Rows of Hugging Face's or TensorFlow's form; in 2.0 a question without answers has none in its context."""
    data = open_dataset(source, split, usual="squad", tensorflow_config=f"v{version}")
    examples: list[SquadExample] = []
    seen: set[str] = set()
    contexts: dict[str, str] = {}
    for where, row in data:
        require_columns(row, ("id", "question", "context", *(["answers"] if split != "test" else [])), where)
        name, context = _field(row, "id", str, where), _field(row, "context", str, where)
        if name in seen:
            raise UserError(f"{where}: question {name!r} occurs twice; predictions go by id, so rename one")
        seen.add(name)
        match row.get("answers"):
            case {"text": [*texts], "answer_start": [*starts]} if len(texts) == len(starts):
                answers = [dict(text=t, answer_start=s) for t, s in zip(texts, starts, strict=True)]
            case None if split == "test":
                answers = []
            case other:
                expected = "text and answer_start, lists of one length"
                raise UserError(f"{where}: answers is {_short(other)}, expected {expected}")
        impossible = row.get("is_impossible", version == "2.0" and split != "test" and not answers)
        entry = dict(question=row["question"], answers=answers, is_impossible=impossible)
        title = _field(row, "title", str, where) if "title" in row else ""
        examples.append(_example(name, title, contexts.setdefault(context, context), entry, f"{where} ({name!r})"))
    return examples


def _example(name: str, title: str, context: str, entry: dict[str, Any], where: str) -> SquadExample:
    impossible = "is_impossible" in entry and _field(entry, "is_impossible", bool, where)
    given = _field(entry, "answers", list, where) if "answers" in entry else []
    if impossible and given:
        raise UserError(f"{where}: is_impossible, but has answers; drop them, or set is_impossible to false")
    answers, moved = [], 0
    for answer in given:
        text, stated = _field(answer, "text", str, where), _field(answer, "answer_start", int, where)
        if not text.strip():
            raise UserError(f"{where}: has a blank answer; for no answer set is_impossible to true")
        start = _nearest(context, text, stated)
        if start is None:
            raise UserError(f"{where}: answer {_short(text)} is nowhere in its context; correct the one or the other")
        moved += start != stated
        answers.append(GoldAnswer(text, start))
    return SquadExample(name, title, _field(entry, "question", str, where), context, tuple(answers), impossible, moved)


def _nearest(context: str, text: str, stated: int) -> int | None:
    """Where `text` stands in `context` nearest to `stated`, which may lie outside; None if nowhere."""
    at = min(max(stated, 0), len(context))
    after, before = context.find(text, at), context.rfind(text, 0, at + len(text) - 1)
    found = [start for start in (before, after) if start >= 0]
    return min(found, key=lambda start: abs(start - stated), default=None)


_KINDS = {list: "a list", str: "a string", int: "an integer", bool: "true or false"}


def _field(holder: Any, name: str, kind: type, where: str) -> Any:
    if not isinstance(holder, dict) or name not in holder:
        found = "has none" if isinstance(holder, dict) else f"is {_short(holder)}"
        raise UserError(f"{where}: expected an object with {name!r}, but it {found}; give a file in SQuAD's layout")
    value = holder[name]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{where}: {name} is {_short(value)}, expected {_KINDS[kind]}")
    return value


def _read_json(path: Path) -> Any:
    require_file(path, MAX_FILE_BYTES)
    try:
        with (lzma.open if path.suffix == ".xz" else open)(path, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise UserError(f"{path}: unpacks to more than {MAX_FILE_BYTES:,} bytes, which no such file has")
        return json.loads(content.decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (EOFError, lzma.LZMAError) as error:
        raise UserError(f"{path}: not a whole .xz file ({error}); fetch it again") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON in UTF-8 ({error}); give a file in SQuAD's layout") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---- from questions to windows


class SquadFeature(NamedTuple):
    """A question and a window of its context: [CLS] question [SEP] window [SEP], n ids without padding."""

    example: int
    """index of the question among the examples"""
    input_ids: np.ndarray
    """uint16 [n], as every ALBERT vocabulary fits"""
    first: int
    """place of the window's first piece; its pieces are `first` to n - 2"""
    offsets: np.ndarray
    """int32 [pieces, 2]: start and end of each of the window's pieces in characters of the context; a view"""
    max_context: np.ndarray
    """bool [pieces]: whether no window shows this piece with more on both sides; each piece has exactly one such"""
    start: int
    """place of the answer's first piece; 0 ([CLS]) where it is not whole in this window, and unless for training"""
    end: int
    """place of its last piece, or 0"""
    is_impossible: bool
    """for training: there is no answer in this window"""
    question_cut: int
    """pieces of the question beyond `max_query_length`, which are left out"""

    @property
    def token_type_ids(self) -> np.ndarray:
        """uint8 [n]: 0 up to the first [SEP], it included, and 1 behind."""
        return (np.arange(len(self.input_ids)) >= self.first).astype(np.uint8)

    @property
    def answerable(self) -> np.ndarray:
        """bool [n]: [CLS] and the window's pieces, where an answer may begin or end. Google's p_mask is the rest."""
        allowed = np.zeros(len(self.input_ids), bool)
        allowed[0] = allowed[self.first : -1] = True
        return allowed

    def characters(self, start: int, end: int) -> tuple[int, int]:
        """Where the pieces at places `start` to `end`, it included, stand in the context: [start, stop)."""
        return int(self.offsets[start - self.first, 0]), int(self.offsets[end - self.first, 1])


def build_features(
    examples: Sequence[SquadExample],
    tokenizer: AlbertTokenizer,
    *,
    training: bool,
    max_length: int = MAX_LENGTH,
    stride: int = 128,
    max_query_length: int = 64,
) -> list[SquadFeature]:
    """The windows of each question, in order; at least one each, none is dropped.

    Where Google aligns pieces with characters by a longest common subsequence, and drops examples for which that
    fails, pieces here know their characters. Windows without the whole answer stay as unanswerable ones, as Google's
    do in both versions.

    Args:
        training: set `start`, `end` and `is_impossible`, from the first answer. It may begin or end inside a piece
            ("Japan" in "Japanese"), of which the whole is then taken.
        max_length: ids of a window at most.
        stride: pieces from the beginning of a window to that of the next, or as many as fit if these are fewer.
        max_query_length: pieces of the question at most; what is beyond is cut and counted in `question_cut`.

    Raises:
        UserError: a question without label in training, no room for the context, half a surrogate pair in a text.
    """
    for name, value in dict(stride=stride, max_query_length=max_query_length).items():
        if value < 1:
            raise UserError(f"{name} = {value}: must be at least 1")
    encoded: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    features: list[SquadFeature] = []
    for number, example in enumerate(examples):
        try:
            asked = tokenizer.encode(example.question)
            if example.context not in encoded:
                ids, offsets = tokenizer.encode_with_offsets(example.context)
                encoded[example.context] = np.array(ids, np.uint16), offsets
        except UserError as error:
            raise UserError(f"question {example.id!r}: {error}") from None
        pieces, offsets = encoded[example.context]
        cut = max(0, len(asked) - max_query_length)
        head = np.array([tokenizer.cls_id, *asked[:max_query_length], tokenizer.sep_id], np.uint16)
        tail = np.array([tokenizer.sep_id], np.uint16)
        room = max_length - len(head) - 1
        if room < min(stride, LEAST_ROOM):
            raise UserError(
                f"max_length = {max_length}: question {example.id!r} of {len(head) - 2} pieces leaves {room} for its "
                f"context; raise it, or lower max_query_length = {max_query_length}"
            )
        answer = _answer_pieces(example, offsets) if training else None
        for begin, stop, max_context in _windows(len(pieces), room, stride):
            whole = answer is not None and begin <= answer[0] and answer[1] < stop
            features.append(
                SquadFeature(
                    example=number,
                    input_ids=np.concatenate([head, pieces[begin:stop], tail]),
                    first=len(head),
                    offsets=offsets[begin:stop],
                    max_context=max_context,
                    start=answer[0] - begin + len(head) if whole else 0,
                    end=answer[1] - begin + len(head) if whole else 0,
                    is_impossible=training and not whole,
                    question_cut=cut,
                )
            )
    return features


def _answer_pieces(example: SquadExample, offsets: np.ndarray) -> tuple[int, int] | None:
    """First and last piece of the context that share a character with the first answer; None if there are none."""
    if example.is_impossible:
        return None
    if not example.answers:
        raise UserError(
            f"question {example.id!r}: has no answer to train on; add one, or set is_impossible to true in the file"
        )
    text, start = example.answers[0]
    # Neither starts nor ends ever fall. Both sides pass over a "▁" alone at the edge, which has no characters.
    first = int(np.searchsorted(offsets[:, 1], start, side="right"))
    last = int(np.searchsorted(offsets[:, 0], start + len(text), side="left")) - 1
    return (first, last) if first <= last else None


@lru_cache(maxsize=65536)
def _windows(count: int, room: int, stride: int) -> list[tuple[int, int, np.ndarray]]:
    """Beginning and stop of each window of `room` pieces over `count`, and which of its pieces have their maximum
    context there: the highest min(pieces to the left, to the right) + 0.01 * window length, the first of equals."""
    step = min(stride, room)
    begins = np.arange(0, max(1, count - room + step), step)
    stops = np.minimum(begins + room, count)
    places = np.arange(count)
    left, right = places - begins[:, None], stops[:, None] - 1 - places
    scores = np.minimum(left, right) + 0.01 * (stops - begins)[:, None]
    best = np.where((left >= 0) & (right >= 0), scores, -np.inf).argmax(axis=0)
    found = []
    for number, (begin, stop) in enumerate(zip(begins.tolist(), stops.tolist(), strict=True)):
        here = best[begin:stop] == number
        here.flags.writeable = False  # shared by all questions and contexts of these lengths
        found.append((begin, stop, here))
    return found


class SquadCounts(NamedTuple):
    """What became of a file; what a script should tell its user."""

    questions: int
    unanswerable: int
    unlabelled: int
    windows: int
    cut_questions: int
    """questions that lost pieces to `max_query_length`"""
    moved_answers: int
    """answers that did not stand at the file's offset"""
    unreachable: int
    """answerable questions without a window that has the whole answer; 0 unless the windows are for training"""


def count(examples: Sequence[SquadExample], features: Sequence[SquadFeature]) -> SquadCounts:
    """Counts over `examples` and what `build_features` made of them."""
    reached = {feature.example for feature in features if not feature.is_impossible}
    return SquadCounts(
        questions=len(examples),
        unanswerable=sum(example.is_impossible for example in examples),
        unlabelled=sum(not example.answers and not example.is_impossible for example in examples),
        windows=len(features),
        cut_questions=len({feature.example for feature in features if feature.question_cut}),
        moved_answers=sum(example.moved for example in examples),
        unreachable=sum(not example.is_impossible and n not in reached for n, example in enumerate(examples)),
    )


# ---- from scores to answers


class Candidate(NamedTuple):
    """A stretch of the context, context[start:stop]; "" at 0, 0 is "no answer"."""

    text: str
    start: int
    stop: int
    start_score: float
    """logit or log-probability of the first piece"""
    end_score: float
    """that of the last piece"""
    probability: float
    """share among the candidates: softmax of the scores"""

    @property
    def score(self) -> float:
        return self.start_score + self.end_score


class SquadAnswer(NamedTuple):
    """The answers to one question, likeliest first."""

    id: str
    candidates: list[Candidate]
    """at least one; of the same text only the best"""
    null_odds: float | None
    """how much speaks for no answer; None where there always is one. What it is depends on the head."""
    log_probabilities: bool
    """whether scores are log-probabilities, rather than logits"""

    @property
    def text(self) -> str:
        """The likeliest answer that is one; "" if no span survived."""
        return next((candidate.text for candidate in self.candidates if candidate.text), "")

    def predict(self, threshold: float | None) -> str:
        """`text`, or "" where `null_odds` exceed the threshold; without one always `text`.

        "Exceed" as in the official evaluation's search for the best threshold. Google's ALBERT gives "" at equality
        too, and so loses the very question that its search stopped at.
        """
        if threshold is None:
            return self.text
        if self.null_odds is None:
            raise UserError(f"threshold = {threshold}: these answers have no null odds; leave it out for SQuAD 1.1")
        return "" if self.null_odds > threshold else self.text


class BeamScores(NamedTuple):
    """What Google's SQuAD 2.0 head says about one window; places are of the window's ids."""

    start_top_log_probs: np.ndarray
    """[starts], 5 in Google's code"""
    start_top_index: np.ndarray
    end_top_log_probs: np.ndarray
    """[starts, ends], or flat in this order: of the likeliest ends for each start"""
    end_top_index: np.ndarray
    answer_class: float
    """logit: the higher, the less is there an answer"""


def plain_answers(
    examples: Sequence[SquadExample],
    features: Sequence[SquadFeature],
    logits: Sequence[np.ndarray],
    *,
    no_answer: bool = False,
    n_best: int = N_BEST,
    max_answer_length: int = MAX_ANSWER_LENGTH,
) -> list[SquadAnswer]:
    """The answers of a head with two logits, as Google's SQuAD 1.1 code finds them.

    In each window the `n_best` likeliest starts meet the `n_best` likeliest ends; a span counts if it lies in the
    context, begins where the piece has its maximum context, does not end before it begins and has at most
    `max_answer_length` pieces. Its score is the sum of both raw logits; all windows compete. If no span survives, the
    answer is "" (where Google writes the word "empty").

    Args:
        logits: [n or more, 2] of each window, start before end. What lies beyond its n ids is not looked at (in
            Google's code padding competes for the places among the likeliest).
        no_answer: for SQuAD 2.0 with such a head, as in BERT's and Hugging Face's code: "" competes by the score of
            [CLS], the lowest over the windows, and `null_odds` is that minus the best span's score.
    """
    _require_same_length(features, logits)
    _require_positive(n_best=n_best, max_answer_length=max_answer_length)

    def find(number: int) -> tuple[_Spans, tuple[float, float]]:
        feature, window = features[number], np.asarray(logits[number])
        length = len(feature.input_ids)
        if window.ndim != 2 or window.shape[0] < length or window.shape[1] != 2:
            raise UserError(f"logits[{number}] has shape {window.shape}, expected ({length}, 2)")
        scores = window[:length].astype(np.float64)
        _require_numbers(np.isfinite(scores), examples[feature.example])
        starts, ends = (np.argsort(-side, kind="stable")[:n_best] for side in scores.T)
        places = starts.repeat(len(ends)), np.tile(ends, len(starts))
        spans = _survivors(feature, *places, scores[places[0], 0], scores[places[1], 1], max_answer_length)
        return spans, (float(scores[0, 0]), float(scores[0, 1]))

    answers = []
    for example, found in zip(examples, _by_example(examples, features, find), strict=True):
        null = min((null for _, null in found), key=sum) if no_answer else None
        candidates = _rank(example.context, [spans for spans, _ in found], null, n_best)
        best = next((candidate.score for candidate in candidates if candidate.text), NO_SPAN_SCORE)
        answers.append(SquadAnswer(example.id, candidates, None if null is None else sum(null) - best, False))
    return answers


def beam_answers(
    examples: Sequence[SquadExample],
    features: Sequence[SquadFeature],
    beams: Sequence[BeamScores],
    *,
    n_best: int = N_BEST,
    max_answer_length: int = MAX_ANSWER_LENGTH,
) -> list[SquadAnswer]:
    """The answers of Google's SQuAD 2.0 head, one run's.

    Of the spans that each window's beam names, those count that `plain_answers` describes: so a beam that starts at
    [CLS] is lost. The score is the sum of both log-probabilities; all windows compete. `null_odds` is the lowest
    `answer_class` over the windows, and has no part in the ranking. If no span survives, the answer is "", whatever the
    threshold.
    """
    _require_same_length(features, beams)
    _require_positive(n_best=n_best, max_answer_length=max_answer_length)

    def find(number: int) -> tuple[_Spans, float]:
        feature, beam = features[number], beams[number]
        start_scores, starts = np.asarray(beam.start_top_log_probs, np.float64), np.asarray(beam.start_top_index)
        end_scores, ends = np.asarray(beam.end_top_log_probs, np.float64).ravel(), np.ravel(beam.end_top_index)
        if starts.ndim != 1 or start_scores.shape != starts.shape or end_scores.shape != ends.shape:
            raise UserError(f"beams[{number}]: log-probabilities and indices differ in shape")
        if not len(starts) or len(ends) % len(starts):
            raise UserError(f"beams[{number}]: {len(ends)} ends for {len(starts)} starts, expected as many for each")
        each = len(ends) // len(starts)
        numbers = [~np.isnan(start_scores), ~np.isnan(end_scores), [np.isfinite(beam.answer_class)]]
        _require_numbers(np.concatenate(numbers), examples[feature.example])
        starts, start_scores = starts.repeat(each), start_scores.repeat(each)
        spans = _survivors(feature, starts, ends, start_scores, end_scores, max_answer_length)
        return spans, float(beam.answer_class)

    return [
        SquadAnswer(
            example.id,
            _rank(example.context, [spans for spans, _ in found], None, n_best),
            min(null for _, null in found),
            True,
        )
        for example, found in zip(examples, _by_example(examples, features, find), strict=True)
    ]


class _Spans(NamedTuple):
    """Spans of one window, [spans] each: characters of the context, and scores."""

    starts: np.ndarray
    stops: np.ndarray
    start_scores: np.ndarray
    end_scores: np.ndarray


def _survivors(
    feature: SquadFeature,
    starts: np.ndarray,
    ends: np.ndarray,
    start_scores: np.ndarray,
    end_scores: np.ndarray,
    max_answer_length: int,
) -> _Spans:
    """The spans between places of the window's ids that may be answers, in the order given."""
    first, last = starts - feature.first, ends - feature.first
    kept = (first >= 0) & (last >= first) & (last < len(feature.offsets)) & (last - first < max_answer_length)
    kept &= (start_scores > -np.inf) & (end_scores > -np.inf)
    kept = kept.nonzero()[0]
    kept = kept[feature.max_context[first[kept]]]
    begin, stop = feature.offsets[first[kept], 0], feature.offsets[last[kept], 1]
    text = stop > begin  # a "▁" alone holds none
    kept = kept[text]
    return _Spans(begin[text], stop[text], start_scores[kept], end_scores[kept])


def _rank(context: str, windows: Sequence[_Spans], null: tuple[float, float] | None, n_best: int) -> list[Candidate]:
    """The `n_best` best spans of different texts, and `null` ("", by its start and end score) as one more at its rank.
    Among equals the earlier one is first, and `null` last."""
    starts, stops, start_scores, end_scores = (np.concatenate(side) for side in zip(*windows, strict=True))
    chosen: dict[str, tuple[int, int, float, float]] = {}
    for i in np.argsort(-(start_scores + end_scores), kind="stable").tolist():
        start, stop = int(starts[i]), int(stops[i])
        chosen.setdefault(context[start:stop], (start, stop, float(start_scores[i]), float(end_scores[i])))
        if len(chosen) == n_best:
            break
    if not chosen and null is None:
        null = NO_SPAN_SCORE / 2, NO_SPAN_SCORE / 2
    if null is not None:
        chosen[""] = 0, 0, *null
    ranked = sorted(chosen.items(), key=lambda item: -sum(item[1][2:]))
    scores = np.array([sum(found[2:]) for _, found in ranked])
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    return [Candidate(text, *found, float(share)) for (text, found), share in zip(ranked, shares, strict=True)]


def _by_example(
    examples: Sequence[SquadExample], features: Sequence[SquadFeature], find: Callable[[int], Any]
) -> list[list[Any]]:
    """What `find` says about each window, by number, for each question."""
    found: list[list[Any]] = [[] for _ in examples]
    for number, feature in enumerate(features):
        if feature.example >= len(examples):
            raise UserError(f"a window of question number {feature.example}, but there are {len(examples)} examples")
        found[feature.example].append(find(number))
    for example, windows in zip(examples, found, strict=True):
        if not windows:
            raise UserError(f"question {example.id!r} has no window; give all that build_features made")
    return found


def _require_same_length(features: Sequence[SquadFeature], scores: Sequence[Any]) -> None:
    if len(features) != len(scores):
        raise UserError(f"{len(features)} windows but scores for {len(scores)}; give each window its own")


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise UserError(f"{name} = {value}: must be at least 1")


def _require_numbers(good: np.ndarray, example: SquadExample) -> None:
    if not good.all():
        raise UserError(f"question {example.id!r}: the model's scores are not finite; its training has diverged")


# ---- the official outputs


def write_predictions(
    directory: str | Path, answers: Sequence[SquadAnswer], *, threshold: float | None = None, prefix: str = ""
) -> dict[str, str]:
    """Writes predictions.json, nbest_predictions.json and, where there are null odds, null_odds.json, each whole or not
    at all, as BERT's, ALBERT's and Hugging Face's scripts do; returns the predictions by id.

    Args:
        threshold: see `SquadAnswer.predict`.
        prefix: in front of the names, "eval_" for example.
    """
    directory = Path(directory)
    predictions = {answer.id: answer.predict(threshold) for answer in answers}
    contents: dict[str, dict[str, Any]] = {
        "predictions": predictions,
        "nbest_predictions": {answer.id: _n_best_entries(answer) for answer in answers},
    }
    if any(answer.null_odds is not None for answer in answers):
        contents["null_odds"] = {answer.id: answer.null_odds for answer in answers}
    for name, content in contents.items():
        text = json.dumps(content, indent=4, allow_nan=False)
        write_file(directory / f"{prefix}{name}.json", (text + "\n").encode())
    return predictions


def _n_best_entries(answer: SquadAnswer) -> list[dict[str, str | float]]:
    kind = "log_prob" if answer.log_probabilities else "logit"
    return [
        {
            "text": candidate.text,
            "probability": candidate.probability,
            f"start_{kind}": candidate.start_score,
            f"end_{kind}": candidate.end_score,
        }
        for candidate in answer.candidates
    ]
