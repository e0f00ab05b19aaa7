"""What a model says of the rows of an evaluation, where its loss is not the only figure.

Letters: B batch, T length, C classes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from .objective import run_model, span_logits

# (apply_fn, params, batch) -> arrays with a row for each of the batch's.
Predict = Callable[[Callable[..., Any], Any, Mapping[str, Array]], dict[str, Array]]


def _classes(apply_fn: Callable[..., Any], params: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
    """Logits (B, C)."""
    return {"classes": run_model(apply_fn, params, batch, None, want="classes")}


def _tags(apply_fn: Callable[..., Any], params: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
    """The likeliest class of each token (B, T)."""
    return {"tags": jnp.argmax(run_model(apply_fn, params, batch, None, want="classes"), axis=-1)}


def _spans(apply_fn: Callable[..., Any], params: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
    """Logits (B, T) of starts and ends."""
    starts, ends = span_logits(apply_fn, params, batch, None)
    return {"starts": starts, "ends": ends}


# By objective; those that are not here have no figures but their loss.
PREDICTIONS: dict[str, Predict] = {
    "classes": _classes,
    "tags": _tags,
    "spans": _spans,
}
