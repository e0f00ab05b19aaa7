"""The peers of tests/bench/throughput.py: the same loss at each step, or their speed would say nothing."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from tests.bench.peers import ours
from tests.bench.peers.shapes import SHAPES, Texts

pytestmark = pytest.mark.reference


@pytest.mark.parametrize(
    ("peer", "name", "kv_heads"),
    [
        ("torch_gpt", "small", 4),
        ("torch_gpt", "8b_layers", 2),
        ("linen_gpt", "small", 4),
        ("hf_trainer", "small", 4),
    ],
)
def test_a_peer_computes_the_same(peer: str, name: str, kv_heads: int, tmp_path: Path):
    shape = SHAPES[name]._replace(layers=2, width=64, heads=4, kv_heads=kv_heads, hidden=128, vocab=512, length=128)
    shape = shape._replace(rows=2, dtype="float32")
    weights = str(tmp_path / "weights.npz")
    texts = str(tmp_path / "texts.npz")
    tokens = np.random.default_rng(1).integers(0, 512, (4, 3, 2, 128), dtype=np.int32)
    np.savez(texts, **dict(zip(Texts._fields, tokens, strict=True)))
    mine = ours.start(shape, weights=weights, texts=texts)
    theirs = importlib.import_module(f"tests.bench.peers.{peer}").start(shape, weights=weights, texts=texts)
    for _ in range(4):
        assert mine.run(1) == pytest.approx(theirs.run(1), rel=2e-5)
    assert mine.valid() == pytest.approx(theirs.valid(), rel=2e-5)
