"""Windows and batches, against literal cases and a plain loop over the documents."""

import hashlib
import itertools
import random
from collections import Counter
from pathlib import Path
from typing import Any

import grain
import numpy as np
import pytest

from configs import base
from data import Corpus, DataConfig, Windows, eval_batches, make_batches


def handmade_windows(directory: Path, lengths: list[int], *, seq_len: int, packing: bool) -> Windows:
    """Windows of documents with these numbers of tokens; the token ids are 10, 11, 12, ..., so each names its place."""
    total = sum(lengths)
    np.arange(10, 10 + total, dtype="<u2").tofile(directory / "train.tokens")
    np.save(directory / "train.starts.npy", np.cumsum([0, *lengths]))
    counts = {"documents": len(lengths), "tokens": total, "bytes": total}
    corpus = Corpus(directory, {"token_dtype": "<u2", "splits": {"train": counts}})
    data: Any = base.get_config().data
    data.update(seq_len=seq_len, packing=packing)
    return Windows(corpus, "train", DataConfig.of(data))


def as_lists(windows: Windows, name: str) -> list[list[float]]:
    return [windows[i][name].tolist() for i in range(len(windows))]


def take(config: Any, number: int, **options: Any) -> list[dict[str, np.ndarray]]:
    return list(itertools.islice(make_batches(config.data, **options), number))


def assert_equal(first: list[dict[str, np.ndarray]], second: list[dict[str, np.ndarray]]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], strict=True)


def join(parts: list[list[dict[str, np.ndarray]]]) -> list[dict[str, np.ndarray]]:
    """The global batches, from what each host read of them."""
    return [{k: np.concatenate([p[k] for p in step]) for k in step[0]} for step in zip(*parts, strict=True)]


def rows_of(batches: list[dict[str, np.ndarray]]) -> list[tuple[int, ...]]:
    """The inputs and targets of each row, to tell rows apart."""
    return [
        tuple(np.concatenate([x, y]).tolist())
        for batch in batches
        for x, y in zip(batch["inputs"], batch["targets"], strict=True)
    ]


def packed_rows(corpus: Corpus, split: str, length: int) -> list[tuple[int, ...]]:
    """What `rows_of` gives for all windows of a packed split, cut from the token file by hand."""
    ids = np.fromfile(corpus.directory / f"{split}.tokens", "<u2").tolist()
    rows = []
    for first in range(0, len(ids) - 1, length):
        window = ids[first : first + length + 1]
        padding = (0,) * (length + 1 - len(window))
        rows.append((*window[:-1], *padding, *window[1:], *padding))
    return rows


def test_packed_windows_of_three_documents(tmp_path: Path):
    windows = handmade_windows(tmp_path, [3, 5, 2], seq_len=4, packing=True)
    assert as_lists(windows, "inputs") == [[10, 11, 12, 13], [14, 15, 16, 17], [18, 0, 0, 0]]
    assert as_lists(windows, "targets") == [[11, 12, 13, 14], [15, 16, 17, 18], [19, 0, 0, 0]]
    assert as_lists(windows, "weights") == [[1, 1, 0, 1], [1, 1, 1, 0], [1, 0, 0, 0]]
    assert as_lists(windows, "segment_ids") == [[1, 1, 1, 2], [1, 1, 1, 1], [1, 0, 0, 0]]
    assert as_lists(windows, "positions") == [[0, 1, 2, 0], [0, 1, 2, 3], [0, 0, 0, 0]]


def test_windows_of_one_document_each(tmp_path: Path):
    windows = handmade_windows(tmp_path, [3, 5, 2], seq_len=3, packing=False)
    assert as_lists(windows, "inputs") == [[10, 11, 0], [13, 14, 15], [16, 0, 0], [18, 0, 0]]
    assert as_lists(windows, "targets") == [[11, 12, 0], [14, 15, 16], [17, 0, 0], [19, 0, 0]]
    assert as_lists(windows, "weights") == [[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 0, 0]]
    assert as_lists(windows, "segment_ids") == [[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 0, 0]]
    assert as_lists(windows, "positions") == [[0, 1, 0], [0, 1, 2], [0, 0, 0], [0, 0, 0]]


