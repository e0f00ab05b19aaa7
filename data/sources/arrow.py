"""Tables of Arrow: Parquet files, and datasets that Hugging Face's library saved on disk."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .extra import from_extra
from .files import UNREADABLE, Files, find_files
from .source import Broken, Example, Source

_ROWS = 1024  # rows in memory at a time


def parquet(*, path: str, pattern: str = "**/*.parquet") -> Source:
    """Each row of Parquet files."""
    module = from_extra("pyarrow.parquet", "data.source=parquet")
    return _tables(find_files(path, pattern), lambda file: module.ParquetFile(file).iter_batches(_ROWS))


def hf_disk(*, path: str, split: str = "train") -> Source:
    """A split of a dataset that `datasets.Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote.

    Raises:
        ValueError: there is none, or it has not that split.
    """
    pyarrow = from_extra("pyarrow", "data.source=hf_disk")
    root = Path(path).expanduser()
    if (root / "dataset_dict.json").exists():
        splits = json.loads((root / "dataset_dict.json").read_text())["splits"]
        if split not in splits:
            raise ValueError(f"split={split!r} is not in path={path!r}; use one of {', '.join(splits)}")
        root = root / split
    if not (root / "state.json").exists():
        raise ValueError(f"path={path!r} holds no dataset that save_to_disk wrote: it has no state.json")
    state = json.loads((root / "state.json").read_text())
    if state.get("_indices_data_files"):
        raise ValueError(f"path={path!r} has its rows in another order than its files; save flatten_indices() of it")
    files = Files(root, [root / data_file["filename"] for data_file in state["_data_files"]])

    def batches(file: Path) -> Iterator[Any]:
        with pyarrow.memory_map(str(file)) as mapped, pyarrow.ipc.open_stream(mapped) as stream:
            for batch in stream:
                for first in range(0, len(batch), _ROWS):
                    yield batch.slice(first, _ROWS)

    return _tables(files, batches, split)


def _tables(files: Files, batches: Callable[[Path], Iterable[Any]], split: str = "") -> Source:
    """The rows of files, each named by its number from 0."""
    arrow_error = from_extra("pyarrow", "this source").ArrowException

    def examples() -> Iterator[Example | Broken]:
        for path in files.paths:
            row, of = 0, files.name(path)
            try:
                for batch in batches(path):
                    for fields in _rows(batch):
                        name = f"{of}:{row}"
                        yield Broken(name, fields) if isinstance(fields, str) else Example(name, fields)
                        row += 1
            except (*UNREADABLE, arrow_error) as error:
                yield Broken(f"{of}:{row}", f"cannot be read: {error}")

    return Source(f"{files.identity} {split}", examples)


def _rows(batch: Any) -> Iterator[dict[str, Any] | str]:
    """The rows of a batch; of one whose text is not UTF-8, what is wrong."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError as error:
        if len(batch) == 1:
            yield f"not UTF-8 (byte {error.start} of a column)"
            return
        for i in range(len(batch)):
            yield from _rows(batch.slice(i, 1))
