"""Optimizers: one function each, and its row in OPTIMIZERS. All are sharded as the parameters are."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from optax.contrib import schedule_free

from data.options import choose

from .adafactor import scale_by_adafactor, scale_by_trust_ratio
from .averaging import with_ema
from .matrices import apart
from .muon import scale_by_muon
from .parameters import parameter_name
from .schedule import make_schedule
from .soap import scale_by_soap
from .updates import check, coupled, decoupled
from .width import refuse_mup

Params = Any


def _sgd(config: Any, *, momentum: float = 0.9, nesterov: bool = False) -> optax.GradientTransformation:
    """Stochastic gradient descent with momentum (Sutskever et al. 2013), weight decay as a part of the gradient."""
    check(config, fractions={"momentum": momentum})
    refuse_mup(config, "its rates follow other powers of the width (arXiv:2203.03466, table 8)")
    return coupled(config, optax.trace(momentum, nesterov))


def _rmsprop(
    config: Any, *, decay: float = 0.99, momentum: float = 0.0, eps: float = 1e-8
) -> optax.GradientTransformation:
    """RMSprop (Hinton 2012, lecture 6), weight decay as a part of the gradient."""
    check(config, positive={"eps": eps}, fractions={"decay": decay, "momentum": momentum})
    scaled = optax.scale_by_rms(decay, eps, eps_in_sqrt=False)
    return coupled(config, optax.chain(scaled, optax.trace(momentum)))


def _adam(config: Any, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1), weight decay as a part of the gradient."""
    check(config, positive={"eps": eps}, fractions={"b1": b1, "b2": b2})
    return coupled(config, optax.scale_by_adam(b1, b2, eps))


