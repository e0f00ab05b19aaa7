"""Turns a corpus into tokens, once.

Everything is written under a temporary name and renamed at the end, so a killed preparation leaves nothing half-made,
and processes that prepare the same corpus at once do not disturb one another.
"""

import functools
import importlib.metadata
import itertools
import json
import os
import shutil
import socket
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from .cleaning import Cleaner
from .config import DataConfig
from .filters import make_filters
from .mixture import read_shares
from .sources import SOURCES, Source, choose_sources, open_sources
from .store import FORMAT, SPLITS, Corpus, Records, fingerprint, open_corpus
from .supervised import measure_examples
from .tasks import make_task
from .tasks.task import ExampleTask, Task
from .token_files import baselines, sample_texts, write_tokens
from .tokenizer import Tokenizer, train_tokenizer
from .tokenizer_files import load_tokenizer


class Job(NamedTuple):
    """What is prepared, opened and checked.

    Attributes:
        config: what is asked for.
        task: says what an example must have.
        train: parts of the training source.
        valid: parts of the validation source; None: it is held out.
        tokenizer: the given one; None: it is trained.
    """

    config: DataConfig
    task: Task
    train: list[Source]
    valid: list[Source] | None
    tokenizer: Tokenizer | None

    @property
    def text_only(self) -> bool:
        return set(self.task.fields) == {"text"}

    @property
    def column(self) -> str:
        return "text" if self.text_only else "json"

    @property
    def fingerprint(self) -> str:
        identities = {
            "source": [source.identity for source in self.train],
            "valid_source": [source.identity for source in self.valid or []],
        }
        return fingerprint(self.config, identities, "" if self.text_only else self.config.task)

    @property
    def kinds(self) -> str:
        sources = self.config.source or self.config.valid_source
        return "+".join(chosen.kind for chosen in choose_sources("config.data.source", sources))


