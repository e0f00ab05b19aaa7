"""Mixtures: exact proportions anywhere, each part in an order of its own, and the same stream however it is read."""

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs import base
from data import DataConfig, TrainingRows, make_batches, open_rows, prepare
from data.mixture import Mixture, make_mixture, read_shares


def shares_of(mixture: Mixture, places: range) -> list[int]:
    counted = Counter(mixture.find(place)[0] for place in places)
    return [counted[part] for part in range(max(counted) + 1)]


@pytest.mark.parametrize(
    ("source", "rows", "slots"),
    [
        ("stdlib", [5], [10_000]),
        ("stdlib,weight=3 + stdlib", [5, 5], [7500, 2500]),
        ("stdlib,weight=0.1 + stdlib,weight=0.2 + stdlib,weight=0.3", [1, 1, 1], [1667, 3333, 5000]),
        ("stdlib + stdlib + stdlib", [1, 2, 3], [3334, 3333, 3333]),
        ("stdlib,epochs=1 + stdlib,epochs=3", [300, 100], [5000, 5000]),
        ("stdlib + stdlib,epochs=0.5", [300, 100], [8571, 1429]),
        ("stdlib,weight=1 + stdlib,weight=9999", [7, 7], [1, 9999]),
    ],
)
def test_any_10_000_places_in_a_row_have_the_proportions_exactly(source: str, rows: Sequence[int], slots: list[int]):
    mixture = make_mixture(source, rows)
    for first in (0, 1, 4_321, 9_999, 123_456_789):
        assert shares_of(mixture, range(first, first + 10_000)) == slots


def test_shorter_stretches_are_as_even_as_they_can_be():
    mixture = make_mixture("stdlib,weight=3 + stdlib,weight=1", [5, 5])
    assert [mixture.find(place)[0] for place in range(12)] == [0, 0, 1, 0] * 3
    mixture = make_mixture("stdlib,weight=50 + stdlib,weight=30 + stdlib,weight=20", [5, 5, 5])
    for first, length in itertools.product((0, 17, 9_990), (10, 100, 1_000)):
        drawn = shares_of(mixture, range(first, first + length))
        assert np.abs(np.array(drawn) - np.array([0.5, 0.3, 0.2]) * length).max() <= 2


def test_the_places_of_a_part_follow_one_another_and_are_counted():
    mixture = make_mixture("stdlib,weight=2 + stdlib,weight=1 + stdlib,weight=4", [1, 1, 1])
    for start in (0, 9_995, 30_000):
        expected = mixture.counts(start)
        for place in range(start, start + 10_020):
            part, rank = mixture.find(place)
            assert rank == expected[part]
            expected[part] += 1
        assert mixture.counts(start + 10_020) == expected


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("stdlib,weight=2 + stdlib,epochs=1", "has parts with weight and with epochs; use one of the two"),
        ("stdlib,weight=0 + stdlib", "weight=0.0 must be above 0"),
        ("stdlib,epochs=-1 + stdlib", "epochs=-1.0 must be above 0"),
        ("stdlib,weight=inf + stdlib", "weight=inf must be above 0, and finite"),
        ("stdlib,weight=nan + stdlib", "weight=nan must be above 0, and finite"),
        ("stdlib,weight=0.0001 + stdlib,weight=10", "the weight of part 1 leaves it none of 10,000 examples"),
        ("stdlib", "has 1 parts, but the corpus has 2"),
    ],
)
def test_shares_that_cannot_be_are_named(source: str, says: str):
    with pytest.raises(ValueError, match=rf"^config\.data\.source='{source.replace('+', '.')}'.*{says}"):
        make_mixture(source, [5, 5])


def test_shares_are_read_apart_from_where_the_parts_lie():
    assert read_shares("text,path=a,weight=2 + stdlib") == read_shares("text,path=b,weight=2.0 + stdlib,weight=1")
    assert read_shares("stdlib,epochs=2 + stdlib") != read_shares("stdlib,weight=2 + stdlib")


@pytest.fixture
def data(tmp_path: Path) -> Any:
    """Settings of a mixture of two folders, whose texts are of other letters, each document a window."""
    for folder, letter, number in (("a", "x", 40), ("b", "y", 12)):
        (tmp_path / folder).mkdir()
        for i in range(number):
            (tmp_path / folder / f"{folder}{i}.txt").write_text(f"{letter * 30}{i} {letter * 3}")
    data: Any = base.get_config().data
    data.update(source=f"text,path={tmp_path / 'a'},weight=3 + text,path={tmp_path / 'b'},weight=1")
    data.update(dir=str(tmp_path / "prepared"), valid_fraction=0.2, vocab_size=290, seq_len=32, packing=False)
    data.update(batch_size=8, read_threads=0, prefetch=1)
    return data


