"""Embeddings, the stack of shared layers, and the pooler. Sharing is a loop over few blocks, never a shared pointer:
`jax.lax.scan` runs the layers of a group over the one set of parameters that the group has."""

from itertools import groupby
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from albert_jax.config import AlbertConfig
from albert_jax.model.attention import SAVED_NAMES, Attend, FeedForward, SelfAttention, make_attention
from albert_jax.model.attention_kernels import is_kernel_result
from albert_jax.model.layers import Keys, LayerNorm, Linear, at_positions, dropout, fold_in, truncated_normal
from albert_jax.sharding import constrain

Remat = Literal["none", "matmuls", "full"]

EMBEDDING_KEYS = 2**30
"""What the embeddings' dropout folds into the keys; layers fold in their number."""


class Embeddings(nnx.Module):
    """Sum of word, position and segment embeddings, normalised: [B, L, E]."""

    def __init__(self, config: AlbertConfig, *, key: Array):
        size, stddev = config.embedding_size, config.initializer_range
        word, position, token_type = jax.random.split(key, 3)
        self.word = nnx.Param(truncated_normal(word, (config.vocab_size, size), stddev))
        self.position = nnx.Param(truncated_normal(position, (config.max_position_embeddings, size), stddev))
        self.token_type = nnx.Param(truncated_normal(token_type, (config.type_vocab_size, size), stddev))
        self.layer_norm = LayerNorm(size, epsilon=config.layer_norm_eps)
        self.hidden_dropout = config.hidden_dropout_prob

    def __call__(
        self,
        input_ids: Int[Array, "B L"],
        token_type_ids: Int[Array, "B L"],
        position_ids: Int[Array, "B L"] | None,
        keys: Keys | None,
    ) -> Float[Array, "B L E"]:
        # Looked up in float32: the gradient is a scatter-add, exact and fast only in that type. Segment types are few:
        # a product with their one-hot form has a matrix product for gradient, with no contention on two rows.
        word = self.word[...][input_ids]
        position = self.position[: input_ids.shape[1]] if position_ids is None else self.position[...][position_ids]
        types = jax.nn.one_hot(token_type_ids, self.token_type.shape[0]) @ self.token_type[...]
        return dropout(self.layer_norm(word + types + position), self.hidden_dropout, fold_in(keys, EMBEDDING_KEYS))


class Block(nnx.Module):
    """One transformer layer's parameters. A part that lives in group 0 for all groups is None elsewhere."""

    def __init__(self, config: AlbertConfig, group: int, *, key: Array):
        attention, ffn = jax.random.split(key)
        shared = config.shared_across_groups if group > 0 else "nothing"
        self.attention = None if shared == "attention" else SelfAttention(config, key=attention)
        self.ffn = None if shared == "ffn" else FeedForward(config, key=ffn)


class Encoder(nnx.Module):
    """The map from E to H (absent where they are equal, unless asked for) and the layers.

    Parameters are named as in Google's checkpoints: `group_0.inner_group_0`, ..., `group_{G-1}.inner_group_{K-1}`.
    """

    def __init__(self, config: AlbertConfig, *, key: Array):
        self.config = config
        projection, blocks = jax.random.split(key)
        sizes = config.embedding_size, config.hidden_size
        self.embedding_hidden_mapping_in = (
            Linear(*sizes, stddev=config.initializer_range, key=projection) if config.projects_embeddings else None
        )
        for group in range(config.num_hidden_groups):
            inner = nnx.Module()
            for k in range(config.inner_group_num):
                block_key = jax.random.fold_in(blocks, group * config.inner_group_num + k)
                setattr(inner, f"inner_group_{k}", Block(config, group, key=block_key))
            setattr(self, f"group_{group}", inner)

    def __call__(
        self,
        x: Float[Array, "B L E"],
        mask: Bool[Array, "B L"] | Int[Array, "B L"],
        keys: Keys | None,
        remat: Remat,
        attention: str,
        every_block: bool,
        read: Int[Array, "B R"] | None,
    ) -> tuple[Float[Array, "B L H"], Float[Array, "B R H"], Float[Array, "blocks B L H"] | None]:
        """What enters the first block, the last block's output and, if asked for, every block's. With `read`, the last
        block is computed for those positions alone; else R is L. The two cannot be had together."""
        if self.embedding_hidden_mapping_in is not None:
            x = self.embedding_hidden_mapping_in(x)
        x = entering = constrain(x, ("data", "fsdp"), None, None)
        attend = make_attention(attention, self.config, mask, x.dtype.name)
        outputs, first = [], 0
        whole = self.config.num_hidden_layers - (read is not None)
        for group, layers in groupby(self.config.layer_groups[:whole]):
            count = len(list(layers))

            def run_layer(x: Array, layer: Array, group: int = group) -> tuple[Array, Array | None]:
                blocks = self._layer(x, layer, group, attend, keys)
                return blocks[-1], jnp.stack(blocks) if every_block else None

            x, every = jax.lax.scan(rematerialized(run_layer, remat), x, jnp.arange(first, first + count))
            if every_block:
                outputs.append(every.reshape(-1, *x.shape))
            first += count
        if read is not None:
            attend_read = make_attention("plain", self.config, mask, x.dtype.name, read)

            def run_last(x: Array) -> Array:
                group = self.config.layer_groups[-1]
                return self._layer(x, jnp.int32(whole), group, attend, keys, attend_read, read)[-1]

            x = rematerialized(run_last, remat)(x)
        return entering, x, jnp.concatenate(outputs) if every_block else None

    def _layer(
        self,
        x: Float[Array, "B L H"],
        layer: Int[Array, ""],
        group: int,
        attend: Attend,
        keys: Keys | None,
        attend_read: Attend | None = None,
        read: Int[Array, "B R"] | None = None,
    ) -> list[Float[Array, "B _ H"]]:
        """Layer number `layer`: the `inner_group_num` blocks of its group in turn, and what each gives. With `read` the
        last of them attends with `attend_read`, from those positions, and gives [B, R, H]."""
        shared = self.config.shared_across_groups
        outputs = []
        for k in range(self.config.inner_group_num):
            own = getattr(getattr(self, f"group_{group}"), f"inner_group_{k}")
            common = getattr(self.group_0, f"inner_group_{k}")
            block_keys = fold_in(keys, layer * self.config.inner_group_num + k)
            attention = (common if shared == "attention" else own).attention
            if read is not None and k == self.config.inner_group_num - 1:
                x = attention(x, attend_read, block_keys, read)
            else:
                x = attention(x, attend, block_keys)
            x = (common if shared == "ffn" else own).ffn(x, block_keys)
            outputs.append(x)
        return outputs


