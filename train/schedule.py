"""Learning-rate schedules, as functions of the number of updates made before this one. A new one is a row here."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from data.options import choose


class Span(NamedTuple):
    """What a schedule is asked for.

    Attributes:
        peak: the learning rate of its first update.
        num_steps: updates from there to the last one of the run.
        warmup: updates before them.
    """

    peak: float
    num_steps: int
    warmup: int


def _constant(span: Span) -> optax.Schedule:
    return optax.constant_schedule(span.peak)


def _linear(span: Span, *, final_fraction: float = 0.1) -> optax.Schedule:
    return optax.linear_schedule(span.peak, _final(span, final_fraction), max(1, span.num_steps - 1))


def _cosine(span: Span, *, final_fraction: float = 0.1) -> optax.Schedule:
    _final(span, final_fraction)
    return optax.cosine_decay_schedule(span.peak, max(1, span.num_steps - 1), final_fraction)


def _inverse_sqrt(span: Span) -> optax.Schedule:
    # Vaswani et al. 2017, section 5.3, scaled so that it starts at the peak.
    offset = max(1, span.warmup)
    return lambda step: span.peak * jnp.sqrt(offset / (offset + jnp.maximum(0, step)))


def _wsd(span: Span, *, decay_steps: int = 0, final_fraction: float = 0.1) -> optax.Schedule:
    # Warmup, stable, decay: Hu et al. 2024, arXiv:2404.06395. By default it decays over a fifth of the run.
    decay_steps = decay_steps or max(1, (span.warmup + span.num_steps) // 5)
    if not 0 < decay_steps <= span.num_steps:
        raise ValueError(
            f"config.optimizer.schedule: decay_steps={decay_steps} does not fit between "
            f"config.optimizer.warmup_steps={span.warmup} and config.train.steps={span.warmup + span.num_steps}; use "
            f"at most {span.num_steps}"
        )
    stable = span.num_steps - decay_steps
    decay = optax.linear_schedule(span.peak, _final(span, final_fraction), decay_steps)
    return lambda step: decay(jnp.maximum(0, step - stable + 1))


def _final(span: Span, fraction: float) -> float:
    if fraction < 0:
        raise ValueError(f"config.optimizer.schedule: final_fraction={fraction} must be 0 or more")
    return span.peak * fraction


# name -> a function of the span, whose keyword arguments are the schedule's own options
SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
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
    if not 0 <= o.warmup_steps < steps:
        raise ValueError(
            f"config.optimizer.warmup_steps={o.warmup_steps} must be 0 or more and below config.train.steps={steps}"
        )
    span = Span(peak, steps - o.warmup_steps, o.warmup_steps)
    of_span = {name: functools.partial(make, span) for name, make in SCHEDULES.items()}
    after = choose("config.optimizer.schedule", o.schedule, of_span).make()
    if not o.warmup_steps:
        return after
    warmup = optax.linear_schedule(peak / o.warmup_steps, peak, max(1, o.warmup_steps - 1))
    return optax.join_schedules([warmup, after], [o.warmup_steps])
