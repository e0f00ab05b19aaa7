"""From texts to token files, over all cores."""

import gzip
import hashlib
import itertools
import lzma
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .tokenizer import Tokenizer

_RECORDS = 256  # read at a time
_BATCH_BYTES = 1 << 20  # of text that is tokenized at a time
_BASELINE_LIMIT = 64 << 20  # bytes of validation text beyond which gzip and xz are not measured


def read_texts(records: Any, column: str, step: int = 1) -> Iterator[bytes]:
    """The contents of every `step`-th record of a dataset, many read at once."""
    numbers = range(0, len(records), step)
    for first in range(0, len(numbers), _RECORDS):
        for record in records.__getitems__(list(numbers[first : first + _RECORDS])):
            yield record[column]


def sample_texts(records: Any, column: str, num_bytes: int) -> Iterator[bytes]:
    """Every n-th content, so that about `num_bytes` bytes come from all over the corpus."""
    first = [len(content) for content in itertools.islice(read_texts(records, column), 1000)]
    total = sum(first) / len(first) * len(records)
    yield from read_texts(records, column, step=max(1, math.ceil(total / num_bytes)))


def write_tokens(tokenizer: Tokenizer, records: Any, work: Path, split: str, dtype: str) -> dict[str, Any]:
    """Writes one split's token file and document starts; returns its counts."""
    bos, eos = (np.array([i], np.int32) for i in (tokenizer.bos_id, tokenizer.eos_id))
    lengths, num_bytes, digest = [], 0, hashlib.sha256()
    sizes, bytes_of_ids = tokenizer.bytes_per_id, 0
    with open(work / f"{split}.tokens", "wb") as file:
        for texts in _batches(records):
            num_bytes += sum(map(len, texts))
            encoded = [np.asarray(ids, np.int32) for ids in tokenizer.encode_batch([text.decode() for text in texts])]
            bytes_of_ids += int(sizes[np.concatenate(encoded)].sum())
            tokens = np.concatenate([part for ids in encoded for part in (bos, ids, eos)]).astype(dtype).tobytes()
            file.write(tokens)
            digest.update(tokens)
            lengths += [len(ids) + 2 for ids in encoded]
        file.flush()
        os.fsync(file.fileno())
    np.save(work / f"{split}.starts.npy", np.cumsum([0, *lengths], dtype=np.int64))
    counts = {
        "documents": len(records),
        "tokens": sum(lengths),
        "bytes": num_bytes,
        "tokens_sha256": digest.hexdigest(),
    }
    return counts if bytes_of_ids == num_bytes else counts | {"bytes_of_ids": bytes_of_ids}


def _batches(records: Any) -> Iterator[list[bytes]]:
    """Texts of at least _BATCH_BYTES together."""
    texts, size = [], 0
    for text in read_texts(records, "text"):
        texts.append(text)
        size += len(text)
        if size >= _BATCH_BYTES:
            yield texts
            texts, size = [], 0
    if texts:
        yield texts


def baselines(records: Any, num_bytes: int) -> dict[str, float]:
    """Bits per byte of gzip -9 and xz -9e on the same validation text, to hold a model's figure against."""
    if num_bytes > _BASELINE_LIMIT:
        return {}
    text = b"".join(read_texts(records, "text"))
    return {
        "gzip": 8 * len(gzip.compress(text, 9)) / len(text),
        "xz": 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text),
    }
