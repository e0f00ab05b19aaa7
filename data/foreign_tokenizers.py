"""Tokenizers that come with imported models: Hugging Face's tokenizer.json, and SentencePiece with settings of its own.

Text is only text: one that spells a special token does not make its id, as `transformers` has it with
split_special_tokens=True. The tokenizers library starts threads with the first batch, which sleep between batches; in
a process that was forked after that it uses one thread, so nothing hangs. TOKENIZERS_PARALLELISM=false starts none.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import sentencepiece

from .tokenizer import character_spans, files_sha256, piece_bytes, piece_texts

JSON_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
NAMES_FILE = "special_tokens_map.json"
ADDED_FILE = "added_tokens.json"

# How special tokens are usually written, for files that do not say which is which.
_USUAL = {
    "bos_token": ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>"),
    "eos_token": ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>"),
    "pad_token": ("<pad>", "[PAD]"),
    "unk_token": ("<unk>", "[UNK]"),
    "cls_token": ("[CLS]",),
    "sep_token": ("[SEP]",),
    "mask_token": ("[MASK]", "<mask>"),
}
# Ids that models are trained with, or ready for, and that have no role.
_EXTRA = re.compile(r"<extra_id_\d+>|\[unused\d+\]|<unused\d+>|<\|reserved_special_token_\d+\|>|<extra_\d+>")
# Classes of transformers that renumber the pieces of their SentencePiece model.
_RENUMBERED = ("Barthez", "Camembert", "M2M", "MBart", "Marian", "NLLB", "Nllb", "Pegasus", "XLM", "XGLM")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HuggingFaceTokenizer:
    """A tokenizer.json.

    A document begins with bos_token, else with cls_token (BERT), else with eos_token (GPT-2); it ends with eos_token,
    else with sep_token (BERT). Without pad_token the padding is eos_id, which has no weight there.

    Attributes:
        files: tokenizer.json, and what lay beside it.
        bos_id, eos_id, pad_id, unk_id, cls_id, sep_id, mask_id, vocab_size, extra_ids: as in `Tokenizer`.
    """

    files: Mapping[str, bytes] = dataclasses.field(repr=False)
    bos_id: int
    eos_id: int
    pad_id: int
    unk_id: int | None
    cls_id: int | None
    sep_id: int | None
    mask_id: int | None
    vocab_size: int
    extra_ids: tuple[int, ...] = ()

    @functools.cached_property
    def _engine(self) -> Any:
        return _engine_of(self.files[JSON_FILE])

    @property
    def sha256(self) -> str:
        """See `Tokenizer`, as for the rest."""
        return files_sha256(self.files)

    @property
    def framing(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """As the file's post-processor has it."""
        ids, alone = self._engine.encode("a").ids, self.encode("a")
        start = next(i for i in range(len(ids)) if ids[i : i + len(alone)] == alone)
        return tuple(ids[:start]), tuple(ids[start + len(alone) :])

    def encode(self, text: str) -> list[int]:
        """As the library without special tokens."""
        return self._engine.encode(text, add_special_tokens=False).ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], np.ndarray]:
        """As the library has them."""
        encoded = self._engine.encode(text, add_special_tokens=False)
        return encoded.ids, np.array(encoded.offsets, np.int64).reshape(-1, 2)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode`, over all cores."""
        return [one.ids for one in self._engine.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """As the library, which may not give back spaces and capitals that the ids have lost."""
        return self._engine.decode([int(i) for i in ids], skip_special_tokens=True)

    @property
    def bytes_per_id(self) -> np.ndarray:
        """Exact for byte-level BPE; a WordPiece counts the space before it, whether or not it was there."""
        num_bytes = _piece_sizes(json.loads(self.files[JSON_FILE]))
        sizes = np.zeros(self.vocab_size, np.int32)
        for piece, i in self._engine.get_vocab(with_added_tokens=False).items():
            sizes[i] = num_bytes(piece)
        for i, token in self._engine.get_added_tokens_decoder().items():  # they are written as they are
            sizes[i] = 0 if token.special else len(token.content.encode())
        if self.unk_id is not None:
            sizes[self.unk_id] = 0
        return sizes

    @property
    def pieces(self) -> list[str]:
        """By the steps of the file, as `bytes_per_id`."""
        text_of, texts = _piece_texts(json.loads(self.files[JSON_FILE])), [""] * self.vocab_size
        for piece, i in self._engine.get_vocab(with_added_tokens=False).items():
            texts[i] = text_of(piece)
        for i, token in self._engine.get_added_tokens_decoder().items():
            texts[i] = "" if token.special else token.content
        for i in self.extra_ids if self.unk_id is None else (*self.extra_ids, self.unk_id):
            texts[i] = ""
        return texts


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentencePieceTokenizer:
    """A SentencePiece model that was not trained here, with its own normalisation, dummy prefix and special ids.

    What begins and ends a document, and pads, follows the rules of `HuggingFaceTokenizer`; where no file beside the
    model names a token, the model's own ids count (T5's begins with its end: it has no bos). The ids are those of
    SentencePiece; `transformers`, which converts the model, leaves out some of its normalisation for some classes.

    Attributes:
        files: the model, and what lay beside it.
        bos_id, eos_id, pad_id, unk_id, cls_id, sep_id, mask_id, extra_ids: as in `Tokenizer`.
        vocab_size: number of pieces, and of the tokens that the files beside add.
    """

    files: Mapping[str, bytes] = dataclasses.field(repr=False)
    bos_id: int
    eos_id: int
    pad_id: int
    unk_id: int | None
    cls_id: int | None
    sep_id: int | None
    mask_id: int | None
    vocab_size: int
    extra_ids: tuple[int, ...] = ()

    @functools.cached_property
    def _processor(self) -> sentencepiece.SentencePieceProcessor:
        return sentencepiece.SentencePieceProcessor(model_proto=next(iter(self.files.values())))

    @property
    def sha256(self) -> str:
        """See `Tokenizer`, as for the rest."""
        return files_sha256(self.files)

    @property
    def framing(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """As tokenizer_config.json has it, by add_bos_token and add_eos_token; T5's class always ends with eos_id."""
        config = _json(self.files, CONFIG_FILE)
        ends = config.get("add_eos_token") or str(config.get("tokenizer_class", "")).startswith(("T5", "MT5"))
        return (self.bos_id,) if config.get("add_bos_token") else (), (self.eos_id,) if ends else ()

    def encode(self, text: str) -> list[int]:
        """As the library without special tokens; tokens that the files beside add are plain text."""
        return self._processor.encode(text)

    def encode_with_offsets(self, text: str) -> tuple[list[int], np.ndarray]:
        """As the library has them, which counts bytes."""
        pieces = self._processor.encode(text, return_type="proto").pieces
        begins, ends = [piece.begin for piece in pieces], [piece.end for piece in pieces]
        spans = character_spans(begins, ends, [len(letter.encode()) for letter in text])
        return [piece.id for piece in pieces], spans

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """As `encode`, over all cores."""
        return self._processor.encode(list(texts), num_threads=-1, return_type="numpy")

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """As the library, which may not give back what normalisation took away."""
        size = self._processor.vocab_size()
        return self._processor.decode([int(i) for i in ids if i < size])

    @property
    def bytes_per_id(self) -> np.ndarray:
        """Exact, but for the dummy prefix and what normalisation changes."""
        sizes = np.zeros(self.vocab_size, np.int32)
        pieces = piece_bytes(self._processor)
        sizes[: len(pieces)] = pieces
        return sizes

    @property
    def pieces(self) -> list[str]:
        """As the model has them."""
        texts = piece_texts(self._processor)
        return texts + [""] * (self.vocab_size - len(texts))


def hugging_face_tokenizer(files: Mapping[str, bytes]) -> HuggingFaceTokenizer:
    """Opens a tokenizer.json.

    Args:
        files: its content, and of the files beside it, by name.

    Returns:
        The tokenizer.

    Raises:
        ValueError: a file is damaged, or no token can end a document.
    """
    engine = _engine_of(files[JSON_FILE])
    special = {token.content for token in engine.get_added_tokens_decoder().values() if token.special}
    named = _named(files)

    def id_of(role: str) -> int | None:
        if role in named:
            return engine.token_to_id(named[role]) if named[role] else None
        return next((engine.token_to_id(token) for token in _USUAL[role] if token in special), None)

    vocabulary = engine.get_vocab(with_added_tokens=True)
    extra = sorted(i for token, i in vocabulary.items() if _EXTRA.fullmatch(token))
    size = 1 + max(vocabulary.values())
    return HuggingFaceTokenizer(files=files, vocab_size=size, extra_ids=tuple(extra), **_special_ids(id_of))


def sentencepiece_tokenizer(files: Mapping[str, bytes]) -> SentencePieceTokenizer:
    """Opens a SentencePiece model.

    Args:
        files: its content first, then of the files beside it, by name.

    Returns:
        The tokenizer.

    Raises:
        ValueError: a file is damaged, no token can end a document, or the ids are not the model's own.
    """
    name, model = next(iter(files.items()))
    try:
        pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{name} is not a SentencePiece model ({error})") from error
    config, named, added = _json(files, CONFIG_FILE), _named(files), dict(_added(files))
    num_pieces = pieces.vocab_size()
    kind = str(config.get("tokenizer_class", ""))
    moved = [t for t, i in added.items() if i < num_pieces and pieces.is_control(i) and pieces.id_to_piece(i) != t]
    if kind.startswith(_RENUMBERED) or moved:
        about = f"tokenizer_class={kind}" if not moved else f"the token {moved[0]!r} with id {added[moved[0]]}"
        raise ValueError(f"{CONFIG_FILE} says {about}, but the ids of {name} are others; use the model's {JSON_FILE}")
    known = {pieces.id_to_piece(i): i for i in range(num_pieces)} | added
    own = {f"{role}_token": getattr(pieces, f"{role}_id")() for role in ("bos", "eos", "pad", "unk")}

    def id_of(role: str) -> int | None:
        if role in named:
            return known.get(named[role])
        if role in own:
            return own[role] if own[role] >= 0 else None
        return next((known[token] for token in _USUAL[role] if token in known), None)

    beyond = range(num_pieces, num_pieces + int(config.get("extra_ids") or 0))  # T5's, which its model lacks
    named_so = (i for token, i in known.items() if _EXTRA.fullmatch(token) and not _is_written(pieces, i))
    extra, size = sorted({*beyond, *named_so}), max(beyond.stop, 1 + max(known.values()))
    return SentencePieceTokenizer(files=files, vocab_size=size, extra_ids=tuple(extra), **_special_ids(id_of))


def _is_written(pieces: sentencepiece.SentencePieceProcessor, i: int) -> bool:
    """Whether a text makes the piece: one that is user-defined, or ordinary."""
    return i < pieces.vocab_size() and not pieces.is_control(i)


def _engine_of(content: bytes) -> Any:
    try:
        import tokenizers  # of the extra "exchange", which those who train their own tokenizer need not have
    except ImportError:
        raise ValueError(
            "tokenizer.json takes the package tokenizers, which make train EXTRAS=dev,exchange installs"
        ) from None
    try:
        engine = tokenizers.Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{JSON_FILE} cannot be read ({error})") from error
    engine.no_truncation()  # embedding models cut and pad every text
    engine.no_padding()
    engine.encode_special_tokens = True
    return engine


def _json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    try:
        content = json.loads(files.get(name, b"{}"))
    except ValueError as error:
        raise ValueError(f"{name} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{name} must hold an object, not a {type(content).__name__}")
    return content


def _named(files: Mapping[str, bytes]) -> dict[str, str]:
    """Which token has which role, by the files beside the tokenizer; "" is none."""
    entries = _json(files, NAMES_FILE) | _json(files, CONFIG_FILE)
    texts = {role: entry.get("content") if isinstance(entry, dict) else entry for role, entry in entries.items()}
    return {role: texts[role] or "" for role in _USUAL if role in texts}


def _added(files: Mapping[str, bytes]) -> Iterator[tuple[str, int]]:
    """Tokens and ids that the files beside a SentencePiece model name."""
    for token, i in _json(files, ADDED_FILE).items():
        yield token, int(i)
    for i, entry in _json(files, CONFIG_FILE).get("added_tokens_decoder", {}).items():
        yield entry["content"], int(i)


def _special_ids(id_of: Callable[[str], int | None]) -> dict[str, Any]:
    """The ids of a tokenizer from its roles; see `HuggingFaceTokenizer` for what stands in for what."""
    ids = {role: id_of(role) for role in _USUAL}

    def first(*roles: str) -> int | None:
        return next((ids[role] for role in roles if ids[role] is not None), None)

    eos = first("eos_token", "sep_token")
    if eos is None:
        raise ValueError(
            f'no token of its vocabulary ends a document; name one in a {CONFIG_FILE} beside it, as "eos_token": "</s>"'
        )
    begins, pads = first("bos_token", "cls_token", "eos_token"), first("pad_token")
    return {
        "bos_id": eos if begins is None else begins,
        "eos_id": eos,
        "pad_id": eos if pads is None else pads,
        **{f"{role}_id": ids[f"{role}_token"] for role in ("unk", "cls", "sep", "mask")},
    }


def _piece_sizes(content: Mapping[str, Any]) -> Callable[[str], int]:
    """The function from a piece to the bytes it stands for, by the steps of a tokenizer.json."""
    kinds = {kind for step in ("pre_tokenizer", "decoder") for kind in _kinds(content.get(step))}
    if "ByteLevel" in kinds:
        return len  # each byte is written as one character
    if "WordPiece" in kinds:
        prefix = content["model"].get("continuing_subword_prefix", "##")
        return lambda piece: len(piece.removeprefix(prefix).encode()) + (not piece.startswith(prefix))
    is_byte = re.compile(r"<0x[0-9A-F]{2}>").fullmatch if "ByteFallback" in kinds else lambda piece: None
    return lambda piece: 1 if is_byte(piece) else len(piece.replace("\u2581", " ").encode())


def _piece_texts(content: Mapping[str, Any]) -> Callable[[str], str]:
    """The function from a piece to its text, by the steps of a tokenizer.json."""
    kinds = {kind for step in ("pre_tokenizer", "decoder") for kind in _kinds(content.get(step))}
    if "ByteLevel" in kinds:
        byte_of = _byte_level_alphabet()
        return lambda piece: bytes(byte_of[letter] for letter in piece).decode(errors="replace")
    if "WordPiece" in kinds:
        prefix = content["model"].get("continuing_subword_prefix", "##")
        return lambda piece: piece.removeprefix(prefix) if piece.startswith(prefix) else " " + piece
    is_byte = re.compile(r"<0x[0-9A-F]{2}>").fullmatch if "ByteFallback" in kinds else lambda piece: None
    return lambda piece: (
        bytes([int(piece[3:5], 16)]).decode(errors="replace") if is_byte(piece) else piece.replace("\u2581", " ")
    )


def _byte_level_alphabet() -> dict[str, int]:
    """How byte-level BPE writes bytes (Radford et al. 2019): printable characters stand for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _kinds(step: Any) -> Iterator[str]:
    """The type of a step and of the steps it consists of."""
    if isinstance(step, Mapping):
        yield step.get("type", "")
    parts = step.values() if isinstance(step, Mapping) else step if isinstance(step, list) else ()
    for part in parts:
        yield from _kinds(part)
