"""ALBERT in JAX/Flax: pretraining from scratch, fine-tuning, and exchange with other frameworks.

    from albert_jax import AlbertForMaskedLM
    model = AlbertForMaskedLM.from_pretrained("runs/sample")

The models are imported when they are first asked for, so that reading data never waits for JAX."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from albert_jax.pretrained import (
        AlbertForMaskedLM,
        AlbertForMultipleChoice,
        AlbertForPreTraining,
        AlbertForQuestionAnswering,
        AlbertForSequenceClassification,
        AlbertForTokenClassification,
        AlbertModel,
    )

__version__ = "0.1.0"

__all__ = [
    "AlbertForMaskedLM",
    "AlbertForMultipleChoice",
    "AlbertForPreTraining",
    "AlbertForQuestionAnswering",
    "AlbertForSequenceClassification",
    "AlbertForTokenClassification",
    "AlbertModel",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from albert_jax import pretrained

    return getattr(pretrained, name)
