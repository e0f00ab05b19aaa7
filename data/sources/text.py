"""Text as it lies in files."""

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from .files import UNREADABLE, Files, find_files, opened
from .source import Broken, Example, Source


def text(*, path: str, pattern: str = "**/*.txt*") -> Source:
    """Each file is a document."""
    return _whole_files(find_files(path, pattern))


def stdlib() -> Source:
    """The source files of Python's own standard library: text that every machine has."""
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"test", "tests", "idlelib", "site-packages"}
    paths = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in left_out]  # not even looked into
        paths += [Path(folder, name) for name in names if name.endswith(".py")]
    return _whole_files(Files(root, sorted(paths)))


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