def rematerialized(function, remat: Remat):
    """`function` under the policy of `ComputeConfig.remat`."""
    if remat == "none":
        return function
    policies = {
        "matmuls": jax.checkpoint_policies.save_from_both_policies(
            jax.checkpoint_policies.save_only_these_names(*SAVED_NAMES), is_kernel_result
        ),
        "full": jax.checkpoint_policies.nothing_saveable,
    }
    # The loop boundary already keeps XLA from merging the two computations, so the barrier against that is not needed.
    return jax.checkpoint(function, policy=policies[remat], prevent_cse=False)


class AlbertModel(nnx.Module):
    """Embeddings, encoder and, for the heads that read it, pooler (paper, section 3.1)."""

    def __init__(self, config: AlbertConfig, *, pooler: bool = True, key: Array):
        embeddings, encoder, pooler_key = jax.random.split(key, 3)
        self.embeddings = Embeddings(config, key=embeddings)
        self.encoder = Encoder(config, key=encoder)
        size = config.hidden_size
        self.pooler = Linear(size, size, stddev=config.initializer_range, key=pooler_key) if pooler else None

    def __call__(
        self,
        input_ids: Int[Array, "B L"],
        token_type_ids: Int[Array, "B L"],
        attention_mask: Bool[Array, "B L"] | Int[Array, "B L"],
        *,
        position_ids: Int[Array, "B L"] | None = None,
        first_positions: Int[Array, "B S"] | None = None,
        read_positions: Int[Array, "B R"] | None = None,
        keys: Keys | None = None,
        dtype: str = "float32",
        remat: Remat = "none",
        attention: str = "plain",
        every_block: bool = False,
    ) -> dict[str, Array | None]:
        """`embedding_output` [B, L, E], `encoder_input` [B, L, H] (the same, projected), `sequence_output` [B, L, H],
        `pooled_output` [B, H] = tanh of a linear map of the first position, and with `every_block` `hidden_states`
        [blocks, B, L, H], else None.

        A row may be packed with several sequences: then `attention_mask` holds their numbers from 1 on (see
        `attention_bias`), `position_ids` the place of each token in its own sequence, and `first_positions` where the S
        sequences begin, each with its [CLS]; `pooled_output` is [B, S, H].

        Of the last block only the results at the first and at `read_positions` are computed, if these are given:
        `sequence_output` is [B, R, H] then, and R may be 0. In a network of twelve layers a twelfth of the work is in
        the last. `every_block` needs all of them.

        A block is what Google's code lists as a layer's output: there are `num_hidden_layers * inner_group_num`."""
        embedded = self.embeddings(input_ids, token_type_ids, position_ids, keys)
        packed = first_positions is not None
        if not packed:
            first_positions = jnp.zeros((input_ids.shape[0], 1), jnp.int32)
        read = None
        if read_positions is not None and not every_block:
            read = jnp.concatenate([first_positions, read_positions], axis=1)
        entering, output, every = self.encoder(
            embedded.astype(dtype), attention_mask, keys, remat, attention, every_block, read
        )
        if read is not None:
            first, output = jnp.split(output, [first_positions.shape[1]], axis=1)
        else:
            first = at_positions(output, first_positions)
            output = output if read_positions is None else at_positions(output, read_positions)
        if not packed:
            first = first[:, 0]
        return dict(
            embedding_output=embedded,
            encoder_input=entering,
            hidden_states=every,
            sequence_output=output,
            pooled_output=None if self.pooler is None else jnp.tanh(self.pooler(first)),
        )
