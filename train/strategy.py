"""What `config.sample` says: how tokens are chosen, and where a text ends."""

import dataclasses
from collections.abc import Callable
from typing import Any

from data.options import choose
from model import EARLY_STOPPING, GREEDY, Beams, Sampling


def _greedy(*, repetition_penalty: float = 1.0) -> Sampling:
    return dataclasses.replace(GREEDY, repetition_penalty=repetition_penalty)


def _sample(
    *,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 0.95,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
) -> Sampling:
    return Sampling(repetition_penalty, temperature, top_k, top_p, min_p)


STRATEGIES: dict[str, Callable[..., Sampling | Beams]] = {"greedy": _greedy, "sample": _sample, "beam": Beams}
# Option -> what it must be, and whether a value is.
_LEGAL: dict[str, tuple[str, Any]] = {
    "repetition_penalty": ("above 0", lambda value: value > 0),
    "temperature": ("above 0, or config.sample.strategy='greedy'", lambda value: value > 0),
    "top_k": ("0 (all) or more", lambda value: value >= 0),
    "top_p": ("above 0 and at most 1", lambda value: 0 < value <= 1),
    "min_p": ("at least 0 and below 1", lambda value: 0 <= value < 1),
    "beams": ("at least 1", lambda value: value >= 1),
    "early_stopping": ("one of " + ", ".join(EARLY_STOPPING), lambda value: value in EARLY_STOPPING),
}


def make_strategy(config: Any) -> Sampling | Beams:
    """How tokens are chosen.

    Raises:
        ValueError: an unknown strategy or option, or a value that is not legal; it names the key.
    """
    text = config.sample.strategy
    chosen = choose("config.sample.strategy", text, STRATEGIES)
    for name, value in chosen.options.items():
        must, is_legal = _LEGAL.get(name, ("", lambda _: True))
        if not is_legal(value):
            raise ValueError(f"config.sample.strategy={text!r}: {name}={value} must be {must}")
    return chosen.make()


def check_sampling(config: Any) -> None:
    """Checks the section `config.sample`.

    Raises:
        ValueError: it names the key, the value and a legal choice.
    """
    s = config.sample
    make_strategy(config)
    if s.max_tokens < 1:
        raise ValueError(f"config.sample.max_tokens={s.max_tokens} must be at least 1")
    if "" in s.stop or not all(isinstance(stop, str) for stop in s.stop):
        raise ValueError(f"config.sample.stop={s.stop!r} must be texts that are not empty, such as ('\\n\\n',), or ()")
