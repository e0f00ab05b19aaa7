"""Learning-rate schedules, as functions of the number of updates made before this one. A new one is a row here."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

# (peak, final, num_steps, decay_steps, warmup) -> schedule over num_steps, whose first step is at the peak and whose
# last is at `final`.
Shape = Callable[[float, float, int, int, int], optax.Schedule]


def _constant(peak: float, final: float, num_steps: int, decay_steps: int, warmup: int) -> optax.Schedule:
    return optax.constant_schedule(peak)


def _linear(peak: float, final: float, num_steps: int, decay_steps: int, warmup: int) -> optax.Schedule:
    return optax.linear_schedule(peak, final, max(1, num_steps - 1))


def _cosine(peak: float, final: float, num_steps: int, decay_steps: int, warmup: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(peak, max(1, num_steps - 1), final / peak)


def _inverse_sqrt(peak: float, final: float, num_steps: int, decay_steps: int, warmup: int) -> optax.Schedule:
    # Vaswani et al. 2017, section 5.3, scaled so that it starts at the peak.
    offset = max(1, warmup)
    return lambda step: peak * jnp.sqrt(offset / (offset + jnp.maximum(0, step)))


def _wsd(peak: float, final: float, num_steps: int, decay_steps: int, warmup: int) -> optax.Schedule:
    # Warmup, stable, decay: Hu et al. 2024, arXiv:2404.06395.
    stable = num_steps - decay_steps
    decay = optax.linear_schedule(peak, final, decay_steps)
    return lambda step: decay(jnp.maximum(0, step - stable + 1))


SCHEDULES: dict[str, Shape] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "inverse_sqrt": _inverse_sqrt,
    "wsd": _wsd,
}


def make_schedule(config: Any, peak: float) -> optax.Schedule:
    """Linear warmup to `peak` over `warmup_steps` updates, then the shape that the config names.

    Update s of the warmup uses peak * (s + 1) / warmup_steps, so none is wasted at zero; the last update of the run
    uses peak * final_fraction (but for constant and inverse_sqrt, which do not end).

    Args:
        config: the whole config; updates are counted, not microbatches.
        peak: the largest learning rate.

    Returns:
        A function from the number of updates made so far to the learning rate.

    Raises:
        ValueError: an unknown schedule, or phases that do not fit the number of steps.
    """
    o, steps = config.optimizer, config.train.steps
    if o.schedule not in SCHEDULES:
        raise ValueError(f"config.optimizer.schedule={o.schedule!r} is not known; use one of {', '.join(SCHEDULES)}")
    if not 0 <= o.warmup_steps < steps:
        raise ValueError(
            f"config.optimizer.warmup_steps={o.warmup_steps} must be 0 or more and below config.train.steps={steps}"
        )
    decay_steps = (o.decay_steps or max(1, steps // 5)) if o.schedule == "wsd" else 0
    if not 0 <= decay_steps <= steps - o.warmup_steps:
        raise ValueError(
            f"config.optimizer.decay_steps={decay_steps} does not fit between config.optimizer.warmup_steps="
            f"{o.warmup_steps} and config.train.steps={steps}; use at most {steps - o.warmup_steps}"
        )
    after = SCHEDULES[o.schedule](peak, peak * o.final_fraction, steps - o.warmup_steps, decay_steps, o.warmup_steps)
    if not o.warmup_steps:
        return after
    warmup = optax.linear_schedule(peak / o.warmup_steps, peak, max(1, o.warmup_steps - 1))
    return optax.join_schedules([warmup, after], [o.warmup_steps])
