"""Mixture of experts: a router sends each token to k of E MLPs and adds up their weighted outputs.

Letters: B batch, T length, D model, F mlp, E experts, k experts of a token, G groups of e experts, C slots of
an expert, N tokens, M copies of tokens in the order of their experts.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from .choice import Choice
from .config import TransformerConfig
from .grouped_matmul import grouped_matmul
from .init import output_init, router_init
from .layers import ACTIVATIONS, projection_init, weight

# Logical axes of the experts' parameters; "w_gate" is there if the MLP is gated, "b_" if projections have biases.
EXPERT_AXES = {
    "w_in": ("experts", "embed", "mlp"),
    "w_gate": ("experts", "embed", "mlp"),
    "w_out": ("experts", "mlp", "embed"),
    "b_in": ("experts", "mlp"),
    "b_gate": ("experts", "mlp"),
    "b_out": ("experts", "norm"),
}


def route(
    logits_BTE: Array, is_token_BT: Array, *, num_chosen: int, router: Choice, bias_E: Array | None = None
) -> tuple[Array, Array, Array]:
    """Chooses each token's experts by their scores (Jiang et al. 2024, arXiv:2401.04088, section 2.1).

    Args:
        logits_BTE: float32.
        is_token_BT: False for padding, which goes to no expert.
        num_chosen: experts k of a token.
        router: see `TransformerConfig`; of groups those are chosen from whose two best experts have the largest sum
            (DeepSeek-V3 2024, arXiv:2412.19437, section 2.1.2).
        bias_E: added to the scores for the choice alone (Wang et al. 2024, arXiv:2408.15664, eq. 3).

    Returns:
        Chosen experts (B, T, k), E for padding; their weights (B, T, k); and all scores (B, T, E), which sum to 1. The
        weights are the scores, over their sum if normalised. With k = 1 that would always be 1 and teach the router
        nothing, so there the weight is the score itself (Fedus et al. 2022, arXiv:2101.03961, eq. 2).
    """
    E = logits_BTE.shape[-1]
    scores_BTE = jax.nn.sigmoid(logits_BTE) if router.kind == "sigmoid" else jax.nn.softmax(logits_BTE, axis=-1)
    ranked_BTE = jax.lax.stop_gradient(scores_BTE if bias_E is None else scores_BTE + bias_E)
    if router.groups > 1:
        grouped_BTGe = ranked_BTE.reshape(*ranked_BTE.shape[:2], router.groups, -1)
        best_BTG = jnp.sum(-jnp.sort(-grouped_BTGe, axis=-1)[..., :2], axis=-1)
        is_in_BTG = jnp.any(_largest(best_BTG, router.top_groups)[..., None] == jnp.arange(router.groups), axis=-2)
        ranked_BTE = jnp.where(is_in_BTG[..., None], grouped_BTGe, -jnp.inf).reshape(ranked_BTE.shape)
    chosen_BTk = _largest(ranked_BTE, num_chosen)
    gates_BTk = jnp.take_along_axis(scores_BTE, chosen_BTk, axis=-1)
    if num_chosen > 1 and router.normalize:
        gates_BTk = gates_BTk / (jnp.sum(gates_BTk, axis=-1, keepdims=True) + 1e-20)  # sigmoids may all be 0
    if router.kind == "sigmoid":
        scores_BTE = scores_BTE / (jnp.sum(scores_BTE, axis=-1, keepdims=True) + 1e-20)
    is_token_BT1 = is_token_BT[..., None]
    gates_BTk = jnp.where(is_token_BT1, gates_BTk * router.scale, 0.0)
    return jnp.where(is_token_BT1, chosen_BTk, E), gates_BTk, scores_BTE


def balance_loss(probs_BTE: Array, counts_BE: Array, is_token_BT: Array) -> Array:
    """Sequence-wise balance loss, summed over tokens (DeepSeek-V3 2024, arXiv:2412.19437, eq. 17-20).

    Args:
        probs_BTE: probabilities of the experts.
        counts_BE: tokens of each row that chose the expert.
        is_token_BT: False for padding.

    Returns:
        The sum over rows of E * sum_e(share of choices * mean probability), times the row's tokens: with even loads
        as many as there are tokens.
    """
    counts_BE = counts_BE.astype(jnp.float32)
    share_BE = counts_BE / jnp.maximum(jnp.sum(counts_BE, axis=1, keepdims=True), 1.0)
    total_BE = jnp.sum(probs_BTE, axis=1, where=is_token_BT[..., None])  # the mean times the row's tokens
    return probs_BTE.shape[-1] * jnp.sum(share_BE * total_BE)


def router_z_loss(logits_BTE: Array, is_token_BT: Array) -> Array:
    """Sum over tokens of log(Z)^2 (Zoph et al. 2022, arXiv:2202.08906, eq. 5)."""
    return jnp.sum(jnp.square(jax.nn.logsumexp(logits_BTE, axis=-1)), where=is_token_BT)


def load_gradient(bias_E: Array, counts_E: Array) -> Array:
    """Zero, with a gradient to the bias that is the load of each expert beyond the mean, times E.

    Thus loads are summed over microbatches and devices as gradients are. Times E they are whole numbers, so that
    an even load gives exactly zero in whatever order they are summed; the update takes only the sign.
    """
    excess_E = (counts_E.shape[0] * counts_E - jnp.sum(counts_E)).astype(jnp.float32)
    return jnp.sum(excess_E * (bias_E - jax.lax.stop_gradient(bias_E)))


def dropless(x_BTD: Array, chosen_BTk: Array, gates_BTk: Array, weights: dict[str, Array], *, activation: str) -> Array:
    """Every expert computes all tokens that chose it, however many (Gale et al. 2022, arXiv:2211.15841).

    Args:
        x_BTD: tokens.
        chosen_BTk: different experts for each token; what is not in [0, E) is left out.
        gates_BTk: weight of each chosen expert's output.
        weights: parameters in the compute dtype, named as in `EXPERT_AXES`, each (E, ...).
        activation: a key of `model.layers.ACTIVATIONS`.

    Returns:
        The weighted sum of the experts' outputs (B, T, D).
    """
    D, k = x_BTD.shape[-1], chosen_BTk.shape[-1]
    E = weights["w_in"].shape[0]
    x_ND = x_BTD.reshape(-1, D)
    expert_Nk = jnp.where((chosen_BTk >= 0) & (chosen_BTk < E), chosen_BTk, E).reshape(-1)
    sizes_E = jnp.sum(expert_Nk[:, None] == jnp.arange(E), axis=0, dtype=jnp.int32)
    # A token's experts differ, so no more than this many copies are for the experts here; those come first.
    order_M = jnp.argsort(expert_Nk)[: x_ND.shape[0] * min(k, E)]
    token_M, expert_M = order_M // k, expert_Nk[order_M]
    is_copy_M1 = (expert_M < E)[:, None]

    def project(name: str, x_MI: Array) -> Array:
        y_MO = grouped_matmul(x_MI, weights[f"w_{name}"], sizes_E)
        if f"b_{name}" in weights:
            y_MO = y_MO + weights[f"b_{name}"].at[expert_M].get(mode="fill", fill_value=0)
        return y_MO

    # What a grouped matmul leaves in the rows beyond its groups is not defined everywhere, here or in its transpose.
    x_MD = jnp.where(is_copy_M1, x_ND[token_M], jnp.zeros((), x_ND.dtype))
    y_MD = jnp.where(is_copy_M1, _mlp(project, x_MD, weights, activation), jnp.zeros((), x_ND.dtype))
    y_MD = y_MD * gates_BTk.reshape(-1)[order_M][:, None].astype(y_MD.dtype)
    return jnp.zeros_like(x_ND).at[token_M].add(y_MD).reshape(x_BTD.shape)


def with_capacity(
    x_BTD: Array,
    chosen_BTk: Array,
    gates_BTk: Array,
    probs_BTE: Array,
    weights: dict[str, Array],
    *,
    activation: str,
    factor: float,
) -> tuple[Array, Array]:
    """An expert computes at most C = ceil(factor * T * k / E) tokens of a row, those that are most likely to choose it.

    That is batch-prioritised routing (Riquelme et al. 2021, arXiv:2106.05974, section 4.1) within each row and expert:
    neither the division of the rows nor the order of their tokens changes who is kept.

    Args:
        x_BTD: see `dropless`, as for the next two.
        chosen_BTk: chosen experts.
        gates_BTk: their weights.
        probs_BTE: probabilities of all experts.
        weights: see `dropless`.
        activation: a key of `model.layers.ACTIVATIONS`.
        factor: capacity, as a multiple of an even share.

    Returns:
        The weighted sum of the outputs of those experts that had room (B, T, D), and the number of copies dropped.
    """
    T, k, E = x_BTD.shape[1], chosen_BTk.shape[-1], probs_BTE.shape[-1]
    C = min(T, math.ceil(factor * T * k / E))
    is_chosen_BTkE = chosen_BTk[..., None] == jnp.arange(E)
    gates_BTE = jnp.sum(jnp.where(is_chosen_BTkE, gates_BTk[..., None], 0.0), axis=2)
    scores_BTE = jnp.where(jnp.any(is_chosen_BTkE, axis=2), jax.lax.stop_gradient(probs_BTE), -1.0)
    scores_BET = scores_BTE.swapaxes(1, 2)
    token_BEC = _largest(scores_BET, C)
    is_kept_BEC = jnp.take_along_axis(scores_BET, token_BEC, axis=2) >= 0
    gates_BEC = jnp.where(is_kept_BEC, jnp.take_along_axis(gates_BTE.swapaxes(1, 2), token_BEC, axis=2), 0.0)

    # Two constraints make the exchange: before it a device has all experts of its rows, after it its experts' rows.
    at_rows = ("batch", None, "length", None)
    at_experts = ("expert_batch", "experts", "length", None)
    x_BECD = jax.vmap(lambda x_TD, token_EC: x_TD[token_EC])(x_BTD, token_BEC)
    x_BECD = nn.with_logical_constraint(nn.with_logical_constraint(x_BECD, at_rows), at_experts)

    def project(name: str, x_BECI: Array) -> Array:
        y_BECO = jnp.einsum("BECI,EIO->BECO", x_BECI, weights[f"w_{name}"])
        if f"b_{name}" in weights:
            y_BECO = y_BECO + weights[f"b_{name}"][:, None]
        return nn.with_logical_constraint(y_BECO, (*at_experts[:3], EXPERT_AXES[f"b_{name}"][1]))

    y_BECD = _mlp(project, x_BECD, weights, activation)
    y_BECD = nn.with_logical_constraint(nn.with_logical_constraint(y_BECD, at_experts), at_rows)
    y_BECD = y_BECD * gates_BEC[..., None].astype(y_BECD.dtype)
    y_BTD = jax.vmap(lambda token_EC, y_ECD: jnp.zeros_like(x_BTD[0]).at[token_EC].add(y_ECD))(token_BEC, y_BECD)
    return y_BTD, jnp.sum(chosen_BTk < E) - jnp.sum(is_kept_BEC)


def _largest(x: Array, count: int) -> Array:
    """Indices of the largest values of the last dim, from the largest; `lax.top_k` would gather a divided batch."""
    return jnp.argsort(x, axis=-1, descending=True)[..., :count]


def _mlp(project: Callable[[str, Array], Array], x: Array, weights: dict[str, Array], activation: str) -> Array:
    """The experts' MLP around `project(name, x)`, gated where there is a "w_gate"."""
    is_gated = "w_gate" in weights
    hidden = ACTIVATIONS[activation].fn(project("gate" if is_gated else "in", x))
    if is_gated:
        hidden = hidden * project("in", x)
    return project("out", checkpoint_name(hidden, "mlp_hidden"))


