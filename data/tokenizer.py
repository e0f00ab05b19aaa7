"""What a tokenizer is, and the one this project trains: SentencePiece, set up so that decode(encode(text)) == text.

Ids with a meaning of their own, such as a mask, are control symbols, not user-defined ones: no text makes them.

Tokenizers that come with imported models are in `foreign_tokenizers`; `load_tokenizer` opens either kind.
"""

import dataclasses
import functools
import hashlib
import io
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import sentencepiece
from google.protobuf.message import DecodeError
from numpy.typing import ArrayLike
from sentencepiece import sentencepiece_model_pb2

MODEL_FILE = "tokenizer.model"

_MAX_SENTENCE = 1 << 16  # in bytes
_MAX_PIECE = 32  # in characters: deep indentation is one piece

# SentencePiece writes a space as U+2581, so a real U+2581 would come back as a space. A private character escapes it.
ESCAPE, BLOCK = "\ue000", "\ue001"
_UNESCAPED = {ESCAPE + ESCAPE: ESCAPE, ESCAPE + BLOCK: "\u2581"}


def _escape(text: str) -> str:
    return text.replace(ESCAPE, ESCAPE + ESCAPE).replace("\u2581", ESCAPE + BLOCK)


def _unescape(text: str) -> str:
    return re.sub(f"{ESCAPE}[{ESCAPE}{BLOCK}]", lambda match: _UNESCAPED[match[0]], text)


