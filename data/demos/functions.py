"""Functions of Python source files with their docstrings, read from the source: nothing is imported."""

import ast
import textwrap
from collections.abc import Iterator
from typing import NamedTuple


class Function(NamedTuple):
    """A function or method, or a class with the parameters that it is made with.

    Attributes:
        name: with the classes around it: "Series.sum".
        line: where it begins in its file.
        body: its source from `def` or `class` on, without decorators and docstring, dedented.
        docstring: cleaned of its indentation.
    """

    name: str
    line: int
    body: str
    docstring: str

    @property
    def is_public(self) -> bool:
        """Whether no part of the name begins with an underscore."""
        return not any(part.startswith("_") for part in self.name.split("."))

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring on one line."""
        return " ".join(self.docstring.partition("\n\n")[0].split())


def read_functions(source: str) -> Iterator[Function]:
    """The functions, methods and classes of a module that have a docstring and something else, in their order.

    Functions within functions are part of their body. A source that this Python does not parse has none.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    yield from _read(tree, source.splitlines(), "")


def _read(parent: ast.Module | ast.ClassDef, lines: list[str], prefix: str) -> Iterator[Function]:
    for node in parent.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            docstring = ast.get_docstring(node)
            if docstring and docstring.strip() and len(node.body) > 1:
                yield Function(prefix + node.name, node.lineno, _without_docstring(node, lines), docstring.strip())
        if isinstance(node, ast.ClassDef):
            yield from _read(node, lines, f"{prefix}{node.name}.")


def _without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, lines: list[str]) -> str:
    docstring, end = node.body[0], node.end_lineno
    kept = lines[node.lineno - 1 : docstring.lineno - 1] + lines[docstring.end_lineno : end]
    return textwrap.dedent("\n".join(line.rstrip() for line in kept)).strip()
