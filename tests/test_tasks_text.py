"""Tasks on text alone: what is hidden, how often, and that the text is whole."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data import DataConfig, blank_row, make_task, open_rows
from data.batches import generator
from data.tasks.next_sentence import Pairs
from data.tasks.span_corruption import Corrupted, SpanCorruption, random_spans
from data.tasks.task import Batch
from data.windows import Windows
from data.words import Words

from .task_cases import LETTERS, TRAINED, WORDS, Letters, data_config, ids, text_corpus


def documents(number: int = 40, seed: int = 0) -> list[list[int]]:
    """Documents of real words, by `TRAINED`."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, rng.integers(5, 60))) for _ in range(number)]
    return [[1, *TRAINED.encode(text), 2] for text in texts]


def all_rows(directory: Path, task: str, docs: Any, *, seed: int = 0, tokenizer: Any = TRAINED, **changes: Any) -> Any:
    config = data_config(task=task, **changes)
    rows = open_rows(config, text_corpus(directory, docs, tokenizer), "train")
    return [rows.get(i, generator(seed, i)) for i in range(len(rows))]


def test_masked_windows_cover_the_text_and_leave_special_ids_alone(tmp_path: Path):
    docs = documents()
    rows = all_rows(tmp_path, "masked_lm", docs, seq_len=32)
    targets = np.concatenate([row["targets"][row["segment_ids"] > 0] for row in rows])
    assert targets.tolist() == [i for document in docs for i in document]
    for row in rows:
        changed = row["inputs"] != row["targets"]
        assert not (changed & (row["weights"] == 0)).any()
        assert not np.isin(row["targets"][row["weights"] > 0], [0, 1, 2, 3, *TRAINED.extra_ids]).any()
        assert set(row) == {"inputs", "targets", "weights", "segment_ids", "positions"}


@pytest.mark.parametrize("task", ["masked_lm", "masked_lm,rate=0.3", "masked_lm,whole_words=1"])
def test_masking_rates(task: str, tmp_path: Path):
    rate = 0.3 if "rate" in task else 0.15
    rows = [row for seed in range(60) for row in all_rows(tmp_path, task, documents(), seed=seed, seq_len=64)]
    inputs, targets, weights = (
        np.concatenate([row[name] for row in rows]) for name in ("inputs", "targets", "weights")
    )
    ordinary = ~np.isin(targets, [0, 1, 2])
    chosen = weights > 0
    assert ordinary.sum() > 50_000

    def near(share: float, expected: float, number: float) -> bool:
        return abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / number)

    units = 3 if "whole" in task else 1  # tokens that are chosen together are one draw; words have up to 3 tokens here
    assert near(chosen[ordinary].mean(), rate, ordinary.sum() / units)
    number = chosen.sum()
    masked = inputs[chosen] == TRAINED.mask_id
    same = inputs[chosen] == targets[chosen]
    num_ordinary = TRAINED.vocab_size - 4 - len(TRAINED.extra_ids)
    assert near(masked.mean(), 0.8, number)
    assert near(same.mean(), 0.1 + 0.1 / num_ordinary, number)
    others = inputs[chosen][~masked & ~same]
    assert others.min() >= 4 + len(TRAINED.extra_ids)
    assert len(set(others.tolist())) > 0.9 * num_ordinary


def test_whole_words_are_hidden_together():
    words = Words(Letters())
    text = "ab, cd's e_f\ng2 h"
    numbers = words.numbers(np.array(LETTERS.encode(text)), np.ones(len(text), np.int32))
    assert "".join("abcdefghijklmnop"[i] for i in numbers) == "aabcdd" + "ef" + "g" + "hhh" + "i" + "jj" + "kl"


