"""The models that are raced, and what they read: the same numbers for all who take part."""

from typing import NamedTuple

import numpy as np


class Shape(NamedTuple):
    """A decoder, and its batch.

    Attributes:
        style: "gpt2" (LayerNorm, learned positions, GELU, biases) or "llama" (RMSNorm, rotary positions, SwiGLU).
        layers: blocks.
        width: of the residual stream.
        heads: of queries.
        kv_heads: of keys and values.
        hidden: width of the MLP.
        vocab: token ids.
        length: tokens in a row.
        rows: in a batch.
        dtype: of activations; parameters are float32.
        tied: whether the head is the embedding table.
    """

    style: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    vocab: int
    length: int
    rows: int
    dtype: str = "float32"
    tied: bool = True

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.rows * self.length


def gpt2(layers: int, width: int, heads: int, length: int, rows: int, vocab: int, dtype: str = "float32") -> Shape:
    """A GPT-2 of some size."""
    return Shape("gpt2", layers, width, heads, heads, 4 * width, vocab, length, rows, dtype)


SHAPES = {
    "small": gpt2(6, 384, 6, 256, 16, 4096),
    "124m": gpt2(12, 768, 12, 1024, 32, 50304, "bfloat16"),
    "350m": gpt2(24, 1024, 16, 1024, 16, 50304, "bfloat16"),
    "1.5b": gpt2(48, 1600, 25, 1024, 8, 50304, "bfloat16"),
    "8b_layers": Shape("llama", 4, 4096, 32, 8, 14336, 128256, 8192, 2, "bfloat16", tied=False),
}
LEARNING_RATE, BETAS, EPS, DECAY, CLIP = 1e-3, (0.9, 0.95), 1e-8, 0.1, 1.0


class Texts(NamedTuple):
    """What is read; each array has the shape (batches, rows, length).

    Attributes:
        inputs: token ids to train on; after the last batch the first comes again.
        targets: the ids that follow.
        valid_inputs: to validate on.
        valid_targets: the ids that follow.
    """

    inputs: np.ndarray
    targets: np.ndarray
    valid_inputs: np.ndarray
    valid_targets: np.ndarray

    @classmethod
    def read(cls, shape: Shape, path: str) -> "Texts":
        """Those in a file; without a path one batch of random tokens for all, which a model learns by heart."""
        if path:
            return cls(**np.load(path))
        tokens = np.random.default_rng(0).integers(0, shape.vocab, (1, shape.rows, shape.length + 1), dtype=np.int32)
        return cls(*2 * (tokens[..., :-1], tokens[..., 1:]))
