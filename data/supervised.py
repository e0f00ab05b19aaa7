"""Labelled examples, measured once: how long they are for a tokenizer and a row, and which labels they have.

{train,valid}.lengths.npy    for each piece of an example its number, which piece, tokens, tokens of the encoder; int32
"""

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
) -> dict[str, Any]:
    """Encodes the examples of each split once and writes their lengths.

    Args:
        task: what they are for.
        tokenizer: makes their ids.
        config: the shape of the rows.
        records: of each split, its fields and "name".
        work: the folder to write to.
        leave_out: is told the reason and the name of an example that cannot be learned from.

    Returns:
        What belongs into metadata.json: "labels" and "label_counts" of the training split, and for each of the
        "splits" the numbers of "examples", "pieces" and "tokens".

    Raises:
        ValueError: no example of a split can be used; the message names the reason for the first.
    """
    counts = Counter(label for fields in records["train"] for label in _labels(task, fields))
    labels = fixed_labels(task) or sorted(counts, key=_order)
    facts: dict[str, Any] = {"labels": labels, "label_counts": [counts[label] for label in labels]} if labels else {}
    splits = {}
    for split, examples in records.items():
        setting = Setting(tokenizer, config, tuple(labels), tuple(counts[label] for label in labels), split != "train")
        lengths = _lengths(task, examples, setting, leave_out)
        np.save(work / f"{split}.lengths.npy", lengths)
        tokens = int(lengths[:, [LENGTH, ENCODER]].sum())
        splits[split] = {"examples": len({*lengths[:, EXAMPLE].tolist()}), "pieces": len(lengths), "tokens": tokens}
    return facts | {"splits": splits}


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
) -> np.ndarray:
    rows, first = [], ""
    for number, fields in enumerate(examples):
        try:
            pieces = task.encode(fields, setting)
        except ValueError as error:
            leave_out(str(error), fields["name"])
            first = first or f"{fields['name']}: {error}"
            continue
        rows += [(number, i, len(p["inputs"]), len(p.get("encoder_inputs", ()))) for i, p in enumerate(pieces)]
    if not rows:
        config = setting.config
        raise ValueError(f"config.data.task={config.task!r} can use none of {len(examples)} examples ({first})")
    return np.array(rows, np.int32)


def read_lengths(corpus: Corpus, split: str) -> np.ndarray:
    """The lengths of a split's pieces, (pieces, 4)."""
    path = corpus.directory / f"{split}.lengths.npy"
    try:
        return np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete the folder to prepare it anew") from error


def setting_of(corpus: Corpus, config: DataConfig, *, evaluating: bool) -> Setting:
    """The setting that a corpus was prepared for."""
    labels, counts = (tuple(corpus.metadata.get(name, ())) for name in ("labels", "label_counts"))
    return Setting(corpus.tokenizer, config, labels, counts, evaluating)
