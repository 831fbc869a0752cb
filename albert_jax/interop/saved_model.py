"""What every kind of source is read into: a network's configuration, whatever parameters there are, and what is to be
said about them. Choosing from it what a model class needs is `albert_jax.pretrained`'s."""

from dataclasses import dataclass, field

import numpy as np

from albert_jax.config import AlbertConfig
from albert_jax.errors import UserError

MAX_DEPTH = 1000
"""Blocks that a network may apply one after the other; the largest ALBERT has 24."""


def require_possible_depth(config: AlbertConfig, place: str) -> None:
    """Raises `UserError` for a network so deep that naming its layers alone would take minutes."""
    depth = config.num_hidden_layers * config.inner_group_num
    if depth > MAX_DEPTH:
        raise UserError(
            f"{place}: num_hidden_layers = {config.num_hidden_layers:,} with inner_group_num = "
            f"{config.inner_group_num:,} are {depth:,} blocks, at most {MAX_DEPTH:,} are possible; restore the file"
        )


@dataclass
class SavedModel:
    """A model as found.

    Attributes:
        source: the file or folder, for messages.
        config: the network's settings, corrected where the source's are known to be wrong.
        parameters: float32 arrays by path, such as "albert/pooler/kernel"; of any head, and not always all.
        left_over: names in the source that no model of ours has.
        notes: lines to tell the user.
        architecture: the class that saved it, if known.
        labels: names of a classifier's labels, () if unknown.
        problem_type: Hugging Face's field of that name.
        untrained: paths of parameters that were drawn at random and saved before they were trained.
    """

    source: str
    config: AlbertConfig
    parameters: dict[str, np.ndarray]
    left_over: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    architecture: str | None = None
    labels: tuple[str, ...] = ()
    problem_type: str | None = None
    untrained: tuple[str, ...] = ()