def _adamw(
    config: Any, *, b1: float = 0.9, b2: float = 0.95, eps: float = 1e-8, cautious: bool = False
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2)."""
    check(config, positive={"eps": eps}, fractions={"b1": b1, "b2": b2})
    return decoupled(config, optax.scale_by_adam(b1, b2, eps), cautious=cautious)


def _lamb(
    config: Any, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6, cautious: bool = False
) -> optax.GradientTransformation:
    """AdamW with updates as large as the parameters of each layer (You et al. 2020, arXiv:1904.00962)."""
    check(config, positive={"eps": eps}, fractions={"b1": b1, "b2": b2})
    refuse_mup(config, "its steps are as large as the parameters, whatever the factor of its direction")
    return decoupled(config, optax.scale_by_adam(b1, b2, eps), cautious=cautious, last=scale_by_trust_ratio())


def _adafactor(
    config: Any, *, decay: float = 0.8, clip: float = 1.0, relative: bool = True, cautious: bool = False
) -> optax.GradientTransformation:
    """Factored second moments (Shazeer and Stern 2018, arXiv:1804.04235); the learning rate is relative."""
    check(config, positive={"decay": decay, "clip": clip})
    if relative:
        refuse_mup(config, "its steps are as large as the parameters, unless relative=0")
    direction = scale_by_adafactor(decay=decay, clip=clip, relative=relative)
    return decoupled(config, direction, cautious=cautious)


def _lion(config: Any, *, b1: float = 0.9, b2: float = 0.99, cautious: bool = False) -> optax.GradientTransformation:
    """The sign of a momentum (Chen et al. 2023, arXiv:2302.06675, algorithm 2)."""
    check(config, fractions={"b1": b1, "b2": b2})
    return decoupled(config, optax.scale_by_lion(b1, b2), cautious=cautious)


def _muon(
    config: Any,
    *,
    learning_rate: float = 0.02,
    iterations: int = 5,
    momentum: float = 0.95,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    cautious: bool = False,
) -> optax.GradientTransformation:
    """Muon for the hidden matrices, AdamW for the rest (Jordan et al. 2024; Liu et al. 2025, arXiv:2502.16982).

    Args:
        config: the whole config; its learning rate is that of the rest, which does not decay.
        learning_rate: the peak for hidden matrices.
        iterations: of Newton-Schulz; fewer are faster and less exact.
        momentum: of hidden matrices.
        b1: of the rest.
        b2: of the rest.
        eps: of both.
        cautious: decay only where the direction takes a parameter towards zero as well.
    """
    positive = {"learning_rate": learning_rate, "iterations": iterations, "eps": eps}
    check(config, positive=positive, fractions={"momentum": momentum, "b1": b1, "b2": b2})
    direction = scale_by_muon(momentum=momentum, iterations=iterations, eps=eps)
    return apart(
        # Its spectral norm follows outputs / inputs alone, as muP asks (Yang et al. 2023, arXiv:2310.17813).
        decoupled(config, direction, cautious=cautious, learning_rate=learning_rate, by_width=False),
        decoupled(config, optax.scale_by_adam(b1, b2, eps), weight_decay=0.0),
    )


def _soap(
    config: Any,
    *,
    b1: float = 0.95,
    b2: float = 0.95,
    eps: float = 1e-8,
    every: int = 10,
    largest: int = 8192,
    cautious: bool = False,
) -> optax.GradientTransformation:
    """SOAP for the hidden matrices, AdamW for the rest (Vyas et al. 2024, arXiv:2409.11321).

    Its first eigenvectors are found by power iteration, not by the paper's decomposition (`train/soap.py`).

    Args:
        config: the whole config.
        b1: of both.
        b2: of both, and of the preconditioners.
        eps: of both.
        every: updates from one refinement of the eigenvectors to the next.
        largest: inputs or outputs of a matrix that have eigenvectors; of more, that side stays as it is.
        cautious: decay only where the direction takes a parameter towards zero as well.
    """
    check(config, positive={"eps": eps, "every": every, "largest": largest}, fractions={"b1": b1, "b2": b2})
    refuse_mup(config, "no rule is known to hold for steps in the basis that it finds")
    return apart(
        decoupled(config, scale_by_soap(b1=b1, b2=b2, eps=eps, every=every, largest=largest), cautious=cautious),
        decoupled(config, optax.scale_by_adam(b1, b2, eps), cautious=cautious),
    )


def _schedule_free(
    config: Any, *, b1: float = 0.9, b2: float = 0.95, eps: float = 1e-8, cautious: bool = False
) -> optax.GradientTransformation:
    """Schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682, algorithm 1).

    It averages weights instead of decaying the learning rate, so `config.optimizer.schedule` is best "constant";
    evaluation, generation and export use the average. The root of the corrected second moment divides, as in Adam and
    in Optax; the algorithm puts the root of the correction into the learning rate, which then weighs the average, too.
    """
    check(config, positive={"eps": eps, "b1": b1}, fractions={"b1": b1, "b2": b2})
    direction = optax.scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True)
    schedule = make_schedule(config, config.optimizer.learning_rate)
    # Optax counts from 1 there, and weighs each step of the average by the square of its learning rate.
    return schedule_free(decoupled(config, direction, cautious=cautious), lambda count: schedule(count - 1), b1)


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
    "sgd": _sgd,
    "rmsprop": _rmsprop,
    "adam": _adam,
    "adamw": _adamw,
    "lamb": _lamb,
    "adafactor": _adafactor,
    "lion": _lion,
    "muon": _muon,
    "soap": _soap,
    "schedule_free": _schedule_free,
}


def make_optimizer(config: Any) -> optax.GradientTransformationExtraArgs:
    """The optimizer of a config, with clipping by global norm in front.

    Returns:
        A transformation whose update also takes `specs`, see `train.state.moment_specs`: on a mesh of several devices,
        what treats whole matrices must know how they are divided.

    Raises:
        ValueError: an unknown optimizer or schedule, or a value out of range.
    """
    o = config.optimizer
    if o.learning_rate <= 0:
        raise ValueError(f"config.optimizer.learning_rate={o.learning_rate} must be above 0")
    if o.clip_norm < 0:
        raise ValueError(f"config.optimizer.clip_norm={o.clip_norm} must be 0 or more")
    of_config = {name: functools.partial(make, config) for name, make in OPTIMIZERS.items()}
    chosen = choose("config.optimizer.name", o.name, of_config)
    if o.ema and chosen.kind == "schedule_free":
        raise ValueError(f"config.optimizer.name={o.name!r} averages weights itself; use config.optimizer.ema=0")
    # Without clipping the state has the same tree, so that a restart may change it.
    clip = optax.clip_by_global_norm(o.clip_norm) if o.clip_norm else optax.identity()
    optimizer = optax.chain(clip, chosen.make())
    if config.model.num_experts and config.model.balance_bias_rate:
        optimizer = _balancing(optimizer, config.model.balance_bias_rate)
    optimizer = optax.with_extra_args_support(optimizer)
    return with_ema(optimizer, o.ema) if o.ema else optimizer
