"""What the data package is asked to do."""

import dataclasses
from typing import Any

from etils import epath

from .options import Chosen, choose
from .ramp import Ramp, make_ramp


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedOptions:
    """What a tokenizer that is trained here can be asked for.

    Attributes:
        extra_ids: ids that no text makes: the first is the mask, the others are sentinels and the roles of a chat.
    """

    extra_ids: int = 0


TRAINED = {"bpe": TrainedOptions, "unigram": TrainedOptions}  # kinds of tokenizers that are trained here


def is_trained(tokenizer: str) -> bool:
    """Whether a value of config.data.tokenizer asks for one that is trained here, and is not the path of another."""
    return tokenizer.partition(",")[0].strip() in TRAINED


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
    batch_ramp: str
    packing: bool
    augment: tuple[str, ...]
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
        if self.extra_ids < 0:
            raise ValueError(f"config.data.tokenizer={self.tokenizer!r}: extra_ids must be at least 0")
        for field, least in (
            ("seq_len", 1),
            ("batch_size", 1),
            ("vocab_size", 264 + self.extra_ids if self.trains_tokenizer else 1),  # 256 bytes, 4 ids and a few pieces
            ("tokenizer_bytes", 1),
            ("chunk_bytes", 0),
            ("read_threads", 0),
            ("prefetch", 1),
        ):
            if getattr(self, field) < least:
                raise ValueError(f"config.data.{field}={getattr(self, field)} must be at least {least}")
        make_ramp(self.batch_ramp, self.batch_size)
        if 0 < self.chunk_bytes < 4:
            raise ValueError(
                f"config.data.chunk_bytes={self.chunk_bytes} must be 0, or at least 4: the bytes of one character"
            )
        if not 0 < self.valid_fraction < 1:
            raise ValueError(f"config.data.valid_fraction={self.valid_fraction} must be between 0 and 1")

    @property
    def ramp(self) -> Ramp:
        """How many rows the batch of each step has."""
        return make_ramp(self.batch_ramp, self.batch_size)

    @property
    def trains_tokenizer(self) -> bool:
        """Whether the tokenizer is trained on the corpus; else `tokenizer` is the path of one."""
        return is_trained(self.tokenizer)

    @property
    def trained_tokenizer(self) -> Chosen:
        """The kind and the options of a tokenizer that is trained on the corpus."""
        return choose("config.data.tokenizer", self.tokenizer, TRAINED)

    @property
    def extra_ids(self) -> int:
        """How many ids the tokenizer is trained to keep for the tasks."""
        return self.trained_tokenizer.make().extra_ids if self.trains_tokenizer else 0

    @classmethod
    def of(cls, config: Any) -> "DataConfig":
        """Takes a DataConfig as it is, and makes one of a mapping with the same keys, such as `config.data`."""
        if isinstance(config, cls):
            return config
        return cls(**{field.name: config[field.name] for field in dataclasses.fields(cls)})
