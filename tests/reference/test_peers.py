"""The peers of tests/bench/throughput.py: the same loss at each step, or their speed would say nothing."""

from pathlib import Path

import pytest

from tests.bench.peers import ours
from tests.bench.peers.shapes import SHAPES

pytestmark = pytest.mark.reference


@pytest.mark.parametrize(("name", "kv_heads"), [("small", 4), ("8b_layers", 2)])
def test_the_torch_peer_computes_the_same(name: str, kv_heads: int, tmp_path: Path):
    from tests.bench.peers import torch_gpt

    shape = SHAPES[name]._replace(layers=2, width=64, heads=4, kv_heads=kv_heads, hidden=128, vocab=512, length=128)
    shape = shape._replace(rows=2, dtype="float32")
    weights = str(tmp_path / "weights.npz")
    steps = ours.start(shape, weights), torch_gpt.start(shape, weights)
    for _ in range(4):
        mine, theirs = (step(1) for step in steps)
        assert mine == pytest.approx(theirs, rel=2e-5)