def test_a_window_with_three_documents_counts_segments_and_restarts_positions(tmp_path: Path):
    windows = handmade_windows(tmp_path, [2, 2, 3], seq_len=6, packing=True)
    assert as_lists(windows, "segment_ids") == [[1, 1, 2, 2, 3, 3]]
    assert as_lists(windows, "positions") == [[0, 1, 0, 1, 0, 1]]
    assert as_lists(windows, "weights") == [[1, 0, 1, 0, 1, 1]]


def test_arrays_have_the_documented_types(tmp_path: Path):
    for example in (handmade_windows(tmp_path, [3, 2], seq_len=3, packing=True)[i] for i in (0, 1)):
        assert {name: (str(array.dtype), array.shape) for name, array in example.items()} == {
            "inputs": ("int32", (3,)),
            "targets": ("int32", (3,)),
            "weights": ("float32", (3,)),
            "segment_ids": ("int32", (3,)),
            "positions": ("int32", (3,)),
        }


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("seq_len", [1, 2, 3, 7, 16])
def test_windows_equal_a_plain_loop_over_the_documents(packing: bool, seq_len: int, tmp_path: Path):
    rng = random.Random(seq_len)
    lengths = [rng.choice([2, 3, 4, 5, 8, 9, 17, 40]) for _ in range(30)]
    document_of = {10 + i: d for i, d in enumerate(d for d, n in enumerate(lengths) for _ in range(n))}
    firsts = {10 + sum(lengths[:d]) for d in range(len(lengths))}
    windows = handmade_windows(tmp_path, lengths, seq_len=seq_len, packing=packing)
    targets: Counter[int] = Counter()
    for i in range(len(windows)):
        segment, position, previous = 0, 0, None
        for x, y, weight, segment_id, place in zip(
            *(windows[i][name].tolist() for name in ("inputs", "targets", "weights", "segment_ids", "positions")),
            strict=True,
        ):
            if x == 0:
                assert (y, weight, segment_id, place) == (0, 0, 0, 0)
                continue
            fresh = document_of[x] != previous
            segment, position, previous = segment + fresh, 0 if fresh else position + 1, document_of[x]
            assert y == x + 1
            assert weight == (document_of[y] == document_of[x])
            assert (segment_id, place) == (segment, position)
            targets[y] += int(weight)
        assert packing or windows[i]["weights"].any()
    assert {token for token, times in targets.items() if times} == set(document_of) - firsts
    assert max(targets.values()) == 1


@pytest.mark.parametrize("packing", [True, False])
def test_a_batch_of_windows_is_its_windows_stacked(packing: bool, tmp_path: Path):
    windows = handmade_windows(tmp_path, [5, 3, 2, 9, 2, 30, 4, 7], seq_len=8, packing=packing)
    indices = [*reversed(range(len(windows))), 0, 0, len(windows) - 1]
    batch = windows.get_batch(indices)
    for name, array in batch.items():
        np.testing.assert_array_equal(array, np.stack([windows[i][name] for i in indices]), strict=True)


def test_the_order_is_grains_shuffle_of_all_rows_again_and_again(config: Any, corpus: Corpus):
    windows = packed_rows(corpus, "train", 32)
    seed = int(hashlib.sha256(b"5").hexdigest()[:8], 16)
    order = grain.MapDataset.source(range(len(windows))).shuffle(seed=seed).repeat(None)
    rows = rows_of(take(config, 40, seed=5))
    assert len(rows) > 3 * len(windows)
    assert rows == [windows[order[place]] for place in range(len(rows))]


@pytest.mark.parametrize("packing", [True, False])
def test_hosts_share_each_batch_without_loss_or_overlap(packing: bool, config: Any):
    config.data.packing = packing
    slices = [range(0, 3), range(3, 4), range(4, 8)]
    parts = [take(config, 5, seed=3, start=2, rows=rows) for rows in slices]
    assert_equal(join(parts), take(config, 5, seed=3, start=2))
    parts = [list(eval_batches(config.data, rows=rows)) for rows in slices]
    assert_equal(join(parts), list(eval_batches(config.data)))


def test_starting_at_a_step_skips_the_steps_before(config: Any):
    batches = take(config, 30)  # more than two epochs
    for start in (1, 12, 13, 29):
        assert_equal(take(config, 30 - start, start=start), batches[start:])


