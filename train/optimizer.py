"""Optimizers: one function each, and its row in OPTIMIZERS. All are sharded as the parameters are."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from optax.contrib import MuonDimensionNumbers, muon

from data.options import choose

from .layer_decay import with_layer_decay
from .parameters import matrix_of, parameter_name
from .schedule import make_schedule

Params = Any


def _decayed(config: Any) -> Callable[[Params], Params]:
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


def _adamw(config: Any) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2)."""
    o = config.optimizer
    return optax.adamw(
        make_schedule(config, o.learning_rate),
        b1=o.b1,
        b2=o.b2,
        eps=o.eps,
        weight_decay=o.weight_decay,
        mask=_decayed(config),
    )


def _muon(config: Any, *, learning_rate: float = 0.02, iterations: int = 5) -> optax.GradientTransformation:
    """Muon for the hidden matrices, AdamW for the rest (Jordan et al. 2024; Liu et al. 2025, arXiv:2502.16982).

    Args:
        config: the whole config; its learning rate is that of the rest.
        learning_rate: the peak for hidden matrices.
        iterations: of Newton-Schulz; fewer are faster and less exact.
    """
    o = config.optimizer
    if learning_rate <= 0 or iterations < 1:
        raise ValueError(f"config.optimizer.name={o.name!r}: learning_rate must be above 0, and iterations at least 1")

    def dimensions(params: Params) -> Params:
        def of(path: tuple[Any, ...], _: Any) -> MuonDimensionNumbers | None:
            matrix = matrix_of(parameter_name(path))
            return MuonDimensionNumbers(matrix.inputs, matrix.outputs) if matrix and matrix.hidden else None

        return jax.tree_util.tree_map_with_path(of, params)

    return muon(
        make_schedule(config, learning_rate),
        ns_steps=iterations,
        beta=0.95,
        nesterov=True,
        eps=o.eps,
        weight_decay=o.weight_decay,
        weight_decay_mask=_decayed(config),
        adam_b1=o.b1,
        adam_b2=o.b2,
        adam_weight_decay=0.0,  # embeddings, norms and head
        adam_learning_rate=make_schedule(config, o.learning_rate),
        muon_weight_dimension_numbers=dimensions,
    )


# Parameters that no loss trains: their gradient is a load, of which only the sign counts (`model.moe.load_gradient`).
_BALANCED = "router_bias"


def _is_balanced(path: tuple[Any, ...]) -> bool:
    return parameter_name(path).endswith(_BALANCED)


def gradient_norm(grads: Params) -> Array:
    """The global norm of the gradients, without what is no gradient of a loss."""
    leaves = jax.tree_util.tree_leaves_with_path(grads)
    return optax.tree.norm([leaf for path, leaf in leaves if not _is_balanced(path)])


def _balancing(optimizer: optax.GradientTransformation, rate: float) -> optax.GradientTransformation:
    """Moves each expert's bias against the sign of its load (Wang et al. 2024, arXiv:2408.15664, algorithm 1).

    Args:
        optimizer: of all other parameters; it does not see the biases.
        rate: how far a bias moves in an update.
    """

    def labels(params: Params) -> Params:
        return jax.tree_util.tree_map_with_path(lambda path, _: "bias" if _is_balanced(path) else "rest", params)

    move = optax.stateless_with_tree_map(lambda load, _: -rate * jnp.sign(load))
    return optax.partition({"bias": move, "rest": optimizer}, labels)


# name -> a function of the config, whose keyword arguments are the optimizer's own options
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adamw": _adamw,
    "muon": _muon,
}


def make_optimizer(config: Any) -> optax.GradientTransformation:
    """The optimizer of a config, with clipping by global norm in front.

    Raises:
        ValueError: an unknown optimizer or schedule, or a value out of range.
    """
    o = config.optimizer
    for field in ("learning_rate", "eps"):
        if o[field] <= 0:
            raise ValueError(f"config.optimizer.{field}={o[field]} must be above 0")
    for field in ("b1", "b2"):
        if not 0 <= o[field] < 1:
            raise ValueError(f"config.optimizer.{field}={o[field]} must be at least 0 and below 1")
    for field in ("weight_decay", "clip_norm", "final_fraction"):
        if o[field] < 0:
            raise ValueError(f"config.optimizer.{field}={o[field]} must be 0 or more")
    of_config = {name: functools.partial(make, config) for name, make in OPTIMIZERS.items()}
    optimizer = choose("config.optimizer.name", o.name, of_config).make()
    # Without clipping the state has the same tree, so that a restart may change it.
    clip = optax.clip_by_global_norm(o.clip_norm) if o.clip_norm else optax.identity()
    optimizer = with_layer_decay(optax.chain(clip, optimizer), config)
    has_bias = config.model.num_experts and config.model.balance_bias_rate
    return _balancing(optimizer, config.model.balance_bias_rate) if has_bias else optimizer
