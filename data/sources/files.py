"""Files of a folder: found, named, known by, and opened whatever compresses them."""

import contextlib
import dataclasses
import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from .extra import from_extra
from .source import Broken


@dataclasses.dataclass(frozen=True)
class Files:
    """Some files under a folder.

    Attributes:
        root: the folder.
        paths: the files, in order.
    """

    root: Path
    paths: list[Path]

    def name(self, path: Path) -> str:
        """The path under the folder; bytes that are not UTF-8 are written as backslash, x and two digits."""
        return os.fsencode(path.relative_to(self.root).as_posix()).decode(errors="backslashreplace")

    @property
    def identity(self) -> str:
        """Hash of names, sizes and times; the folder itself may move."""
        digest = hashlib.sha256()
        for path in self.paths:
            stat = path.stat()
            digest.update(f"{self.name(path)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()


def find_files(path: str, pattern: str) -> Files:
    """The files of a folder that match a pattern, sorted; the path may also be one file, whatever the pattern.

    Raises:
        ValueError: there are none.
    """
    root = Path(path).expanduser()
    if path and root.is_file():
        return Files(root.parent, [root])
    if not path or not root.is_dir():
        raise ValueError(f"path={path!r} is neither a folder nor a file")
    paths = sorted(file for file in root.glob(pattern) if file.is_file())
    if not paths:
        raise ValueError(f"path={path!r} has no file that matches pattern={pattern!r}; '**/*' matches all")
    return Files(root, paths)


UNREADABLE = (OSError, EOFError, zlib.error)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, without the compression that its ending names; errors in them are `UNREADABLE`."""
    with _open(path) as file:
        yield file


def _open(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".zst":
        pyarrow = from_extra("pyarrow", f"{path}, a Zstandard file,")
        return cast(BinaryIO, io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd")))
    return open(path, "rb")


def read_lines(files: Files) -> Iterator[tuple[str, bytes] | Broken]:
    """Yields (name, line) of each line that is not empty; a file that breaks off ends with a `Broken`."""
    for path in files.paths:
        name, number = files.name(path), 0
        try:
            with opened(path) as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield f"{name}:{number}", line
        except UNREADABLE as error:
            yield Broken(f"{name}:{number + 1}", f"cannot be read: {error}")
