"""A run's directory: its config, tokenizer and metrics, and the checks that a restart continues the same run.

config.json      the resolved config
tokenizer.model  the tokenizer of the data (or tokenizer.json and what lay beside it), so that the run needs no data
corpus.json      hashes of the data, to know it again, and the figures of gzip and xz on it
metrics.jsonl    one object a line, see train/metrics.py
tensorboard/     the same curves
checkpoints/     see train/checkpoint.py
fixed.json       of a run that trains a part of its parameters, or has a teacher: see train/parameters_of_run.py

A model that train.convert imported has the first two, checkpoints/, and
imported.json    where it comes from
"""

import dataclasses
import inspect
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from etils import epath

from data import Corpus, Tokenizer, load_tokenizer
from data.command_line import flatten, load_config
from data.config import is_trained
from data.mixture import read_shares
from parallel import check_shared, exchange, name_of

from .optimizer import OPTIMIZERS

IMPORTED = "imported.json"  # tells that no training led here

# Fields of `model` and `data` that may change between restarts: neither parameters nor the order of examples follow.
FREE_OF_MODEL = ("attention", "dropout", "dtype", "remat", "scan_unroll")
_FREE = {f"model.{field}" for field in FREE_OF_MODEL} | {
    f"data.{field}" for field in ("dir", "read_threads", "prefetch")
}
_LABELS = ("labels", "label_counts")  # of a corpus, see data/supervised.py
_SHAPES = ("data.vocab_size",)  # with `model` and `optimizer`: what the shapes of the state follow from
_FIXED = (
    "model.",
    "data.",
    "seed",
    "optimizer.name",
    "optimizer.ema",
    "train.objective",
    "train.parameters",
    "init_from",
)


def _without_chunk(objective: Any) -> str:
    """An objective but for how many logits it makes at a time."""
    return re.sub(r"\s*,\s*chunk\s*=[^,]*", "", str(objective)).strip()


def _kept_of_optimizer(name: str) -> tuple[str, float]:
    """What of `config.optimizer.name` the state of a run follows from: the kind, whose other options may change.

    Schedule-free trains a mix of two trees, of which it keeps one, and needs the share to tell the other.
    """
    kind = name.partition(",")[0].strip()
    if kind != "schedule_free":
        return kind, 0.0
    given = re.search(r",\s*b1\s*=\s*([^,\s]+)", name)
    return kind, float(given[1] if given else inspect.signature(OPTIMIZERS[kind]).parameters["b1"].default)


def config_difference(old: Any, new: Any) -> tuple[dict[str, tuple[Any, Any]], dict[str, tuple[Any, Any]]]:
    """Compares the config of a run with a new one.

    Returns:
        Fields that must not change and did, and fields that may; each with its old and new value.
    """
    before, after = flatten(old), flatten(new)
    changed = {
        key: (before.get(key), after.get(key))
        for key in sorted(before | after)
        if json.dumps(before.get(key)) != json.dumps(after.get(key))
    }
    fixed = {key: pair for key, pair in changed.items() if key.startswith(_FIXED) and key not in _FREE}
    if "data.tokenizer" in fixed and not any(is_trained(str(value)) for value in fixed["data.tokenizer"]):
        del fixed["data.tokenizer"]  # another path: `check_same_corpus` compares what lies there
    if "optimizer.name" in fixed and len({_kept_of_optimizer(str(name)) for name in fixed["optimizer.name"]}) == 1:
        del fixed["optimizer.name"]
    if "train.objective" in fixed and len({_without_chunk(text) for text in fixed["train.objective"]}) == 1:
        del fixed["train.objective"]
    if "optimizer.ema" in fixed and all(fixed["optimizer.ema"]):
        del fixed["optimizer.ema"]  # another decay of an average that is there
    for field in {"data.source", "data.valid_source"} & set(fixed):  # likewise, if the parts have the same shares
        old, new = fixed[field]
        if old and new and read_shares(old) == read_shares(new):
            del fixed[field]
    return fixed, {key: pair for key, pair in changed.items() if key not in fixed}


def _listed(differences: dict[str, tuple[Any, Any]]) -> str:
    return "\n".join(f"  config.{key}: {old!r} there, {new!r} now" for key, (old, new) in differences.items())


def check_workdir(workdir: epath.Path, config: Any, log: Callable[[str], None]) -> None:
    """Checks, writing nothing that stays, that this config can start or continue a run here.

    Args:
        workdir: the run's directory.
        config: the config of this start.
        log: is told which fields changed.

    Raises:
        ValueError: a run of a different model or data is here, what is here is no run, or the hosts do not share it.
        OSError: the directory cannot be written to.
    """
    path = workdir / "config.json"
    if (workdir / IMPORTED).exists():
        raise ValueError(
            f"--workdir={workdir} holds an imported model; train it with --config.init_from={workdir} and a --workdir "
            "of the run's own"
        )
    if path.exists():
        fixed, free = config_difference(load_config(path), config)
        if fixed:
            raise ValueError(
                f"--workdir={workdir} holds a run with other values of\n{_listed(fixed)}\n"
                "Use another --workdir, or the values that are there"
            )
        for key, (old, new) in free.items():
            log(f"Changed since the last start: config.{key}: {old!r} -> {new!r}")
    elif workdir.exists() and any(not child.name.startswith(".") for child in workdir.iterdir()):
        raise ValueError(f"--workdir={workdir} is not empty and holds no run (no config.json); use another directory")
    check_shared(workdir)


