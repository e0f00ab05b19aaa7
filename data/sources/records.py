"""Files of ArrayRecord, and the datasets of TFDS that are made of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .files import find_files
from .jsonl import parse_object
from .source import Broken, Example, Source

_RECORDS = 256  # read at a time


def array_record(*, path: str, pattern: str = "**/*.array_record*", format: str = "json") -> Source:
    """Each record of ArrayRecord files.

    Args:
        path: a folder or a file.
        pattern: which files of the folder.
        format: of a record: "json", an object whose keys are the columns, or "text".
    """
    from array_record.python.array_record_module import ArrayRecordReader

    if format not in ("json", "text"):
        raise ValueError(f"format={format!r} is not known; use json or text")
    files = find_files(path, pattern)

    def examples() -> Iterator[Example | Broken]:
        for file in files.paths:
            row, of = 0, files.name(file)
            try:
                reader = ArrayRecordReader(str(file))
                if not reader.ok():
                    raise ValueError("it is no ArrayRecord file, or only a part of one")
                while row < reader.num_records():
                    for record in reader.read(row, min(row + _RECORDS, reader.num_records())):
                        name = f"{of}:{row}"
                        yield parse_object(name, record) if format == "json" else Example(name, {"text": record})
                        row += 1
            except (RuntimeError, ValueError, IndexError, OSError) as error:  # it has no kind of its own
                yield Broken(f"{of}:{row}", f"cannot be read: {error}")

    return Source(f"{files.identity} {format}", examples)


def tfds(*, name: str, path: str = "~/tensorflow_datasets", split: str = "train") -> Source:
    """A split of a dataset that was prepared as ArrayRecord under the data_dir `path`; classes are numbers."""
    import tensorflow_datasets

    def explain(error: Exception) -> ValueError:
        first = str(error).partition("\n")[0]  # tfds goes on to list every dataset there is
        return ValueError(
            f"name={name!r} cannot be read from path={path!r}: {first}\n"
            f"Prepare it once: tensorflow_datasets.builder({name!r}, data_dir={path!r})"
            ".download_and_prepare(file_format='array_record'); some datasets need TensorFlow for that, "
            "reading them afterwards does not"
        )

    data_dir = str(Path(path).expanduser())
    try:
        try:  # what is on the disk needs no code; that of some datasets would need TensorFlow
            builder: Any = tensorflow_datasets.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
        except tensorflow_datasets.core.DatasetNotFoundError:
            import tensorflow_datasets.text  # registers its datasets, some in vain without TensorFlow

            builder = tensorflow_datasets.builder(name, data_dir=data_dir)
    except Exception as error:  # tfds raises many kinds, none of which names our keys
        raise explain(error) from error
    info = builder.info
    if info.splits and split not in info.splits:
        raise ValueError(f"split={split!r} is not in name={name!r}; use one of {', '.join(info.splits)}")
    if info.splits and info.file_format.value != "array_record":  # TFDS loses the last rows of parquet
        raise explain(ValueError(f"it was prepared as {info.file_format.value}"))
    try:
        records = builder.as_data_source(split=split)
    except Exception as error:
        raise explain(error) from error

    def examples() -> Iterator[Example]:
        for i in range(len(records)):
            yield Example(f"{split}/{i}", {column: plain(value) for column, value in records[i].items()})

    sizes = [(one.shard_lengths, one.num_bytes) for key, one in info.splits.items() if key == split]
    return Source(f"{info.full_name} {split} {len(records)} {sizes}", examples)


def plain(value: Any) -> Any:
    """Numbers and lists of Python's own for NumPy's, and text for the bytes in lists."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [item.decode(errors="surrogateescape") if isinstance(item, bytes) else plain(item) for item in value]
    return value
