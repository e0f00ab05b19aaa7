"""Inputs and weights of the tiny models, made by numpy from names and a seed, so that golden files hold neither.

Letters: B batch, T length, S length of the encoder's rows, V vocab.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.reference.models import EOS, MAX_LENGTH, NUM_CLASSES, PAD, REFERENCES, VOCAB_SIZE, Reference

GOLDEN = Path(__file__).parents[1] / "golden"
EMBEDDINGS = ("embed", "shared", "wte", "wpe", "cls_token", "relative_attention_bias")
INPUTS = ("tokens", "mask", "targets", "weights", "token_types", "labels", "images", "encoder_tokens", "encoder_mask")
LENGTHS = (21, 13, 8, 3)
ENCODER_LENGTHS = (15, 17, 4, 9)
PROMPT_LENGTH = 5
NUM_GENERATED = 64
NUM_PROJECTIONS = 4


def generator(*names: object) -> np.random.Generator:
    """Random numbers that depend on the names alone."""
    digest = hashlib.sha256(" ".join(map(str, names)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "little")))


def make_tensor(reference: Reference, seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values of one tensor in the file: what its name and rank say it is decides how large they are."""
    values = generator(seed, name).standard_normal(shape)
    if "bias" in name and "relative_attention_bias" not in name:
        values *= 0.05 if "final_logits" in name else 0.15
    elif len(shape) == 1:
        values = reference.norm_center + 0.2 * values
    elif any(part in name for part in EMBEDDINGS) and "projection" not in name:
        values *= reference.embedding_std
    else:  # GPT-2's matrices are the only ones whose inputs come first
        fan_in = shape[0] if reference.model_type == "gpt2" else int(np.prod(shape[1:]))
        gain = next((gain for part, gain in reference.gains.items() if part in name), reference.gain)
        values *= gain / np.sqrt(fan_in)
    return values.astype(np.float32)


def describe(family: str) -> dict:
    """What the golden file says in words: the config as `transformers` writes it, tensors, seed, versions."""
    return json.loads((GOLDEN / f"{family}.json").read_text())


def write_directory(family: str, directory: Path) -> Path:
    """Writes `config.json` and `model.safetensors` of a tiny model as `save_pretrained` would.

    Args:
        family: A key of `REFERENCES`, which has a golden file.
        directory: Where to; it is made if it does not exist.

    Returns:
        The directory.
    """
    description = describe(family)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(description["config"], indent=2))
    tensors = {
        name: make_tensor(REFERENCES[family], description["seed"], name, tuple(shape))
        for name, shape in description["tensors"].items()
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def project(name: str, gradient: np.ndarray) -> np.ndarray:
    """A few random projections of a gradient, whose squares are on average the square of its norm."""
    directions = generator("projection", name).standard_normal((NUM_PROJECTIONS, gradient.size))
    return directions @ gradient.astype(np.float64).ravel()


def make_rows(rng: np.random.Generator, lengths: tuple[int, ...], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Random tokens above the special ones, padded on the right, and the mask of the real ones."""
    mask_BT = np.arange(length) < np.array(lengths)[:, None]
    tokens_BT = np.where(mask_BT, rng.integers(EOS + 1, VOCAB_SIZE, mask_BT.shape), PAD)
    return tokens_BT.astype(np.int32), mask_BT.astype(np.int32)


def make_batches(family: str) -> list[dict[str, np.ndarray]]:
    """Rows of several lengths with their targets, and a batch of long rows where the family treats these otherwise."""
    reference = REFERENCES[family]
    rng = generator("batches", family)
    if reference.kind == "image":
        size, channels = reference.config["image_size"], reference.config["num_channels"]
        images = rng.standard_normal((4, channels, size, size), dtype=np.float32)
        return [{"images": images, "labels": rng.integers(0, NUM_CLASSES, 4).astype(np.int32)}]
    batches = [make_batch(reference, rng, LENGTHS)]
    if reference.long_rows:
        batches.append(make_batch(reference, rng, (reference.long_rows, reference.long_rows - 9)))
    return batches


def make_batch(reference: Reference, rng: np.random.Generator, lengths: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Tokens, mask, targets and their weights, and what the family reads besides."""
    tokens_BT, mask_BT = make_rows(rng, lengths, max(lengths))
    batch = {"tokens": tokens_BT, "mask": mask_BT}
    if reference.kind == "decoder":
        batch["targets"] = np.roll(tokens_BT, -1, axis=1)
        batch["weights"] = (mask_BT * np.roll(mask_BT, -1, axis=1)).astype(np.float32)
        batch["weights"][:, -1] = 0
    else:
        batch["targets"] = rng.integers(EOS + 1, VOCAB_SIZE, tokens_BT.shape).astype(np.int32)
        batch["weights"] = (mask_BT * (rng.random(mask_BT.shape) < 0.6)).astype(np.float32)
    if types := reference.config.get("type_vocab_size", 0):
        batch["token_types"] = rng.integers(0, types, tokens_BT.shape).astype(np.int32)
    if reference.architecture == "BertForPreTraining":
        batch["labels"] = rng.integers(0, 2, len(lengths)).astype(np.int32)
    if reference.kind == "encoder_decoder":
        batch["encoder_tokens"], batch["encoder_mask"] = make_rows(
            rng, ENCODER_LENGTHS[: len(lengths)], max(ENCODER_LENGTHS)
        )
    return batch


def make_prompts(family: str) -> np.ndarray:
    """Two rows of the same length, which greedy generation continues (of encoder-decoders: what the encoder reads)."""
    assert PROMPT_LENGTH + NUM_GENERATED < MAX_LENGTH
    return make_rows(generator("prompts", family), (PROMPT_LENGTH,) * 2, PROMPT_LENGTH)[0]
