"""Objectives: pure functions from a batch to sums of losses and weights; a new one is a row in OBJECTIVES.

They return sums, not means: the step divides once, by the weight of the whole global batch, so the result is the same
however the batch is split over devices and microbatches. Which arrays a batch has, the tasks of `data.tasks` say.

Letters: B batch, T length, V vocab, C classes.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import optax
from jax import Array

from data import DataConfig, make_task
from data.options import choose
from model import MASKED

from . import distill
from .vocabulary import chunked_sum_tokens, cross_entropy, sum_tokens

# (apply_fn, params, batch, dropout keys or None) -> (sum of losses, sum of weights, sums of metrics); among the metrics
# is "nll", the negative log-likelihood in nats, which evaluation reports.
Objective = Callable[
    [Callable[..., Any], Any, Mapping[str, Array], Array | None], tuple[Array, Array, dict[str, Array]]
]


# What a batch may hold for the model beside its inputs -> the argument of `model.Transformer`.
MODEL_INPUTS = {
    "positions": "positions_BT",
    "segment_ids": "segment_ids_BT",
    "order": "order_BT",
    "token_types": "token_types_BT",
    "encoder_inputs": "encoder_tokens_BS",
    "encoder_positions": "encoder_positions_BS",
    "encoder_segment_ids": "encoder_segment_ids_BS",
}


def run_model(
    apply_fn: Callable[..., Any], params: Any, batch: Mapping[str, Array], keys_B: Array | None, *, want: str = "logits"
) -> Any:
    """What the model computes of a batch's "inputs" and of those of `MODEL_INPUTS` that it has."""
    more = {MODEL_INPUTS[name]: array for name, array in batch.items() if name in MODEL_INPUTS}
    return apply_fn({"params": params}, batch["inputs"], **more, dropout_keys_B=keys_B, want=want)


Sums = tuple[Array, Array, dict[str, Array]]


def tokens(
    apply_fn: Callable[..., Any],
    params: Any,
    batch: Mapping[str, Array],
    keys_B: Array | None,
    *,
    z_loss: float,
    chunk: int = 0,
) -> Sums:
    """Predicts a token of the vocabulary at each position, such as the next one.

    Args:
        apply_fn: the model's `apply`.
        params: its parameters.
        batch: "inputs", "targets" and "weights", each (B, T), and any of `MODEL_INPUTS`.
        keys_B: for dropout, a key for each row; None turns it off.
        z_loss: weight of log(Z)^2 (Chowdhery et al. 2022, section 5).
        chunk: positions of a row whose logits exist at a time, see `train.vocabulary`; 0 is all.

    Returns:
        Sum of the losses, sum of the weights, and {"nll": sum of the negative log-likelihoods in nats}.
    """
    output = run_model(apply_fn, params, batch, keys_B, want="head" if chunk else "logits")
    return _sum_tokens(output, batch, z_loss, chunk)


def _sum_tokens(output: Any, batch: Mapping[str, Array], z_loss: float, chunk: int = 0) -> Sums:
    """Of logits, or of the head if there is a chunk."""
    weights_BT = batch["weights"].astype(jnp.float32)
    if chunk:
        loss, nll = chunked_sum_tokens(output, batch["targets"], weights_BT, z_loss, chunk=chunk)
    else:
        loss, nll = sum_tokens(output, batch["targets"], weights_BT, z_loss)
    return loss, jnp.sum(weights_BT), {"nll": nll}


def tokens_and_pairs(
    apply_fn: Callable[..., Any],
    params: Any,
    batch: Mapping[str, Array],
    keys_B: Array | None,
    *,
    z_loss: float,
    chunk: int = 0,
) -> Sums:
    """Predicts hidden tokens, and whether a row's second text follows its first (Devlin et al. 2019, section 3.1).

    There the two means are added. Here a row's second loss counts as often as "pair_weights" says, which the task sets
    to the hidden tokens that a row has on average, so that one division by the tokens' weight gives the same sum.

    Args:
        apply_fn: see `tokens`.
        params: see `tokens`.
        batch: as of `tokens`, and "labels" and "pair_weights" (B,).
        keys_B: see `tokens`.
        z_loss: see `tokens`.
        chunk: see `tokens`.

    Returns:
        As `tokens`, with "pair_nll", the second loss as it counts, beside "nll".
    """
    outputs = run_model(apply_fn, params, batch, keys_B, want="all")
    loss, weight, sums = _sum_tokens(outputs["head" if chunk else "logits"], batch, z_loss, chunk)
    nll_B, _ = cross_entropy(outputs["classes"], batch["labels"])
    pair_nll = jnp.sum(nll_B * batch["pair_weights"])
    return loss + pair_nll, weight, {**sums, "pair_nll": pair_nll}


