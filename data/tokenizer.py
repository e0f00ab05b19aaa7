"""SentencePiece, set up so that decode(encode(text)) == text for every text."""

import dataclasses
import functools
import hashlib
import io
import re
from collections.abc import Iterable, Sequence

import numpy as np
import sentencepiece

PAD, BOS, EOS, UNK = 0, 1, 2, 3

# SentencePiece writes a space as U+2581, so a real U+2581 would come back as a space. A private character escapes it.
_ESCAPE, _BLOCK = "\ue000", "\ue001"
_UNESCAPED = {_ESCAPE + _ESCAPE: _ESCAPE, _ESCAPE + _BLOCK: "\u2581"}


def _escape(text: str) -> str:
    return text.replace(_ESCAPE, _ESCAPE + _ESCAPE).replace("\u2581", _ESCAPE + _BLOCK)


def _unescape(text: str) -> str:
    return re.sub(f"{_ESCAPE}[{_ESCAPE}{_BLOCK}]", lambda match: _UNESCAPED[match[0]], text)


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Text to token ids and back.

    Ids 0 to 3 are padding, beginning and end of document, and unknown (never produced: bytes are the fallback).

    Attributes:
        model: the serialised SentencePiece model.

    Example:
        tokenizer.decode(tokenizer.encode("for i in range(3):"))
    """

    model: bytes = dataclasses.field(repr=False)

    @functools.cached_property
    def _processor(self) -> sentencepiece.SentencePieceProcessor:
        return sentencepiece.SentencePieceProcessor(model_proto=self.model)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self._processor.vocab_size()

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the model; two tokenizers with the same hash are the same."""
        return hashlib.sha256(self.model).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without the ids that begin and end a document."""
        return self._processor.encode(_escape(text))

    def encode_batch(self, texts: Sequence[str], *, num_threads: int = -1) -> list[list[int]]:
        """Token ids of each text; -1 uses a thread for each core."""
        return self._processor.encode([_escape(text) for text in texts], num_threads=num_threads)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of token ids; special ids give nothing."""
        return _unescape(self._processor.decode([int(i) for i in ids if i != UNK]))

    @functools.cached_property
    def bytes_per_id(self) -> np.ndarray:
        """UTF-8 bytes that each id stands for, (vocab_size,) int32; special ids have none.

        An escaped U+2581 (or U+E000, U+E001) counts 6 bytes instead of 3.
        """
        p = self._processor
        sizes = [
            0
            if p.is_control(i) or p.is_unknown(i)
            else 1
            if p.is_byte(i)
            else len(p.id_to_piece(i).replace("\u2581", " ").encode())
            for i in range(p.vocab_size())
        ]
        return np.array(sizes, np.int32)


def train_tokenizer(texts: Iterable[str], *, kind: str, vocab_size: int) -> Tokenizer:
    """Trains SentencePiece (Kudo and Richardson 2018, arXiv:1808.06226) without normalisation, with byte fallback.

    Args:
        texts: the documents to learn from.
        kind: "bpe" or "unigram".
        vocab_size: number of ids, special ones and 256 bytes included.

    Returns:
        The tokenizer.

    Raises:
        ValueError: the texts hold too few different pieces for the vocabulary.
    """
    output = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(piece for text in texts for piece in _sentences(_escape(text))),
            model_writer=output,
            model_type=kind,
            vocab_size=vocab_size,
            pad_id=PAD,
            bos_id=BOS,
            eos_id=EOS,
            unk_id=UNK,
            byte_fallback=True,
            character_coverage=0.9999,
            required_chars="\u2581",  # the space, else a corpus without one gives a model that cannot write it
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=1 << 16,
            max_sentencepiece_length=32,  # deep indentation is one piece
            num_threads=1,  # the same model on every machine
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        remedy = "larger" if "Increase vocab_size" in str(error) else "smaller"
        raise ValueError(
            f"config.data.vocab_size={vocab_size} cannot be trained on this corpus; use a {remedy} one ({error})"
        ) from error
    return Tokenizer(output.getvalue())


def _sentences(text: str, size: int = 4096) -> Iterable[str]:
    """Cuts a text into pieces of at most about `size` characters at line ends, line ends included."""
    start = 0
    while start < len(text):
        end = len(text) if start + size >= len(text) else text.rfind("\n", start, start + size) + 1
        end = end if end > start else start + size
        yield text[start:end]
        start = end
