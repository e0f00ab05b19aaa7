"""A prepared corpus on disk: what `data.prepare` writes and everything else reads.

metadata.json        fingerprint, counts, hashes, versions
tokenizer.model      SentencePiece, or tokenizer.json and what lay beside it
documents/           the texts, or the examples as JSON, a TFDS dataset in ArrayRecord
{train,valid}.tokens       token ids of all documents, one after the other, little-endian
{train,valid}.starts.npy   index of each document's first token, and the number of tokens at the end, int64
{train,valid}.lengths.npy  of labelled examples, in the place of the two before: see data/supervised.py
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .config import DataConfig
from .tokenizer import Tokenizer, TrainedTokenizer, files_sha256
from .tokenizer_files import make_tokenizer, tokenizer_files

FORMAT = 2  # part of the fingerprint: raised when any file changes its meaning
SPLITS = ("valid", "train")  # in the order in which they are written


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A prepared corpus.

    Attributes:
        directory: where it lies.
        metadata: contents of metadata.json.
    """

    directory: Path
    metadata: dict[str, Any] = dataclasses.field(repr=False)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the token files."""
        files = tokenizer_files(self.directory)
        sha256 = files_sha256(files)
        if sha256 != self.metadata["tokenizer_sha256"]:
            raise ValueError(
                f"{self.directory}/{next(iter(files))} has sha256 {sha256[:12]}, but the tokens were made with "
                f"{self.metadata['tokenizer_sha256'][:12]}; put it back, or delete the folder to prepare anew"
            )
        return make_tokenizer(files)

    @property
    def pad_id(self) -> int:
        """The tokenizer's, without opening it; corpora of before tokenizers could be given do not name theirs."""
        return self.metadata.get("pad_id", TrainedTokenizer.pad_id)

    def bytes_per_id(self, split: str) -> np.ndarray:
        """UTF-8 bytes that each id stands for in a split, (vocab_size,).

        Where a tokenizer loses or adds text (WordPiece capitals and spaces, SentencePiece's dummy prefix), its own
        figures are scaled so that they add up to the bytes of the whole split: bits per byte are exact over a split,
        and in proportion over a part of it. They are then bits for what the ids still say: a tokenizer that knows few
        characters has less to predict. int32 where there is nothing to scale, else float32.
        """
        sizes, facts = self.tokenizer.bytes_per_id, self._facts(split)
        if "bytes_of_ids" not in facts:
            return sizes
        return (sizes * (facts["bytes"] / max(1, facts["bytes_of_ids"]))).astype(np.float32)

    def parts(self, split: str) -> list[range]:
        """The documents of each part of the source, in order."""
        return [range(first, last) for first, last in self._facts(split)["parts"]]

    def _facts(self, split: str) -> dict[str, Any]:
        splits = self.metadata["splits"]
        if split not in splits:
            raise ValueError(
                f"{self.directory} has no {split} split, only {', '.join(splits)}: config.data.source was empty"
            )
        return splits[split]

    def records(self, split: str) -> Sequence[dict[str, Any]]:
        """Random access to the examples as the task's columns and "name"."""
        from .documents import open_documents

        self._facts(split)
        return Records(open_documents(self.directory / "documents", split))

    def tokens(self, split: str) -> np.ndarray:
        """All token ids of a split as a read-only memory map."""
        path = self.directory / f"{split}.tokens"
        dtype, length = np.dtype(self.metadata["token_dtype"]), self._facts(split)["tokens"]
        if path.stat().st_size != length * dtype.itemsize:  # before memmap, whose errors do not name the file
            raise ValueError(
                f"{path} has {path.stat().st_size} bytes, but metadata.json says {length} tokens of {dtype.itemsize}; "
                "delete the folder to prepare it anew"
            )
        return np.memmap(path, dtype=dtype, mode="r")

    def starts(self, split: str) -> np.ndarray:
        """Index of the first token of each document, and the total at the end, (documents + 1,) int64."""
        path = self.directory / f"{split}.starts.npy"
        try:
            return np.load(path, mmap_mode="r")
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is damaged ({error}); delete the folder to prepare it anew") from error


class Records(Sequence[dict[str, Any]]):
    """Random access to examples.

    Args:
        source: of {"name": bytes, "text" or "json": bytes}.
    """

    def __init__(self, source: Any):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        record = self._source[range(len(self))[index]]  # an IndexError ends an iteration, ArrayRecord's own does not
        fields = json.loads(record["json"]) if "json" in record else {"text": record["text"].decode()}
        return {"name": record["name"].decode()} | fields


def fingerprint(config: DataConfig, identities: Mapping[str, Sequence[str]], task: str) -> str:
    """Hash of everything that the prepared files depend on.

    Args:
        config: what is asked for; a given tokenizer counts by its content.
        identities: of the parts of the training and of the validation source.
        task: "" where the task reads text alone, so that all such tasks share a corpus.
    """
    fields = ("valid_fraction", "filters", "chunk_bytes", "max_bad_records")
    facts = {field: getattr(config, field) for field in fields} | dict(identities) | {"task": task, "format": FORMAT}
    if task:
        facts |= {"seq_len": config.seq_len}  # which decides how examples are cut
    if config.trains_tokenizer:
        facts |= {field: getattr(config, field) for field in ("tokenizer", "vocab_size", "tokenizer_bytes")}
    else:
        facts |= {"tokenizer": files_sha256(tokenizer_files(config.tokenizer))}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def open_corpus(directory: str | Path) -> Corpus:
    """Opens a prepared corpus.

    Raises:
        ValueError: it is not there, or of another format.
    """
    path = Path(directory) / "metadata.json"
    try:
        metadata = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{directory} holds no prepared corpus: run python -m data.prepare") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}); delete the folder to prepare it anew") from error
    if metadata["format"] != FORMAT:
        raise ValueError(f"{path} has format {metadata['format']}, this version reads {FORMAT}: prepare it anew")
    return Corpus(Path(directory), metadata)