def classes(apply_fn: Callable[..., Any], params: Any, batch: Mapping[str, Array], keys_B: Array | None) -> Sums:
    """Says of a row which class it has, which classes, or a number.

    Args:
        apply_fn: see `tokens`.
        params: see `tokens`.
        batch: "inputs" (B, T) and any of `MODEL_INPUTS`; "weights" (B,); and "labels": int (B,) classes, float (B, C)
            1 for each class that a row has (the mean of C binary cross-entropies), or float (B,) numbers (the squared
            error of the only class).
        keys_B: see `tokens`.

    Returns:
        As `tokens`; of numbers, "nll" is the sum of squared errors.
    """
    logits_BC, labels = run_model(apply_fn, params, batch, keys_B, want="classes"), batch["labels"]
    if jnp.issubdtype(labels.dtype, jnp.integer):
        nll_B, _ = cross_entropy(logits_BC, labels)
    elif labels.ndim == 2:
        nll_B = jnp.mean(optax.sigmoid_binary_cross_entropy(logits_BC, labels), axis=1)
    else:
        nll_B = jnp.square(logits_BC[:, 0] - labels)
    nll = jnp.sum(nll_B * batch["weights"])
    return nll, jnp.sum(batch["weights"]), {"nll": nll}


def tags(apply_fn: Callable[..., Any], params: Any, batch: Mapping[str, Array], keys_B: Array | None) -> Sums:
    """Says of each token which class it has.

    Args:
        apply_fn: see `tokens`.
        params: see `tokens`.
        batch: "inputs", "targets" (classes) and "weights" (B, T), and any of `MODEL_INPUTS`.
        keys_B: see `tokens`.

    Returns:
        As `tokens`.
    """
    return _sum_tokens(run_model(apply_fn, params, batch, keys_B, want="classes"), batch, 0.0)


def spans(apply_fn: Callable[..., Any], params: Any, batch: Mapping[str, Array], keys_B: Array | None) -> Sums:
    """Finds where an answer starts and ends (Devlin et al. 2019, section 4.2).

    Args:
        apply_fn: see `tokens`.
        params: see `tokens`.
        batch: "inputs" (B, T) and any of `MODEL_INPUTS`; "candidates" (B, T), 1 where an answer may start or end;
            "starts", "ends" and "weights" (B,).
        keys_B: see `tokens`.

    Returns:
        As `tokens`; a row's loss is the mean of those of its start and its end.
    """
    start_BT, end_BT = span_logits(apply_fn, params, batch, keys_B)
    nll_B = (cross_entropy(start_BT, batch["starts"])[0] + cross_entropy(end_BT, batch["ends"])[0]) / 2
    nll = jnp.sum(nll_B * batch["weights"])
    return nll, jnp.sum(batch["weights"]), {"nll": nll}


def span_logits(
    apply_fn: Callable[..., Any], params: Any, batch: Mapping[str, Array], keys_B: Array | None
) -> tuple[Array, Array]:
    """Of starts and ends, (B, T) each; those that are no candidates are masked."""
    logits_BTC = run_model(apply_fn, params, batch, keys_B, want="classes")
    start_BT, end_BT = (jnp.where(batch["candidates"] > 0, logits_BTC[..., i], MASKED) for i in range(2))
    return start_BT, end_BT


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


def _of_tokens(fn: Callable[..., Sums]) -> Callable[[Any], Objective]:
    return lambda config: functools.partial(fn, z_loss=config.train.z_loss, chunk=chunk_of(config))


OBJECTIVES: dict[str, Callable[[Any], Objective]] = {
    "tokens": _of_tokens(tokens),
    "tokens_and_pairs": _of_tokens(tokens_and_pairs),
    "classes": lambda config: classes,
    "tags": lambda config: tags,
    "spans": lambda config: spans,
    distill.NAME: distill.make_distill,
}


def _options(chunk: int = 0) -> int:
    """Those of every objective but a distilled one."""
    return chunk


def objective_name(config: Any) -> str:
    """The key of OBJECTIVES that a config asks for; of a distilled one, what the student learns besides.

    Raises:
        ValueError: an unknown one.
    """
    text = distill.without_teacher(config).train.objective
    name = choose("config.train.objective", text, dict.fromkeys(("auto", *OBJECTIVES), _options)).kind
    return make_task(DataConfig.of(config.data)).objective if name == "auto" else name


def chunk_of(config: Any) -> int:
    """Positions of a row whose logits a loss over the vocabulary makes at a time; 0 is all of them.

    Raises:
        ValueError: it is negative, or the objective is no such loss.
    """
    text = distill.without_teacher(config).train.objective
    chunk = choose("config.train.objective", text, dict.fromkeys(("auto", *OBJECTIVES), _options)).make()
    if chunk < 0:
        raise ValueError(f"config.train.objective={text!r}: chunk must be 0, for all positions at once, or more")
    if chunk and not objective_name(config).startswith("tokens"):
        raise ValueError(
            f"config.train.objective={text!r}: chunk is for losses over the vocabulary, not for "
            f"{objective_name(config)!r}; leave it out"
        )
    if chunk and distill.teacher_path(config):
        raise ValueError(
            f"config.train.objective={config.train.objective!r}: a teacher is compared by all logits at once; leave "
            "chunk out of base"
        )
    return chunk


def make_objective(config: Any) -> Objective:
    """The objective of a config.

    Raises:
        ValueError: an unknown one, or options that it does not have.
    """
    name = objective_name(config)
    chunk_of(config)
    return OBJECTIVES[distill.NAME if distill.teacher_path(config) else name](config)