def check_restorable(workdir: epath.Path, config: Any) -> None:
    """Checks that a config fits the checkpoints of a run.

    Raises:
        ValueError: there is no run, or its parameters or optimizer state are of other shapes.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise ValueError(f"--workdir={workdir} holds no run (no config.json)")
    fixed, _ = config_difference(load_config(path), config)
    shapes = {key: pair for key, pair in fixed.items() if key.startswith(("model.", "optimizer.")) or key in _SHAPES}
    if shapes:
        raise ValueError(f"--workdir={workdir} was trained with other values of\n{_listed(shapes)}")


def check_space(workdir: epath.Path, checkpoint_bytes: int, num_checkpoints: int) -> None:
    """Checks that the checkpoints of a run fit on the disk; the space of object stores is not known.

    Args:
        workdir: the run's directory; checkpoints that are there count as room.
        checkpoint_bytes: size of one.
        num_checkpoints: how many there are at most, the one being written included.

    Raises:
        OSError: they do not fit.
    """
    if "://" in str(workdir):
        return
    there = sum(path.stat().st_size for path in Path(workdir).glob("checkpoints/**/*") if path.is_file())
    free = shutil.disk_usage(workdir).free + there
    if free < 1.1 * num_checkpoints * checkpoint_bytes:
        raise OSError(
            f"--workdir={workdir} has {free / 1e6:.0f} MB free, but {num_checkpoints} checkpoints take "
            f"{num_checkpoints * checkpoint_bytes / 1e6:.0f} MB; use another disk, or config.train.keep_checkpoints=1"
        )


def check_same_corpus(workdir: epath.Path, corpus: Corpus) -> None:
    """Checks that a corpus is the one that the run here was trained on.

    Raises:
        ValueError: its tokenizer or its tokens differ.
    """
    path = workdir / "corpus.json"
    if not path.exists():
        return
    there, now = json.loads(path.read_text()), corpus_facts(corpus)
    for fact in ("tokenizer_sha256", "tokens_sha256"):
        if there[fact] != now[fact]:
            raise ValueError(
                f"--workdir={workdir} was trained on another corpus than {corpus.directory}: {fact} was {there[fact]}, "
                f"now it is {now[fact]}; use another --workdir, or the data of the run"
            )


def check_equal_corpora(corpus: Corpus) -> None:
    """Checks that all processes have the same corpus, where hosts have prepared their own.

    Raises:
        ValueError: it names the processes whose tokenizer or tokens differ from those of process 0.
    """
    facts = corpus_facts(corpus)
    hashes = {fact: facts[fact] for fact in ("tokenizer_sha256", "tokens_sha256")}
    all_hashes = [json.loads(said) for said in exchange("corpus", json.dumps(hashes))]
    for fact in hashes:
        other = [i for i, theirs in enumerate(all_hashes) if theirs[fact] != all_hashes[0][fact]]
        if other:
            raise ValueError(
                f"{fact} of the prepared data differs: {', '.join(name_of(i) for i in other[:8])} from {name_of(0)}; "
                "give all hosts the same config.data.source, or one config.data.dir that they share"
            )


def corpus_facts(corpus: Corpus) -> dict[str, Any]:
    """What a run keeps of its corpus: hashes to know it by, and the compressors' figures to be held against."""
    return {
        "tokenizer_sha256": corpus.metadata["tokenizer_sha256"],
        "tokens_sha256": {split: facts["tokens_sha256"] for split, facts in corpus.metadata["splits"].items()},
        "compressed_bits_per_byte": corpus.metadata["compressed_bits_per_byte"],
        **{name: corpus.metadata[name] for name in _LABELS if name in corpus.metadata},
    }


def with_labels_of(workdir: epath.Path, corpus: Corpus) -> Corpus:
    """Another corpus with the labels of the run's, whose numbers the model knows; an imported model has no corpus."""
    return dataclasses.replace(corpus, metadata={**corpus.metadata, **_read_labels(workdir)})


def read_labels(workdir: epath.Path) -> list[str]:
    """The labels that a run was trained on, in the order of their numbers; none, if there are none."""
    return _read_labels(workdir).get("labels", [])


def _read_labels(workdir: epath.Path) -> dict[str, Any]:
    path = workdir / "corpus.json"
    facts = json.loads(path.read_text()) if path.exists() else {}
    return {name: facts[name] for name in _LABELS if name in facts}


def write_run(workdir: epath.Path, config: Any, corpus: Corpus) -> None:
    """Writes config.json, the tokenizer and corpus.json; the first tells that a run is here."""
    replace_file(workdir / "config.json", (json.dumps(config.to_dict(), indent=2) + "\n").encode())
    write_tokenizer(workdir, corpus.tokenizer)
    replace_file(workdir / "corpus.json", (json.dumps(corpus_facts(corpus), indent=2) + "\n").encode())


def read_tokenizer(workdir: epath.Path) -> Tokenizer:
    """The tokenizer of a run."""
    return load_tokenizer(workdir)


def write_tokenizer(workdir: epath.Path, tokenizer: Tokenizer) -> None:
    """Writes the files that `read_tokenizer` reads."""
    for name, content in tokenizer.files.items():
        replace_file(workdir / name, content)


def replace_file(path: epath.Path, content: bytes) -> None:
    """Writes a file at once or not at all."""
    temporary = path.parent / f".{path.name}.tmp"
    temporary.write_bytes(content)
    temporary.replace(path)