def quiet(line: str) -> None:
    del line


def take(data: Any, number: int, **options: Any) -> list[dict[str, np.ndarray]]:
    return list(itertools.islice(make_batches(data, corpus=prepare(data, log=quiet), **options), number))


def texts(data: Any, batches: list[dict[str, np.ndarray]]) -> list[str]:
    tokenizer = prepare(data, log=quiet).tokenizer
    return [tokenizer.decode(row) for batch in batches for row in batch["inputs"]]


def test_one_corpus_has_the_parts_in_order(data: Any):
    corpus = prepare(data, log=quiet)
    for split in ("train", "valid"):
        first, second = corpus.parts(split)
        assert first.start == 0
        assert first.stop == second.start
        assert second.stop == corpus.metadata["splits"][split]["documents"] == len(corpus.records(split))
        letters = [record["text"][0] for record in corpus.records(split)]
        assert letters == ["x"] * len(first) + ["y"] * len(second)
    assert sum(len(corpus.parts(split)[0]) for split in ("train", "valid")) == 40


def test_shares_change_nothing_of_the_corpus(data: Any):
    directory = prepare(data, log=quiet).directory
    data.source = data.source.replace("weight=3", "weight=1")
    assert prepare(data, log=quiet).directory == directory
    data.source = data.source.replace("weight", "epochs")
    assert prepare(data, log=quiet).directory == directory


def test_rows_are_drawn_by_the_shares_and_each_row_of_a_part_comes_once_in_its_epoch(data: Any):
    drawn = texts(data, take(data, 30))
    corpus = prepare(data, log=quiet)
    assert Counter(text[0] for text in drawn) == {"x": 180, "y": 60}
    assert Counter(text[0] for text in drawn[:40]) == {"x": 30, "y": 10}
    for part, letter in enumerate("xy"):
        rows = [text for text in drawn if text[0] == letter]
        size = len(corpus.parts("train")[part])
        epochs = [rows[i : i + size] for i in range(0, len(rows) - size + 1, size)]
        assert len(epochs) > 4
        assert all(len(set(epoch)) == size for epoch in epochs)
        assert epochs[0] != epochs[1]


def test_the_stream_is_the_same_for_any_start_and_any_hosts(data: Any):
    batches = take(data, 20, seed=3)
    for start in (1, 13):
        resumed = take(data, 20 - start, seed=3, start=start)
        assert texts(data, resumed) == texts(data, batches[start:])
    hosts = [take(data, 20, seed=3, rows=rows) for rows in (range(0, 3), range(3, 8))]
    for batch, one, two in zip(batches, *hosts, strict=True):
        np.testing.assert_array_equal(batch["inputs"], np.concatenate([one["inputs"], two["inputs"]]))
    assert texts(data, take(data, 2, seed=4)) != texts(data, batches[:2])


def test_a_far_step_of_a_mixture_is_found_at_once(data: Any):
    far = take(data, 2, start=10**9)
    assert texts(data, take(data, 1, start=10**9 + 1)) == texts(data, far[1:])


def test_evaluation_reads_every_part_once(data: Any):
    corpus = prepare(data, log=quiet)
    config = DataConfig.of(data)
    assert len(open_rows(config, corpus, "valid")) == corpus.metadata["splits"]["valid"]["documents"]


def test_epochs_of_each_part_follow_from_the_rows(data: Any):
    corpus = prepare(data, log=quiet)
    order = TrainingRows(DataConfig.of(data), corpus, seed=0)
    first, second = (len(part) for part in corpus.parts("train"))
    assert order.epochs(40_000) == [30_000 / first, 10_000 / second]
    data.source = data.source.replace("weight=3", "epochs=2").replace("weight=1", "epochs=4")
    equal = TrainingRows(DataConfig.of(data), corpus, seed=0).epochs(1_000_000)
    assert equal[1] / equal[0] == pytest.approx(2, rel=1e-3)


def test_a_part_without_training_examples_is_named(data: Any, tmp_path: Path):
    for path in (tmp_path / "b").iterdir():
        path.write_text("the same")
    (tmp_path / "a" / "a0.txt").write_text("the same")
    with pytest.raises(ValueError, match=r"part 2 of config\.data\.source=.* has no training example left"):
        prepare(data, log=quiet)
