"""Choices with numbers of their own, written as one string: "learned,offset=2"."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Choice(NamedTuple):
    """A choice of a kind and its options.

    Attributes:
        kind: what was chosen.
        options: every option of that kind: a float, an int, or a tuple of floats.
    """

    kind: str
    options: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.options[name]
        except KeyError:
            raise AttributeError(f"{self.kind!r} has no option {name!r}") from None


def parse_choice(key: str, text: str, legal: Mapping[str, Mapping[str, Any]]) -> Choice:
    """Reads "kind" or "kind,option=value,...".

    Args:
        key: the config key, for errors.
        text: what it says.
        legal: the options of each kind with their defaults, whose types they keep; a default that is a type says
            that the option must be given. A tuple is written with slashes: "1.0/1.5".

    Returns:
        The choice, with defaults filled in.

    Raises:
        ValueError: an unknown kind or option, an option missing, or a value of another type; it names the key.

    Example:
        parse_choice("config.model.position", "learned,offset=2", {"learned": {"offset": 0}}).offset  # 2
    """
    kind, *pairs = (part.strip() for part in text.split(","))
    if kind not in legal:
        raise ValueError(f"{key}={text!r} is not known; use one of {', '.join(k or repr(k) for k in legal)}")
    options = dict(legal[kind])
    for pair in pairs:
        name, equals, value = (part.strip() for part in pair.partition("="))
        if name not in legal[kind] or not equals:
            known = ", ".join(f"{option}=..." for option in legal[kind]) or "none"
            raise ValueError(f"{key}={text!r}: {pair!r} is no option of {kind!r}; it has {known}")
        default = legal[kind][name]
        wanted = default if isinstance(default, type) else type(default)
        try:
            options[name] = tuple(map(float, value.split("/"))) if wanted is tuple else wanted(value)
        except ValueError:
            raise ValueError(f"{key}={text!r}: {name}={value!r} must be of type {wanted.__name__}") from None
    missing = [name for name, value in options.items() if isinstance(value, type)]
    if missing:
        raise ValueError(f"{key}={text!r} needs {missing[0]}=..., as in '{kind},{missing[0]}=8'")
    return Choice(kind, options)
