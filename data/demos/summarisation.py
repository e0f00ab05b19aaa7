"""A function into the first sentence of its docstring, which is taken out of the function.

Packages with the same version for every Python are read, and not the standard library, so that the data is the same
for all.
"""

import re
from collections.abc import Iterator

from .demo import Demo, Example, make_demo, split_by_hash, split_examples
from .functions import read_functions
from .packages import package_sources

PACKAGES = (
    "babel",
    "django",
    "django-oscar",
    "docutils",
    "gramps",
    "mercurial",
    "networkx",
    "orange3-text",
    "pandas",
    "scikit-learn",
    "sphinx",
    "statsmodels",
    "sympy",
    "wagtail",
)
MIN_LINES, MAX_LINES = 3, 40  # of the function: shorter ones say little, longer ones too much
MIN_WORDS, MAX_WORDS = 3, 25  # of the summary


def functions() -> Demo:
    """A tenth of the files is held out for the test, a tenth for validation."""
    pairs = (pair for package in PACKAGES for name, source in package_sources(package) for pair in parse(source, name))
    splits = split_examples(pairs, lambda pair: split_by_hash(pair["name"].partition(":")[0]))
    return make_demo(splits, lambda pair: pair["source"])


def parse(source: str, file: str) -> Iterator[Example]:
    """Functions and summaries of a source file; `file` names it."""
    for function in read_functions(source):
        num_lines = len([line for line in function.body.splitlines() if line.strip()])
        target = first_sentence(function.summary)
        is_function = not function.body.startswith("class ")
        if is_function and MIN_LINES <= num_lines <= MAX_LINES and MIN_WORDS <= len(target.split()) <= MAX_WORDS:
            yield {"name": f"{file}:{function.line}", "source": function.body, "target": target}


def first_sentence(summary: str) -> str:
    """Up to the first full stop before a capital, without reStructuredText's markup; empty if it never ends."""
    text = re.sub(r":\w+:`~?([^`]*)`|``?([^`]*)``?", lambda found: found[1] or found[2] or "", summary)
    found = re.match(r"(.*?[^.\W][)'\"\]]*\.)(?=\s+[A-Z(]|$)", text)
    return found[1] if found else ""
