"""What is mixed into the values of attention, beside a layer's own.

Each layer has a weight for its own values and one for each thing that is mixed into them:

    v = w_0 v_own + w_1 v_first + w_2 E_g[token]

The values of the first layer, which are their linear map of the token, then reach all others unchanged (ResFormer, Zhou
et al. 2024, arXiv:2410.17897, with its learned weights). So does E, an embedding of the token that goes to the values
alone (value embeddings, as in speed runs of GPT's training); the layers take turns with its G tables, g = layer % G.

The weights begin equal, with a sum of 1, and are free afterwards; E begins with a standard deviation of 1, as
projections of normalised inputs have. The first layer mixes too: its own values then have two weights.

Letters: B batch, T length, K kv heads, H head dim, V vocab, G tables, P parts of the mix.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from .config import TransformerConfig
from .layers import look_up, weight


class SharedValues(NamedTuple):
    """What the layers of a tower mix into their values.

    Attributes:
        first_BTKH: values of the first layer, or None.
        embedded_BTGKH: the tokens' rows in all tables, or None.
    """

    first_BTKH: Array | None = None
    embedded_BTGKH: Array | None = None

    def of_layer(self, number: Array | int) -> list[Array]:
        """What a layer mixes, each (B, T, K, H); `number` is the layer's, from 0."""
        parts = [] if self.first_BTKH is None else [self.first_BTKH]
        if self.embedded_BTGKH is not None:
            table = number % self.embedded_BTGKH.shape[2]
            parts.append(jax.lax.dynamic_index_in_dim(self.embedded_BTGKH, table, axis=2, keepdims=False))
        return parts


def embed_values(module: nn.Module, c: TransformerConfig, tokens_BT: Array) -> Array:
    """Looks the tokens up in all tables of value embeddings at once: (B, T, G, K, H).

    Args:
        module: holds the tables, side by side in one parameter (V, G * K * H).
        c: the hyperparameters.
        tokens_BT: ids.
    """
    sizes = (c.value_tables, c.num_kv_heads, c.size_of_head)
    shape = (c.padded_vocab_size, sizes[0] * sizes[1] * sizes[2])
    table = weight(module, "value_embedding", shape, ("vocab", "embed"), nn.initializers.normal(1.0))
    rows_BTGKH = look_up(table, tokens_BT, c.compute_dtype).reshape(*tokens_BT.shape, *sizes)
    return nn.with_logical_constraint(rows_BTGKH, ("batch", "length", None, "kv_heads", "head_dim"))


def mix_values(
    module: nn.Module, c: TransformerConfig, v_BTKH: Array, shared: SharedValues, number: Array | int
) -> Array:
    """The weighted sum of a layer's own values and what is mixed into them.

    Args:
        module: holds the weights (P,).
        c: the hyperparameters.
        v_BTKH: the layer's own values.
        shared: what is mixed into them; while parameters are initialised it may be missing.
        number: of the layer, from 0.

    Returns:
        (B, T, K, H) in the values' dtype.
    """
    P = c.num_values
    weights_P = weight(module, "value_mix", (P,), ("norm",), nn.initializers.constant(1 / P)).astype(v_BTKH.dtype)
    parts = [v_BTKH, *shared.of_layer(number)]
    assert len(parts) == P or module.is_initializing(), f"{len(parts)} of {P} values"
    total_BTKH = jnp.zeros((), v_BTKH.dtype)
    for i, part_BTKH in enumerate(parts):
        total_BTKH = total_BTKH + weights_P[i] * part_BTKH
    return total_BTKH
