"""Questions about functions, whose answers are passages of the functions' documentation.

The documentation is numpydoc's: sections "Parameters", "Returns" and "Raises" with lines like `tol : float,
default=1e-3`, and indented descriptions. Such a layout says where the type, the default and the first sentence of a
description begin and end; a question is asked about each of these, in one of several wordings that the hash of its name
chooses. So nobody has written the questions, and the answers are right as far as the layout is kept.

The context is the docstring up to its end of these sections. Some questions have no answer there: the default of a
parameter for which none is given, a parameter that there is not, what a function returns that has no such section.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from .demo import Demo, Example, fraction, make_demo, split_by_hash, split_examples
from .functions import read_functions
from .packages import package_sources

PACKAGES = ("networkx", "pandas", "scikit-learn", "statsmodels")
MAX_WORDS = 600  # of a context
MAX_ANSWERED, MAX_UNANSWERED = 3, 1  # questions of a context
MAX_ANSWER_WORDS = 25

WORDINGS = {
    "type": ("What type is {}?", "Which values does the parameter {} take?", "What can be passed as {}?"),
    "default": ("What is the default of {}?", "Which value does {} have when it is not given?"),
    "meaning": ("What is {}?", "What does the parameter {} mean?", "What is {} for?"),
    "returned type": ("Which type does {} return?", "What is the type of the result of {}?"),
    "returned": ("What does {} return?", "What is the result of {}?"),
    "raised": ("Which exception does {} raise?", "What error can {} raise?"),
    "raised when": ("When does {} raise an exception?", "Why would {} raise an error?"),
}
ELSEWHERE = ("axis", "copy", "dtype", "inplace", "max_iter", "n_jobs", "random_state", "tol", "verbose", "weights")


class Entry(NamedTuple):
    """A parameter, a result or an exception of a docstring; spans are (start, end) in characters.

    Attributes:
        name: empty for a result that has none, and for an exception.
        type: what is said about it on its first line.
        description: the indented lines after that.
    """

    name: str
    type: tuple[int, int]
    description: tuple[int, int]


# A literal after "default", "default:", "default=", "defaults to", "default is" or "default value is".
_DEFAULT = re.compile(
    r"""[Dd]efault(?:s to|(?: value)?(?: is)?)?\s*[=:]?\s*`*"""
    r"""("[^"\n]*"|'[^'\n]*'|\([^()\n`=]*\)|\[[^\[\]\n]*\]|-?\.?\d(?:[\w.+-]*\w)?|True|False|None|\w+(?:\.\w+)+)"""
    r"""(?=`*[\s.,;)\]]|$)"""
)
_RARE = 0.5  # kinds of which there would be few are preferred by this factor in what decides
_PREFERRED = {"default", "raised", "raised when"}


def documentation() -> Demo:
    """A tenth of the files is held out for the test, a tenth for validation; repetitions are of whole docstrings."""
    files = [file for package in PACKAGES for file in package_sources(package)]
    docstrings = (docstring for name, source in files for docstring in _read(source, name))
    splits = split_examples(docstrings, lambda docstring: split_by_hash(docstring["name"].partition(":")[0]))
    demo = make_demo(splits, lambda docstring: docstring["context"])

    def asked(split: str) -> Iterator[Example]:
        for docstring in getattr(demo, split)():
            yield from ask(docstring["name"], docstring["function"], docstring["context"])

    return demo._replace(**{split: lambda split=split: asked(split) for split in splits})


def _read(source: str, file: str) -> Iterator[Example]:
    for function in read_functions(source):
        context = context_of(function.docstring)
        if function.is_public and context and len(context.split()) <= MAX_WORDS:
            name = function.name.removesuffix(".__init__")
            yield {"name": f"{file}:{function.line}", "function": name, "context": context}


def sections(docstring: str) -> dict[str, tuple[int, int]]:
    """The sections whose titles are underlined, and where their texts begin and end."""
    titles = list(re.finditer(r"^(\w[\w ]*)\n-{3,}[ ]*\n?", docstring, re.MULTILINE))
    ends = [*(title.start() for title in titles[1:]), len(docstring)]
    return {title[1].strip(): (title.end(), end) for title, end in zip(titles, ends, strict=False)}


def context_of(docstring: str) -> str:
    """The docstring to the end of its last section that questions are asked about; empty if it has no parameters."""
    found = sections(docstring)
    if "Parameters" not in found:
        return ""
    return docstring[: max(found[title][1] for title in ("Parameters", "Returns", "Raises") if title in found)].rstrip()


def entries(context: str, section: tuple[int, int]) -> Iterator[Entry]:
    """What a section lists: lines without indentation, and what is indented under them."""
    text = context[: section[1]]
    for found in re.finditer(r"^(\S.*)\n((?:[ ]+\S.*\n?|[ ]*\n)*)", text[section[0] :] + "\n", re.MULTILINE):
        start, end = section[0] + found.start(1), section[0] + found.end(1)
        name, colon, _ = found[1].partition(":")
        is_named = bool(colon) and re.fullmatch(r"\*{0,2}\w+ *", name) is not None
        type_start = start + len(name) + 1 if is_named else start
        description = (section[0] + found.start(2), min(section[0] + found.end(2), len(text)))
        yield Entry(name.strip() if is_named else "", stripped(text, type_start, end), stripped(text, *description))


def stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space around it."""
    inside = text[start:end]
    return start + len(inside) - len(inside.lstrip()), max(start, start + len(inside.rstrip()))


def type_span(context: str, entry: Entry) -> tuple[int, int] | None:
    """What may be given, without the default and "optional"."""
    start, end = entry.type
    found = re.search(r"[,;]?\s*[(\[]?\b(optional|default|keyword.only)\b", context[start:end], re.IGNORECASE)
    span = stripped(context, start, start + found.start() if found else end)
    return short(context, span)


def default_span(context: str, entry: Entry) -> tuple[int, int] | None:
    """The literal after "default" on the first line, or else in the description."""
    for start, end in (entry.type, entry.description):
        found = _DEFAULT.search(context[start:end])
        if found:
            return start + found.start(1), start + found.end(1)
    return None


def sentence_span(context: str, span: tuple[int, int]) -> tuple[int, int] | None:
    """The first sentence of a description, without its full stop."""
    start, end = span
    found = re.search(r"\.(?=\s|$)|\n\s*\n|:\s*\n", context[start:end])
    return short(context, stripped(context, start, start + found.start() if found else end))


def short(context: str, span: tuple[int, int]) -> tuple[int, int] | None:
    """The span if there is something in it, and not too much."""
    return span if 1 <= len(context[slice(*span)].split()) <= MAX_ANSWER_WORDS else None


def ask(file: str, function: str, context: str) -> Iterator[Example]:
    """The questions of a context: at most three with an answer and one without, chosen by their hashes."""
    answered, unanswered = [], []
    for kind, subject, span in askable(function, context):
        name = f"{file}:{kind}:{subject}"
        wordings = WORDINGS[kind]
        question = wordings[int(fraction(f"wording of {name}") * len(wordings))].format(subject)
        answers, starts = ([context[slice(*span)]], [span[0]]) if span else ([], [])
        example = {"name": name, "question": question, "context": context, "answers": answers, "starts": starts}
        (answered if span else unanswered).append(example)
    for examples, count in ((answered, MAX_ANSWERED), (unanswered, MAX_UNANSWERED)):
        yield from sorted(examples, key=_rank)[:count]


def _rank(example: Example) -> float:
    """The hash of the name, lower for kinds of which there would be few answers."""
    kind = example["name"].split(":")[2]
    return fraction(example["name"]) * (_RARE if example["answers"] and kind in _PREFERRED else 1)


def askable(function: str, context: str) -> Iterator[tuple[str, str, tuple[int, int] | None]]:
    """Kind, subject and answer of all that can be asked; a question whose answer cannot be located is not."""
    found = sections(context)
    parameters = {entry.name: entry for entry in entries(context, found["Parameters"]) if entry.name}
    for name, entry in parameters.items():
        subject, said = f"{name} of {function}", context[entry.type[0] : entry.description[1]].lower()
        if span := type_span(context, entry):
            yield "type", subject, span
        if span := sentence_span(context, entry.description):
            yield "meaning", subject, span
        if (span := default_span(context, entry)) or not re.search("default|optional|none", said):
            yield "default", subject, span
    absent = [name for name in ELSEWHERE if not re.search(rf"\b{name}\b", context)]
    if parameters and absent:
        name = min(absent, key=lambda name: fraction(f"{name} of {context}"))
        for kind in ("type", "meaning", "default"):
            yield kind, f"{name} of {function}", None
    yield from askable_about_results(function, context, found)


def askable_about_results(
    function: str, context: str, found: dict[str, tuple[int, int]]
) -> Iterator[tuple[str, str, tuple[int, int] | None]]:
    """As `askable`, where there is one result or one exception, or none."""
    for section, of_type, of_description in (
        ("Returns", "returned type", "returned"),
        ("Raises", "raised", "raised when"),
    ):
        listed = list(entries(context, found[section])) if section in found else []
        if section not in found and not re.search(section[:-1], context, re.IGNORECASE):
            yield of_type, function, None
        if len(listed) == 1:
            for kind, span in (
                (of_type, type_span(context, listed[0])),
                (of_description, sentence_span(context, listed[0].description)),
            ):
                if span:
                    yield kind, function, span
