"""ALBERT in JAX/Flax: pretraining from scratch, fine-tuning, and exchange with other frameworks.

    from albert_jax import AlbertForMaskedLM
    model = AlbertForMaskedLM.from_pretrained("runs/sample")

Everything is imported when it is first asked for, so that reading data never waits for JAX."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from albert_jax.config import AlbertConfig
    from albert_jax.pretrained import (
        AlbertForBeamQuestionAnswering,
        AlbertForMaskedLM,
        AlbertForMultipleChoice,
        AlbertForPreTraining,
        AlbertForQuestionAnswering,
        AlbertForSequenceClassification,
        AlbertForTokenClassification,
        AlbertModel,
    )
    from albert_jax.tokenizer import AlbertTokenizer

__version__ = "0.1.0"

__all__ = [
    "AlbertConfig",
    "AlbertForBeamQuestionAnswering",
    "AlbertForMaskedLM",
    "AlbertForMultipleChoice",
    "AlbertForPreTraining",
    "AlbertForQuestionAnswering",
    "AlbertForSequenceClassification",
    "AlbertForTokenClassification",
    "AlbertModel",
    "AlbertTokenizer",
]

_HOMES = {"AlbertConfig": "albert_jax.config", "AlbertTokenizer": "albert_jax.tokenizer"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "albert_jax.pretrained")), name)
