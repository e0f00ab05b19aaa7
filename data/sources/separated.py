"""Tables as text: values between commas, or between tabs."""

import csv as reader_of_rows
import io
import sys
from collections.abc import Iterator
from pathlib import Path

from .files import UNREADABLE, Files, find_files, opened
from .source import Broken, Example, Source


def csv(*, path: str, pattern: str = "**/*.csv*", columns: str = "", separator: str = ",") -> Source:
    """Each row of .csv, .csv.gz or .csv.zst files; values with separators or line ends stand in double quotes.

    Args:
        path: a folder or a file.
        pattern: which files of the folder.
        columns: their names, "text:label"; "" takes them from the first row of each file.
        separator: one character.
    """
    if len(separator) != 1:
        raise ValueError(f"separator={separator!r} must be one character")
    return _table(find_files(path, pattern), columns, delimiter=separator, strict=True)


def tsv(*, path: str, pattern: str = "**/*.tsv*", columns: str = "") -> Source:
    """Each line of .tsv, .tsv.gz or .tsv.zst files; a quotation mark is a character like others.

    Args:
        path: a folder or a file.
        pattern: which files of the folder.
        columns: as `csv` takes them.
    """
    return _table(find_files(path, pattern), columns, delimiter="\t", quoting=reader_of_rows.QUOTE_NONE)


def _table(files: Files, columns: str, **dialect: object) -> Source:
    reader_of_rows.field_size_limit(sys.maxsize)  # whole documents are values
    names = columns.split(":") if columns else None

    def examples() -> Iterator[Example | Broken]:
        for file in files.paths:
            yield from _rows(file, files.name(file), names, dialect)

    return Source(f"{files.identity} {columns} {dialect}", examples)


def _rows(path: Path, name: str, names: list[str] | None, dialect: dict) -> Iterator[Example | Broken]:
    line = 0
    try:
        with opened(path) as binary:
            # What is not UTF-8 becomes lone surrogates here, and is found in the column that has it.
            text = io.TextIOWrapper(binary, "utf-8-sig", errors="surrogateescape", newline="")
            rows = reader_of_rows.reader(text, **dialect)
            while True:
                line = rows.line_num + 1
                try:
                    row = next(rows)
                except StopIteration:
                    return
                except reader_of_rows.Error as error:
                    yield Broken(f"{name}:{line}", f"not a row ({error})")
                    continue
                if not row:
                    continue
                if names is None:
                    names = row
                elif len(row) != len(names):
                    yield Broken(f"{name}:{line}", f"{len(row)} values for the {len(names)} columns {', '.join(names)}")
                else:
                    yield Example(f"{name}:{line}", dict(zip(names, row, strict=True)))
    except UNREADABLE as error:
        yield Broken(f"{name}:{line}", f"cannot be read: {error}")
