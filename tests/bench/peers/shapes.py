"""The models that are raced: the same numbers for all who take part."""

import json
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

    @classmethod
    def read(cls, text: str) -> "Shape":
        """From the JSON of `json.dumps(shape)`."""
        return cls(*json.loads(text))


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


def batch(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets (rows, length): random tokens, the same at every step, so a model learns them by heart."""
    tokens = np.random.default_rng(0).integers(0, shape.vocab, (shape.rows, shape.length + 1), dtype=np.int32)
    return tokens[:, :-1], tokens[:, 1:]
