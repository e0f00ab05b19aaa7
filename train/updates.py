"""What optimizers have in common: from a direction to an update, by weight decay, layers' factors and learning rate."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from .layer_decay import scale_by_layer
from .parameters import parameter_name
from .schedule import make_schedule
from .width import refuse_mup, scale_by_width

Params = Any


def decoupled(
    config: Any,
    direction: optax.GradientTransformation,
    *,
    cautious: bool = False,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    last: optax.GradientTransformation | None = None,
    by_width: bool = True,
) -> optax.GradientTransformation:
    """Goes along a direction and lets weights decay beside it (Loshchilov and Hutter 2019, arXiv:1711.05101).

    Args:
        config: the whole config.
        direction: from gradients to what is subtracted, before the learning rate.
        cautious: decay only where the direction takes the parameter towards zero as well.
        learning_rate: the peak; None is the config's.
        weight_decay: None is the config's.
        last: of direction and decay together, before the learning rate.
        by_width: whether the direction must be scaled for the width (`train/width.py`).
    """
    o = config.optimizer
    return optax.chain(
        direction,
        scale_by_width(config) if by_width else optax.identity(),
        _decay(config, o.weight_decay if weight_decay is None else weight_decay, cautious),
        last or optax.identity(),
        scale_by_layer(config),
        optax.scale_by_learning_rate(
            make_schedule(config, o.learning_rate if learning_rate is None else learning_rate)
        ),
    )


def coupled(config: Any, direction: optax.GradientTransformation) -> optax.GradientTransformation:
    """Goes along the direction of the gradients of loss + weight_decay / 2 |params|^2.

    Args:
        config: the whole config.
        direction: as in `decoupled`.

    Raises:
        ValueError: there is weight decay, and `config.model.init` is "mup": its share of the gradient would grow with
            the width.
    """
    if config.optimizer.weight_decay > 0:
        refuse_mup(config, "its weight decay is a part of the gradient, of which it grows with the width")
    return optax.chain(
        _decay(config, config.optimizer.weight_decay, False),
        direction,
        scale_by_width(config),
        scale_by_layer(config),
        optax.scale_by_learning_rate(make_schedule(config, config.optimizer.learning_rate)),
    )


def _decay(config: Any, rate: float, cautious: bool) -> optax.GradientTransformation:
    """Adds rate * params to a direction; if cautious, where both have one sign (Chen et al. 2025, arXiv:2510.12402)."""
    if rate < 0:
        raise ValueError(f"config.optimizer.weight_decay={rate} must be 0 or more")
    decays = _decays(config)

    def update(updates: Any, params: Params | None) -> Any:
        assert params is not None

        def add(is_decayed: bool, direction: Array, param: Array) -> Array:
            if not is_decayed or not rate:
                return direction
            decay = rate * param
            return direction + (jnp.where(direction * param >= 0, decay, 0.0) if cautious else decay)

        return jax.tree.map(add, decays(updates), updates, params)

    return optax.stateless(update)


def _decays(config: Any) -> Callable[[Params], Params]:
    """Marks the parameters that weight decay applies to. Names decide: the rank of a stacked norm is a matrix's."""
    try:
        pattern = re.compile(config.optimizer.no_decay) if config.optimizer.no_decay else None
    except re.error as error:
        raise ValueError(f"config.optimizer.no_decay={config.optimizer.no_decay!r} is no pattern: {error}") from error

    def mark(params: Params) -> Params:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: pattern is None or not pattern.search(parameter_name(path)), params
        )

    return mark


def check(config: Any, *, positive: dict[str, float] | None = None, fractions: dict[str, float] | None = None) -> None:
    """Checks the options of an optimizer.

    Args:
        config: the whole config.
        positive: options that must be above 0, with their values.
        fractions: options from 0 to below 1.

    Raises:
        ValueError: one is not.
    """
    key = f"config.optimizer.name={config.optimizer.name!r}"
    for name, value in (positive or {}).items():
        if value <= 0:
            raise ValueError(f"{key}: {name}={value} must be above 0")
    for name, value in (fractions or {}).items():
        if not 0 <= value < 1:
            raise ValueError(f"{key}: {name}={value} must be at least 0 and below 1")
