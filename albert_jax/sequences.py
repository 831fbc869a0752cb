"""Ids put together for the model: one text or two with [CLS] and [SEP], cut to a length, side by side in a batch.

Apart from the tokenizer because it concerns ids and spans only, whatever made them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from albert_jax.errors import UserError

Truncation = Literal["none", "longest_first", "only_first", "only_second"]
Padding = Literal["longest", "max_length"]


@dataclass(frozen=True)
class Encoding:
    """[CLS] A [SEP], or [CLS] A [SEP] B [SEP], of n ids: what `AlbertTokenizer.build` makes."""

    input_ids: np.ndarray
    """int32 [n]"""
    token_type_ids: np.ndarray
    """int32 [n]: 0 up to the first [SEP], it included, and 1 behind"""
    special_tokens_mask: np.ndarray
    """bool [n]: true on [CLS] and [SEP]"""
    offsets: np.ndarray | None
    """int32 [n, 2]: start and end of each piece in its own text, A or B; zeros for [CLS] and [SEP]"""

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class EncodedBatch:
    """Encodings side by side, padded at their ends to one length n."""

    input_ids: np.ndarray
    """int32 [batch, n], `pad_id` on padding"""
    token_type_ids: np.ndarray
    """int32 [batch, n], 0 on padding"""
    attention_mask: np.ndarray
    """bool [batch, n]: false on padding"""
    special_tokens_mask: np.ndarray
    """bool [batch, n]: true on [CLS], [SEP] and padding"""
    offsets: np.ndarray | None
    """int32 [batch, n, 2], zeros on padding"""

    def keys(self) -> tuple[str, ...]:
        """What a model reads, so that `model(**batch)` works."""
        return "input_ids", "token_type_ids", "attention_mask"

    def __getitem__(self, name: str) -> np.ndarray:
        return getattr(self, name)


def join(
    sides: Sequence[tuple[list[int], np.ndarray | None]],
    cls_id: int,
    sep_id: int,
    truncation: Truncation,
    max_length: int | None,
) -> Encoding:
    """[CLS] and each of the one or two texts with a [SEP] behind, cut to `max_length`.

    Args:
        sides: the ids of each text, and the spans of its pieces or None.
        truncation, max_length: see `AlbertTokenizer.build`.
    """
    kept = _truncated_lengths([len(ids) for ids, _ in sides], truncation, max_length)
    input_ids, types, special, spans = [cls_id], [0], [True], [np.zeros((1, 2), np.int32)]
    for segment, ((ids, where), length) in enumerate(zip(sides, kept, strict=True)):
        input_ids += [*ids[:length], sep_id]
        types += [segment] * (length + 1)
        special += [False] * length + [True]
        if where is not None:
            spans += [where[:length], np.zeros((1, 2), np.int32)]
    return Encoding(
        np.array(input_ids, np.int32),
        np.array(types, np.int32),
        np.array(special, bool),
        None if sides[0][1] is None else np.concatenate(spans),
    )


def pad(
    rows: Sequence[Encoding],
    pad_id: int,
    padding: Padding,
    max_length: int | None,
    pad_to_multiple_of: int,
    offsets: bool,
) -> EncodedBatch:
    """The rows side by side, filled up at their ends; see `AlbertTokenizer.__call__`."""
    if padding not in get_args(Padding):
        raise UserError(f"padding is {padding!r}, expected one of {', '.join(get_args(Padding))}")
    if padding == "max_length" and max_length is None:
        raise UserError('padding is "max_length", but max_length is not given')
    if pad_to_multiple_of < 1:
        raise UserError(f"pad_to_multiple_of is {pad_to_multiple_of}, expected at least 1")
    length = max(map(len, rows), default=0) if max_length is None or padding == "longest" else max_length
    shape = len(rows), -(-length // pad_to_multiple_of) * pad_to_multiple_of
    batch = EncodedBatch(
        input_ids=np.full(shape, pad_id, np.int32),
        token_type_ids=np.zeros(shape, np.int32),
        attention_mask=np.zeros(shape, bool),
        special_tokens_mask=np.ones(shape, bool),
        offsets=np.zeros((*shape, 2), np.int32) if offsets else None,
    )
    for i, row in enumerate(rows):
        batch.input_ids[i, : len(row)] = row.input_ids
        batch.token_type_ids[i, : len(row)] = row.token_type_ids
        batch.attention_mask[i, : len(row)] = True
        batch.special_tokens_mask[i, : len(row)] = row.special_tokens_mask
        if batch.offsets is not None:
            batch.offsets[i, : len(row)] = row.offsets
    return batch


def _truncated_lengths(lengths: list[int], truncation: Truncation, max_length: int | None) -> list[int]:
    """How many ids of each text stay, where with [CLS] and one [SEP] each at most `max_length` may."""
    if truncation not in get_args(Truncation):
        raise UserError(f"truncation is {truncation!r}, expected one of {', '.join(get_args(Truncation))}")
    if max_length is None:
        if truncation != "none":
            raise UserError(f'truncation is "{truncation}", but max_length is not given')
        return lengths
    symbols = 1 + len(lengths)
    room, total = max_length - symbols, sum(lengths)
    if room < 0:
        raise UserError(f"max_length is {max_length}, less than [CLS] and [SEP] take ({symbols})")
    if total <= room:
        return lengths
    too_long = f"{total + symbols} ids with [CLS] and [SEP], more than max_length = {max_length}"
    if truncation == "none":
        raise UserError(f'{too_long}; raise it, or set truncation, "longest_first" for example')
    if truncation == "longest_first":
        if len(lengths) == 1:
            return [room]
        short, long = sorted(lengths)
        if short > room // 2:
            short, long = room // 2, room - room // 2
        else:
            long = room - short
        return [long, short] if lengths[0] > lengths[1] else [short, long]
    cut = ("only_first", "only_second").index(truncation)
    if cut >= len(lengths):
        raise UserError(f'{too_long}, and truncation is "only_second" without a second text; set "only_first"')
    left = lengths[cut] - (total - room)
    if left < 1:
        raise UserError(
            f'{too_long}, and truncation = "{truncation}" would leave nothing of a text of {lengths[cut]}; raise '
            'max_length or set "longest_first"'
        )
    return [left if i == cut else length for i, length in enumerate(lengths)]
