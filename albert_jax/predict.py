"""What a trained model says: completions of masked sentences."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from albert_jax.config import AlbertConfig
from albert_jax.errors import UserError
from albert_jax.model import Params, apply
from albert_jax.tokenizer import AlbertTokenizer

MASK = "[MASK]"


class Completion(NamedTuple):
    """One piece for one [MASK], with its probability."""

    piece: str
    probability: float


def fill_mask(
    config: AlbertConfig, params: Params, tokenizer: AlbertTokenizer, sentences: Sequence[str], top_k: int = 3
) -> list[list[list[Completion]]]:
    """The `top_k` likeliest ordinary pieces for every [MASK] of every sentence, likeliest first.

    Raises `UserError` for a sentence without [MASK] or longer than the model's positions.
    """
    encoded = [_encode(tokenizer, sentence, config.max_position_embeddings) for sentence in sentences]
    if not encoded:
        return []
    longest = max(len(ids) for ids in encoded)
    most_masks = max(ids.count(tokenizer.mask_id) for ids in encoded)
    input_ids = np.full((len(encoded), longest), tokenizer.pad_id, np.int32)
    positions = np.zeros((len(encoded), most_masks), np.int32)
    for row, ids in enumerate(encoded):
        input_ids[row, : len(ids)] = ids
        masks = [place for place, piece in enumerate(ids) if piece == tokenizer.mask_id]
        positions[row, : len(masks)] = masks
    mask = np.arange(longest) < np.array([[len(ids)] for ids in encoded])

    @jax.jit
    def probabilities(params: Params) -> jax.Array:
        output = apply(
            config,
            params,
            jnp.asarray(input_ids),
            jnp.zeros_like(input_ids),
            jnp.asarray(mask),
            jnp.asarray(positions),
        )
        # Special pieces complete nothing.
        special = jnp.asarray(tokenizer.special_ids)
        return jax.nn.softmax(output.mlm_logits.at[:, :, special].set(-jnp.inf), axis=-1)

    scores = np.asarray(probabilities(params))
    return [
        [_likeliest(tokenizer, at, top_k) for at in scores[row, : ids.count(tokenizer.mask_id)]]
        for row, ids in enumerate(encoded)
    ]


def _likeliest(tokenizer: AlbertTokenizer, probabilities: np.ndarray, top_k: int) -> list[Completion]:
    """The `top_k` best of probabilities [V]."""
    return [
        Completion(tokenizer.id_to_piece(int(piece)).removeprefix("▁") or "▁", float(probabilities[piece]))
        for piece in probabilities.argsort()[::-1][:top_k]
    ]


def _encode(tokenizer: AlbertTokenizer, sentence: str, longest: int) -> list[int]:
    if MASK not in sentence:
        raise UserError(f"{sentence!r}: contains no {MASK}")
    ids = [tokenizer.cls_id]
    for index, part in enumerate(sentence.split(MASK)):
        pieces = tokenizer.encode(part)
        if index:
            ids.append(tokenizer.mask_id)
            if pieces and not part[0].isspace() and tokenizer.id_to_piece(pieces[0]) == "▁":
                del pieces[0]  # SentencePiece begins every text with a space; "[MASK]." has none
        ids += pieces
    ids.append(tokenizer.sep_id)
    if len(ids) > longest:
        raise UserError(f"{sentence[:60]!r}...: {len(ids)} pieces, more than the model's {longest} positions")
    return ids
