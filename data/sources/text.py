"""Text as it lies in files."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from .files import UNREADABLE, Files, find_files, opened
from .source import Broken, Example, Source


def text(*, path: str, pattern: str = "**/*.txt") -> Source:
    """Each file is a document."""
    return _whole_files(find_files(path, pattern))


def stdlib() -> Source:
    """The source files of Python's own standard library: text that every machine has."""
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"test", "tests", "idlelib", "site-packages"}
    paths = sorted(path for path in root.rglob("*.py") if not left_out & set(path.relative_to(root).parts))
    return _whole_files(Files(root, paths))


def _whole_files(files: Files) -> Source:
    def examples() -> Iterator[Example | Broken]:
        for path in files.paths:
            try:
                with opened(path) as file:
                    content = file.read()
            except UNREADABLE as error:
                yield Broken(files.name(path), f"cannot be read: {error}")
            else:
                yield Example(files.name(path), {"text": content})

    return Source(files.identity, examples)
