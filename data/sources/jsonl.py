"""Lines of JSON."""

import json
from collections.abc import Iterator

from .files import find_files, read_lines
from .source import Broken, Example, Source


def jsonl(*, path: str, pattern: str = "**/*.jsonl*") -> Source:
    """Each line of .jsonl, .jsonl.gz or .jsonl.zst files is an object, whose keys are the columns."""
    files = find_files(path, pattern)

    def examples() -> Iterator[Example | Broken]:
        for line in read_lines(files):
            yield line if isinstance(line, Broken) else parse_object(*line)

    return Source(files.identity, examples)


def parse_object(name: str, line: bytes) -> Example | Broken:
    """The example that a JSON object is."""
    try:
        record = json.loads(line.decode("utf-8-sig", "surrogatepass"))
    except UnicodeDecodeError as error:
        return Broken(name, f"not UTF-8 (byte {error.start} of the object)")
    except (ValueError, RecursionError) as error:
        return Broken(name, f"not a JSON object ({error})")
    return Example(name, record) if isinstance(record, dict) else Broken(name, "not a JSON object")