def test_each_window_comes_once_an_epoch_in_a_new_order(config: Any, corpus: Corpus):
    windows = packed_rows(corpus, "train", 32)
    number = len(windows)
    assert number % config.data.batch_size  # an epoch ends within a batch
    rows = rows_of(take(config, 3 * number // config.data.batch_size + 1))
    epochs = [rows[i * number : (i + 1) * number] for i in range(3)]
    for epoch in epochs:
        assert Counter(epoch) == Counter(windows)
    assert windows not in epochs
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_the_seed_decides_the_order(config: Any):
    assert rows_of(take(config, 3, seed=1)) == rows_of(take(config, 3, seed=1))
    assert rows_of(take(config, 3, seed=1)) != rows_of(take(config, 3, seed=2))


def test_another_seed_is_not_the_same_order_an_epoch_later(config: Any, corpus: Corpus):
    config.data.batch_size = len(packed_rows(corpus, "train", 32))
    assert rows_of(take(config, 1, seed=1)) != rows_of(take(config, 1, seed=0, start=1))


def test_batches_do_not_depend_on_the_threads_that_read_them(config: Any):
    batches = take(config, 20)
    config.data.update(read_threads=4, prefetch=6)
    assert_equal(take(config, 20), batches)


def test_a_batch_larger_than_the_corpus_takes_windows_again(config: Any, corpus: Corpus):
    windows = packed_rows(corpus, "train", 32)
    config.data.batch_size = 3 * len(windows)
    (batch,) = take(config, 1)
    assert Counter(rows_of([batch])) == Counter(3 * windows)


def test_a_far_step_is_found_at_once(config: Any):
    far = take(config, 2, start=10**9)
    assert_equal(take(config, 1, start=10**9 + 1), far[1:])
    assert rows_of(far[:1]) != rows_of(take(config, 1))


@pytest.mark.parametrize("split", ["train", "valid"])
def test_evaluation_gives_each_window_once_in_order_and_pads_the_last_batch(split: str, config: Any, corpus: Corpus):
    windows = packed_rows(corpus, split, 32)
    missing = -len(windows) % 8
    assert missing
    batches = list(eval_batches(config.data, split=split))
    assert rows_of(batches) == windows + [(0,) * 64] * missing
    assert not any(array[-missing:].any() for array in batches[-1].values())
    assert all(array.shape == (8, 32) for batch in batches for array in batch.values())


def test_evaluation_stops_at_the_limit(config: Any):
    batches = list(eval_batches(config.data))
    assert len(batches) == 6
    assert_equal(list(eval_batches(config.data, limit=2)), batches[:2])
    assert_equal(list(eval_batches(config.data, limit=9)), batches)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_weighted_target_bytes_add_up_to_the_bytes_of_the_texts(
    packing: bool, batch_size: int, config: Any, corpus: Corpus
):
    config.data.update(packing=packing, batch_size=batch_size)
    held_out = [
        path
        for path in Path(config.data.source.removeprefix("text,path=")).glob("*.txt")
        if int(hashlib.sha1(path.name.encode()).hexdigest()[:16], 16) / 16**16 < 0.3
    ]
    counted = sum((batch["target_bytes"] * batch["weights"]).sum() for batch in eval_batches(config.data))
    assert counted == sum(path.stat().st_size for path in held_out)
    assert counted == corpus.metadata["splits"]["valid"]["bytes"]


def test_target_bytes_are_those_of_each_target(config: Any, corpus: Corpus):
    batch = next(eval_batches(config.data))
    for target, num_bytes in zip(batch["targets"].flat, batch["target_bytes"].flat, strict=True):
        assert num_bytes == len(corpus.tokenizer.decode([target]))  # the corpus is ASCII


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_window_longer_than_the_split_names_the_key_and_both_numbers(split: str, config: Any, corpus: Corpus):
    length = corpus.metadata["splits"][split]["tokens"]
    config.data.seq_len = length
    with pytest.raises(ValueError, match=rf"config\.data\.seq_len={length} .* has {length}; use at most {length - 1}"):
        next(eval_batches(config.data, split=split))
    config.data.seq_len = length - 1
    assert next(eval_batches(config.data, split=split))["weights"].sum() > 0


@pytest.mark.parametrize(
    ("key", "value"),
    [("seq_len", 0), ("batch_size", 0), ("read_threads", -1), ("prefetch", 0), ("vocab_size", 263)],
)
def test_a_value_out_of_range_is_named(key: str, value: int, config: Any):
    config.data[key] = value
    with pytest.raises(ValueError, match=rf"config\.data\.{key}={value} must be at least"):
        make_batches(config.data)
