"""What the data package is asked to do."""

import dataclasses
from typing import Any

from etils import epath

TRAINED = ("bpe", "unigram")  # kinds of tokenizers that are trained here


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A corpus, its tokenizer, and the shape of a batch; `configs/base.py` says what each field means.

    Raises:
        ValueError: a value is out of range; it names the key and the legal values.
    """

    source: str
    valid_source: str
    dir: str
    valid_fraction: float
    filters: tuple[str, ...]
    chunk_bytes: int
    task: str
    max_bad_records: float
    tokenizer: str
    vocab_size: int
    tokenizer_bytes: int
    seq_len: int
    batch_size: int
    packing: bool
    read_threads: int
    prefetch: int

    def __post_init__(self):
        if not 0 <= self.max_bad_records <= 1:
            raise ValueError(f"config.data.max_bad_records={self.max_bad_records} must be from 0 to 1")
        if not self.trains_tokenizer and (not self.tokenizer or not epath.Path(self.tokenizer).expanduser().exists()):
            raise ValueError(
                f"config.data.tokenizer={self.tokenizer!r} is not known; use one of {', '.join(TRAINED)}, or the path "
                "of a tokenizer.json, a SentencePiece .model or a folder that holds one"
            )
        for field, least in (
            ("seq_len", 1),
            ("batch_size", 1),
            ("vocab_size", 264 if self.trains_tokenizer else 1),  # 256 bytes, 4 special ids and a few pieces
            ("tokenizer_bytes", 1),
            ("chunk_bytes", 0),
            ("read_threads", 0),
            ("prefetch", 1),
        ):
            if getattr(self, field) < least:
                raise ValueError(f"config.data.{field}={getattr(self, field)} must be at least {least}")
        if 0 < self.chunk_bytes < 4:
            raise ValueError(
                f"config.data.chunk_bytes={self.chunk_bytes} must be 0, or at least 4: the bytes of one character"
            )
        if not 0 < self.valid_fraction < 1:
            raise ValueError(f"config.data.valid_fraction={self.valid_fraction} must be between 0 and 1")

    @property
    def trains_tokenizer(self) -> bool:
        """Whether the tokenizer is trained on the corpus; else `tokenizer` is the path of one."""
        return self.tokenizer in TRAINED

    @classmethod
    def of(cls, config: Any) -> "DataConfig":
        """Takes a DataConfig as it is, and makes one of a mapping with the same keys, such as `config.data`."""
        if isinstance(config, cls):
            return config
        return cls(**{field.name: config[field.name] for field in dataclasses.fields(cls)})
