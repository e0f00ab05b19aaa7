"""What the tests of tasks share: a tokenizer whose ids can be read, and corpora of a few examples."""

import dataclasses
import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs import base
from data import Corpus, DataConfig, make_task, open_rows, prepare
from data.batches import generator
from data.tasks.task import Batch, Setting
from data.tokenizer import train_tokenizer


@dataclasses.dataclass(frozen=True)
class Letters:
    """Every character is a token, and its id is its code: "a" is 97. It has no "?" and writes nothing for it."""

    bos_id, eos_id, pad_id, unk_id, cls_id, sep_id, mask_id = 1, 2, 0, 3, 4, 5, 6
    extra_ids: tuple[int, ...] = (6, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19)
    vocab_size = 128
    files, sha256 = {}, "letters"

    @property
    def pieces(self) -> list[str]:
        return [chr(i) if chr(i) in string.printable and i not in self.extra_ids else "" for i in range(128)]

    @property
    def bytes_per_id(self) -> np.ndarray:
        return np.array([len(piece) for piece in self.pieces], np.int32)

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text if letter != "?"]

    def encode_with_offsets(self, text: str) -> tuple[list[int], np.ndarray]:
        places = [i for i, letter in enumerate(text) if letter != "?"]
        return self.encode(text), np.array([(i, i + 1) for i in places], np.int64).reshape(-1, 2)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Any) -> str:
        return "".join(self.pieces[int(i)] for i in ids)


LETTERS = Letters()
WORDS = ["ka", "tomi", "nesuri", "ho", "yu", "kato", "mine", "surihoyu"]
TRAINED = train_tokenizer(
    [" ".join(WORDS[(i * j) % 8] for j in range(20)) + "\n" for i in range(30)],
    kind="bpe",
    vocab_size=360,
    extra_ids=60,
)


def ids(text: str) -> list[int]:
    """The ids of `Letters`; "[" is cls, "]" sep, "_" pad, "<" bos, ">" eos and "#" the mask."""
    return [{"[": 4, "]": 5, "_": 0, "<": 1, ">": 2, "#": 6}.get(letter, ord(letter)) for letter in text]


def data_config(**changes: Any) -> DataConfig:
    """The base config's, with changes, for no tokenizer that would be trained."""
    data = base.get_config().data
    data.update(tokenizer="bpe,extra_ids=60", **changes)
    return DataConfig.of(data)


def setting(*labels: str, tokenizer: Any = LETTERS, evaluating: bool = False, **changes: Any) -> Setting:
    """A setting of `Letters`; every label has been seen once."""
    counts = (1,) * len(labels)
    return Setting(tokenizer, data_config(**changes), labels, counts, evaluating)


def encode(task: str, fields: dict[str, Any], *labels: str, **changes: Any) -> list[Batch]:
    """An example's pieces for a task, as `Letters` has them."""
    where = setting(*labels, task=task, **changes)
    return make_task(where.config).encode(fields, where)  # pyright: ignore[reportAttributeAccessIssue]


def examples_config(directory: Path, examples: Sequence[dict[str, Any]], task: str, **changes: Any) -> Any:
    """The config's data section for labelled examples, a third of them held out."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(example) + "\n" for example in examples)
    (directory / "examples.jsonl").write_text(lines)
    data: Any = base.get_config().data
    data.update(source=f"jsonl,path={directory / 'examples.jsonl'}", dir=str(directory / "prepared"), task=task)
    data.update(valid_fraction=0.33, vocab_size=330, tokenizer="bpe,extra_ids=20", seq_len=16, batch_size=2)
    data.update({"read_threads": 0, "prefetch": 1} | changes)
    return data


def prepared(directory: Path, examples: Sequence[dict[str, Any]], task: str, **changes: Any) -> tuple[Corpus, Any]:
    """The corpus of labelled examples, and its config."""
    data = examples_config(directory, examples, task, **changes)
    return prepare(data, log=lambda line: None), data


def rows_of(data: Any, corpus: Corpus, split: str, *, evaluating: bool = False, seed: int = 0) -> list[Batch]:
    """All rows of a split."""
    rows = open_rows(DataConfig.of(data), corpus, split, evaluating=evaluating)
    return [rows.get(i, generator(seed, i)) for i in range(len(rows))]


def text_corpus(directory: Path, documents: Sequence[Sequence[int]], tokenizer: Any = LETTERS) -> Corpus:
    """A corpus of documents that are given by their ids, first and last included."""
    np.concatenate([np.array(document, "<u2") for document in documents]).tofile(directory / "train.tokens")
    np.save(directory / "train.starts.npy", np.cumsum([0, *map(len, documents)]))
    total = sum(map(len, documents))
    splits = {"train": {"documents": len(documents), "tokens": total, "bytes": total, "parts": [[0, len(documents)]]}}
    corpus = Corpus(directory, {"token_dtype": "<u2", "pad_id": 0, "splits": splits})
    vars(corpus)["tokenizer"] = tokenizer
    return corpus
