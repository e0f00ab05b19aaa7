"""Ids that no text makes, which some tasks need."""

import numpy as np

from ..config import DataConfig
from ..tokenizer import Tokenizer


def special_ids(tokenizer: Tokenizer) -> np.ndarray:
    """Ids that stand for no text, sorted."""
    t = tokenizer
    ids = (t.bos_id, t.eos_id, t.pad_id, t.unk_id, t.cls_id, t.sep_id, t.mask_id, *t.extra_ids)
    return np.array(sorted({i for i in ids if i is not None}))


def ordinary_ids(tokenizer: Tokenizer) -> np.ndarray:
    """All others, sorted."""
    return np.setdiff1d(np.arange(tokenizer.vocab_size), special_ids(tokenizer))


def check_mask(config: DataConfig, tokenizer: Tokenizer | None) -> None:
    """Checks that the tokenizer has, or will have, a mask.

    Raises:
        ValueError: it has not.
    """
    will_lack = config.trains_tokenizer and config.extra_ids < 1
    if will_lack if tokenizer is None else tokenizer.mask_id is None:
        raise _lacking(config, "a mask", 1)


def check_sentinels(config: DataConfig, tokenizer: Tokenizer | None, number: int) -> None:
    """Checks that the tokenizer has, or will have, so many sentinels.

    Raises:
        ValueError: it has not.
    """
    if tokenizer is None:
        there = config.extra_ids - 1 if config.trains_tokenizer else number  # one is the mask
    else:
        there = sum(i != tokenizer.mask_id for i in tokenizer.extra_ids)
    if there < number:
        raise _lacking(config, f"{number} sentinels", number + 1)


def sentinels(tokenizer: Tokenizer, number: int) -> np.ndarray:
    """The first of them: the last of the tokenizer's extra ids, descending, as T5 has them."""
    return np.array([i for i in reversed(tokenizer.extra_ids) if i != tokenizer.mask_id][:number], np.int32)


def _lacking(config: DataConfig, what: str, number: int) -> ValueError:
    kind = config.trained_tokenizer.kind if config.trains_tokenizer else "bpe"
    return ValueError(
        f"config.data.task={config.task!r} needs {what}, which config.data.tokenizer={config.tokenizer!r} has not; use "
        f"'{kind},extra_ids={max(number, 100)}', or a tokenizer that has"
    )
