"""Texts to be written by a decoder: ids of which some are learned, as a row's piece."""

from collections.abc import Sequence

import numpy as np

from .frame import blank
from .task import Batch, Setting


def next_tokens(ids: Sequence[int], learned: Sequence[int], setting: Setting) -> Batch:
    """Each id from those before it; what is too long loses its end.

    Args:
        ids: of a whole example.
        learned: 1 for each that is to be learned.
        setting: has the length of a row.

    Raises:
        ValueError: nothing that is to be learned is left.
    """
    length = setting.config.seq_len
    inputs, targets = (np.array(part[:length], np.int32) for part in (ids[:-1], ids[1:]))
    weights = np.array(learned[1 : length + 1], np.float32)
    if not weights.any():
        raise ValueError(f"what is to be written begins after config.data.seq_len={length} tokens, or is not there")
    return {"inputs": inputs, "targets": targets, "weights": weights}


def no_tokens(setting: Setting, *, length: int = 0) -> Batch:
    """A row of padding for them, (T,)."""
    return blank(setting, ids=("inputs", "targets"), floats=("weights",), length=length)


def no_source_and_target(setting: Setting, encoder_length: int, length: int) -> Batch:
    """A row of padding (S,) for an encoder and (T,) for a decoder."""
    source = blank(setting, ids=("inputs",), length=encoder_length)
    return no_tokens(setting, length=length) | {f"encoder_{name}": array for name, array in source.items()}