def prepare(config: Any, *, log: Callable[[str], None] = lambda line: print(line, file=sys.stderr)) -> Corpus:
    """Prepares the corpus of a config, or opens it when it is already there.

    Args:
        config: a DataConfig, or a mapping with its keys. Where `source` is empty, there is a validation split only,
            of `valid_source`.
        log: is told what happens.

    Returns:
        The corpus.

    Raises:
        ValueError: the source cannot be read, is empty, or does not suit the settings.
        OSError: the disk is full or read-only; the message names the folder.

    Example:
        corpus = prepare(config.data)
    """
    job = open_job(DataConfig.of(config))
    config = job.config
    final = Path(config.dir).expanduser() / f"{job.kinds[:50]}-{job.fingerprint[:16]}"
    if (final / "metadata.json").exists():
        return open_corpus(final)
    log(f"Preparing {job.kinds} in {final}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(final)
        work = final.parent / f".{final.name}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        work.mkdir()
    except OSError as error:
        raise OSError(f"cannot write to config.data.dir={config.dir!r}: {error}") from error
    try:
        metadata = _write(job, work, log)
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


def open_job(config: DataConfig) -> Job:
    """Opens what is to be prepared.

    Raises:
        ValueError: something is not there, or two settings do not fit.
    """
    if not config.source and not config.valid_source:
        raise ValueError(f"config.data.source='' is empty; use one of {', '.join(SOURCES)}, or a valid_source")
    if not config.source and config.trains_tokenizer:
        raise ValueError(
            f"config.data.tokenizer={config.tokenizer!r} is trained on config.data.source, which is empty; give the "
            "path of a tokenizer"
        )
    read_shares(config.source)
    make_filters(config.filters)
    for chosen in choose_sources("config.data.valid_source", config.valid_source):
        if {"weight", "epochs"} & set(chosen.options):
            raise ValueError(
                f"config.data.valid_source={config.valid_source!r} has a weight or epochs, but all of it is read once"
            )
    task = make_task(config)
    given = None if config.trains_tokenizer else _given_tokenizer(config)
    task.check(config, given)
    train = open_sources("config.data.source", config.source)
    valid = open_sources("config.data.valid_source", config.valid_source) if config.valid_source else None
    return Job(config, task, train, valid, given)


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


def _write(job: Job, work: Path, log: Callable[[str], None]) -> dict[str, Any]:
    """Writes every file but metadata.json, and returns what belongs there."""
    from .documents import write_documents

    config, cleaner = job.config, Cleaner(job.config, job.task, job.train, job.valid)
    splits = [split for split in SPLITS if split == "valid" or job.train]
    _check_splits(config, {split: cleaner.peek(split) for split in splits})
    generators = {split: functools.partial(cleaner.examples, split) for split in splits}
    records = write_documents(work / "documents", generators, column=job.column)
    if config.source:
        _check_parts(config, cleaner.parts["train"])
    tokenizer = job.tokenizer
    if tokenizer is None:
        log("Training the tokenizer")
        sample = _texts(job, records["train"], config.tokenizer_bytes)
        kind, extra_ids = config.trained_tokenizer.kind, config.extra_ids
        tokenizer = train_tokenizer(sample, kind=kind, vocab_size=config.vocab_size, extra_ids=extra_ids)
        job.task.check(config, tokenizer)
    for name, content in tokenizer.files.items():
        (work / name).write_bytes(content)
    dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
    library = "tokenizers" if "tokenizer.json" in tokenizer.files else "sentencepiece"
    facts: dict[str, Any] = {}
    if job.text_only:
        for split in splits:
            log(f"Tokenizing {split}: {len(records[split])} documents")
            facts[split] = write_tokens(tokenizer, records[split], work, split, dtype)
        labels = {}
    else:
        log(f"Tokenizing {sum(map(len, records.values()))} examples")
        task, examples = cast(ExampleTask, job.task), {split: Records(records[split]) for split in splits}
        labels, facts = measure_examples(task, tokenizer, config, examples, work, cleaner.left_out.add)
    for split in splits:
        facts[split]["parts"] = _ranges(cleaner.parts[split])
    left_out = cleaner.left_out.report()
    for reason, found in left_out.items():
        log(f"Left out {found['count']} examples, {found['share']:.2%} ({reason}): {', '.join(found['first'])}")
    return {
        "format": FORMAT,
        "fingerprint": job.fingerprint,
        "source": job.kinds,
        "tokenizer_sha256": tokenizer.sha256,
        "vocab_size": tokenizer.vocab_size,
        "pad_id": tokenizer.pad_id,
        "token_dtype": dtype,
        "splits": facts,
        **labels,
        "left_out": left_out,
        "compressed_bits_per_byte": baselines(records["valid"], facts["valid"]["bytes"]) if job.text_only else {},
        "versions": {name: importlib.metadata.version(name) for name in (library, "tensorflow-datasets")},
    }


def _check_splits(config: DataConfig, has_examples: dict[str, bool]) -> None:
    if not any(has_examples.values()):
        raise ValueError(f"the corpus of config.data.source={config.source!r} is empty: it has no text at all")
    for split, there in has_examples.items():
        if not there and config.valid_source:
            key = "valid_source" if split == "valid" else "source"
            raise ValueError(f"config.data.{key}={getattr(config, key)!r} has no example, or none that is not left out")
        if not there:
            raise ValueError(
                f"config.data.valid_fraction={config.valid_fraction} leaves no document for {split}; change it, or use "
                "config.data.chunk_bytes=10000 to cut long documents in pieces"
            )


def _check_parts(config: DataConfig, counts: Sequence[int]) -> None:
    if 0 in counts:
        raise ValueError(
            f"part {counts.index(0) + 1} of config.data.source={config.source!r} has no training example left; see "
            "what was left out, or leave it away"
        )


def _ranges(counts: Sequence[int]) -> list[list[int]]:
    """First and last, exclusive, of parts of these sizes."""
    ends = np.cumsum([0, *counts]).tolist()
    return [list(pair) for pair in itertools.pairwise(ends)]


def _texts(job: Job, records: Any, num_bytes: int) -> Iterator[str]:
    """About `num_bytes` bytes of text to train a tokenizer on."""
    for content in sample_texts(records, job.column, num_bytes):
        yield from job.task.texts({"text": content.decode()} if job.text_only else json.loads(content))
