"""A run's directory: its config, tokenizer and metrics, and the checks that a restart continues the same run.

config.json      the resolved config
tokenizer.model  the tokenizer of the data, so that the run can be used without the data
metrics.jsonl    one object a line, see train/metrics.py
tensorboard/     the same curves
checkpoints/     see train/checkpoint.py
"""

import json
import shutil
import uuid
from collections.abc import Callable
from typing import Any

from etils import epath

from data import Corpus, Tokenizer
from data.command_line import flatten, load_config

# Fields of `model` and `data` that may change between restarts: neither parameters nor the order of examples follow.
_FREE = {f"model.{field}" for field in ("dropout", "dtype", "remat", "scan_unroll")} | {
    f"data.{field}" for field in ("dir", "path", "pattern", "read_threads", "prefetch")
}
_FIXED = ("model.", "data.", "seed", "optimizer.name", "train.objective")


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
    return fixed, {key: pair for key, pair in changed.items() if key not in fixed}


def check_workdir(workdir: epath.Path, config: Any, log: Callable[[str], None]) -> None:
    """Checks, writing nothing that stays, that this config can start or continue a run here.

    Raises:
        ValueError: a run of a different model or data is here, or what is here is no run.
        OSError: the directory cannot be written to.
    """
    path = workdir / "config.json"
    if path.exists():
        fixed, free = config_difference(load_config(path), config)
        if fixed:
            listed = "\n".join(f"  config.{key}: {old!r} there, {new!r} now" for key, (old, new) in fixed.items())
            raise ValueError(
                f"--workdir={workdir} holds a run with other values of\n{listed}\n"
                "Use another --workdir, or the values that are there"
            )
        for key, (old, new) in free.items():
            log(f"Changed since the last start: config.{key}: {old!r} -> {new!r}")
    elif workdir.exists() and any(workdir.iterdir()):
        raise ValueError(f"--workdir={workdir} is not empty and holds no run (no config.json); use another directory")
    probe = workdir / f".probe-{uuid.uuid4().hex}"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe.write_text("x" * 4096)
        probe.unlink()
    except OSError as error:
        raise OSError(f"cannot write to --workdir={workdir}: {error}") from error


def check_space(workdir: epath.Path, checkpoint_bytes: int) -> None:
    """Checks that a checkpoint fits on the disk; the space of object stores is not known.

    Raises:
        OSError: it does not.
    """
    if "://" in str(workdir):
        return
    free = shutil.disk_usage(workdir).free
    if free < 1.1 * checkpoint_bytes:
        raise OSError(
            f"--workdir={workdir} has {free / 1e6:.0f} MB free, but a checkpoint takes {checkpoint_bytes / 1e6:.0f} MB"
        )


def write_run(workdir: epath.Path, config: Any, corpus: Corpus) -> None:
    """Writes config.json and tokenizer.model.

    Raises:
        ValueError: the run here was trained with another tokenizer.
    """
    path = workdir / "tokenizer.model"
    if path.exists() and Tokenizer(path.read_bytes()).sha256 != corpus.tokenizer.sha256:
        raise ValueError(
            f"{path} is not the tokenizer of the data in {corpus.directory}; use another --workdir, or the corpus that "
            "this run was trained on"
        )
    _replace(path, corpus.tokenizer.model)
    _replace(workdir / "config.json", (json.dumps(config.to_dict(), indent=2) + "\n").encode())


def read_tokenizer(workdir: epath.Path) -> Tokenizer:
    """The tokenizer of a run."""
    return Tokenizer((workdir / "tokenizer.model").read_bytes())


def _replace(path: epath.Path, content: bytes) -> None:
    """Writes a file at once or not at all."""
    temporary = path.parent / f".{path.name}.tmp"
    temporary.write_bytes(content)
    temporary.replace(path)