def test_words_of_chinese_are_pieces_and_a_new_document_is_a_new_word():
    class Two(Letters):
        @property
        def pieces(self) -> list[str]:
            return ["ab", "cd", " ef", "\u8a9e", "\u8a00", "\ufffd"]

    numbers = Words(Two()).numbers(np.array([0, 1, 2, 1, 3, 4, 0, 0, 5, 5]), np.array([1, 1, 1, 1, 1, 1, 1, 2, 2, 2]))
    assert numbers.tolist() == [0, 0, 1, 1, 2, 3, 4, 5, 5, 5]


def test_whole_words_by_a_trained_tokenizer(tmp_path: Path):
    rows = all_rows(tmp_path, "masked_lm,whole_words=1,rate=0.5", documents(), seq_len=64)
    words = Words(TRAINED)
    for row in rows:
        numbers = words.numbers(row["targets"], row["segment_ids"])
        for number in set(numbers.tolist()):
            assert len(set(row["weights"][numbers == number].tolist())) == 1


def test_masks_follow_from_the_seed_and_the_place(tmp_path: Path):
    first, again, other = (all_rows(tmp_path, "masked_lm", documents(), seed=seed, seq_len=32) for seed in (1, 1, 2))
    assert all((a["inputs"] == b["inputs"]).all() for a, b in zip(first, again, strict=True))
    assert any((a["inputs"] != b["inputs"]).any() for a, b in zip(first, other, strict=True))


def test_a_masked_row_of_padding_weighs_nothing(tmp_path: Path):
    config = data_config(task="masked_lm", seq_len=4)
    rows = open_rows(config, text_corpus(tmp_path, [ids("<ab>"), ids("<cd>")]), "train")
    padding = rows.padding()
    assert set(padding) == {"inputs", "targets", "weights", "segment_ids", "positions"}
    assert all(array.tolist() == [0, 0, 0, 0] for array in padding.values())


def test_a_tokenizer_without_a_mask_is_refused():
    config = DataConfig(**{**vars(data_config(task="masked_lm")), "tokenizer": "unigram"})
    with pytest.raises(ValueError, match=r"config\.data\.tokenizer='unigram' has not; use 'unigram,extra_ids=100'"):
        make_task(config).check(config, None)


