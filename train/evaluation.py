"""Validation figures.

Each target counts once and alike: the figures do not depend on batch size, devices or the last, partly filled batch.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from data import Corpus, DataConfig, eval_batches, make_task, open_rows, prepare
from parallel import compiler_options, local_rows, on_mesh, shard_batch, to_host

from .answers import write_answers
from .compose import make_model, rules_of
from .distill import without_teacher
from .objective import make_objective, objective_name
from .predictions import PREDICTIONS
from .scores import SCORES

# (params, batch) -> sums over the batch, and what is predicted of each of its rows.
EvalStep = Callable[[Any, dict[str, Array]], tuple[dict[str, Array], dict[str, Array]]]


def make_eval_step(config: Any, mesh: Mesh) -> EvalStep:
    """Builds the jit-compiled function of a batch that `evaluate` calls."""
    config = without_teacher(config)
    model, objective = make_model(config, mesh), make_objective(config)
    predict = PREDICTIONS.get(objective_name(config), lambda apply_fn, params, batch: {})
    everywhere = NamedSharding(mesh, PartitionSpec())  # pyright: ignore[reportArgumentType]

    def eval_step(params: Any, batch: dict[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        _, weight, sums = objective(model.apply, params, batch, None)
        totals = {"nll": sums["nll"], "weight": weight}
        if "target_bytes" in batch:
            totals["bytes"] = jnp.sum(batch["target_bytes"] * batch["weights"])
        predictions = predict(model.apply, params, batch)
        return totals, jax.lax.with_sharding_constraint(predictions, everywhere)

    return on_mesh(jax.jit(eval_step, compiler_options=compiler_options(mesh)), mesh, rules_of(config))


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
        limit: at most this many batches (or what the first example takes), of which no answers are written; 0 is all.
        eval_step: as `make_eval_step` returns it; None builds one.

    Returns:
        "loss" (nats per target) and the scores of the task. Of a task that predicts tokens also "perplexity", "tokens"
        and, where the targets are all of a text, "bits_per_byte"; of any other "rows".

    Raises:
        ValueError: the batch cannot be divided over the mesh, the corpus is too short, or nothing in it counts.

    Example:
        evaluate(config, state.params, mesh)["bits_per_byte"]
    """
    eval_step = eval_step or make_eval_step(config, mesh)
    data = DataConfig.of(config.data)
    examples = open_rows(data, corpus or prepare(data), split, evaluating=True)
    totals: dict[str, float] = {}
    predicted: list[dict[str, np.ndarray]] = []
    pending: tuple[Any, Any] | None = None

    def fetch() -> None:
        """Takes the results of the batch before, while this one is computed."""
        nonlocal totals
        if pending is not None:
            sums, predictions = to_host(pending)
            totals = {name: totals.get(name, 0.0) + float(value) for name, value in sums.items()}  # in float64
            predicted.append(predictions)

    rows = local_rows(mesh, data.batch_size)
    if limit and hasattr(examples, "score"):  # a part of an example cannot be scored
        limit = max(limit, -(-examples.rows_of_first // data.batch_size))
    for batch in eval_batches(data, examples=examples, limit=limit, rows=rows):
        results = eval_step(params, shard_batch(batch, mesh))
        fetch()
        pending = results
    fetch()
    if not totals["weight"] and not limit:  # in a few batches it may happen
        raise ValueError(
            f"nothing in {split} counts: the model knows none of the labels there, which are other ones than those of "
            "the training data"
        )
    figures = _figures(totals, objective_name(config).startswith("tokens"))
    task: Any = make_task(data)
    if (scores := _scores_of_answers(task)) and not limit:
        pair = write_answers(config, params, mesh, examples, len(examples))
        figures |= {name: figure for score in scores for name, figure in SCORES[score](*pair).items()}
    if task.scores and predicted[0]:
        whole = {name: np.concatenate([one[name] for one in predicted])[: len(examples)] for name in predicted[0]}
        pair = examples.score(whole)
        figures |= {name: figure for score in task.scores for name, figure in SCORES[score](*pair).items()}
    return figures


def _scores_of_answers(task: Any) -> list[str]:
    return task.metrics.split("/") if hasattr(task, "ask") and task.metrics else []


def figures_of_answers(config: Any) -> list[str]:
    """The names of the figures that only an evaluation without a limit has: those of answers that a model writes."""
    scores = _scores_of_answers(make_task(DataConfig.of(config.data)))
    return [name for score in scores for name in SCORES[score](["a"], ["a"])]


def _figures(totals: dict[str, float], of_tokens: bool) -> dict[str, float]:
    loss = totals["nll"] / totals["weight"] if totals["weight"] else math.nan
    if not of_tokens:
        return {"loss": loss, "rows": totals["weight"]}
    figures = {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "tokens": totals["weight"]}
    if totals.get("bytes"):
        figures["bits_per_byte"] = totals["nll"] / math.log(2) / totals["bytes"]
    return figures
