"""Tokenizers on disk: found, read, and told apart by their files."""

from collections.abc import Mapping

from etils import epath

from .foreign_tokenizers import (
    ADDED_FILE,
    CONFIG_FILE,
    JSON_FILE,
    NAMES_FILE,
    hugging_face_tokenizer,
    sentencepiece_tokenizer,
)
from .tokenizer import MODEL_FILE, Tokenizer, TrainedTokenizer, is_trained_here

_MAIN = (JSON_FILE, MODEL_FILE, "spiece.model")  # the last is T5's and ALBERT's name
_BESIDE = (CONFIG_FILE, NAMES_FILE, ADDED_FILE, "chat_template.jinja")


def tokenizer_files(path: epath.PathLike) -> dict[str, bytes]:
    """Reads the files that make up a tokenizer.

    Args:
        path: a tokenizer.json, a SentencePiece .model, or a folder that holds one.

    Returns:
        Names and contents, the file that tells the kind first, then those beside it. A model that was trained here
        stands alone, and goes before the tokenizer.json that may lie beside it as its likeness.

    Raises:
        ValueError: there is none.
    """
    path = epath.Path(path).expanduser()
    if path.is_dir():
        present = [path / name for name in _MAIN if (path / name).exists()]
        if not present:
            raise ValueError(f"{path} holds no tokenizer: none of {', '.join(_MAIN)}")
        trained = [file for file in present if file.name == MODEL_FILE and is_trained_here(file.read_bytes())]
        path = [*trained, *present][0]
    elif not path.exists():
        raise ValueError(f"{path} is not there; use a {JSON_FILE}, a .model or a folder that holds one")
    elif path.suffix not in (".json", ".model"):
        raise ValueError(f"{path} is neither a {JSON_FILE} nor a SentencePiece .model")
    name = path.name if path.name in _MAIN else {".json": JSON_FILE, ".model": MODEL_FILE}[path.suffix]
    files = {name: path.read_bytes()}
    if name != JSON_FILE and is_trained_here(files[name]):
        return {MODEL_FILE: files[name]}
    beside = [path.parent / name for name in _BESIDE]
    return files | {file.name: file.read_bytes() for file in beside if file.exists()}


def make_tokenizer(files: Mapping[str, bytes]) -> Tokenizer:
    """The tokenizer that `tokenizer_files` has read.

    Raises:
        ValueError: a file is damaged, or a document could not be ended; the file is named.
    """
    name, content = next(iter(files.items()))
    if name == JSON_FILE:
        return hugging_face_tokenizer(files)
    return TrainedTokenizer(content) if is_trained_here(content) else sentencepiece_tokenizer(files)


def load_tokenizer(path: epath.PathLike) -> Tokenizer:
    """Opens a tokenizer of any kind.

    Args:
        path: a tokenizer.json, a SentencePiece .model, or a folder that holds one: a run's, a corpus's, a model's.
            tokenizer_config.json and special_tokens_map.json beside it name the special tokens.

    Returns:
        The tokenizer.

    Raises:
        ValueError: it is not there, or damaged; the file is named.

    Example:
        load_tokenizer("runs/tiny").encode("def f():")
    """
    files = tokenizer_files(path)
    try:
        return make_tokenizer(files)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
