"""Tokenizers as `transformers` reads them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from .foreign_tokenizers import CONFIG_FILE, JSON_FILE
from .tokenizer import BLOCK, ESCAPE, MODEL_FILE, Tokenizer, TrainedTokenizer

_Pieces = Mapping[str, tuple[int, float]]  # text of a piece -> its id and score


def save_pretrained_tokenizer(tokenizer: Tokenizer, directory: str | Path) -> None:
    """Writes the files from which `transformers.AutoTokenizer` makes the tokenizer again.

    A foreign tokenizer is written as it came, byte for byte, with a tokenizer_config.json if it had none; for a
    SentencePiece model that one names LlamaTokenizer (BPE) or T5Tokenizer (Unigram), whose normalisation is their own.

    One that was trained here becomes a tokenizer.json: its escapes are replacements before and after a BPE or Unigram
    model with byte fallback. The SentencePiece model lies beside it, and is what `load_tokenizer` takes. The
    tokenizer gives the same ids after bos_id, which it puts before a text unless add_special_tokens=False, and the
    same texts, with two exceptions where the tokenizers library decides ties differently:
        bpe: where a piece can be made of its parts in two ways that overlap in the text, SentencePiece takes the
            left one, and the library one of the two ways always.
        unigram: where two segmentations have equal probability (the same pieces in another order, as in a run of one
            character), SentencePiece adds in float32 and the library in float64, and rounding may choose another.
    Ids whose bytes are not UTF-8 may decode to another number of U+FFFD.

    Args:
        tokenizer: of any kind.
        directory: where to; it is made if it is not there.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    files = dict(tokenizer.files)
    if MODEL_FILE in files and isinstance(tokenizer, TrainedTokenizer):
        files[JSON_FILE] = hugging_face_json(tokenizer)
    files.setdefault(CONFIG_FILE, (json.dumps(_config(tokenizer, files), indent=2) + "\n").encode())
    for name, content in files.items():
        (directory / name).write_bytes(content)


def hugging_face_json(tokenizer: TrainedTokenizer) -> bytes:
    """The tokenizer.json that is closest to a tokenizer trained here; see `save_pretrained_tokenizer`."""
    proto = _parse(tokenizer.model)
    kinds = sentencepiece_model_pb2.ModelProto.SentencePiece
    normal = {p.piece: (i, p.score) for i, p in enumerate(proto.pieces) if p.type == kinds.NORMAL}
    engine = tokenizers.Tokenizer(_bpe(proto, normal) if _is_bpe(proto) else _unigram(proto, normal))
    names = [p.piece for p in proto.pieces if p.type in (kinds.CONTROL, kinds.UNKNOWN)]
    engine.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    engine.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(ESCAPE, ESCAPE + ESCAPE),
            normalizers.Replace("\u2581", ESCAPE + BLOCK),
            normalizers.Replace(" ", "\u2581"),
        ]
    )
    # Unigram would read the text "<0x41>" or "</s>" as that piece where a character of it has no piece of its own; such
    # a character is in no piece of text at all, so cutting around it changes nothing else.
    unwritten = {letter for p in proto.pieces if p.piece not in normal for letter in p.piece} - set(normal)
    if unwritten and not _is_bpe(proto):
        pattern = "|".join(re.escape(letter) for letter in sorted(unwritten))
        engine.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    engine.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            # An escaped U+2581 is BLOCK after an odd number of ESCAPEs; then each pair of ESCAPEs is one.
            decoders.Replace(Regex(f"(?<!{ESCAPE})(?:{ESCAPE}{ESCAPE})*\\K{ESCAPE}{BLOCK}"), "\u2581"),
            decoders.Replace(ESCAPE + ESCAPE, ESCAPE),
        ]
    )
    bos, bos_id = proto.pieces[tokenizer.bos_id].piece, tokenizer.bos_id
    engine.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, bos_id)]
    )
    return engine.to_str(pretty=True).encode()


def _bpe(proto: Any, normal: _Pieces) -> models.BPE:
    """All ways to make a piece of two, best piece first: SentencePiece merges by the score of the result."""
    ways = []
    for piece, (_, score) in normal.items():
        cuts = [k for k in range(1, len(piece)) if piece[:k] in normal and piece[k:] in normal]
        for k in cuts:
            # Where two ways overlap in a text, the right part of one is the left part of the other, and the left one
            # must come first: that is `k` if the piece ends as it begins over its length less k.
            other, border = len(piece) - k, piece[k:] == piece[: len(piece) - k]
            first = border and (k < other or piece[other:] != piece[:k])
            ways.append((-score, not first, k, piece))
    merges = [(piece[:k], piece[k:]) for _, _, k, piece in sorted(ways)]
    vocab = {p.piece: i for i, p in enumerate(proto.pieces)}
    unknown = proto.pieces[TrainedTokenizer.unk_id].piece
    return models.BPE(vocab=vocab, merges=merges, unk_token=unknown, byte_fallback=True, fuse_unk=True)


def _unigram(proto: Any, normal: _Pieces) -> models.Unigram:
    """Scores as they are; pieces that no text makes have one that keeps them out of every text."""
    never = -1e5
    vocab = [(p.piece, float(p.score) if p.piece in normal else never) for p in proto.pieces]
    return models.Unigram(vocab, unk_id=TrainedTokenizer.unk_id, byte_fallback=True)


def _config(tokenizer: Tokenizer, files: Mapping[str, bytes]) -> dict[str, Any]:
    """A tokenizer_config.json for files that have none: the class, and the tokens of each role."""
    roles = {role: getattr(tokenizer, f"{role}_id") for role in ("bos", "eos", "pad", "unk", "cls", "sep", "mask")}
    settings: dict[str, Any] = {"clean_up_tokenization_spaces": False}
    if JSON_FILE in files:
        engine = tokenizers.Tokenizer.from_str(files[JSON_FILE].decode())
        tokens = {role: engine.id_to_token(i) for role, i in roles.items() if i is not None}
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    else:
        proto = _parse(next(iter(files.values())))
        tokens = {role: proto.pieces[i].piece for role, i in roles.items() if i is not None}
        settings |= {"tokenizer_class": "LlamaTokenizer"} if _is_bpe(proto) else {"tokenizer_class": "T5Tokenizer"}
        settings["extra_ids"] = 0  # T5Tokenizer adds 100 otherwise
    if isinstance(tokenizer, TrainedTokenizer):
        settings["split_special_tokens"] = True  # a text that spells one is only text
    return settings | {f"{role}_token": token for role, token in tokens.items()}


def _parse(model: bytes) -> Any:
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    return proto


def _is_bpe(proto: Any) -> bool:
    return proto.trainer_spec.model_type == sentencepiece_model_pb2.TrainerSpec.BPE
