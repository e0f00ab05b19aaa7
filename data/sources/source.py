"""What a source is, and the options that every one of them takes."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Example(NamedTuple):
    """One record.

    Attributes:
        name: unique in its source, and the same on every machine: it decides the split.
        fields: column -> value. Text may be bytes, which are decoded as UTF-8 later.
    """

    name: str
    fields: dict[str, Any]


class Broken(NamedTuple):
    """A record that cannot be read.

    Attributes:
        name: the file and the line.
        reason: what is wrong with it.
    """

    name: str
    reason: str


class Source(NamedTuple):
    """Examples, and what they are known by.

    Attributes:
        identity: changes when the examples do; preparation starts anew then.
        examples: yields them, the same ones in the same order at each call.
    """

    identity: str
    examples: Callable[[], Iterator[Example | Broken]]


# Name and default of what any source takes beside its own options; a share of 0 is one that is not given.
_OF_ALL = {"rename": "", "weight": 0.0, "epochs": 0.0}


def with_options_of_all(kind: str, source: Callable[..., Source]) -> Callable[..., Source]:
    """A source's function that also takes `rename`, and the shares of a mixture, which `data.mixture` reads."""
    signature = inspect.signature(source, eval_str=True)

    def make(*, rename: str = "", weight: float = 0.0, epochs: float = 0.0, **options: Any) -> Source:
        del weight, epochs
        made = source(**options)
        examples = renamed(made.examples, rename) if rename else made.examples
        return Source(f"{kind} {made.identity} {rename}", examples)

    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=type(default))
        for name, default in _OF_ALL.items()
    ]
    make.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *more])
    return make


def renamed(
    examples: Callable[[], Iterator[Example | Broken]], rename: str
) -> Callable[[], Iterator[Example | Broken]]:
    """Examples whose columns have other names.

    Args:
        examples: yields them.
        rename: "old:new/old:new"; "a+b:new" joins two texts by a space, and "a.b:new" takes the part b of a column of
            objects, as SQuAD's "answers.text:answers/answers.answer_start:starts".

    Raises:
        ValueError: `rename` is not of this form.
    """
    pairs = [pair.split(":") for pair in rename.split("/")]
    if not all(len(pair) == 2 and all(pair) for pair in pairs):
        raise ValueError(f"rename={rename!r} is not of the form old:new/old:new")
    new_names = dict(pairs)
    wanted = [old for joined in new_names for old in joined.split("+")]

    def with_new_names() -> Iterator[Example | Broken]:
        for example in examples():
            if isinstance(example, Broken):
                yield example
                continue
            name, fields = example
            found = {old: _part(fields, old) for old in wanted}
            missing = [old for old, (there, _) in found.items() if not there]
            if missing:
                yield Broken(name, f"no column {missing[0]!r} to rename; there are {', '.join(fields)}")
                continue
            taken = {old if old in fields else old.partition(".")[0] for old in wanted}
            kept = {column: value for column, value in fields.items() if column not in taken}
            values = {old: value for old, (_, value) in found.items()}
            yield Example(name, kept | {new: _joined(values, old) for old, new in new_names.items()})

    return with_new_names


def _part(fields: dict[str, Any], name: str) -> tuple[bool, Any]:
    """Whether there is a column of this name, or what a dotted one leads to, and its value."""
    if name in fields:
        return True, fields[name]
    column, dot, rest = name.partition(".")
    inner = fields.get(column)
    return _part(inner, rest) if dot and isinstance(inner, dict) else (False, None)


def _joined(fields: dict[str, Any], columns: str) -> Any:
    """The value of a column, or the texts of several."""
    if "+" not in columns:
        return fields[columns]
    texts = [fields[column] for column in columns.split("+")]
    return " ".join(text.decode(errors="surrogateescape") if isinstance(text, bytes) else str(text) for text in texts)
