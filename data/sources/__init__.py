"""Where examples come from. A new source is a function in a file here and its row in SOURCES."""

import re
from collections.abc import Callable

from ..options import Chosen, choose
from .arrow import hf_disk, parquet
from .demo import demo
from .files import Files as Files
from .files import find_files as find_files
from .jsonl import jsonl
from .records import array_record, tfds
from .separated import csv, tsv
from .source import Broken as Broken
from .source import Example as Example
from .source import Source as Source
from .source import with_options_of_all
from .text import stdlib, text

SOURCES: dict[str, Callable[..., Source]] = {
    "stdlib": stdlib,
    "text": text,
    "jsonl": jsonl,
    "csv": csv,
    "tsv": tsv,
    "parquet": parquet,
    "hf_disk": hf_disk,
    "array_record": array_record,
    "tfds": tfds,
    "demo": demo,
}


def choose_sources(key: str, sources: str) -> list[Chosen]:
    """Reads "kind,option=value + kind,option=value", the parts of a mixture.

    Args:
        key: the config key, for errors.
        sources: what it says; "" has no parts.

    Returns:
        Each part, not opened yet.

    Raises:
        ValueError: as `data.options.choose`.
    """
    table = {kind: with_options_of_all(kind, source) for kind, source in SOURCES.items()}
    outside_quotes = r" \+ (?=(?:[^'\"]|'[^']*'|\"[^\"]*\")*$)"
    return [choose(key, part, table) for part in re.split(outside_quotes, sources)] if sources.strip() else []


def open_sources(key: str, sources: str) -> list[Source]:
    """Opens the parts of a mixture.

    Raises:
        ValueError: one is not known, or not there; it names the key.
    """
    opened = []
    for chosen in choose_sources(key, sources):
        try:
            opened.append(chosen.make())
        except ValueError as error:
            raise ValueError(f"{key}={sources!r}: {error}") from error
    return opened
