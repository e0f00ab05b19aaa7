"""Datasets of TFDS."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .source import Example, Source


def tfds(*, name: str, path: str, split: str = "train") -> Source:
    """A split of a dataset that was prepared as ArrayRecord under the data_dir `path`."""
    import tensorflow_datasets

    def explain(error: Exception) -> ValueError:
        first = str(error).partition("\n")[0]  # tfds goes on to list every dataset there is
        return ValueError(
            f"name={name!r} cannot be read from path={path!r}: {first}\n"
            f"Prepare it once: tensorflow_datasets.builder({name!r}, data_dir={path!r})"
            ".download_and_prepare(file_format='array_record'); some datasets need TensorFlow for that, "
            "reading them afterwards does not"
        )

    try:
        builder: Any = tensorflow_datasets.builder(name, data_dir=str(Path(path).expanduser()))
    except Exception as error:  # tfds raises many kinds, none of which names our keys
        raise explain(error) from error
    info = builder.info
    if info.splits and split not in info.splits:
        raise ValueError(f"split={split!r} is not in name={name!r}; use one of {', '.join(info.splits)}")
    try:
        records = builder.as_data_source(split=split)
    except Exception as error:
        raise explain(error) from error

    def examples() -> Iterator[Example]:
        for i in range(len(records)):
            yield Example(f"{split}/{i}", {column: plain(value) for column, value in records[i].items()})

    lengths, size = info.splits[split].shard_lengths, info.splits[split].num_bytes
    return Source(f"{info.full_name} {split} {lengths} {size}", examples)


def plain(value: Any) -> Any:
    """Numbers and lists of Python's own for NumPy's, and text for the bytes in lists."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [item.decode(errors="surrogateescape") if isinstance(item, bytes) else plain(item) for item in value]
    return value
