"""What every kind of source is read into: a network's configuration, whatever parameters there are, and what is to be
said about them. Choosing from it what a model class needs is `albert_jax.pretrained`'s."""

from dataclasses import dataclass, field

import numpy as np

from albert_jax.config import AlbertConfig


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
    """

    source: str
    config: AlbertConfig
    parameters: dict[str, np.ndarray]
    left_over: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    architecture: str | None = None
    labels: tuple[str, ...] = ()
    problem_type: str | None = None
