"""Rows of labelled examples, from a file to batches: each once, kept apart, and the same whenever they are read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data import DataConfig, eval_batches, make_batches, open_rows, prepare
from data.augment import AUGMENTATIONS
from data.batches import generator

from .task_cases import WORDS, examples_config, prepared, rows_of


def pairs(number: int = 60) -> list[dict[str, Any]]:
    """Sources and targets of uneven lengths, each with its number in it."""
    rng = np.random.default_rng(0)

    def draw(least: int, most: int) -> str:
        return " ".join(rng.choice(WORDS, rng.integers(least, most)))

    return [{"source": f"{i} {draw(1, 6)}", "target": f"{i} {draw(1, 4)}"} for i in range(number)]


def sentences(number: int = 40) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    return [{"text": f"{i} " + " ".join(rng.choice(WORDS, 5)), "label": "abc"[i % 3]} for i in range(number)]


def written(row: dict[str, np.ndarray], name: str, segment: int, corpus: Any) -> str:
    side = "encoder_" if name.startswith("encoder_") else ""
    return corpus.tokenizer.decode(row[name][row[f"{side}segment_ids"] == segment])


def assert_same(first: Any, second: Any) -> None:
    for a, b in zip(first, second, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], strict=True)


def test_packed_rows_hold_each_example_once_and_keep_them_apart(tmp_path: Path):
    corpus, data = prepared(tmp_path, pairs(), "seq2seq,source_length=24")
    rows, found = rows_of(data, corpus, "train"), []
    records = {record["name"]: record for record in corpus.records("train")}
    for row in rows:
        for segment in range(1, row["segment_ids"].max() + 1):
            found.append((written(row, "encoder_inputs", segment, corpus), written(row, "targets", segment, corpus)))
            for side in ("", "encoder_"):
                (places,) = np.nonzero(row[f"{side}segment_ids"] == segment)
                assert places.tolist() == [*range(places[0], places[-1] + 1)]
                assert row[f"{side}positions"][places].tolist() == [*range(len(places))]
            assert row["inputs"][places := row["segment_ids"] == segment].tolist() == [
                corpus.tokenizer.pad_id,
                *row["targets"][places].tolist()[:-1],
            ]
        assert row["segment_ids"].max() == row["encoder_segment_ids"].max()
        assert row["inputs"].shape == (16,)
        assert row["encoder_inputs"].shape == (24,)
        assert row["weights"].tolist() == (row["segment_ids"] > 0).astype(float).tolist()
    whole = [(record["source"], record["target"]) for record in records.values()]
    assert len(rows) < len(records) / 1.5
    assert sorted(found) == sorted(whole)


@pytest.mark.parametrize("evaluating", [False, True])
def test_unpacked_rows_hold_one_example_in_order(evaluating: bool, tmp_path: Path):
    corpus, data = prepared(tmp_path, pairs(), "seq2seq", packing=evaluating)
    rows = rows_of(data, corpus, "valid", evaluating=evaluating)
    assert all(row["segment_ids"].max() == 1 for row in rows)
    records = corpus.records("valid")
    assert [written(row, "targets", 1, corpus) for row in rows] == [record["target"] for record in records]


def test_batches_of_an_evaluation_have_each_example_once(tmp_path: Path):
    corpus, data = prepared(tmp_path, sentences(), "classification")
    data.batch_size = 5
    batches = list(eval_batches(data, corpus=corpus))
    found = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    number = len(corpus.records("valid"))
    assert number % 5
    assert found["weights"].tolist() == [1] * number + [0] * (-number % 5)
    rows = zip(found["inputs"][:number], found["segment_ids"], strict=False)
    framed = [corpus.tokenizer.decode(ids[places > 0][1:-1]) for ids, places in rows]
    assert framed == [record["text"] for record in corpus.records("valid")]
    assert (found["segment_ids"][number:] == 0).all()
    assert set(found) == set(next(make_batches(data, corpus=corpus)))  # the model reads nothing else there


@pytest.mark.parametrize("task", ["seq2seq", "continuation"])
def test_augmented_batches_follow_from_seed_and_place(task: str, tmp_path: Path):
    corpus, data = prepared(tmp_path, pairs(), task, augment=("token_dropout,rate=0.5,blank=a",))

    def take(number: int, **options: Any) -> list[Any]:
        batches = make_batches(data, corpus=corpus, **options)
        return [next(batches) for _ in range(number)]

    first = take(40, seed=3)
    assert_same(first, take(40, seed=3))
    assert_same(first[25:], take(15, seed=3, start=25))
    parts = [take(40, seed=3, rows=rows) for rows in (range(0, 1), range(1, 2))]
    joined = [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*parts, strict=True)]
    assert_same(first, joined)
    side = "encoder_inputs" if task == "seq2seq" else "inputs"
    assert any((a[side] != b[side]).any() for a, b in zip(first, take(40, seed=4), strict=True))
    data.augment = ()
    assert any((a[side] != b[side]).any() for a, b in zip(first, take(40, seed=3), strict=True))


def test_an_augmented_example_never_outgrows_its_place_and_keeps_its_target(tmp_path: Path, monkeypatch: Any):
    def longer():
        return lambda texts, rng: {name: text * int(rng.integers(1, 5)) for name, text in texts.items()}

    monkeypatch.setitem(AUGMENTATIONS, "longer", longer)
    corpus, data = prepared(tmp_path, pairs(), "seq2seq", augment=("longer",))
    rows = rows_of(data, corpus, "train")
    targets = [written(row, "targets", s, corpus) for row in rows for s in range(1, row["segment_ids"].max() + 1)]
    assert sorted(targets) == sorted(record["target"] for record in corpus.records("train"))


def test_an_example_with_a_row_of_its_own_may_grow(tmp_path: Path, monkeypatch: Any):
    """Else augmentation would only ever be seen where it does not lengthen a text."""
    monkeypatch.setitem(AUGMENTATIONS, "twice", lambda: lambda texts, rng: {k: f"{v} {v}" for k, v in texts.items()})
    examples = [{"text": f"{i} ka", "label": str(i % 2)} for i in range(12)]
    corpus, data = prepared(tmp_path, examples, "classification", augment=("twice",), vocab_size=290)
    plain, changed = (
        rows_of(DataConfig.of({**data.to_dict(), "augment": ways}), corpus, "train") for ways in ((), ("twice",))
    )
    assert all(b["segment_ids"].sum() > a["segment_ids"].sum() for a, b in zip(plain, changed, strict=True))


def test_an_evaluation_is_not_augmented(tmp_path: Path):
    corpus, data = prepared(tmp_path, sentences(), "classification", augment=("delete,rate=0.9",))
    rows = rows_of(data, corpus, "valid", evaluating=True)
    assert [written(row, "inputs", 1, corpus) for row in rows] == [r["text"] for r in corpus.records("valid")]
    shorter = [written(row, "inputs", 1, corpus) for row in rows_of(data, corpus, "train")]
    assert shorter != [record["text"] for record in corpus.records("train")]


def test_what_cannot_be_used_is_counted_with_its_reason(tmp_path: Path):
    examples = [*pairs(), {"source": "x", "target": ""}, {"source": "y", "target": ""}]
    corpus, data = prepared(tmp_path, examples, "seq2seq")
    (left_out,) = corpus.metadata["left_out"].items()
    assert left_out[0] == "unusable"
    assert left_out[1]["count"] == 2
    assert left_out[1]["first"][0].endswith("examples.jsonl:61: it has no target")
    splits = corpus.metadata["splits"]
    assert sum(facts["documents"] for facts in splits.values()) == 62
    assert sum(facts["examples"] for facts in splits.values()) == 60
    assert sum(len(rows_of(data, corpus, split, evaluating=True)) for split in splits) == 60


def test_a_split_without_a_usable_example_is_an_error(tmp_path: Path):
    data = examples_config(tmp_path, [{"source": str(i), "target": ""} for i in range(20)], "seq2seq")
    data.update(tokenizer="bpe", vocab_size=272)
    with pytest.raises(ValueError, match=r"task='seq2seq' can use none of the \d+ examples of a split \(.*no target"):
        prepare(data, log=lambda line: None)


def test_the_length_of_a_row_and_the_task_decide_the_corpus(tmp_path: Path):
    corpus, data = prepared(tmp_path, pairs(), "seq2seq")
    for change in ({"seq_len": 15}, {"task": "continuation"}, {"task": "seq2seq,prefix='x: '"}):
        other = data.copy_and_resolve_references()
        other.update(change)
        assert prepare(other, log=lambda line: None).directory != corpus.directory
    data.update(packing=False, batch_size=3, augment=("swap",))
    assert prepare(data, log=lambda line: None).directory == corpus.directory


def test_a_corpus_for_other_rows_is_refused(tmp_path: Path):
    corpus, data = prepared(tmp_path, pairs(), "seq2seq")
    data.seq_len = 20
    with pytest.raises(ValueError, match=r"was prepared for config\.data\.seq_len=16, not 20; prepare it anew"):
        rows_of(data, corpus, "train")


def test_rows_and_their_padding_have_the_same_arrays(tmp_path: Path):
    for task, examples in (
        ("seq2seq,source_length=9", pairs()),
        ("continuation", pairs()),
        ("classification", sentences()),
    ):
        corpus, data = prepared(tmp_path / task[:5], examples, task)
        for evaluating in (False, True):
            rows = open_rows(DataConfig.of(data), corpus, "train", evaluating=evaluating)
            row, padding = rows.get(0, generator(0, 0)), rows.padding()
            shapes = {name: (array.shape, array.dtype) for name, array in padding.items()}
            assert {name: (array.shape, array.dtype) for name, array in row.items()} == shapes
            assert not padding["weights"].any()
