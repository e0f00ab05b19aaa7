"""A prepared corpus on disk: what `data.prepare` writes and everything else reads.

metadata.json        fingerprint, counts, hashes, versions
tokenizer.model      SentencePiece, or tokenizer.json and what lay beside it
documents/           the texts, a TFDS dataset in ArrayRecord
{train,valid}.tokens       token ids of all documents, one after the other, little-endian
{train,valid}.starts.npy   index of each document's first token, and the number of tokens at the end, int64
"""

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from .config import DataConfig
from .tokenizer import Tokenizer, TrainedTokenizer, files_sha256
from .tokenizer_files import make_tokenizer, tokenizer_files

FORMAT = 1  # part of the fingerprint: raised when any file changes its meaning
SPLITS = ("train", "valid")


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
        sizes, facts = self.tokenizer.bytes_per_id, self.metadata["splits"][split]
        if "bytes_of_ids" not in facts:
            return sizes
        return (sizes * (facts["bytes"] / max(1, facts["bytes_of_ids"]))).astype(np.float32)

    def tokens(self, split: str) -> np.ndarray:
        """All token ids of a split as a read-only memory map."""
        path = self.directory / f"{split}.tokens"
        dtype, length = np.dtype(self.metadata["token_dtype"]), self.metadata["splits"][split]["tokens"]
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


def fingerprint(config: DataConfig, identity: str) -> str:
    """Hash of everything that the prepared files depend on; a given tokenizer counts by its content."""
    fields = ("source", "text_field", "valid_fraction", "chunk_bytes", "invalid_utf8")
    facts = {field: getattr(config, field) for field in fields} | {"identity": identity, "format": FORMAT}
    if config.trains_tokenizer:
        facts |= {field: getattr(config, field) for field in ("tokenizer", "vocab_size", "tokenizer_bytes")}
    else:
        facts |= {"tokenizer": files_sha256(tokenizer_files(config.tokenizer))}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def corpus_directory(config: DataConfig, identity: str) -> Path:
    """Where the corpus of a config lies, or will lie."""
    return Path(config.dir).expanduser() / f"{config.source}-{fingerprint(config, identity)[:16]}"


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
