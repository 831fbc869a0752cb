"""What a model says about texts: completions, embeddings, labels, tags, answers and choices.

Each function takes a model of `albert_jax.pretrained` with its tokenizer and any number of texts, packs them into rows
without padding, and returns one result for each text, in their order."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from albert_jax import model as networks
from albert_jax.config import AlbertConfig
from albert_jax.errors import UserError
from albert_jax.inputs.packing import PackedBatch, Place, pack, power_of_two, tokens_per_batch
from albert_jax.model import apply
from albert_jax.pretrained import (
    AlbertForBeamQuestionAnswering,
    AlbertForMaskedLM,
    AlbertForMultipleChoice,
    AlbertForPreTraining,
    AlbertForQuestionAnswering,
    AlbertForSequenceClassification,
    AlbertForTokenClassification,
    PretrainedModel,
    require_dtype,
)
from albert_jax.tokenizer import AlbertTokenizer

MASK = "[MASK]"
_LETTERS = r"\w[\w\u0300-\u036f]*"
WORD = re.compile(rf"{_LETTERS}(?:[-.'\u2019&/]{_LETTERS})*|[^\w\s](?:[\u0300-\u036f\ufe0f]|\u200d[^\w\s])*")
"""Words for tagging: letters and digits with their accents, joined by a single sign between them; other signs, such as
an emoji of several characters, stand alone."""

CANDIDATES = 20
"""Answers that share the probability, as in Google's and Hugging Face's evaluation."""

Dtype = Literal["float32", "bfloat16"]


class TextError(UserError):
    """What is wrong with one of the texts: its `number` from 0 and the `reason`."""

    def __init__(self, number: int, text: str, reason: str):
        super().__init__(f"text {number + 1} ({_start(text)!r}): {reason}")
        self.number, self.reason = number, reason


class Completion(NamedTuple):
    """One piece for one [MASK], with its probability. `text` is the piece without the mark of the space before it."""

    text: str
    probability: float
    piece: str


class Label(NamedTuple):
    """A label with its probability; for a regression the number itself."""

    label: str
    score: float


class Tag(NamedTuple):
    """A word, where it stands in its text, and its label with the probability."""

    word: str
    start: int
    stop: int
    label: str
    score: float


class Entity(NamedTuple):
    """Neighbouring words of one kind, by B- and I- labels."""

    label: str
    text: str
    start: int
    stop: int
    score: float


class Answer(NamedTuple):
    """A stretch of the context, with its share of the probability among the candidates; "" is "no answer"."""

    text: str
    start: int
    stop: int
    score: float


class Choice(NamedTuple):
    """One of several choices, with its probability."""

    index: int
    text: str
    score: float


# ---- the six uses


def fill_mask(
    model: PretrainedModel,
    texts: Sequence[str],
    *,
    top_k: int = 5,
    targets: Sequence[str] = (),
    dtype: Dtype = "float32",
) -> list[list[list[Completion]]]:
    """The `top_k` likeliest ordinary pieces for every [MASK] of every text, likeliest first; with `targets` these
    instead, each of which must be a single piece.

    Probabilities are over the whole vocabulary. Raises `UserError` for a text without [MASK] or beyond the model's
    positions.
    """
    _require(model, texts, AlbertForMaskedLM, AlbertForPreTraining)
    _require_positive(top_k=top_k)
    _require_texts("target", targets)
    tokenizer, longest = _tokenizer(model), model.config.max_position_embeddings
    wanted = np.array([_single_piece(tokenizer, target) for target in targets], np.int64)
    encoded = [
        _named(number, text, partial(_encode_masked, tokenizer, text, longest)) for number, text in enumerate(texts)
    ]
    masks = [np.flatnonzero(np.array(ids) == tokenizer.mask_id) for ids in encoded]

    def positions(batch: PackedBatch) -> np.ndarray:
        """Where the masks of each row are, [B, P]; P is a power of two, so that few shapes occur."""
        most = max(sum(len(masks[p.index]) for p in places) for places in _by_row(batch))
        table = np.zeros((len(batch.input_ids), max(power_of_two(most), batch.first_positions.shape[1])), np.int32)
        for row, places in enumerate(_by_row(batch)):
            found = np.concatenate([masks[place.index] + place.start for place in places])
            table[row, : len(found)] = found
        return table

    at_masks = _runner(model, networks.AlbertForMaskedLM, dtype, _logits_of)

    def collect(batch: PackedBatch, logits: np.ndarray) -> Iterator[tuple[int, list[list[Completion]]]]:
        for row, places in enumerate(_by_row(batch)):
            first = 0
            for place in places:
                last = first + len(masks[place.index])
                yield place.index, [_completions(tokenizer, at, top_k, wanted) for at in logits[row, first:last]]
                first = last

    def run(batch: PackedBatch) -> jax.Array:
        return at_masks(batch, masked_lm_positions=positions(batch))

    return _predict(model, [(ids, [0] * len(ids)) for ids in encoded], run, collect)


def embed(
    model: PretrainedModel,
    texts: Sequence[str],
    *,
    pooling: Literal["mean", "cls", "pooler"] = "mean",
    truncate: bool = False,
    dtype: Dtype = "float32",
) -> np.ndarray:
    """One vector for each text, float32 [texts, H]: the mean over its tokens, [CLS] and [SEP] included, the [CLS]
    vector, or the pooler's output."""
    _require(model, texts)
    if pooling not in _POOLINGS:
        raise UserError(f"pooling = {pooling!r}: must be {', '.join(_POOLINGS)}")
    if pooling == "pooler" and "pooler" not in model.params["albert"]:
        raise UserError(f"pooling = 'pooler': {type(model).__name__} has no pooler; load the source as AlbertModel")
    if pooling not in _POOLINGS:
        raise UserError(f"pooling = {pooling!r}: must be {', '.join(_POOLINGS)}")
    if pooling == "pooler" and model.report and any("pooler" in path for path in model.report.initialized):
        raise UserError(f"pooling = 'pooler': {model.report.source} has no pooler; choose mean or cls")
    encoded = _encode_texts(model, texts, None, truncate)

    network = networks.AlbertWithoutHead if pooling == "pooler" else _TRUNK
    run = _runner(model, network, dtype, _POOLINGS[pooling])

    rows = _predict(model, encoded, run, _by_sequence)
    return np.stack(rows) if rows else np.empty((0, model.config.hidden_size), np.float32)


