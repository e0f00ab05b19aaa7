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
        signature: from `def` to the colon, or `class`.
        docstring: cleaned of its indentation.
    """

    name: str
    line: int
    body: str
    signature: str
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

    Functions within functions are part of their body. One whose docstring shares a line with other code is left out,
    and a source that this Python does not parse has none.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    yield from _read(tree, source.splitlines(), "")


def _read(parent: ast.Module | ast.ClassDef, lines: list[str], prefix: str) -> Iterator[Function]:
    for node in parent.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            docstring = (ast.get_docstring(node) or "").strip()
            if docstring and _stands_alone(node.body, lines):
                header, rest = _around_docstring(node, lines)
                body, signature = (textwrap.dedent(text).strip() for text in (f"{header}\n{rest}", header))
                yield Function(prefix + node.name, node.lineno, body, signature, docstring)
        if isinstance(node, ast.ClassDef):
            yield from _read(node, lines, f"{prefix}{node.name}.")


def _stands_alone(body: list[ast.stmt], lines: list[str]) -> bool:
    """Whether other statements follow the docstring, and none is on its lines."""
    before = lines[body[0].lineno - 1].encode()[: body[0].col_offset]
    return len(body) > 1 and not before.strip() and body[1].lineno != body[0].end_lineno


def _around_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, lines: list[str]) -> tuple[str, str]:
    docstring, end = node.body[0], node.end_lineno
    before, after = lines[node.lineno - 1 : docstring.lineno - 1], lines[docstring.end_lineno : end]
    return "\n".join(line.rstrip() for line in before), "\n".join(line.rstrip() for line in after)
