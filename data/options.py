"""Things chosen by one string with options of their own: "masked_lm,rate=0.15" or 'jsonl,path="a, b.jsonl"'.

A table has a function (or a dataclass) for each kind; its keyword arguments are the options, with their types and
defaults.
"""

import inspect
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Chosen(NamedTuple):
    """What a string chooses.

    Attributes:
        kind: a key of the table.
        options: those that the string gives; the others have their defaults.
        make: calls the table's function with them.
    """

    kind: str
    options: dict[str, Any]
    make: Callable[[], Any]


def choose(key: str, text: str, table: Mapping[str, Callable[..., Any]]) -> Chosen:
    """Reads "kind" or "kind,option=value,...", where a value with a comma stands in quotes.

    Args:
        key: the config key, for errors.
        text: what it says.
        table: the function of each kind; an argument without a default is an option that must be given.

    Returns:
        What is chosen.

    Raises:
        ValueError: an unknown kind or option, an option missing, or a value of another type; it names the key.

    Example:
        choose("config.data.task", "masked_lm,rate=0.3", TASKS).make()
    """
    kind, pairs = _split(key, text, table)
    if kind not in table:
        raise ValueError(f"{key}={text!r}: {kind!r} is not known; use one of {', '.join(table)}")
    parameters = inspect.signature(table[kind], eval_str=True).parameters
    options: dict[str, Any] = {}
    for name, value in pairs:
        if name not in parameters or value is None:
            known = ", ".join(f"{option}=..." for option in parameters) or "none"
            raise ValueError(f"{key}={text!r}: {name!r} is no option of {kind!r}; it has {known}")
        options[name] = _read(f"{key}={text!r}: {name}", value, parameters[name].annotation)
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in options:
            raise ValueError(f"{key}={text!r} needs {name}=..., as in '{kind},{name}=...'")
    return Chosen(kind, options, lambda: table[kind](**options))


def _split(key: str, text: str, table: Mapping[str, Any]) -> tuple[str, list[tuple[str, str | None]]]:
    """The kind, and names with their values, None where there is no "="."""
    # Around commas and equals signs white space means nothing, but in quotes it does.
    tight = re.sub(r"""("[^"]*"|'[^']*')|\s*([,=])\s*""", lambda found: found[1] or found[2], text.strip())
    lexer = shlex.shlex(tight, posix=True)
    lexer.whitespace, lexer.whitespace_split, lexer.commenters, lexer.escape = ",", True, "", ""
    if not text.strip():
        raise ValueError(f"{key}={text!r} is empty; use one of {', '.join(table)}")
    try:
        kind, *parts = lexer
    except ValueError as error:
        raise ValueError(
            f"{key}={text!r} cannot be read: {str(error).lower()}; give it as 'kind,option=value'"
        ) from error
    pairs = (part.partition("=") for part in parts)
    return kind, [(name, value if equals else None) for name, equals, value in pairs]


def _read(what: str, value: str, wanted: type) -> Any:
    try:
        if wanted is bool:
            return {"1": True, "true": True, "0": False, "false": False}[value.lower()]
        return wanted(value)
    except (ValueError, KeyError):
        raise ValueError(f"{what}={value!r} must be of type {wanted.__name__}") from None
