"""The key-value cache of generation.

Letters: B batch, S cache slots, K kv heads, H head dim, L layers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from .config import TransformerConfig
from .lstm import LSTMState


class LayerCache(NamedTuple):
    """Keys and values of one layer; with a leading layer dim, of all."""

    k_BSKH: Array
    v_BSKH: Array


class KVCache(struct.PyTreeNode):
    """Keys and values of the tokens seen so far; slots are filled in order of arrival, the same for all rows.

    Attributes:
        layers: keys and values (L, B, S, K, H), in the compute dtype; or an LSTM's state.
        positions_BS: position of each slot's token.
        segment_ids_BS: document of each slot's token; 0 marks an empty slot or padding.
        length: scalar, the number of slots in use.
        memory: of an encoder-decoder, the same of the encoder's tokens; its slots are filled at once.
    """

    layers: LayerCache | LSTMState
    positions_BS: Array
    segment_ids_BS: Array
    length: Array
    memory: "KVCache | None" = None


def init_cache(config: TransformerConfig, batch_size: int, num_slots: int, *, memory_slots: int = 0) -> KVCache:
    """An empty cache.

    Args:
        config: the model's.
        batch_size: rows.
        num_slots: tokens of a row, at most.
        memory_slots: tokens of the encoder, exactly; 0 for a decoder alone.
    """
    latent = config.choice("latent_attention")
    sizes = (config.size_of_head + latent.rope, latent.value) if latent.kind else (config.size_of_head,) * 2
    shape = (config.num_layers, batch_size, num_slots, config.num_kv_heads)
    layers = LayerCache(*(jnp.zeros((*shape, size), config.compute_dtype) for size in sizes))
    if config.block == "lstm":
        shape = (config.num_layers, batch_size, config.d_model)
        layers = LSTMState(jnp.zeros(shape, config.compute_dtype), jnp.zeros(shape))
    return KVCache(
        layers=layers,
        positions_BS=jnp.zeros((batch_size, num_slots), jnp.int32),
        segment_ids_BS=jnp.zeros((batch_size, num_slots), jnp.int32),
        length=jnp.zeros((), jnp.int32),
        memory=init_cache(config, batch_size, memory_slots) if memory_slots else None,
    )


def append(old: Array, new: Array, length: Array | int) -> Array:
    """Writes (B, T, ...) into the slots (B, S, ...) from `length` on."""
    return jax.lax.dynamic_update_slice_in_dim(old, new, length, axis=1)