def classify(
    model: PretrainedModel,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    truncate: bool = False,
    dtype: Dtype = "float32",
) -> list[list[Label]]:
    """Every label with its probability, likeliest first, for each text or pair. Labels of a multi-label model have
    probabilities of their own; a regression, or a model with one label and no `problem_type`, gives its number."""
    _require(model, texts, AlbertForSequenceClassification)
    encoded = _encode_texts(model, texts, pairs, truncate)

    run = _runner(model, networks.AlbertForSequenceClassification, dtype, _logits_of)

    return [_ranked(model, logits) for logits in _predict(model, encoded, run, _by_sequence)]


def tag(
    model: PretrainedModel, texts: Sequence[str], *, truncate: bool = False, dtype: Dtype = "float32"
) -> list[list[Tag]]:
    """The words of each text with their labels: that of a word's first piece. Words are parted as in `WORD`; those that
    `truncate` cuts off, and signs that the tokenizer drops, have none."""
    _require(model, texts, AlbertForTokenClassification)
    tokenizer, longest = _tokenizer(model), model.config.max_position_embeddings
    encodings = [
        _named(number, text, partial(_build, tokenizer, text, None, longest, truncate, offsets=True))
        for number, text in enumerate(texts)
    ]

    run = _runner(model, networks.AlbertForTokenClassification, dtype, _logits_of)

    def collect(batch: PackedBatch, logits: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        for place in batch.places:
            yield place.index, logits[place.row, place.start : place.stop]

    predicted = _predict(model, [(e.input_ids, e.token_type_ids) for e in encodings], run, collect)
    return [
        _tags(model.labels, text, encoding.offsets, encoding.special_tokens_mask, logits)
        for text, encoding, logits in zip(texts, encodings, predicted, strict=True)
    ]


def answer(
    model: PretrainedModel,
    questions: Sequence[str],
    contexts: Sequence[str],
    *,
    n_best: int = 1,
    no_answer: bool = False,
    max_length: int = 384,
    stride: int = 128,
    max_answer_length: int = 30,
    dtype: Dtype = "float32",
) -> list[list[Answer]]:
    """The `n_best` likeliest answers to each question from its context, likeliest first.

    A context that does not fit beside its question into `max_length` pieces is read in windows that begin `stride`
    pieces apart. With `no_answer` "there is none" competes (SQuAD 2.0): by the score of [CLS], or where the model has
    Google's head, by that head's logit above the best answer's score. `max_answer_length` is in pieces. Scores are
    shares among the best 20 candidates.
    """
    _require(model, questions, AlbertForQuestionAnswering, AlbertForBeamQuestionAnswering)
    _require_texts("context", contexts)
    _require_positive(n_best=n_best, stride=stride, max_answer_length=max_answer_length)
    if len(questions) != len(contexts):
        raise UserError(f"{len(questions)} questions but {len(contexts)} contexts; give each question its context")
    tokenizer, longest = _tokenizer(model), min(max_length, model.config.max_position_embeddings)
    windows: list[_Window] = []
    for number, (question, context) in enumerate(zip(questions, contexts, strict=True)):
        windows += _named(number, question, partial(_windows, tokenizer, number, question, context, longest, stride))

    def of_tokens(batch: PackedBatch, logits: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        for place in batch.places:
            yield place.index, logits[place.row, place.start : place.stop]

    beam = isinstance(model, AlbertForBeamQuestionAnswering)
    run = _runner(model, model.network, dtype, _beam_of if beam else _logits_of)
    sequences = [(window.ids, window.types) for window in windows]
    found: list[list[tuple[float, int, int]]] = [[] for _ in questions]
    null = np.full(len(questions), np.inf)
    results = _predict(model, sequences, run, _by_sequence if beam else of_tokens)
    for window, scores in zip(windows, results, strict=True):
        if beam:
            found[window.question] += _beam_spans(window, scores, max_answer_length)
        else:
            # Twice as many, as some are the same in characters.
            found[window.question] += _spans(window, scores, 2 * max(n_best, CANDIDATES), max_answer_length)
        against = float(scores[0, -1] if beam else scores[0].sum())
        null[window.question] = min(null[window.question], against)
    if beam:
        null += [max((score for score, _, _ in spans), default=0.0) for spans in found]
    return [
        _answers(context, spans, float(none) if no_answer else None, n_best)
        for context, spans, none in zip(contexts, found, null, strict=True)
    ]


def choose(
    model: PretrainedModel,
    texts: Sequence[str],
    choices: Sequence[Sequence[str]],
    *,
    truncate: bool = False,
    dtype: Dtype = "float32",
) -> list[list[Choice]]:
    """The choices for each text with their probabilities, likeliest first: every choice is read as a pair with the
    text. `truncate` shortens the text."""
    _require(model, texts, AlbertForMultipleChoice)
    if len(texts) != len(choices):
        raise UserError(f"{len(texts)} texts but choices for {len(choices)}; give each text its choices")
    tokenizer, longest = _tokenizer(model), model.config.max_position_embeddings
    encoded = []
    for number, (text, those) in enumerate(zip(texts, choices, strict=True)):
        _named(number, text, partial(_require_texts, "choice", those))
        if not len(those):
            raise TextError(number, text, "has no choices")
        for choice in those:
            build = partial(_build, tokenizer, text, choice, longest, truncate, strategy="only_first")
            encoding = _named(number, text, build)
            encoded.append((encoding.input_ids, encoding.token_type_ids))

    # The head of a multiple-choice model is a classifier with one label.
    run = _runner(model, networks.AlbertForSequenceClassification, dtype, _logits_of)
    logits = iter(_predict(model, encoded, run, _by_sequence))
    results = []
    for those in choices:
        scores = _softmax(np.array([float(next(logits)[0]) for _ in those]))
        ranked = sorted(range(len(those)), key=lambda number: -scores[number])
        results.append([Choice(number, those[number], float(scores[number])) for number in ranked])
    return results


def entities(tags: Sequence[Tag], text: str) -> list[Entity]:
    """The entities that B- and I- labels mark, in IOB1 or IOB2: a B-, or an I- of another kind than the word before
    it, begins one. Labels without such a prefix are kinds of their own; "O" is none. The score is the mean of the
    words' scores."""
    runs: list[list[Tag]] = []
    kind = None
    for word in tags:
        prefix, _, rest = word.label.partition("-")
        this = None if word.label == "O" else rest if prefix in ("B", "I") and rest else word.label
        if this is None:
            kind = None
            continue
        if this == kind and prefix != "B":
            runs[-1].append(word)
        else:
            runs.append([word])
        kind = this
    return [
        Entity(
            label=re.sub(r"^[BI]-", "", run[0].label),
            text=text[run[0].start : run[-1].stop],
            start=run[0].start,
            stop=run[-1].stop,
            score=math.fsum(word.score for word in run) / len(run),
        )
        for run in runs
    ]


# ---- running a network over packed rows


def _predict(
    model: PretrainedModel,
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
    run: Callable[[PackedBatch], jax.Array],
    collect: Callable[[PackedBatch, np.ndarray], Iterator[tuple[int, Any]]],
) -> list[Any]:
    """A result for each of `sequences` (ids, segments). The device computes a batch while the one before is read."""
    platform = jax.default_backend()
    tokens = tokens_per_batch(platform)
    results: list[Any] = [None] * len(sequences)
    pending: tuple[PackedBatch, jax.Array] | None = None
    for batch in pack(sequences, tokens, _tokenizer(model).pad_id):
        output = run(batch)
        if pending is not None:
            _store(results, collect(pending[0], np.asarray(pending[1])))
        pending = batch, output
    if pending is not None:
        _store(results, collect(pending[0], np.asarray(pending[1])))
    return results


def _store(results: list[Any], found: Iterator[tuple[int, Any]]) -> None:
    for index, result in found:
        results[index] = result


_TRUNK = partial(networks.AlbertWithoutHead, pooler=False)


def _runner(
    model: PretrainedModel, network: Callable[..., nnx.Module], dtype: Dtype, select: Callable[..., jax.Array]
) -> Callable[..., jax.Array]:
    """A function from packed rows, and further inputs by name, to `select` of the network's output.

    The model may have more parameters than the network: a pooler or a head that is not asked. Matrices are turned into
    `dtype` here, once.
    """
    require_dtype(dtype, "float32", "bfloat16")
    wanted = jax.eval_shape(lambda: networks.initialize(model.config, jax.random.key(0), network))
    flat = traverse_util.flatten_dict(model.params)
    chosen = {path: flat[path] for path in traverse_util.flatten_dict(wanted)}
    cast = {path: value.astype(dtype) if path[-1] == "kernel" else value for path, value in chosen.items()}
    params = traverse_util.unflatten_dict(cast)
    compiled = _compiled(network, model.config, dtype, select)

    def run(batch: PackedBatch, **inputs: np.ndarray) -> jax.Array:
        arrays = dict(position_ids=batch.position_ids, first_positions=batch.first_positions) | inputs
        return compiled(params, batch.input_ids, batch.token_type_ids, batch.attention_mask, arrays)

    return run


@cache
def _compiled(
    network: Callable[..., nnx.Module], config: AlbertConfig, dtype: Dtype, select: Callable[..., jax.Array]
) -> Callable[..., jax.Array]:
    """`select(network's output, attention mask, first positions)` of packed rows, under jit."""

    def run(params: Any, ids: jax.Array, types: jax.Array, mask: jax.Array, arrays: dict[str, jax.Array]) -> jax.Array:
        if network is networks.AlbertForSequenceClassification:
            # It reads the pooled output alone, so the last block need not be computed elsewhere.
            arrays = arrays | {"read_positions": jnp.zeros((len(ids), 0), jnp.int32)}
        output = apply(config, params, ids, types, mask, network=network, dtype=dtype, **arrays)
        return select(output, mask, arrays["first_positions"])

    return jax.jit(run)


def _logits_of(output: Any, mask: jax.Array, first: jax.Array) -> jax.Array:
    return output.logits


def _beam_of(output: Any, mask: jax.Array, first: jax.Array) -> jax.Array:
    """Of each sequence and start [B, S, 5, 13]: its logarithm and place in the sequence, those of its five ends, and
    the answer class of the sequence."""
    columns = (
        output.start_top_log_probs[..., None],
        output.start_top_index[..., None] - first[:, :, None, None],
        output.end_top_log_probs,
        output.end_top_index - first[:, :, None, None],
        jnp.broadcast_to(output.answer_class[..., None, None], (*output.start_top_index.shape, 1)),
    )
    return jnp.concatenate([column.astype(jnp.float32) for column in columns], axis=-1)


def _mean(output: Any, mask: jax.Array, first: jax.Array) -> jax.Array:
    numbers = jnp.arange(1, first.shape[1] + 1)
    members = (mask[:, None, :] == numbers[:, None]).astype(jnp.float32)
    hidden = output.hidden["sequence_output"].astype(jnp.float32)
    return jnp.einsum("BSL,BLH->BSH", members, hidden) / jnp.maximum(members.sum(-1, keepdims=True), 1.0)


def _first(output: Any, mask: jax.Array, first: jax.Array) -> jax.Array:
    return jnp.take_along_axis(output.hidden["sequence_output"], first[:, :, None], axis=1).astype(jnp.float32)


def _pooled(output: Any, mask: jax.Array, first: jax.Array) -> jax.Array:
    return output.hidden["pooled_output"].astype(jnp.float32)


_POOLINGS = {"mean": _mean, "cls": _first, "pooler": _pooled}


def _by_sequence(batch: PackedBatch, output: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for place in batch.places:
        yield place.index, output[place.row, place.slot]


def _by_row(batch: PackedBatch) -> list[list[Place]]:
    rows: list[list[Place]] = [[] for _ in range(max(place.row for place in batch.places) + 1)]
    for place in batch.places:
        rows[place.row].append(place)
    return rows


# ---- texts to sequences


def _require(model: PretrainedModel, texts: Sequence[str], *classes: type[PretrainedModel]) -> None:
    """Raises `UserError` for a model of other classes, one whose head is not trained, or a lone text."""
    if classes and not isinstance(model, classes):
        raise UserError(
            f"the model is {type(model).__name__}, expected {' or '.join(cls.__name__ for cls in classes)}; load it as "
            "that from a source with such a head"
        )
    if classes:
        model.require_trained_head()
    else:
        model.require_trained_encoder()
    _require_texts("text", texts)


def _require_texts(name: str, texts: Sequence[str]) -> None:
    """Raises `UserError` for a lone text, what can be gone through only once or in no order, and entries of other
    types."""
    if isinstance(texts, str):
        raise UserError(f"one str ({_start(texts)!r}), expected several; put it into a list")
    if not isinstance(texts, Sequence | np.ndarray):
        raise UserError(f"{name}s are given as {type(texts).__name__}, expected a list of str")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"{name} {number + 1} is {text!r:.100}, expected str")


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise UserError(f"{name} = {value!r}: must be a whole number")
        if value < 1:
            raise UserError(f"{name} = {value}: must be at least 1")


def _tokenizer(model: PretrainedModel) -> AlbertTokenizer:
    if model.tokenizer is None:
        raise UserError(
            "the model has no tokenizer: put its spiece.model or tokenizer.json beside the weights, or set "
            "model.tokenizer"
        )
    return model.tokenizer


def _named(number: int, text: str, build: Callable[[], Any]) -> Any:
    """What `build` gives; its `UserError` says which text it was."""
    try:
        return build()
    except UserError as error:
        raise TextError(number, text, str(error)) from error


def _start(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}..."


def _build(
    tokenizer: AlbertTokenizer,
    text: str,
    pair: str | None,
    longest: int,
    truncate: bool,
    strategy: Literal["longest_first", "only_first"] = "longest_first",
    offsets: bool = False,
) -> Any:
    encoding = tokenizer.build(
        text,
        pair,
        truncation=strategy if truncate else "none",
        max_length=longest if truncate else None,
        offsets=offsets,
    )
    if len(encoding.input_ids) > longest:
        raise UserError(
            f"{len(encoding.input_ids)} pieces, more than the model's {longest} positions; shorten it, or let "
            "truncate (--truncate) cut it"
        )
    return encoding


def _encode_texts(
    model: PretrainedModel, texts: Sequence[str], pairs: Sequence[str] | None, truncate: bool
) -> list[tuple[Sequence[int], Sequence[int]]]:
    tokenizer, longest = _tokenizer(model), model.config.max_position_embeddings
    if pairs is not None:
        _require_texts("second text", pairs)
    if pairs is not None and len(pairs) != len(texts):
        raise UserError(f"{len(texts)} texts but {len(pairs)} second texts; give each text its own")
    encoded = []
    for number, text in enumerate(texts):
        pair = None if pairs is None else pairs[number]
        encoding = _named(number, text, partial(_build, tokenizer, text, pair, longest, truncate))
        encoded.append((encoding.input_ids, encoding.token_type_ids))
    return encoded


def _encode_masked(tokenizer: AlbertTokenizer, text: str, longest: int) -> list[int]:
    if MASK not in text:
        raise UserError(f"contains no {MASK}; write it, in capitals, where a word is to be found")
    ids = [tokenizer.cls_id]
    for index, part in enumerate(text.split(MASK)):
        pieces = tokenizer.encode(part)
        if index:
            ids.append(tokenizer.mask_id)
            if pieces and not part[0].isspace() and tokenizer.id_to_piece(pieces[0]) == "▁":
                del pieces[0]  # SentencePiece begins every text with a space; "[MASK]." has none
        ids += pieces
    ids.append(tokenizer.sep_id)
    if len(ids) > longest:
        raise UserError(f"{len(ids)} pieces, more than the model's {longest} positions; shorten it")
    return ids


def _single_piece(tokenizer: AlbertTokenizer, target: str) -> int:
    ids = tokenizer.encode(target)
    if not ids or tokenizer.unk_id in ids:
        raise UserError(f"target {target!r}: is not in the vocabulary")
    if len(ids) > 1:
        pieces = " ".join(tokenizer.id_to_piece(i) for i in ids)
        raise UserError(
            f"target {target!r}: is {len(ids)} pieces of the vocabulary ({pieces}); only single ones can be compared"
        )
    return ids[0]


# ---- outputs to results


def _completions(tokenizer: AlbertTokenizer, logits: np.ndarray, top_k: int, wanted: np.ndarray) -> list[Completion]:
    """The `top_k` best ordinary pieces, or the wanted ones, for logits [V]."""
    probabilities = _softmax(logits[: tokenizer.vocab_size])
    candidates = wanted if wanted.size else tokenizer.ordinary_ids
    scores = probabilities[candidates]
    if not wanted.size and top_k < scores.size:
        best = np.argpartition(-scores, top_k)[:top_k]
        candidates, scores = candidates[best], scores[best]
    order = np.lexsort((candidates, -scores))
    return [
        Completion(piece.removeprefix("▁") or "▁", float(scores[i]), piece)
        for i in order
        for piece in (tokenizer.id_to_piece(int(candidates[i])),)
    ]


def _ranked(model: PretrainedModel, logits: np.ndarray) -> list[Label]:
    if model.problem_type == "regression" or (model.problem_type is None and len(logits) == 1):
        return [Label(label, float(value)) for label, value in zip(model.labels, logits, strict=True)]
    if model.problem_type == "multi_label_classification":
        scores = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
    else:
        scores = _softmax(logits)
    ranked = sorted(range(len(scores)), key=lambda number: -scores[number])
    return [Label(model.labels[number], float(scores[number])) for number in ranked]


def _tags(
    labels: Sequence[str], text: str, offsets: np.ndarray, special: Sequence[int], logits: np.ndarray
) -> list[Tag]:
    """Labels of the words of `text` that have a piece among those with `logits` [pieces, labels]."""
    pieces = [
        (int(start), int(stop), number)
        for number, (start, stop) in enumerate(offsets)
        if not special[number] and stop > start
    ]
    tags, piece = [], 0
    for match in WORD.finditer(text):
        # A piece may hold several signs: it is the first piece of each.
        while piece < len(pieces) and pieces[piece][1] <= match.start():
            piece += 1
        if piece == len(pieces) or pieces[piece][0] >= match.end():
            continue
        scores = _softmax(logits[pieces[piece][2]])
        best = int(scores.argmax())
        tags.append(Tag(match.group(), match.start(), match.end(), labels[best], float(scores[best])))
    return tags


class _Window(NamedTuple):
    """A question with a part of its context; `offsets` [pieces, 2] are of the context's pieces, from `first` on."""

    question: int
    ids: list[int]
    types: list[int]
    first: int
    offsets: np.ndarray


def _windows(
    tokenizer: AlbertTokenizer, number: int, question: str, context: str, longest: int, stride: int
) -> list[_Window]:
    asked = tokenizer.encode(question)
    pieces, offsets = tokenizer.encode_with_offsets(context)
    room = longest - len(asked) - 3
    if room < min(stride, 16):
        raise UserError(
            f"the question is {len(asked)} pieces, which leaves no room for its context in {longest} (max_length, or "
            "the model's positions); shorten it"
        )
    head = [tokenizer.cls_id, *asked, tokenizer.sep_id]
    windows = []
    for start in range(0, max(1, len(pieces)), min(stride, room)):
        part = pieces[start : start + room]
        windows.append(
            _Window(
                question=number,
                ids=[*head, *part, tokenizer.sep_id],
                types=[0] * len(head) + [1] * (len(part) + 1),
                first=len(head),
                offsets=offsets[start : start + room],
            )
        )
        if start + room >= len(pieces):
            break
    return windows


def _spans(window: _Window, logits: np.ndarray, count: int, longest: int) -> list[tuple[float, int, int]]:
    """The `count` best (score, start, stop) of a window, in characters of the context."""
    pieces = len(window.offsets)
    if pieces == 0:
        return []
    scores = logits[window.first : window.first + pieces].astype(np.float64)
    longest = min(longest, pieces)
    # [start, pieces beyond it]: the score of every span; those that end beyond the window, or hold no text, have none.
    ends, stops = (
        np.lib.stride_tricks.sliding_window_view(np.pad(side, (0, longest - 1), constant_values=filler), longest)
        for side, filler in ((scores[:, 1], -np.inf), (window.offsets[:, 1], 0))
    )
    totals = np.where(stops > window.offsets[:, :1], scores[:, :1] + ends, -np.inf)
    best = np.argpartition(-totals, min(count, totals.size) - 1, axis=None)[:count]
    return [
        (float(totals[start, beyond]), int(window.offsets[start, 0]), int(stops[start, beyond]))
        for start, beyond in zip(*np.unravel_index(best, totals.shape), strict=True)
        if totals[start, beyond] > -np.inf
    ]


def _beam_spans(window: _Window, beam: np.ndarray, longest: int) -> list[tuple[float, int, int]]:
    """(score, start, stop) of the spans of a beam (see `_beam_of`) in the context, in its characters."""
    ends = (beam.shape[1] - 3) // 2
    scores = beam[:, :1].astype(np.float64) + beam[:, 2 : 2 + ends]
    starts, stops = (side.astype(np.int64) - window.first for side in (beam[:, 1:2], beam[:, 2 + ends : -1]))
    kept = (scores > -np.inf) & (starts >= 0) & (stops >= starts) & (stops < len(window.offsets))
    kept &= stops - starts < longest
    starts = np.broadcast_to(starts, stops.shape)
    begins, stops = window.offsets[starts[kept], 0], window.offsets[stops[kept], 1]
    spans = zip(scores[kept].tolist(), begins.tolist(), stops.tolist(), strict=True)
    return [span for span in spans if span[2] > span[1]]  # a piece may hold no text


def _answers(context: str, spans: list[tuple[float, int, int]], null: float | None, n_best: int) -> list[Answer]:
    best: dict[tuple[int, int], float] = {}
    for score, start, stop in spans:
        best[start, stop] = max(score, best.get((start, stop), -math.inf))  # windows overlap
    if null is not None:
        best[0, 0] = null
    if not best:
        return [Answer("", 0, 0, 1.0)]
    ranked = sorted(best.items(), key=lambda item: (-item[1], item[0]))[: max(n_best, CANDIDATES)]
    scores = _softmax(np.array([score for _, score in ranked]))
    return [
        Answer(context[start:stop], start, stop, float(score))
        for ((start, stop), _), score in zip(ranked[:n_best], scores, strict=False)
    ]


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    return exponentials / exponentials.sum()