def test_pairs_are_framed_and_half_of_them_follow(tmp_path: Path):
    docs = [[1, *range(20 + 100 * d, 20 + 100 * d + 40), 2] for d in range(5)]
    config = data_config(task="masked_lm,next_sentence=1", seq_len=13)

    class Numbers(Letters):
        vocab_size = 1000

    pairs = Pairs(text_corpus(tmp_path, docs, Numbers()), "train", config, range(5), weight=1.5)
    assert len(pairs) == 20  # 40 tokens in pieces of 10
    labels = Counter()
    for seed in range(50):
        for i in range(20):
            row = pairs.get(i, generator(seed, i))
            tokens, types = row["inputs"].tolist(), row["token_types"].tolist()
            length = int((row["segment_ids"] > 0).sum())
            cut = tokens.index(5)
            a, b = tokens[1:cut], tokens[cut + 1 : length - 1]
            first = 20 + 100 * (i // 4) + 10 * (i % 4)
            assert tokens[0] == 4
            assert tokens[length - 1] == 5
            assert types == [0] * (cut + 1) + [1] * (length - cut - 1) + [0] * (13 - length)
            assert row["positions"].tolist() == [*range(length)] + [0] * (13 - length)
            assert a == [*range(first, first + len(a))]
            if row["labels"] == 0:
                assert b == [*range(first + len(a), first + 10)]
            else:
                assert b == [*range(b[0], b[0] + 10 - len(a))]
                assert b[0] // 100 == b[-1] // 100 != i // 4
            labels[int(row["labels"])] += 1
    assert abs(labels[0] - 500) < 4 * np.sqrt(250)
    assert pairs.get(0, generator(0, 0))["pair_weights"] == np.float32(1.5)
    assert pairs.padding()["pair_weights"] == 0


def test_pairs_are_masked_but_not_their_frame(tmp_path: Path):
    rows = all_rows(tmp_path, "masked_lm,next_sentence=1,rate=0.5", documents(), seq_len=24)
    for row in rows:
        assert set(row) >= {"inputs", "targets", "weights", "token_types", "labels", "pair_weights", "segment_ids"}
        assert not row["weights"][np.isin(row["targets"], [0, 1, 2])].any()
        assert row["pair_weights"] == np.float32(0.5 * 21)


def test_pairs_need_two_documents(tmp_path: Path):
    with pytest.raises(ValueError, match=r"next_sentence=1' pairs texts of two documents"):
        all_rows(tmp_path, "masked_lm,next_sentence=1", documents(1), seq_len=8)


@pytest.mark.parametrize(("length", "window", "targets"), [(512, 568, 114), (1024, 1137, 229), (16, 17, 5)])
def test_windows_of_span_corruption_fill_the_encoder(length: int, window: int, targets: int):
    """The figures of T5, whose encoder's 512 tokens are 568 of text and whose decoder writes 114 (arXiv:1910.10683)."""
    task = SpanCorruption()
    assert task.window(length) == window
    assert sum(task.counts(window)) + 1 == targets


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("task", ["span_corruption", "span_corruption,rate=0.4,mean_length=2"])
def test_the_text_comes_back_from_its_spans(task: str, packing: bool, tmp_path: Path):
    docs = documents()
    rows = all_rows(tmp_path, task, docs, seq_len=32, packing=packing)
    number = 1 + max(int(np.isin(row["encoder_inputs"], TRAINED.extra_ids).sum()) for row in rows)
    sentinels = [*reversed(TRAINED.extra_ids)][:number]
    text = []
    for row in rows:
        ends = [int((row[name] > 0).sum()) - 1 for name in ("encoder_segment_ids", "segment_ids")]
        source, target = row["encoder_inputs"][: ends[0]].tolist(), row["targets"][: ends[1]].tolist()
        assert [row["encoder_inputs"][ends[0]], row["targets"][ends[1]]] == [2, 2]
        used = [i for i in source if i in sentinels]
        assert used == [i for i in target if i in sentinels] == sentinels[: len(used)]
        spans: dict[int, list[int]] = {}
        for i in target:
            if i in sentinels:
                spans[i] = []
            else:
                spans[max(spans, key=lambda one: -one)].append(i)
        text += [token for i in source for token in spans.get(i, [i])]
        assert row["weights"].tolist() == (row["segment_ids"] > 0).astype(float).tolist()
    assert text == [i for document in docs for i in document]
    if packing:
        assert all((row["encoder_segment_ids"] > 0).all() and (row["segment_ids"] > 0).all() for row in rows[:-1])


def test_a_row_of_span_corruption_keeps_documents_apart(tmp_path: Path):
    windows = Windows(text_corpus(tmp_path, [ids("<abcdefgh>")]), "train", data_config(seq_len=8))
    rows = Corrupted(windows, SpanCorruption(), LETTERS, 10, 9)
    segments = np.array([1] * 5 + [2] * 6)
    noise = np.array([0, 0, 1, 0, 1, 1, 1, 0, 0, 1, 0], bool)
    row = rows._row(np.array(ids("efgh><ijkl>"), np.int32), segments, noise)
    extra = LETTERS.extra_ids[:0:-1]  # from the last; the first is the mask
    assert row["encoder_inputs"].tolist() == [
        *ids("ef"),
        extra[0],
        *ids("h"),
        extra[1],
        *ids("jk"),
        extra[2],
        *ids(">>"),
    ]
    assert row["encoder_segment_ids"].tolist() == [1, 1, 1, 1, 1, 2, 2, 2, 2, 2]
    assert row["encoder_positions"].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]
    assert row["targets"].tolist() == [extra[0], *ids("g"), extra[1], *ids("><i"), extra[2], *ids("l>")]
    assert row["segment_ids"].tolist() == [1, 1, 1, 1, 2, 2, 2, 2, 2]
    assert row["positions"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4]
    assert row["inputs"].tolist() == [0, extra[0], *ids("g"), extra[1], 0, *ids("<i"), extra[2], *ids("l")]


