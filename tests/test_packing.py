"""Packing: every example once, nothing too full, little room wasted."""

import numpy as np
import pytest

from data.packing import pack


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [
        ([5, 3, 4, 2], [[0, 1], [2, 3]]),
        ([8, 8], [[0], [1]]),
        ([1, 1, 1], [[0, 1, 2]]),
        ([6, 5, 2, 3], [[0, 2], [1, 3]]),  # 2 goes where it leaves no room, not where it comes first
        ([20, 1], [[0], [1]]),  # what is too long has a row of its own
        ([0, 8], [[1, 0]]),
    ],
)
def test_best_fit(lengths: list[int], rows: list[list[int]]):
    assert pack(np.array(lengths)[:, None], [8]) == rows


def test_both_sides_must_fit():
    assert pack(np.array([[4, 1], [4, 8], [4, 7], [2, 1]]), [8, 8]) == [[1], [2], [0, 3]]


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_each_example_is_in_one_row_that_holds_it(seed: int, dims: int):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(5, 200, dims).tolist()
    lengths = rng.integers(1, [size + 1 for size in sizes], (int(rng.integers(1, 800)), dims))
    rows = pack(lengths, sizes)
    assert sorted(example for row in rows for example in row) == [*range(len(lengths))]
    assert all((lengths[row].sum(axis=0) <= sizes).all() for row in rows)
    assert rows == pack(lengths, sizes)


def test_little_room_is_wasted():
    lengths = np.minimum(256, np.random.default_rng(0).geometric(1 / 60, (20_000, 1)))
    assert lengths.sum() / (256 * len(pack(lengths, [256]))) > 0.99
    alike = np.clip(lengths * np.random.default_rng(1).uniform([0.7, 0.3], [1.3, 0.7], (20_000, 2)), 1, [256, 128])
    rows = pack(alike.astype(int), [256, 128])
    assert alike[:, 0].sum() / (256 * len(rows)) > 0.9
