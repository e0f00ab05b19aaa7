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
    """Keys and values of all layers, head by head as attention reads them."""

    k_LBKSH: Array
    v_LBKSH: Array

    def read(self, number: Array | int) -> tuple[Array, Array]:
        """Keys and values of a layer, (B, S, K, H) each."""
        k_BKSH, v_BKSH = (jax.lax.dynamic_index_in_dim(x, number, keepdims=False) for x in self)
        return k_BKSH.swapaxes(1, 2), v_BKSH.swapaxes(1, 2)

    def write(self, number: Array | int, k_BTKH: Array, v_BTKH: Array, length: Array | int) -> "LayerCache":
        """With more of a layer, in its slots from `length` on."""
        new = (k_BTKH.swapaxes(1, 2)[None], v_BTKH.swapaxes(1, 2)[None])
        at = (number, 0, 0, length, 0)
        return LayerCache(*(jax.lax.dynamic_update_slice(x, y, at) for x, y in zip(self, new, strict=True)))


class KVCache(struct.PyTreeNode):
    """Keys and values of the tokens seen so far; slots are filled in order of arrival, the same for all rows.

    Attributes:
        layers: keys and values, in the compute dtype; or an LSTM's state (L, B, D).
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
    shape = (config.num_layers, batch_size, config.num_kv_heads, num_slots)
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
    """Writes (B, T) into the slots (B, S) from `length` on."""
    return jax.lax.dynamic_update_slice_in_dim(old, new, length, axis=1)
