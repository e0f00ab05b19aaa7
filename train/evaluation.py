"""Validation figures.

Each target counts once and alike: the figures do not depend on batch size, devices or the last, partly filled batch.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from data import Corpus, eval_batches
from parallel import local_rows, on_mesh, shard_batch, to_host

from .compose import make_model, rules_of
from .distill import without_teacher
from .objective import make_objective

EvalStep = Callable[[Any, dict[str, Array]], dict[str, Array]]


def make_eval_step(config: Any, mesh: Mesh) -> EvalStep:
    """Builds the jit-compiled function (params, batch) -> sums over the batch, which `evaluate` adds up."""
    model, objective = make_model(config, mesh), make_objective(without_teacher(config))

    def eval_step(params: Any, batch: dict[str, Array]) -> dict[str, Array]:
        _, weight, sums = objective(model.apply, params, batch, None)
        return {
            "nll": sums["nll"],
            "weight": weight,
            "bytes": jnp.sum(batch["target_bytes"] * batch["weights"]),
        }

    return on_mesh(jax.jit(eval_step), mesh, rules_of(config))


def evaluate(
    config: Any,
    params: Any,
    mesh: Mesh,
    *,
    corpus: Corpus | None = None,
    split: str = "valid",
    limit: int = 0,
    eval_step: EvalStep | None = None,
) -> dict[str, float]:
    """Evaluates parameters on a split of the config's corpus.

    Args:
        config: the whole config.
        params: the model's parameters on `mesh`.
        mesh: the mesh.
        corpus: what to evaluate on; None is the config's, which is prepared if it is not there.
        split: "valid" or "train".
        limit: at most this many batches; 0 is all.
        eval_step: as `make_eval_step` returns it; None builds one.

    Returns:
        "loss" (nats per token), "perplexity", "bits_per_byte" (of the text that the targets stand for) and "tokens".

    Raises:
        ValueError: the batch cannot be divided over the mesh, or the corpus is too short.

    Example:
        evaluate(config, state.params, mesh)["bits_per_byte"]
    """
    eval_step = eval_step or make_eval_step(config, mesh)
    rows = local_rows(mesh, config.data.batch_size)
    totals = {"nll": 0.0, "weight": 0.0, "bytes": 0.0}
    pending: dict[str, Array] | None = None
    for batch in eval_batches(config.data, corpus=corpus, split=split, limit=limit, rows=rows):
        sums = eval_step(params, shard_batch(batch, mesh))
        totals = _add(totals, pending)  # of the batch before, while this one is computed
        pending = sums
    totals = _add(totals, pending)
    loss = totals["nll"] / totals["weight"]
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "bits_per_byte": totals["nll"] / math.log(2) / totals["bytes"],
        "tokens": totals["weight"],
    }


def _add(totals: dict[str, float], sums: dict[str, Array] | None) -> dict[str, float]:
    """Adds up in float64: float32 would lose tokens from 2^24 on."""
    if sums is None:
        return totals
    return {name: totals[name] + float(value) for name, value in to_host(sums).items()}