class MoE(nn.Module):
    """A router and its experts, in the place of an MLP."""

    config: TransformerConfig
    experts_fn: Callable[..., Array]

    @nn.compact
    def __call__(self, x_BTD: Array, segment_ids_BT: Array) -> tuple[Array, dict[str, Array]]:
        """Sends each token through its experts.

        Args:
            x_BTD: normalised activations.
            segment_ids_BT: 0 for padding, which no expert sees and no loss counts.

        Returns:
            (B, T, D), and float32 sums over the tokens: "aux_loss", the weighted losses of the router, and "dropped",
            copies that found no room.
        """
        c, is_token_BT = self.config, segment_ids_BT != 0
        D, F, E = c.d_model, c.size_of_expert, c.num_experts
        w_DE = weight(self, "w_router", (D, E), ("embed", "router_experts"), router_init(c))
        # In full float32 on every platform: a rounding decides between experts.
        logits_BTE = jnp.einsum("BTD,DE->BTE", x_BTD.astype(jnp.float32), w_DE, precision=jax.lax.Precision.HIGHEST)
        bias_E = None
        if c.balance_bias_rate:
            bias_E = weight(self, "router_bias", (E,), ("router_experts",), nn.initializers.zeros)
        chosen_BTk, gates_BTk, probs_BTE = route(
            logits_BTE, is_token_BT, num_chosen=c.experts_per_token, router=c.choice("router"), bias_E=bias_E
        )

        counts_BE = jnp.sum(chosen_BTk[..., None] == jnp.arange(E), axis=(1, 2))
        aux_loss = c.balance_loss * balance_loss(probs_BTE, counts_BE, is_token_BT)
        aux_loss = aux_loss + c.router_z_loss * router_z_loss(logits_BTE, is_token_BT)
        if bias_E is not None:
            aux_loss = aux_loss + load_gradient(bias_E, jnp.sum(counts_BE, axis=0))

        weights = self._weights(D, F, E)
        if c.expert_capacity:
            y_BTD, dropped = with_capacity(
                x_BTD,
                chosen_BTk,
                gates_BTk,
                probs_BTE,
                weights,
                activation=c.activation,
                factor=c.expert_capacity,
            )
        else:
            y_BTD = self.experts_fn(x_BTD, chosen_BTk, gates_BTk, weights, activation=c.activation)
            dropped = jnp.zeros(())
        return y_BTD, {"aux_loss": aux_loss, "dropped": dropped.astype(jnp.float32)}

    def _weights(self, D: int, F: int, E: int) -> dict[str, Array]:
        """The experts' parameters in the compute dtype."""
        c = self.config
        shapes = {"w_in": (E, D, F), "w_gate": (E, D, F), "w_out": (E, F, D)}
        shapes |= {"b_in": (E, F), "b_gate": (E, F), "b_out": (E, D)}
        inits = {"w_in": projection_init(D), "w_gate": projection_init(D), "w_out": output_init(c, F)}
        return {
            name: weight(self, name, shapes[name], axes, inits.get(name, nn.initializers.zeros)).astype(c.compute_dtype)
            for name, axes in EXPERT_AXES.items()
            if (c.is_gated or "gate" not in name) and (c.bias == "all" or not name.startswith("b_"))
        }