class Tokenizer(Protocol):
    """Text to token ids and back.

    Example:
        tokenizer.decode(tokenizer.encode("for i in range(3):"))
    """

    @property
    def files(self) -> Mapping[str, bytes]:
        """Names and contents of the files it consists of, the one that tells its kind first."""
        ...

    @property
    def sha256(self) -> str:
        """Hash of the files; two tokenizers with the same hash are the same."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included: one more than the largest."""
        ...

    @property
    def bos_id(self) -> int:
        """The id that begins a document."""
        ...

    @property
    def eos_id(self) -> int:
        """The id that ends a document."""
        ...

    @property
    def pad_id(self) -> int:
        """The id where there is no token."""
        ...

    @property
    def unk_id(self) -> int | None:
        """The id of what the vocabulary cannot write; None where there is none, as for the next three."""
        ...

    @property
    def cls_id(self) -> int | None:
        """The id that stands for a whole text."""
        ...

    @property
    def sep_id(self) -> int | None:
        """The id between two texts."""
        ...

    @property
    def mask_id(self) -> int | None:
        """The id that hides a token."""
        ...

    @property
    def extra_ids(self) -> tuple[int, ...]:
        """Ids that no text makes and that have no role yet, ascending, for the tasks that need some.

        Sentinels are the last ones, descending, as T5 has them; the roles of a chat are the first ones after mask_id.
        """
        ...

    @property
    def framing(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids that `transformers` puts before and after a text, unless told otherwise."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without the ids that begin and end a document."""
        ...

    def encode_with_offsets(self, text: str) -> tuple[list[int], np.ndarray]:
        """As `encode`, with the characters [start, end) of the text that each id stands for, (ids, 2) int64.

        Ids that share a character, as those of its bytes do, all have the whole of it.
        """
        ...

    def encode_batch(self, texts: Sequence[str]) -> Sequence[Sequence[int] | np.ndarray]:
        """Token ids of each text, over all cores."""
        ...

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of token ids; special ids, and ids it does not have, give nothing."""
        ...

    @property
    def bytes_per_id(self) -> np.ndarray:
        """UTF-8 bytes that each id stands for, (vocab_size,) int32; special ids have none.

        Where they do not add up to a text's bytes, `Corpus.bytes_per_id` makes them.
        """
        ...

    @property
    def pieces(self) -> list[str]:
        """The text of each id, with a space before it where it begins a word; a part of a character is U+FFFD.

        Special ids have none.
        """
        ...


def files_sha256(files: Mapping[str, bytes]) -> str:
    """Hash of a tokenizer's files: the file's own where there is one."""
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return hashlib.sha256("".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes)).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class TrainedTokenizer:
    """A tokenizer that `train_tokenizer` made.

    Ids 0 to 3 are padding, beginning and end of document, and unknown (never produced: bytes are the fallback). The
    extra ids follow, if it has some: the first is the mask, and then a document's begin and end are cls_id and sep_id.

    Attributes:
        model: the serialised SentencePiece model.
    """

    model: bytes = dataclasses.field(repr=False)

    pad_id, bos_id, eos_id, unk_id = 0, 1, 2, 3
    framing = ((bos_id,), ())

    @property
    def cls_id(self) -> int | None:
        """See `Tokenizer`, as for the rest."""
        return self.bos_id if self.extra_ids else None

    @property
    def sep_id(self) -> int | None:
        """That of the end of a document."""
        return self.eos_id if self.extra_ids else None

    @property
    def mask_id(self) -> int | None:
        """The first of the extra ids."""
        return self.extra_ids[0] if self.extra_ids else None

    @property
    def extra_ids(self) -> tuple[int, ...]:
        """Control symbols after those that every tokenizer has."""
        return self._extra_ids

    @functools.cached_property
    def _extra_ids(self) -> tuple[int, ...]:
        return tuple(itertools.takewhile(self._processor.is_control, range(self.unk_id + 1, self.vocab_size)))

    @functools.cached_property
    def _piece_bytes(self) -> np.ndarray:
        return piece_bytes(self._processor)

    @property
    def files(self) -> Mapping[str, bytes]:
        """See `Tokenizer`."""
        return {MODEL_FILE: self.model}

    @functools.cached_property
    def _processor(self) -> sentencepiece.SentencePieceProcessor:
        return sentencepiece.SentencePieceProcessor(model_proto=self.model)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self._processor.vocab_size()

    @property
    def sha256(self) -> str:
        """Hash of the model; two tokenizers with the same hash are the same."""
        return files_sha256(self.files)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without the ids that begin and end a document."""
        return self._processor.encode(_escape(text))

    def encode_with_offsets(self, text: str) -> tuple[list[int], np.ndarray]:
        """Exact: the ids stand for all bytes of the escaped text, one after the other."""
        ids = self.encode(text)
        sizes = self._piece_bytes[np.array(ids, np.int64)]
        ends = np.cumsum(sizes)
        return ids, character_spans(ends - sizes, ends, [len(_escape(letter).encode()) for letter in text])

    def encode_batch(self, texts: Sequence[str]) -> Sequence[Sequence[int] | np.ndarray]:
        """Token ids of each text, over all cores."""
        return self._processor.encode([_escape(text) for text in texts], num_threads=-1, return_type="numpy")

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of token ids; special ids, and ids it does not have, give nothing."""
        size = self.vocab_size
        return _unescape(self._processor.decode([int(i) for i in ids if i != self.unk_id and i < size]))

    @property
    def bytes_per_id(self) -> np.ndarray:
        """UTF-8 bytes that each id stands for, (vocab_size,) int32; special ids have none.

        An escaped U+2581 (or U+E000, U+E001) counts 6 bytes instead of 3.
        """
        return self._piece_bytes.copy()

    @property
    def pieces(self) -> list[str]:
        """See `Tokenizer`."""
        return piece_texts(self._processor)


def character_spans(begins: ArrayLike, ends: ArrayLike, widths: Sequence[int]) -> np.ndarray:
    """Characters [start, end) that hold bytes [begin, end), (spans, 2); an empty span reaches as far as the next.

    Args:
        begins: first bytes, ascending.
        ends: the bytes after the last ones.
        widths: bytes of each character.
    """
    character = np.append(np.repeat(np.arange(len(widths)), widths), len(widths))
    first, last = np.array(begins, np.int64), np.array(ends, np.int64)
    for i in range(len(last) - 2, -1, -1):
        last[i] = last[i] if last[i] > first[i] else last[i + 1]
    stop = np.where(last > first, character[np.maximum(last, 1) - 1] + 1, character[first])
    return np.stack([character[first], stop], axis=1)


def piece_texts(processor: sentencepiece.SentencePieceProcessor) -> list[str]:
    """The text of each piece of a SentencePiece model, see `Tokenizer.pieces`."""
    return [
        ""
        if processor.is_control(i) or processor.is_unknown(i)
        else bytes([int(processor.id_to_piece(i)[1:-1], 16)]).decode(errors="replace")
        if processor.is_byte(i)
        else processor.id_to_piece(i).replace("\u2581", " ")
        for i in range(processor.vocab_size())
    ]


def piece_bytes(processor: sentencepiece.SentencePieceProcessor) -> np.ndarray:
    """UTF-8 bytes of each piece of a SentencePiece model, int32; control pieces and the unknown one have none."""
    sizes = [
        0
        if processor.is_control(i) or processor.is_unknown(i)
        else 1
        if processor.is_byte(i)
        else len(processor.id_to_piece(i).replace("\u2581", " ").encode())
        for i in range(processor.vocab_size())
    ]
    return np.array(sizes, np.int32)


def is_trained_here(model: bytes) -> bool:
    """Whether a SentencePiece model has the settings of `train_tokenizer`: then texts are escaped before it."""
    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(model)
    except DecodeError:
        return False
    trainer, normalizer, ours = proto.trainer_spec, proto.normalizer_spec, TrainedTokenizer
    return (
        trainer.required_chars == "\u2581"
        and trainer.byte_fallback
        and trainer.allow_whitespace_only_pieces
        and (trainer.max_sentencepiece_length, trainer.max_sentence_length) == (_MAX_PIECE, _MAX_SENTENCE)
        and (trainer.pad_id, trainer.bos_id, trainer.eos_id) == (ours.pad_id, ours.bos_id, ours.eos_id)
        and normalizer.name == "identity"
        and not normalizer.add_dummy_prefix
        and not normalizer.remove_extra_whitespaces
    )


def train_tokenizer(texts: Iterable[str], *, kind: str, vocab_size: int, extra_ids: int = 0) -> TrainedTokenizer:
    """Trains SentencePiece (Kudo and Richardson 2018, arXiv:1808.06226) without normalisation, with byte fallback.

    Args:
        texts: the documents to learn from.
        kind: "bpe" or "unigram".
        vocab_size: number of ids, special ones and 256 bytes included.
        extra_ids: how many of them no text makes, beside the four that every tokenizer has.

    Returns:
        The tokenizer.

    Raises:
        ValueError: the texts hold too few different pieces for the vocabulary.
    """
    output = io.BytesIO()
    names = ["<mask>", *(f"<extra_{i}>" for i in range(1, extra_ids))][:extra_ids]
    more: Any = {"control_symbols": names} if names else {}
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(piece for text in texts for piece in _sentences(_escape(text))),
            model_writer=output,
            model_type=kind,
            vocab_size=vocab_size,
            pad_id=TrainedTokenizer.pad_id,
            bos_id=TrainedTokenizer.bos_id,
            eos_id=TrainedTokenizer.eos_id,
            unk_id=TrainedTokenizer.unk_id,
            byte_fallback=True,
            character_coverage=0.9999,
            required_chars="\u2581",  # the space, else a corpus without one gives a model that cannot write it
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=_MAX_SENTENCE,
            max_sentencepiece_length=_MAX_PIECE,
            num_threads=1,  # the same model on every machine
            minloglevel=2,
            **more,
        )
    except (RuntimeError, OSError) as error:
        remedy = "larger" if "Increase vocab_size" in str(error) else "smaller"
        raise ValueError(
            f"config.data.vocab_size={vocab_size} cannot be trained on this corpus; use a {remedy} one ({error})"
        ) from error
    return TrainedTokenizer(output.getvalue())


def _sentences(text: str, size: int = 4096) -> Iterable[str]:
    """Cuts a text into pieces of at most about `size` characters at line ends, line ends included."""
    start = 0
    while start < len(text):
        end = len(text) if start + size >= len(text) else text.rfind("\n", start, start + size) + 1
        end = end if end > start else start + size
        yield text[start:end]
        start = end