def test_random_spans_are_of_the_lengths_asked_for():
    starts = Counter()
    for seed in range(2000):
        noise = random_spans(10, 4, 2, np.random.default_rng(seed))
        assert noise.sum() == 4
        assert (np.diff(noise.astype(int)) == 1).sum() == 2
        assert not noise[0]
        assert noise[-1]
        starts["".join("-x"[i] for i in noise.astype(int))] += 1
    assert len(starts) == 15  # 5 ways to part the text of 6 tokens, 3 to part the gaps of 4
    assert all(abs(count - 2000 / 15) < 4.5 * np.sqrt(2000 / 15) for count in starts.values())


def test_too_few_sentinels_are_refused():
    config = data_config(task="span_corruption", seq_len=512)
    config = DataConfig(**{**vars(config), "tokenizer": "bpe,extra_ids=20"})
    with pytest.raises(
        ValueError, match=r"needs 28 sentinels, which config\.data\.tokenizer='bpe,extra_ids=20' has not"
    ):
        make_task(config).check(config, None)
    make_task(config).check(DataConfig(**{**vars(config), "tokenizer": "bpe,extra_ids=29"}), None)


@pytest.mark.parametrize("packing", [True, False])
def test_a_prefix_sees_itself_and_what_follows_it_is_learned(packing: bool, tmp_path: Path):
    docs = [ids("<abcdefgh>"), ids("<i>"), ids("<jklm>"), ids("<nop>"), ids("<qrst")]
    shape: dict[str, Any] = {"tokenizer": LETTERS, "seq_len": 7, "packing": packing}
    plain, prefixes = all_rows(tmp_path, "causal_lm", docs, **shape), set()
    for seed in range(20):
        for row, causal in zip(all_rows(tmp_path, "prefix_lm", docs, seed=seed, **shape), plain, strict=True):
            expected = np.zeros(7)
            for segment in range(1, row["segment_ids"].max() + 1):
                places = np.nonzero(row["segment_ids"] == segment)[0]
                order = row["order"][places]
                size = int((order == 0).sum())
                assert order.tolist() == [0] * size + [*range(1, len(places) - size + 1)]
                assert 1 <= size <= max(1, len(places) - 1)
                expected[places[size - 1 :]] = causal["weights"][places[size - 1 :]]  # from the prefix's last token on
                prefixes.add((len(places), size))
            assert row["weights"].tolist() == expected.tolist()
            assert not row["order"][row["segment_ids"] == 0].any()
            assert all((row[name] == causal[name]).all() for name in ("inputs", "targets", "positions", "segment_ids"))
    assert {size for length, size in prefixes if length == 7} == {1, 2, 3, 4, 5, 6}


def test_prefixes_of_an_evaluation_have_bytes(tmp_path: Path):
    config = data_config(task="prefix_lm", seq_len=4)
    rows = open_rows(config, text_corpus(tmp_path, [ids("<abcdefgh>")]), "train", evaluating=True)
    assert "target_bytes" in rows.get(0, generator(0, 0))
    assert set(rows.padding()) == set(rows.get(0, generator(0, 0)))


def test_rows_and_their_padding_have_the_same_arrays(tmp_path: Path):
    for task in ("causal_lm", "masked_lm", "masked_lm,next_sentence=1", "prefix_lm", "span_corruption"):
        rows = open_rows(data_config(task=task, seq_len=16), text_corpus(tmp_path, documents(), TRAINED), "train")
        row, padding = rows.get(0, generator(0, 0)), rows.padding()
        blank = blank_row(data_config(task=task, seq_len=16))
        assert shapes(row) == shapes(padding) == shapes(blank)
        assert not padding["weights"].any()


def shapes(row: Batch) -> dict[str, Any]:
    return {name: (array.shape, array.dtype) for name, array in row.items()}
