"""Objectives: pure functions from a batch to sums of losses and weights; a new one is a row in OBJECTIVES.

They return sums, not means: the step divides once, by the weight of the whole global batch, so the result is the same
however the batch is split over devices and microbatches.

Letters: B batch, T length, V vocab.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from . import distill

# (apply_fn, params, batch, dropout keys or None) -> (sum of losses, sum of weights, sums of metrics); among the metrics
# is "nll", the negative log-likelihood in nats, which evaluation reports.
Objective = Callable[
    [Callable[..., Any], Any, Mapping[str, Array], Array | None], tuple[Array, Array, dict[str, Array]]
]


def cross_entropy(logits_BTV: Array, targets_BT: Array) -> tuple[Array, Array]:
    """Negative log-likelihood of the targets, in nats.

    Args:
        logits_BTV: any float dtype.
        targets_BT: ids in [0, V).

    Returns:
        (B, T) float32 losses, and log Z, the logarithm of the softmax's denominator.
    """
    logits_BTV = logits_BTV.astype(jnp.float32)
    log_z_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    # A comparison instead of a gather: it fuses, and stays local where the vocabulary is sharded.
    is_target_BTV = jnp.arange(logits_BTV.shape[-1]) == targets_BT[..., None]
    return log_z_BT - jnp.sum(jnp.where(is_target_BTV, logits_BTV, 0.0), axis=-1), log_z_BT


# What a batch may hold for the model beside its inputs -> the argument of `model.Transformer`.
MODEL_INPUTS = {
    "positions": "positions_BT",
    "segment_ids": "segment_ids_BT",
    "token_types": "token_types_BT",
    "encoder_inputs": "encoder_tokens_BS",
    "encoder_positions": "encoder_positions_BS",
    "encoder_segment_ids": "encoder_segment_ids_BS",
}


def causal_lm(
    apply_fn: Callable[..., Any],
    params: Any,
    batch: Mapping[str, Array],
    keys_B: Array | None,
    *,
    z_loss: float,
) -> tuple[Array, Array, dict[str, Array]]:
    """Next-token prediction.

    Args:
        apply_fn: the model's `apply`.
        params: its parameters.
        batch: "inputs", "targets" and "weights", each (B, T), and any of `MODEL_INPUTS`.
        keys_B: for dropout, a key for each row; None turns it off.
        z_loss: weight of log(Z)^2 (Chowdhery et al. 2022, section 5).

    Returns:
        Sum of the losses, sum of the weights, and {"nll": sum of the negative log-likelihoods in nats}.
    """
    logits_BTV = apply_fn(
        {"params": params},
        batch["inputs"],
        **{MODEL_INPUTS[name]: array for name, array in batch.items() if name in MODEL_INPUTS},
        dropout_keys_B=keys_B,
    )
    nll_BT, log_z_BT = cross_entropy(logits_BTV, batch["targets"])
    weights_BT = batch["weights"].astype(jnp.float32)
    nll = jnp.sum(nll_BT * weights_BT)
    loss = nll + z_loss * jnp.sum(jnp.square(log_z_BT) * weights_BT) if z_loss else nll
    return loss, jnp.sum(weights_BT), {"nll": nll}


def with_aux(objective: Objective) -> Objective:
    """The objective with what the model's layers add to it; an objective itself knows nothing of them.

    Args:
        objective: any; it applies the model at its top level, not inside another JAX transformation.

    Returns:
        An objective with the layers' losses in its loss, and their sums among its metrics.
    """

    def with_layers(
        apply_fn: Callable[..., Any], params: Any, batch: Mapping[str, Array], keys_B: Array | None
    ) -> tuple[Array, Array, dict[str, Array]]:
        aux: dict[str, Array] = {}

        def apply(*args: Any, **kwargs: Any) -> Any:
            output, variables = apply_fn(*args, mutable=["aux"], **kwargs)
            for name, total in variables.get("aux", {}).items():
                aux[name] = aux[name] + total if name in aux else total
            return output

        loss, weight, sums = objective(apply, params, batch, keys_B)
        loss, sums = add_aux(loss, sums, aux)
        return loss, weight, sums

    return with_layers


def add_aux(loss: Array, sums: dict[str, Array], aux: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
    """Adds the layers' sums, such as those of `model.moe.MoE`, to a loss and its metrics."""
    return loss + aux["aux_loss"] if "aux_loss" in aux else loss, {**sums, **aux}


OBJECTIVES: dict[str, Callable[[Any], Objective]] = {
    "causal_lm": lambda config: functools.partial(causal_lm, z_loss=config.train.z_loss),
    distill.NAME: distill.make_distill,
}


def check_objective(config: Any) -> None:
    """Checks that the config's data and objective suit its model.

    Raises:
        ValueError: they do not; it names the keys.
    """
    model = config.model
    if model.architecture != "decoder" or model.image:
        key = "image" if model.image else "architecture"
        raise ValueError(
            f"config.train.objective={config.train.objective!r} predicts the next token of a text, which a model with "
            f"config.model.{key}={model[key]!r} sees already or never; use config.model.architecture='decoder' and "
            "config.model.image=''"
        )


def make_objective(config: Any) -> Objective:
    """The objective of a config.

    Raises:
        ValueError: an unknown one.
    """
    name = config.train.objective.partition(",")[0].strip()
    if name not in OBJECTIVES:
        raise ValueError(f"config.train.objective={name!r} is not known; use one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name](config)
