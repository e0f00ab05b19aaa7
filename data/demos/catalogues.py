"""Message catalogues of GNU gettext, as programs have them installed: .mo files."""

import struct
from collections.abc import Iterator
from pathlib import Path

_MAGIC = 0x950412DE
CONTEXT_END = "\x04"  # a context, which tells equal messages apart, comes before it
PLURAL = "\0"  # between the forms of a message


def read_catalogue(path: Path) -> Iterator[tuple[str, str]]:
    """The messages and their translations, in the order of the file.

    A message with a plural gives two pairs: the singular's, and the plural's with the form that many languages have
    for all numbers but one. The header, whose message is empty, is left out, as is what is not translated.

    Raises:
        ValueError: if the file is no catalogue in UTF-8.
    """
    content = path.read_bytes()
    try:
        pairs = list(_pairs(content))
    except (struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no message catalogue in UTF-8: {error}") from error
    for message, translation in pairs:
        forms = message.rpartition(CONTEXT_END)[2].split(PLURAL)
        for form, translated in zip(forms, translation.split(PLURAL), strict=False):
            if form and translated:
                yield form, translated


def _pairs(content: bytes) -> Iterator[tuple[str, str]]:
    """GNU gettext manual, "The Format of GNU MO Files": two tables of lengths and offsets."""
    order = "<" if content[:4] == struct.pack("<I", _MAGIC) else ">"
    magic, _, count, messages, translations = struct.unpack_from(f"{order}5I", content)
    if magic != _MAGIC:
        raise struct.error("it does not begin with the magic number")
    for i in range(count):
        yield _string(content, order, messages + 8 * i), _string(content, order, translations + 8 * i)


def _string(content: bytes, order: str, entry: int) -> str:
    length, offset = struct.unpack_from(f"{order}2I", content, entry)
    (string,) = struct.unpack_from(f"{length}s", content, offset)
    return string.decode()
