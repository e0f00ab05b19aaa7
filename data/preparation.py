"""Turns a corpus into tokens, once.

Everything is written under a temporary name and renamed at the end, so a killed preparation leaves nothing half-made,
and processes that prepare the same corpus at once do not disturb one another.
"""

import functools
import gzip
import hashlib
import importlib.metadata
import itertools
import json
import lzma
import math
import os
import shutil
import socket
import sys
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .config import DataConfig
from .sources import SOURCES, Document, Source
from .store import FORMAT, SPLITS, Corpus, corpus_directory, fingerprint, open_corpus
from .tokenizer import Tokenizer, train_tokenizer
from .tokenizer_files import load_tokenizer

LeftOut = defaultdict[str, list[str]]  # reason -> names of documents

_BATCH = 256  # documents tokenized at a time, over all cores
_BASELINE_LIMIT = 64 << 20  # bytes of validation text beyond which gzip and xz are not measured


def prepare(config: Any, *, log: Callable[[str], None] = lambda line: print(line, file=sys.stderr)) -> Corpus:
    """Prepares the corpus of a config, or opens it when it is already there.

    Args:
        config: a DataConfig, or a mapping with its keys.
        log: is told what happens.

    Returns:
        The corpus.

    Raises:
        ValueError: the source cannot be read, is empty, or does not suit the settings.
        OSError: the disk is full or read-only; the message names the folder.

    Example:
        corpus = prepare(config.data)
    """
    config = DataConfig.of(config)
    if config.source not in SOURCES:
        raise ValueError(f"config.data.source={config.source!r} is not known; use one of {', '.join(SOURCES)}")
    given = None if config.trains_tokenizer else _given_tokenizer(config)
    source = SOURCES[config.source](config)
    final = corpus_directory(config, source.identity)
    if (final / "metadata.json").exists():
        return open_corpus(final)
    log(f"Preparing {config.source} in {final}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(final)
        work = final.parent / f".{final.name}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        work.mkdir()
    except OSError as error:
        raise OSError(f"cannot write to config.data.dir={config.dir!r}: {error}") from error
    try:
        metadata = _write(config, source, given, work, log)
        (work / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")
        try:
            work.rename(final)
        except OSError:
            if not (final / "metadata.json").exists():  # else another process was first, with the same result
                raise
    except OSError as error:
        raise OSError(f"cannot write to config.data.dir={config.dir!r}: {error}; nothing was kept") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return open_corpus(final)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _remove_left_over(final: Path) -> None:
    """Removes what preparations of the same corpus left that were killed on this machine."""
    for path in final.parent.glob(f".{final.name}-{socket.gethostname()}-*"):
        pid = int(path.name.rsplit("-", 2)[1])
        if pid != os.getpid() and not _is_running(pid):
            shutil.rmtree(path, ignore_errors=True)


def _given_tokenizer(config: DataConfig) -> Tokenizer:
    """The tokenizer that config.data.tokenizer is the path of."""
    try:
        tokenizer = load_tokenizer(config.tokenizer)
    except ValueError as error:
        raise ValueError(f"config.data.tokenizer={config.tokenizer!r} cannot be used: {error}") from error
    if config.vocab_size < tokenizer.vocab_size:
        raise ValueError(
            f"config.data.vocab_size={config.vocab_size} is too small for config.data.tokenizer={config.tokenizer!r}, "
            f"which has {tokenizer.vocab_size} ids; use at least {tokenizer.vocab_size}"
        )
    return tokenizer


def _write(
    config: DataConfig, source: Source, given: Tokenizer | None, work: Path, log: Callable[[str], None]
) -> dict[str, Any]:
    """Writes every file but metadata.json, and returns what belongs there."""
    from .documents import write_documents

    dropped: LeftOut = defaultdict(list)

    def documents(split: str) -> Iterator[tuple[str, str]]:
        dropped.clear()  # each split reads the whole source
        return ((name, text) for belongs, name, text in _clean(config, source, dropped) if belongs == split)

    _check_splits(config, documents)
    records = write_documents(work / "documents", {split: functools.partial(documents, split) for split in SPLITS})
    for reason, names in dropped.items():
        log(f"Left out {len(names)} documents ({reason}): {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}")
    tokenizer = given
    if tokenizer is None:
        log("Training the tokenizer")
        sample = _sample(records["train"], config.tokenizer_bytes)
        kind, extra_ids = config.trained_tokenizer.kind, config.extra_ids
        tokenizer = train_tokenizer(sample, kind=kind, vocab_size=config.vocab_size, extra_ids=extra_ids)
    for name, content in tokenizer.files.items():
        (work / name).write_bytes(content)
    dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
    library = "tokenizers" if "tokenizer.json" in tokenizer.files else "sentencepiece"
    splits = {}
    for split in SPLITS:
        log(f"Tokenizing {split}: {len(records[split])} documents")
        splits[split] = _write_tokens(tokenizer, records[split], work, split, dtype)
    return {
        "format": FORMAT,
        "fingerprint": fingerprint(config, source.identity),
        "source": config.source,
        "tokenizer_sha256": tokenizer.sha256,
        "vocab_size": tokenizer.vocab_size,
        "pad_id": tokenizer.pad_id,
        "token_dtype": dtype,
        "splits": splits,
        "left_out": {reason: len(names) for reason, names in dropped.items()},
        "compressed_bits_per_byte": _baselines(records["valid"], splits["valid"]["bytes"]),
        "versions": {name: importlib.metadata.version(name) for name in (library, "tensorflow-datasets")},
    }


def _check_splits(config: DataConfig, documents: Callable[[str], Iterator[tuple[str, str]]]) -> None:
    counts = {split: sum(1 for _ in itertools.islice(documents(split), 1)) for split in SPLITS}
    if not any(counts.values()):
        raise ValueError(f"the corpus of config.data.source={config.source!r} is empty: it has no text at all")
    for split, count in counts.items():
        if count == 0:
            raise ValueError(
                f"config.data.valid_fraction={config.valid_fraction} leaves no document for {split}; change it, or use "
                "config.data.chunk_bytes=10000 to cut long documents in pieces"
            )


def _clean(config: DataConfig, source: Source, dropped: LeftOut) -> Iterator[tuple[str, str, str]]:
    """Yields (split, name, text) of every document that is valid UTF-8, not empty and not a repetition."""
    seen = set()
    for name, content in (piece for document in source.documents() for piece in _chunks(document, config.chunk_bytes)):
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            if config.invalid_utf8 == "error":
                raise ValueError(
                    f"{name} is not UTF-8 (byte {error.start}); config.data.invalid_utf8='skip' leaves such files out"
                ) from error
            dropped["invalid UTF-8"].append(name)
            continue
        digest = hashlib.sha256(content).digest()
        if not text or digest in seen:
            dropped["exact repetition" if text else "empty"].append(name)
            continue
        seen.add(digest)
        share = int.from_bytes(hashlib.sha1(name.encode()).digest()[:8], "big") / 2**64
        yield "valid" if share < config.valid_fraction else "train", name, text


def _chunks(document: Document, size: int) -> Iterator[Document]:
    """Cuts a document into pieces of at most `size` bytes at line ends, or where it must in mid-line; 0 never cuts."""
    name, content = document
    if not size or len(content) <= size:
        yield document
        return
    start = 0
    while start < len(content):
        end = len(content) if start + size >= len(content) else content.rfind(b"\n", start, start + size) + 1
        if end <= start:
            end = start + size
            while end > start + size - 3 and content[end] & 0xC0 == 0x80:  # not within a character
                end -= 1
        yield Document(f"{name}@{start}", content[start:end])
        start = end


def _texts(records: Any) -> Iterator[str]:
    for i in range(len(records)):
        yield records[i]["text"].decode()


def _sample(records: Any, num_bytes: int) -> Iterator[str]:
    """Every n-th text, so that about `num_bytes` bytes come from all over the corpus."""
    total = sum(len(records[i]["text"]) for i in range(min(len(records), 1000)))
    total = total / min(len(records), 1000) * len(records)
    step = max(1, math.ceil(total / num_bytes))
    for i in range(0, len(records), step):
        yield records[i]["text"].decode()


def _write_tokens(tokenizer: Tokenizer, records: Any, work: Path, split: str, dtype: str) -> dict[str, Any]:
    """Writes one split's token file and document starts; returns its counts."""
    starts, num_bytes, digest = [0], 0, hashlib.sha256()
    sizes, bytes_of_ids = tokenizer.bytes_per_id, 0
    with open(work / f"{split}.tokens", "wb") as file:
        for first in range(0, len(records), _BATCH):
            texts = [records[i]["text"] for i in range(first, min(first + _BATCH, len(records)))]
            num_bytes += sum(map(len, texts))
            for ids in tokenizer.encode_batch([text.decode() for text in texts]):
                bytes_of_ids += int(sizes[ids].sum())
                tokens = np.array([tokenizer.bos_id, *ids, tokenizer.eos_id], dtype).tobytes()
                file.write(tokens)
                digest.update(tokens)
                starts.append(starts[-1] + len(ids) + 2)
        file.flush()
        os.fsync(file.fileno())
    np.save(work / f"{split}.starts.npy", np.array(starts, np.int64))
    counts = {
        "documents": len(records),
        "tokens": starts[-1],
        "bytes": num_bytes,
        "tokens_sha256": digest.hexdigest(),
    }
    return counts if bytes_of_ids == num_bytes else counts | {"bytes_of_ids": bytes_of_ids}


def _baselines(records: Any, num_bytes: int) -> dict[str, float]:
    """Bits per byte of gzip -9 and xz -9e on the same validation text, to hold a model's figure against."""
    if num_bytes > _BASELINE_LIMIT:
        return {}
    text = "".join(_texts(records)).encode()
    return {
        "gzip": 8 * len(gzip.compress(text, 9)) / len(text),
        "xz": 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text),
    }
