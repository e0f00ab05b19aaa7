"""How texts become the input of an encoder: first a b, with the separator after each, as BERT has it.

Letters: T length.
"""

from collections.abc import Sequence

import numpy as np

from ..config import DataConfig
from ..tokenizer import Tokenizer
from .task import Batch, Setting

Ids = Sequence[int]
KEEP = ("start", "both", "end")


def marks(tokenizer: Tokenizer) -> tuple[int, int]:
    """The id that stands for a row and the one that ends each of its texts; else what begins and ends a document."""
    first, separator = tokenizer.cls_id, tokenizer.sep_id
    return tokenizer.bos_id if first is None else first, tokenizer.eos_id if separator is None else separator


def frame(tokenizer: Tokenizer, length: int, text: Ids, other: Ids | None = None, *, keep: str = KEEP[0]) -> Batch:
    """One text or two as a row's "inputs" and "token_types", 0 for the first text and 1 for the second.

    Of two texts that are too long the longer loses tokens at its end, until they are alike.

    Args:
        tokenizer: whose special ids frame them.
        length: tokens at most.
        text: ids.
        other: ids of a second text.
        keep: which part of a single text that is too long: its "start", its "end", or half of "both" (Sun et al. 2019,
            arXiv:1905.05583, section 5.3.1).
    """
    first, separator = marks(tokenizer)
    if other is None:
        text = text if len(text) <= length - 2 else _cut(text, length - 2, keep)
        ids, firsts = [first, *text, separator], None
    else:
        a, b = cut_pair(len(text), len(other), length - 3)
        ids, firsts = [first, *text[:a], separator, *other[:b], separator], a + 2
    token_types = np.arange(len(ids)) >= (len(ids) if firsts is None else firsts)
    return {"inputs": np.array(ids, np.int32), "token_types": token_types.astype(np.int32)}


def _cut(text: Ids, length: int, keep: str) -> Ids:
    head = {"start": length, "both": length // 2, "end": 0}[keep]
    return [*text[:head], *text[len(text) - (length - head) :]]


def cut_pair(first: int, second: int, room: int) -> tuple[int, int]:
    """The lengths of two texts once the longer has lost what is too much, and then both in turn."""
    excess = max(0, first + second - room)
    uneven = min(excess, abs(first - second))
    first, second = (first - uneven, second) if first >= second else (first, second - uneven)
    rest = excess - uneven
    return first - rest // 2, second - (rest - rest // 2)


def check_frame(config: DataConfig, least: int) -> None:
    """Checks that a row has room for special tokens and a text.

    Raises:
        ValueError: it has not.
    """
    if config.seq_len < least:
        raise ValueError(
            f"config.data.seq_len={config.seq_len} is too short for config.data.task={config.task!r}; use at least "
            f"{least}"
        )


def blank(
    setting: Setting,
    *,
    ids: Sequence[str] = ("inputs",),
    ints: Sequence[str] = (),
    floats: Sequence[str] = (),
    length: int = 0,
) -> Batch:
    """A row of padding (T,): pad_id in `ids`, 0 elsewhere, and everywhere "segment_ids" and "positions"."""
    length = length or setting.config.seq_len
    row: Batch = {name: np.full(length, setting.tokenizer.pad_id, np.int32) for name in ids}
    row |= {name: np.zeros(length, np.int32) for name in (*ints, "segment_ids", "positions")}
    return row | {name: np.zeros(length, np.float32) for name in floats}
