"""The network, written to be read beside the paper: parts in `layers` and `attention`, the stack in `encoder`, the
models in `heads`.

One alphabet for axes, in types, einsums and comments alike:
    B batch    L sequence length    E embedding size    H hidden size    A attention heads    D head size (H / A)
    F feed-forward (intermediate) size    V vocabulary    P masked positions    T segment types
    S sequences of a packed row

Modules hold parameters and static settings only. Outside this package a model is `(graph, params)`, where `params` is
a plain nested dict, and randomness is an explicit argument: one key per sequence, or None for evaluation, so that a
dropout mask depends on (seed, step, position of the sequence in the batch, layer) and on no mesh or accumulation.
"""

from albert_jax.model.encoder import AlbertModel
from albert_jax.model.heads import (
    AlbertForBeamQuestionAnswering,
    AlbertForMaskedLM,
    AlbertForMultipleChoice,
    AlbertForPreTraining,
    AlbertForQuestionAnswering,
    AlbertForSequenceClassification,
    AlbertForTokenClassification,
    AlbertWithoutHead,
    BeamOutput,
    BeamTrainingOutput,
    Output,
    Params,
    PreTrainingOutput,
    apply,
    initialize,
)

__all__ = [
    "AlbertForBeamQuestionAnswering",
    "AlbertForMaskedLM",
    "AlbertForMultipleChoice",
    "AlbertForPreTraining",
    "AlbertForQuestionAnswering",
    "AlbertForSequenceClassification",
    "AlbertForTokenClassification",
    "AlbertModel",
    "AlbertWithoutHead",
    "BeamOutput",
    "BeamTrainingOutput",
    "Output",
    "Params",
    "PreTrainingOutput",
    "apply",
    "initialize",
]
