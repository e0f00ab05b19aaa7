"""What `config.sample` says: how tokens are chosen, and where a text ends."""

from typing import Any

from model import EARLY_STOPPING, GREEDY, Beams, Sampling, parse_choice

STRATEGIES: dict[str, dict[str, Any]] = {
    "greedy": {"repetition_penalty": 1.0},
    "sample": {"temperature": 0.8, "top_k": 0, "top_p": 0.95, "min_p": 0.0, "repetition_penalty": 1.0},
    "beam": {"beams": 4, "length_penalty": 1.0, "early_stopping": EARLY_STOPPING[0], "repetition_penalty": 1.0},
}
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
    choice = parse_choice("config.sample.strategy", text, STRATEGIES)
    for name, value in choice.options.items():
        must, is_legal = _LEGAL.get(name, ("", lambda _: True))
        if not is_legal(value):
            raise ValueError(f"config.sample.strategy={text!r}: {name}={value} must be {must}")
    if choice.kind == "beam":
        return Beams(**choice.options)
    return Sampling(**{"temperature": GREEDY.temperature, **choice.options})


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
