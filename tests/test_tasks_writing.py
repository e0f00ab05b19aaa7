"""Tasks whose answers are written: chats, completions, and one text from another."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data import DataConfig, make_task, open_rows
from data.chat import chat_prompt, encode_chat

from .task_cases import LETTERS, WORDS, Letters, data_config, encode, ids, prepared, setting

CHAT = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yo"},
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "bc"},
]
SYSTEM, USER, ASSISTANT = 10, 11, 12  # the first of the extra ids of `Letters` after its mask


PLAIN = Letters(extra_ids=())  # without ids to spare


def lists(piece: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: array.tolist() for name, array in piece.items()}


def test_a_chat_and_what_of_it_is_learned():
    tokens, written = encode_chat(LETTERS, CHAT)
    assert tokens == [
        1,
        *(SYSTEM, *ids("s>")),
        *(USER, *ids("hi>")),
        *(ASSISTANT, *ids("yo>")),
        *(USER, *ids("a>")),
        *(ASSISTANT, *ids("bc>")),
    ]
    assert written == [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1]
    (piece,) = encode("sft", {"messages": CHAT}, seq_len=32)
    assert lists(piece) == {"inputs": tokens[:-1], "targets": tokens[1:], "weights": [float(w) for w in written[1:]]}


def test_a_prompt_is_a_chat_that_an_assistant_is_to_continue():
    prompt = chat_prompt(LETTERS, CHAT[:2])
    assert prompt == [1, SYSTEM, *ids("s>"), USER, *ids("hi>"), ASSISTANT]
    assert encode_chat(LETTERS, CHAT)[0][: len(prompt)] == prompt


def test_without_ids_to_spare_the_marks_are_text():
    tokens, written = encode_chat(PLAIN, CHAT[1:3])
    assert tokens == [1, *PLAIN.encode("User: hi"), 2, *PLAIN.encode("Assistant: yo"), 2]
    assert written == [0] * 21 + [1] * 3
    assert chat_prompt(PLAIN, CHAT[1:2]) == [1, *PLAIN.encode("User: hi"), 2, *PLAIN.encode("Assistant: ")]


def test_no_content_makes_a_mark():
    tokens, _ = encode_chat(LETTERS, [{"role": "user", "content": "<extra_1>\x0b"[:9]}])
    assert [i for i in tokens if i < 32] == [1, USER, 2]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"role": "robot", "content": "x"}], "message 1 has the role 'robot'; use system, user, assistant"),
        ([CHAT[0], {"role": "user"}], "message 2 is not an object with a role and a content"),
        (["x"], "message 1 is not an object"),
        (CHAT[:2], "what is to be written .* is not there"),
        ([], "what is to be written .* is not there"),
    ],
)
def test_other_messages_are_refused(messages: Any, said: str):
    with pytest.raises(ValueError, match=said):
        encode("sft", {"messages": messages})


def test_a_completion_is_learned_and_its_prompt_is_not():
    fields = {"prompt": "ab", "completion": "cd"}
    (piece,) = encode("sft,form=plain", fields, seq_len=16)
    assert lists(piece) == {"inputs": ids("<abcd"), "targets": ids("abcd>"), "weights": [0, 0, 1, 1, 1]}
    (piece,) = encode("sft,form=turns", fields, seq_len=16)
    assert piece["targets"].tolist() == [USER, *ids("ab>"), ASSISTANT, *ids("cd>")]
    assert piece["weights"].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]


def test_what_is_too_long_loses_its_end():
    (piece,) = encode("sft,form=plain", {"prompt": "ab", "completion": "cdefgh"}, seq_len=5)
    assert lists(piece) == {"inputs": ids("<abcd"), "targets": ids("abcde"), "weights": [0, 0, 1, 1, 1]}
    with pytest.raises(ValueError, match=r"begins after config\.data\.seq_len=5 tokens"):
        encode("sft,form=plain", {"prompt": "abcdefg", "completion": "h"}, seq_len=5)


def test_an_unknown_form_is_refused():
    config = data_config(task="sft,form=poem")
    with pytest.raises(ValueError, match=r"config\.data\.task='sft,form=poem': form must be one of chat, turns, plain"):
        make_task(config).check(config, None)


def test_fine_tuning_is_prompted_with_what_is_before_the_last_answer():
    task: Any = make_task(data_config(task="sft"))
    assert task.prompt({"messages": CHAT}, setting()) == (chat_prompt(LETTERS, CHAT[:4]), "bc")
    thanks = [*CHAT, {"role": "user", "content": "ta"}]
    assert task.prompt({"messages": thanks}, setting()) == (chat_prompt(LETTERS, CHAT[:4]), "bc")
    task = make_task(data_config(task="sft,form=plain"))
    assert task.prompt({"prompt": "ab", "completion": "cd"}, setting()) == (ids("<ab"), "cd")


@pytest.mark.parametrize(
    ("options", "source", "inputs", "targets"),
    [
        ("", "abc>", "_de", "de>"),
        (",start=bos", "abc>", "<de", "de>"),
        (",start=eos,bos=1", "<abc>", "><de", "<de>"),
        (",prefix='x: '", "x: abc>", "_de", "de>"),
        (",source_length=3", "ab>", "_de", "de>"),
    ],
)
def test_an_encoder_reads_the_source_and_a_decoder_writes_the_target(
    options: str, source: str, inputs: str, targets: str
):
    (piece,) = encode(f"seq2seq{options}", {"source": "abc", "target": "de"}, seq_len=12)
    assert lists(piece) == {
        "encoder_inputs": ids(source),
        "inputs": ids(inputs),
        "targets": ids(targets),
        "weights": [1.0] * len(targets),
    }


def test_what_is_too_long_for_an_encoder_or_decoder_keeps_the_mark_of_its_end():
    (piece,) = encode("seq2seq", {"source": "abcdefgh", "target": "ijklmnop"}, seq_len=4)
    assert piece["encoder_inputs"].tolist() == ids("abc>")
    assert piece["targets"].tolist() == ids("ijk>")


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("seq2seq,start=cls", "start must be one of pad, bos, eos"),
        ("seq2seq,source_length=1", "source_length must be 0, or at least 2"),
        ("continuation,source_length=255", "source_length must be less than"),
    ],
)
def test_options_out_of_range_are_named(task: str, said: str):
    config = data_config(task=task)
    with pytest.raises(ValueError, match=rf"config\.data\.task='{task}': {said}"):
        make_task(config).check(config, None)


def test_a_decoder_goes_on_from_the_source():
    (piece,) = encode("continuation,separator=' = '", {"source": "abc", "target": "de"}, seq_len=20)
    assert lists(piece) == {
        "inputs": ids("<abc = de"),
        "targets": ids("abc = de>"),
        "weights": [0, 0, 0, 0, 0, 0, 1, 1, 1],
    }
    (piece,) = encode("continuation", {"source": "abcdefgh", "target": "ij"}, seq_len=8)
    assert piece["targets"].tolist() == ids("abcd\nij>")
    (piece,) = encode("continuation,source_length=2", {"source": "abcdefgh", "target": "ij"}, seq_len=8)
    assert piece["targets"].tolist() == ids("ab\nij>")


def test_prompts_do_not_depend_on_what_is_to_be_written():
    for name, expected in (("seq2seq", ids("abcd>")), ("continuation", ids("<ab\n"))):
        task: Any = make_task(data_config(task=name, seq_len=5))
        for target in ("x", "x" * 9):
            where = setting(seq_len=5)
            assert task.prompt({"source": "abcdefg", "target": target}, where) == (expected, target)


def test_rows_of_an_evaluation_give_prompts_and_no_scores(tmp_path: Path):
    examples = [{"source": f"{i}", "target": f"to {i}"} for i in range(20)]
    corpus, data = prepared(tmp_path, examples, "seq2seq", vocab_size=300)
    rows: Any = open_rows(DataConfig.of(data), corpus, "valid", evaluating=True)
    prompt = rows.prompt(1)
    record = corpus.records("valid")[1]
    assert corpus.tokenizer.decode(prompt.ids) == record["source"]
    assert prompt.reference == record["target"]
    with pytest.raises(ValueError, match=r"config\.data\.task='seq2seq' writes its answers"):
        rows.score({"classes": np.zeros((3, 2))})


def test_a_chat_is_packed_from_a_file(tmp_path: Path):
    examples = [
        {"messages": [{"role": "user", "content": f"{i}"}, {"role": "assistant", "content": f"{i + 1}"}]}
        for i in range(30)
    ]
    corpus, data = prepared(tmp_path, examples, "sft", vocab_size=300)
    rows: Any = open_rows(DataConfig.of(data), corpus, "train")
    found = []
    for i in range(len(rows)):
        row = rows.get(i, np.random.default_rng(0))
        for segment in range(1, row["segment_ids"].max() + 1):
            of_it = row["segment_ids"] == segment
            learned = corpus.tokenizer.decode(row["targets"][of_it & (row["weights"] > 0)])
            asked = corpus.tokenizer.decode(row["targets"][of_it & (row["weights"] == 0)])
            found.append((int(asked), int(learned)))
    asked = [int(record["messages"][0]["content"]) for record in corpus.records("train")]
    assert sorted(found) == sorted((number, number + 1) for number in asked)
    assert len(rows) < len(found)


@pytest.mark.parametrize("message", [{"role": "assistant", "content": None}, {"role": "user"}, "hello", None])
def test_a_message_of_another_form_is_left_out_and_named(message: Any, tmp_path: Path):
    """Also while a tokenizer is trained, which reads the texts before any example is encoded."""
    said = [{"role": "user", "content": "ka"}, {"role": "assistant", "content": "tomi"}]
    chats = [{"messages": [*said, {"role": "user", "content": f"{i} {' '.join(WORDS)}"}]} for i in range(30)]
    corpus, _ = prepared(tmp_path, [{"messages": [*said, message]}, *chats], "sft", vocab_size=310, seq_len=32)
    left_out = corpus.metadata["left_out"]["unusable"]
    assert left_out["count"] == 1
    assert "examples.jsonl:1: message 3 is not an object with a role and a content" in left_out["first"][0]
