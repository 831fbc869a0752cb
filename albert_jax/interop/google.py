"""Google's variable names and ours: the parameters of `AlbertForPreTraining` as the flat dict of a TensorFlow
checkpoint (reference: variable names of google-research/albert, modeling.py and run_pretraining.py), and back."""

from collections.abc import Mapping

import numpy as np

from albert_jax.config import AlbertConfig
from albert_jax.errors import UserError
from albert_jax.model import Params

BLOCK_NAMES = {
    "attention/query": "attention_1/self/query",
    "attention/key": "attention_1/self/key",
    "attention/value": "attention_1/self/value",
    "attention/output": "attention_1/output/dense",
    "attention/layer_norm": "LayerNorm",
    "ffn/intermediate": "ffn_1/intermediate/dense",
    "ffn/output": "ffn_1/intermediate/output/dense",
    "ffn/layer_norm": "LayerNorm_1",
}


def variable_names(config: AlbertConfig) -> dict[str, str]:
    """Path of each of our parameters -> name of Google's variable."""
    if config.shared_across_groups != "nothing":
        raise UserError(
            f"model.shared_across_groups = {config.shared_across_groups!r}: Google's checkpoints have no such sharing"
        )
    modules = {
        "albert/embeddings/layer_norm": "bert/embeddings/LayerNorm",
        "albert/pooler": "bert/pooler/dense",
        "predictions/dense": "cls/predictions/transform/dense",
        "predictions/layer_norm": "cls/predictions/transform/LayerNorm",
    }
    if config.embedding_size != config.hidden_size:
        modules["albert/encoder/embedding_hidden_mapping_in"] = "bert/encoder/embedding_hidden_mapping_in"
    for group in range(config.num_hidden_groups):
        for inner in range(config.inner_group_num):
            block = f"group_{group}/inner_group_{inner}"
            for ours, google in BLOCK_NAMES.items():
                modules[f"albert/encoder/{block}/{ours}"] = f"bert/encoder/transformer/{block}/{google}"
    names = {
        "albert/embeddings/word": "bert/embeddings/word_embeddings",
        "albert/embeddings/position": "bert/embeddings/position_embeddings",
        "albert/embeddings/token_type": "bert/embeddings/token_type_embeddings",
        "predictions/bias": "cls/predictions/output_bias",
        "sop_classifier/kernel": "cls/seq_relationship/output_weights",
        "sop_classifier/bias": "cls/seq_relationship/output_bias",
    }
    for ours, google in modules.items():
        leaves = ("scale", "gamma"), ("bias", "beta")
        for leaf, variable in leaves if ours.endswith("layer_norm") else (("kernel",) * 2, ("bias",) * 2):
            names[f"{ours}/{leaf}"] = f"{google}/{variable}"
    return names


def from_google(config: AlbertConfig, variables: Mapping[str, np.ndarray]) -> Params:
    """Our parameters from Google's variables; optimizer slots and other extra entries are ignored.

    Raises `UserError` naming the variables that are missing.
    """
    names = variable_names(config)
    missing = sorted(set(names.values()) - set(variables))
    if missing:
        raise UserError(f"the checkpoint lacks {len(missing)} of {len(names)} variables: {', '.join(missing[:5])} ...")
    params: Params = {}
    for ours, google in names.items():
        *parents, leaf = ours.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = _transposed(google, np.asarray(variables[google]))
    return params


def to_google(config: AlbertConfig, params: Params) -> dict[str, np.ndarray]:
    """Google's variables from our parameters."""
    variables = {}
    for ours, google in variable_names(config).items():
        leaf = params
        for part in ours.split("/"):
            leaf = leaf[part]
        variables[google] = _transposed(google, np.asarray(leaf))
    return variables


def _transposed(google: str, array: np.ndarray) -> np.ndarray:
    # Kernels are [in, out] on both sides; only the sentence-order matrix is stored [out, in].
    return array.T if google == "cls/seq_relationship/output_weights" else array
