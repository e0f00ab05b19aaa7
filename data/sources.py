"""Where documents come from. A new source is a function here and its row in SOURCES."""

import contextlib
import gzip
import hashlib
import json
import os
import sysconfig
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .config import DataConfig


class Document(NamedTuple):
    """One text, not yet decoded.

    Attributes:
        name: unique in its source, and the same on every machine: it decides the split.
        content: the text, UTF-8.
    """

    name: str
    content: bytes


class Source(NamedTuple):
    """Documents, and what they are known by.

    Attributes:
        identity: changes when the documents do; preparation starts anew then.
        documents: yields the documents, the same ones in the same order at each call.
    """

    identity: str
    documents: Callable[[], Iterator[Document]]


def _name(root: Path, path: Path) -> str:
    """The path under `root`; bytes that are not UTF-8 are written as backslash, x and two digits."""
    return os.fsencode(path.relative_to(root).as_posix()).decode(errors="backslashreplace")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _identity(root: Path, paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        stat = path.stat()
        digest.update(f"{_name(root, path)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _read_files(root: Path, paths: list[Path]) -> Source:
    def documents() -> Iterator[Document]:
        for path in paths:
            with _reading(path):
                content = path.read_bytes()
            yield Document(_name(root, path), content)

    return Source(_identity(root, paths), documents)


def _find_files(config: DataConfig) -> tuple[Path, list[Path]]:
    """The files of `config.path` that match `config.pattern`, sorted; the path may also be one file."""
    if not config.path:
        raise ValueError(f"config.data.path is empty; config.data.source={config.source!r} needs a folder or a file")
    root = Path(config.path).expanduser()
    if root.is_file():
        return root.parent, [root]
    if not root.is_dir():
        raise ValueError(f"config.data.path={config.path!r} is neither a folder nor a file")
    paths = sorted(path for path in root.glob(config.pattern) if path.is_file())
    if not paths:
        raise ValueError(
            f"config.data.path={config.path!r} has no file that matches config.data.pattern={config.pattern!r}; "
            "'**/*' matches all"
        )
    return root, paths


def stdlib(config: DataConfig) -> Source:
    """The source files of Python's own standard library: text that every machine has."""
    del config
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"test", "tests", "idlelib", "site-packages"}
    paths = sorted(path for path in root.rglob("*.py") if not left_out & set(path.relative_to(root).parts))
    return _read_files(root, paths)


def text(config: DataConfig) -> Source:
    """Each file under a folder is a document; config.data.pattern chooses them."""
    return _read_files(*_find_files(config))


def jsonl(config: DataConfig) -> Source:
    """Each line of .jsonl or .jsonl.gz files is an object; config.data.text_field is its text."""
    root, paths = _find_files(config)

    def documents() -> Iterator[Document]:
        for path in paths:
            open_file = gzip.open if path.suffix == ".gz" else open
            with _reading(path), open_file(path, "rb") as lines:
                for number, line in enumerate(lines, 1):
                    name = f"{_name(root, path)}:{number}"
                    if line.strip():
                        yield Document(name, _json_text(line, name, config.text_field))

    return Source(_identity(root, paths), documents)


def _json_text(line: bytes, name: str, field: str) -> bytes:
    try:
        record = json.loads(line.decode("utf-8-sig", "surrogatepass"))
    except UnicodeDecodeError:
        return line  # the caller decodes, and reports what it cannot
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: not a JSON object ({error})") from error
    if not isinstance(record, dict) or not isinstance(record.get(field), str):
        found = ", ".join(record) if isinstance(record, dict) else type(record).__name__
        raise ValueError(f"{name}: no text in config.data.text_field={field!r}; the line has {found}")
    return record[field].encode("utf-8", "surrogatepass")


def tfds(config: DataConfig) -> Source:
    """The train split of a TFDS dataset that was prepared as ArrayRecord under config.data.path."""
    import tensorflow_datasets

    def explain(error: Exception) -> ValueError:
        first = str(error).partition("\n")[0]  # tfds goes on to list every dataset there is
        return ValueError(
            f"config.data.tfds_name={config.tfds_name!r} cannot be read from config.data.path={config.path!r}: "
            f"{first}\nPrepare it once: tensorflow_datasets.builder({config.tfds_name!r}, data_dir={config.path!r})"
            ".download_and_prepare(file_format='array_record'); some datasets need TensorFlow for that, "
            "reading them afterwards does not"
        )

    try:
        builder: Any = tensorflow_datasets.builder(config.tfds_name, data_dir=str(Path(config.path).expanduser()))
        records = builder.as_data_source(split="train")
    except Exception as error:  # tfds raises many kinds, none of which names our keys
        raise explain(error) from error
    if config.text_field not in builder.info.features:
        raise ValueError(
            f"config.data.text_field={config.text_field!r} is no feature of config.data.tfds_name="
            f"{config.tfds_name!r}; use one of {', '.join(builder.info.features)}"
        )

    def documents() -> Iterator[Document]:
        for i in range(len(records)):
            content = records[i][config.text_field]
            if not isinstance(content, bytes | str):
                raise ValueError(
                    f"config.data.text_field={config.text_field!r} of config.data.tfds_name={config.tfds_name!r} "
                    f"is no text but {type(content).__name__}"
                )
            yield Document(f"train/{i}", content if isinstance(content, bytes) else content.encode())

    split = builder.info.splits["train"]
    return Source(f"{builder.info.full_name} {split.shard_lengths} {split.num_bytes}", documents)


SOURCES: dict[str, Callable[[DataConfig], Source]] = {
    "stdlib": stdlib,
    "text": text,
    "jsonl": jsonl,
    "tfds": tfds,
}
