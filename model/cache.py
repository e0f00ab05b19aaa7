"""The key-value cache of generation.

Letters: B batch, S cache slots, K kv heads, H head dim, L layers.
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import struct
from jax import Array

from .config import TransformerConfig


class LayerCache(NamedTuple):
    """One layer's part of a `KVCache`."""

    k_BSKH: Array
    v_BSKH: Array
    length: Array


class KVCache(struct.PyTreeNode):
    """Keys and values of the tokens seen so far; slots are filled in order of arrival, the same for all rows.

    Attributes:
        k_LBSKH: keys, in the compute dtype.
        v_LBSKH: values, in the compute dtype.
        positions_BS: position of each slot's token.
        segment_ids_BS: document of each slot's token; 0 marks an empty slot or padding.
        length: scalar, the number of slots in use.
    """

    k_LBSKH: Array
    v_LBSKH: Array
    positions_BS: Array
    segment_ids_BS: Array
    length: Array


def init_cache(config: TransformerConfig, batch_size: int, num_slots: int) -> KVCache:
    """An empty cache for `batch_size` rows of up to `num_slots` tokens."""
    shape = (config.num_layers, batch_size, num_slots, config.num_kv_heads, config.size_of_head)
    return KVCache(
        k_LBSKH=jnp.zeros(shape, config.dtype),
        v_LBSKH=jnp.zeros(shape, config.dtype),
        positions_BS=jnp.zeros((batch_size, num_slots), jnp.int32),
        segment_ids_BS=jnp.zeros((batch_size, num_slots), jnp.int32),
        length=jnp.zeros((), jnp.int32),
    )
