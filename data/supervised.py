"""Labelled examples, measured once: how long they are for a tokenizer and a row, and which labels they have.

{train,valid}.lengths.npy    for each piece of an example its number, which piece, tokens, tokens of the encoder; int32
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .config import DataConfig
from .store import Corpus
from .tasks.task import ExampleTask, Setting
from .tokenizer import Tokenizer

EXAMPLE, PIECE, LENGTH, ENCODER = range(4)  # columns of the lengths


def measure_examples(
    task: ExampleTask,
    tokenizer: Tokenizer,
    config: DataConfig,
    records: Mapping[str, Sequence[Mapping[str, Any]]],
    work: Path,
    leave_out: Callable[[str, str], None],
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Encodes the examples of each split once and writes their lengths.

    Args:
        task: what they are for.
        tokenizer: makes their ids.
        config: the shape of the rows.
        records: of each split, its fields and "name".
        work: the folder to write to.
        leave_out: is told "unusable", and the name of an example that cannot be learned from, with the reason.

    Returns:
        "seq_len", and "labels" and "label_counts" of the training split (of the other one, if there is only that), if
        there are labels; and for each split its numbers of "documents", "examples" that can be used, "pieces" and
        "tokens", and a hash of these.

    Raises:
        ValueError: no example of a split can be used; the message has the reason for the first.
    """
    counts = Counter(label for fields in records.get("train", records["valid"]) for label in _labels(task, fields))
    labels = fixed_labels(task) or sorted(counts, key=_order)
    of_each = tuple(counts[label] for label in labels)
    facts = {}
    for split, examples in records.items():
        setting = Setting(tokenizer, config, tuple(labels), of_each, evaluating=split != "train")
        lengths, digest = _lengths(task, examples, setting, leave_out)
        np.save(work / f"{split}.lengths.npy", lengths)
        facts[split] = {
            "documents": len(examples),
            "examples": len(np.unique(lengths[:, EXAMPLE])),
            "pieces": len(lengths),
            "tokens": int(lengths[:, [LENGTH, ENCODER]].sum()),
            "tokens_sha256": digest,
        }
    known = {"labels": labels, "label_counts": list(of_each)} if labels else {}
    return {"seq_len": config.seq_len} | known, facts


def fixed_labels(task: ExampleTask) -> list[str]:
    """The labels that a task's option names, in its order; none if they follow from the examples."""
    return [label for label in getattr(task, "labels", "").split("/") if label]


def _labels(task: ExampleTask, fields: Mapping[str, Any]) -> list[str]:
    """None of an example that cannot be used, which is found out again when it is encoded."""
    try:
        return list(task.labels_of(fields))
    except ValueError:
        return []


def _order(label: str) -> tuple[bool, int, str]:
    """Numbers by their size, then words by the alphabet."""
    is_number = label.removeprefix("-").isdecimal()
    return (not is_number, int(label) if is_number else 0, label)


def _lengths(
    task: ExampleTask, examples: Sequence[Any], setting: Setting, leave_out: Callable[[str, str], None]
) -> tuple[np.ndarray, str]:
    """The lengths of all pieces, and a hash of what is in them."""
    rows, first, digest = [], "", hashlib.sha256()
    for number, fields in enumerate(examples):
        try:
            pieces = task.encode(fields, setting)
        except ValueError as error:
            why = f"{fields['name']}: {error}"
            leave_out("unusable", why)
            first = first or why
            continue
        for i, piece in enumerate(pieces):
            rows.append((number, i, len(piece["inputs"]), len(piece.get("encoder_inputs", ()))))
            for name in sorted(piece):
                digest.update(piece[name].tobytes())
    if not rows:
        said = f"config.data.task={setting.config.task!r}"
        raise ValueError(f"{said} can use none of the {len(examples)} examples of a split ({first})")
    return np.array(rows, np.int32), digest.hexdigest()


def read_lengths(corpus: Corpus, split: str) -> np.ndarray:
    """The lengths of a split's pieces, (pieces, 4)."""
    path = corpus.directory / f"{split}.lengths.npy"
    try:
        return np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete the folder to prepare it anew") from error


def setting_of(corpus: Corpus, config: DataConfig, *, evaluating: bool) -> Setting:
    """The setting that a corpus was prepared for.

    Raises:
        ValueError: it was prepared for rows of another length.
    """
    there = corpus.metadata["seq_len"]
    if there != config.seq_len:
        raise ValueError(
            f"{corpus.directory} was prepared for config.data.seq_len={there}, not {config.seq_len}; prepare it anew"
        )
    labels, counts = (tuple(corpus.metadata.get(name, ())) for name in ("labels", "label_counts"))
    return Setting(corpus.tokenizer, config, labels, counts, evaluating)
