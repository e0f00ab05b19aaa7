"""The benchmark of optimizers, with made-up losses: what it tries, how it counts, and that it can be run in pieces."""

import math
from pathlib import Path

import pytest

import tests.bench.optimizers as bench
import tests.bench.results as results


@pytest.mark.parametrize(
    ("losses", "steps"),
    [
        ({100: 5.0, 200: 4.0}, 100 * math.sqrt(2)),  # half-way in the logarithm
        ({200: 4.5, 300: 4.2}, 200),  # at most
        ({100: 6.0, 200: 5.0}, None),
        ({150: math.inf, 200: 4.4}, 200),  # the shorter run diverged
        ({200: math.inf, 300: math.nan}, None),
    ],
)
def test_updates_to_a_loss(losses: dict[int, float], steps: float | None):
    assert bench.steps_to(4.5, losses) == (None if steps is None else pytest.approx(steps))


def test_rates_go_on_while_the_best_is_at_an_end():
    assert bench.tuned(4.0, lambda rate: abs(rate - 4)) == {2.0: 2.0, 4.0: 0.0, 8.0: 4.0}
    assert [*bench.tuned(4.0, lambda rate: rate)] == [2.0, 4.0, 8.0, 1.0, 0.5]
    assert [*bench.tuned(4.0, lambda rate: math.inf if rate > 8 else -rate)] == [2.0, 4.0, 8.0, 16.0]


def test_lengths_are_tried_until_they_tell():
    assert [*bench.other_lengths(4.0, 4.5, lambda steps: 4.9)] == [180]
    assert [*bench.other_lengths(4.0, 4.5, lambda steps: 4.4)] == [180, 120]
    assert [*bench.other_lengths(4.6, 4.5, lambda steps: 4.4)] == [360]


def test_pieces_are_merged_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A loss that falls with the logarithm of the updates, faster for Muon; AdamW's best rate is a tried one's half."""
    for module in (bench, results):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(bench, "REFERENCES", {})
    (tmp_path / "docs").mkdir()
    (tmp_path / "tests" / "bench").mkdir(parents=True)
    middle = {"adamw": 0.002, "muon": 0.02, "sgd": 0.4}
    factor = {"adamw": 1.0, "muon": 2.0, "sgd": 0.25}
    seen = []

    def loss(name: str, rate: float, steps: int) -> float:
        seen.append((name, rate, steps))
        return 10 - math.log(factor[name] * steps) + abs(math.log(rate / middle[name]))

    with pytest.raises(ValueError, match="held to adamw, of which there is no row yet"):
        bench.main(["muon"], loss=loss)
    bench.main(["adamw"], loss=loss)
    assert seen == [("adamw", rate, 240) for rate in (0.002, 0.004, 0.008, 0.001)]
    bench.main(["sgd", "muon"], loss=loss)
    assert ("muon", 0.02, 180) in seen
    bench.main(["adamw"], loss=loss)
    rows = bench.read_rows()
    assert [*rows] == ["adamw", "muon", "sgd"]
    assert rows["adamw"]["rate"] == 0.002
    assert [row["updates"] for row in rows.values()] == [240, 120, None]
    assert rows["adamw"]["kept"] == pytest.approx(2, abs=1e-3)
    page = (tmp_path / "docs" / "optimizers.md").read_text()
    assert "| muon | at most 120 | at most 0.50 | 0.02 |" in page
    assert "| sgd | more than 360 |  | 0.4 |" in page
    monkeypatch.setitem(bench.PROTOCOL, "layers", 3)
    assert bench.read_rows() == {}
    with pytest.raises(ValueError, match="'adam2' is not known; use some of 'adamw', 'muon'"):
        bench.main(["adam2"], loss=loss)
