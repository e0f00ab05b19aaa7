"""A long short-term memory in the place of a Transformer's layer, for comparison.

Letters: B batch, T length, D model, E model too; G or 4: the gates of input, forgetting, cell and output.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from .config import TransformerConfig
from .layers import dropout, fold_in, projection_init, weight


class LSTMState(NamedTuple):
    """What a layer remembers; with a leading layer dim, all of them."""

    h_BD: Array
    c_BD: Array


def lstm(
    gates_BT4D: Array, w_DGE: Array, state: LSTMState, *, begins_BT: Array, is_token_BT: Array
) -> tuple[Array, LSTMState]:
    """Runs an LSTM along the length (Hochreiter and Schmidhuber 1997; Zaremba et al. 2014, arXiv:1409.2329, eq. 4).

    Args:
        gates_BT4D: what the inputs and biases add to the gates.
        w_DGE: what the last output adds.
        state: before the first token.
        begins_BT: where a document begins, before which it is forgotten.
        is_token_BT: False for padding, which changes nothing.

    Returns:
        Outputs (B, T, D) in the dtype of the gates, and the last state; the cell is float32.
    """

    def step(state: LSTMState, at: Any) -> tuple[LSTMState, Array]:
        gates_B4D, begins_B, is_token_B = at
        before = LSTMState(*(jnp.where(begins_B[:, None], jnp.zeros((), x.dtype), x) for x in state))
        gates_B4D = (gates_B4D + jnp.einsum("BD,DGE->BGE", before.h_BD, w_DGE)).astype(jnp.float32)
        i_BD, f_BD, g_BD, o_BD = (gates_B4D[:, n] for n in range(4))
        c_BD = jax.nn.sigmoid(f_BD) * before.c_BD + jax.nn.sigmoid(i_BD) * jnp.tanh(g_BD)
        after = LSTMState((jax.nn.sigmoid(o_BD) * jnp.tanh(c_BD)).astype(gates_BT4D.dtype), c_BD)
        state = LSTMState(*(jnp.where(is_token_B[:, None], new, old) for new, old in zip(after, state, strict=True)))
        return state, state.h_BD

    along = (gates_BT4D, begins_BT, is_token_BT)
    state, h_TBD = jax.lax.scan(step, state, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), along))
    return jnp.moveaxis(h_TBD, 0, 1), state


class LSTMBlock(nn.Module):
    """A layer of an LSTM, called as `model.block.Block` is."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        x_BTD: Array,
        place: Any,
        *,
        number: Array | int,
        caches: tuple[LSTMState | None, None] = (None, None),
        memory: None = None,
        dropout_keys_BT: Array | None = None,
    ) -> tuple[Array, tuple[LSTMState | None, None], dict[str, Array]]:
        """Maps (B, T, D) to (B, T, D); also returns the state after the last token if there was one before, and {}."""
        c, D, shape = self.config, self.config.d_model, (self.config.d_model, 4, self.config.d_model)
        axes, init = ("embed", "gates", "mlp"), projection_init(D)
        w_x, w_h = (weight(self, name, shape, axes, init).astype(c.compute_dtype) for name in ("w_x", "w_h"))
        bias_4D = weight(self, "b_gates", shape[1:], axes[1:], _forget_bias).astype(c.compute_dtype)
        gates_BT4D = jnp.einsum("BTD,DGE->BTGE", x_BTD, w_x) + bias_4D
        gates_BT4D = nn.with_logical_constraint(gates_BT4D, ("batch", None, None, "mlp"))
        zeros = jnp.zeros((x_BTD.shape[0], D))
        kept, state = caches[0], LSTMState(zeros.astype(c.compute_dtype), zeros)
        if kept is not None:
            state = LSTMState(*(of_all[number] for of_all in kept))
        is_token_BT = place.q_segment_ids_BT != 0
        begins_BT = is_token_BT & (place.positions_BT == 0)
        y_BTD, state = lstm(gates_BT4D, w_h, state, begins_BT=begins_BT, is_token_BT=is_token_BT)
        y_BTD = nn.with_logical_constraint(y_BTD, ("batch", "residual_length", "act_embed"))
        keys_BT = None if dropout_keys_BT is None else fold_in(dropout_keys_BT, 0)
        if kept is not None:
            kept = LSTMState(*(of_all.at[number].set(own) for of_all, own in zip(kept, state, strict=True)))
        return dropout(y_BTD, c.dropout, keys_BT), (kept, None), {}


def _forget_bias(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Zeros, and 1 for the forget gate (Jozefowicz et al. 2015, section 2.2)."""
    del key
    return jnp.zeros(shape, dtype).at[1].set(1.0)
