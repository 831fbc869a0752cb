"""Sizes of trees of arrays, real or abstract."""

import math
from typing import Any

import jax


def tree_size(tree: Any) -> int:
    """Number of elements."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def tree_bytes(tree: Any) -> int:
    """Bytes, whole, however the arrays are sharded."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def tree_bytes_per_device(tree: Any) -> int:
    """Bytes on one device, of leaves that carry a sharding."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
