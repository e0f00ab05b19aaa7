"""Averages of the weights: what evaluation, generation and export use in the place of those that are being trained."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from optax.contrib import ScheduleFreeState

from .parameters import parameter_name


class EmaState(NamedTuple):
    """The state of `with_ema`.

    Attributes:
        count: updates made.
        average: of the parameters.
        inner: the optimizer's.
    """

    count: Array
    average: Any
    inner: Any


def with_ema(optimizer: optax.GradientTransformationExtraArgs, decay: float) -> optax.GradientTransformationExtraArgs:
    """Keeps an exponential moving average of the parameters beside an optimizer, whose updates it leaves alone.

    Update t, from 0, has the decay min(decay, (1 + t) / (10 + t)): the initial values are soon forgotten.

    Args:
        optimizer: any.
        decay: of the average.

    Raises:
        ValueError: it is out of range.
    """
    if not 0 < decay < 1:
        raise ValueError(f"config.optimizer.ema={decay} must be 0, for none, or between 0 and 1, such as 0.999")

    def init(params: Any) -> EmaState:
        return EmaState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params), optimizer.init(params))

    def update(grads: Any, state: EmaState, params: Any = None, **extra: Any) -> tuple[Any, EmaState]:
        updates, inner = optimizer.update(grads, state.inner, params, **extra)
        kept = jnp.minimum(decay, (1 + state.count) / (10 + state.count)).astype(jnp.float32)
        new = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda old, value: kept * old + (1 - kept) * value, state.average, new)
        return updates, EmaState(state.count + 1, average, inner)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def averages(opt_state: Any) -> bool:
    """Whether an optimizer's state has an average of the weights."""
    return _find(opt_state) is not None


def averaged(params: Any, opt_state: Any) -> Any:
    """The average of the weights that an optimizer's state has; of what it does not average, the weights.

    A schedule-free optimizer trains y = (1 - b1) z + b1 x and has z; x is the average (arXiv:2405.15682, eq. 3 to 5).
    """
    found = _find(opt_state)
    if isinstance(found, EmaState):
        return found.average
    assert isinstance(found, ScheduleFreeState)
    z = {parameter_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(found.z)}
    b1 = found.b1

    def one(path: Any, y: Array) -> Array:
        return (y - (1 - b1) * z[name]) / b1 if (name := parameter_name(path)) in z else y

    return jax.tree_util.tree_map_with_path(one, params)


def _find(opt_state: Any) -> EmaState | ScheduleFreeState | None:
    is_average = lambda node: isinstance(node, EmaState | ScheduleFreeState)
    return next(filter(is_average, jax.tree.leaves(opt_state, is_leaf=is_average)), None)
