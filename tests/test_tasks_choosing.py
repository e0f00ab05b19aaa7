"""Tasks whose answers are chosen: classes of texts, tags of words, spans of a context."""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data import DataConfig, make_task, open_rows
from data.tasks.frame import cut_pair
from data.tasks.questions import Questions
from data.tasks.task import Setting

from .task_cases import LETTERS, TRAINED, WORDS, Letters, data_config, encode, ids, prepared, rows_of, setting


def lists(piece: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: array.tolist() for name, array in piece.items()}


def make(config: DataConfig) -> Any:
    return make_task(config)


def test_a_text_and_its_class():
    (piece,) = encode("classification", {"text": "good", "label": "yes"}, "no", "yes", seq_len=8)
    assert lists(piece) == {"inputs": ids("[good]"), "token_types": [0] * 6, "labels": 1, "weights": 1.0}
    assert {name: str(array.dtype) for name, array in piece.items()} == {
        "inputs": "int32",
        "token_types": "int32",
        "labels": "int32",
        "weights": "float32",
    }


@pytest.mark.parametrize(
    ("keep", "length", "kept"),
    [("start", 6, "abcd"), ("end", 6, "efgh"), ("both", 6, "abgh"), ("both", 7, "abfgh"), ("end", 10, "abcdefgh")],
)
def test_a_text_that_is_too_long_keeps_a_part(keep: str, length: int, kept: str):
    (piece,) = encode(f"classification,keep={keep}", {"text": "abcdefgh", "label": 0}, "0", "1", seq_len=length)
    assert lists(piece)["inputs"] == ids(f"[{kept}]")


@pytest.mark.parametrize(
    ("text", "other", "expected"),
    [
        ("ab", "cd", "[ab]cd]"),
        ("abcdefgh", "ij", "[abcdef]ij]"),
        ("ab", "cdefghij", "[ab]cdefgh]"),
        ("abcdefg", "hijklmn", "[abcd]hijk]"),
        ("abcdef", "ghi", "[abcde]ghi]"),
        ("", "ab", "[]ab]"),
    ],
)
def test_pairs_lose_the_ends_of_the_longer_text(text: str, other: str, expected: str):
    (piece,) = encode("classification", {"text": text, "text_b": other, "label": "x"}, "x", seq_len=11)
    second = expected.index("]") + 1
    assert piece["inputs"].tolist() == ids(expected)
    assert piece["token_types"].tolist() == [0] * second + [1] * (len(expected) - second)


def test_pairs_are_those_examples_that_have_a_second_text(tmp_path: Path):
    examples = [{"text": f"ka {i}", "label": "x"} | ({"text_b": f"to {i}"} if i % 2 else {}) for i in range(20)]
    corpus, data = prepared(tmp_path, examples, "classification", vocab_size=300)
    for row, record in zip(rows_of(data, corpus, "train", evaluating=True), corpus.records("train"), strict=True):
        both = record["text"] + record.get("text_b", "")
        assert corpus.tokenizer.decode(row["inputs"]) == both
        assert row["token_types"].any() == ("text_b" in record)


@pytest.mark.parametrize(("lengths", "cut"), [((9, 9, 7), (4, 3)), ((2, 9, 7), (2, 5)), ((9, 2, 12), (9, 2))])
def test_cuts(lengths: tuple[int, int, int], cut: tuple[int, int]):
    assert cut_pair(*lengths) == cut


def test_a_tokenizer_without_cls_takes_what_begins_and_ends_a_document():
    class Plain(Letters):
        cls_id = sep_id = None

    (piece,) = encode("classification", {"text": "a", "label": "x"}, "x", tokenizer=Plain())
    assert piece["inputs"].tolist() == ids("<a>")


@pytest.mark.parametrize(
    ("options", "weights"),
    [("", [1, 1, 1]), (",class_weights=balanced", [10 / 6, 10 / 12, 10 / 12]), (",class_weights=1/2/0.5", [1, 2, 0.5])],
)
def test_class_weights(options: str, weights: list[float]):
    config = data_config(task=f"classification{options}")
    where = Setting(LETTERS, config, ("a", "b", "c"), (2, 4, 4))
    pieces = [make(config).encode({"text": "t", "label": label}, where)[0] for label in "abc"]
    np.testing.assert_allclose([piece["weights"] for piece in pieces], weights, rtol=1e-6)
    evaluating = Setting(LETTERS, config, ("a", "b", "c"), (2, 4, 4), True)
    assert [make(config).encode({"text": "t", "label": x}, evaluating)[0]["weights"] for x in "abcd"] == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("classification,class_weights=much", "class_weights must be 'balanced' or numbers such as 1/2/0.5"),
        ("classification,labels=a/b,class_weights=1/2/3", "has not as many class_weights as labels"),
        ("classification,keep=middle", "keep must be one of start, both, end"),
        ("tags,metrics=f1", "metrics must be one of span_f1, accuracy"),
        ("questions,stride=-1", "stride must be at least 0"),
    ],
)
def test_options_out_of_range_are_named(task: str, said: str):
    config = data_config(task=task)
    with pytest.raises(ValueError, match=rf"config\.data\.task='{task}'.*{said}"):
        make(config).check(config, None)


def test_a_short_row_is_refused():
    config = data_config(task="classification", seq_len=4)
    with pytest.raises(ValueError, match=r"config\.data\.seq_len=4 is too short for .*; use at least 5"):
        make(config).check(config, None)


def test_several_classes_of_a_text():
    (piece,) = encode("multilabel", {"text": "ab", "labels": ["z", "x", "z"]}, "x", "y", "z")
    assert lists(piece) == {"inputs": ids("[ab]"), "token_types": [0] * 4, "labels": [1, 0, 1], "weights": 1.0}
    assert piece["labels"].dtype == np.float32
    (none,) = encode("multilabel", {"text": "ab", "labels": []}, "x", "y", "z")
    assert none["labels"].tolist() == [0, 0, 0]


def test_a_number_of_a_text():
    (piece,) = encode("regression", {"text": "a", "text_b": "b", "label": 2.5})
    assert (piece["labels"].tolist(), piece["labels"].dtype) == (2.5, np.float32)
    with pytest.raises(ValueError, match="nan is no finite number"):
        encode("regression", {"text": "a", "label": float("nan")})


@pytest.mark.parametrize(
    ("given", "names"),
    [(["b", "a", "c"], ["a", "b", "c"]), ([10, 2, -1], ["-1", "2", "10"]), (["10", "2", "x"], ["2", "10", "x"])],
)
def test_labels_are_those_of_the_training_examples_in_order(given: list[Any], names: list[str], tmp_path: Path):
    examples = [{"text": f"number {i}", "label": given[i % 3]} for i in range(30)]
    corpus, data = prepared(tmp_path, examples, "classification")
    assert corpus.metadata["labels"] == names
    train = Counter(str(record["label"]) for record in corpus.records("train"))
    assert corpus.metadata["label_counts"] == [train[name] for name in names]
    for split in ("train", "valid"):
        rows = rows_of(data, corpus, split, evaluating=True)
        assert [names[row["labels"]] for row in rows] == [str(r["label"]) for r in corpus.records(split)]


def test_labels_can_be_given_and_others_are_unusable(tmp_path: Path):
    examples = [{"text": f"number {i}", "label": "abc"[i % 3]} for i in range(30)]
    corpus, _ = prepared(tmp_path, examples, "classification,labels=b/a")
    assert corpus.metadata["labels"] == ["b", "a"]
    (reason,) = corpus.metadata["left_out"].values()
    assert reason["first"][0].endswith("its label 'c' is none of b, a")
    assert reason["count"] == sum(record["label"] == "c" for record in corpus.records("train"))


def test_classes_are_scored_by_name(tmp_path: Path):
    examples = [{"text": f"number {i}", "label": "abc"[i % 3]} for i in range(30)]
    corpus, data = prepared(tmp_path, examples, "classification")
    rows: Any = open_rows(DataConfig.of(data), corpus, "valid", evaluating=True)
    logits = np.zeros((len(rows), 5), np.float32)  # a head may have more classes than there are
    logits[:, 4], logits[:, 1] = 9, 1
    right = [record["label"] for record in corpus.records("valid")]
    assert rows.score({"classes": logits}) == (["b"] * len(rows), right)
    assert rows.score({"classes": logits[:3]}) == (["b"] * 3, right[:3])


def test_numbers_that_are_labels_are_scored_as_numbers():
    where, task = setting("0", "1"), make(data_config(task="classification"))
    examples = [({"text": "a", "label": 0}, [0]), ({"text": "b", "label": 1}, [1])]
    assert task.score(examples, {"classes": np.array([[0.0, 1], [0, 1]])}, where) == ([1, 1], [0, 1])


def test_several_classes_and_numbers_are_scored():
    task = make(data_config(task="multilabel"))
    examples = [({"text": "a", "labels": ["y"]}, [0]), ({"text": "b", "labels": []}, [1])]
    logits = np.array([[-1.0, 2, 0], [3, -1, 1]])
    assert task.score(examples, {"classes": logits}, setting("x", "y", "z")) == (
        [[0, 1, 0], [1, 0, 1]],
        [[0, 1, 0], [0, 0, 0]],
    )
    regression = make(data_config(task="regression"))
    assert regression.score([({"label": 2}, [0])], {"classes": np.array([[1.5]])}, setting()) == ([1.5], [2.0])


NAMES = ("O", "B-X", "I-X")


def test_the_label_of_a_word_is_on_its_first_token():
    fields = {"words": ["ab", "c", "def"], "tags": ["B-X", "O", "I-X"]}
    (piece,) = encode("tags", fields, *NAMES)
    assert lists(piece) == {
        "inputs": ids("[ab c def]"),
        "token_types": [0] * 10,
        "targets": [0, 1, 0, 0, 0, 0, 2, 0, 0, 0],
        "weights": [0, 1, 0, 0, 1, 0, 1, 0, 0, 0],
    }


def test_words_beyond_the_row_and_words_without_a_token_are_outside():
    fields = {"words": ["ab", "??", "c?d", "", "efg"], "tags": ["B-X", "I-X", "I-X", "B-X", "B-X"]}
    (piece,) = encode("tags", fields, *NAMES, seq_len=9)
    assert piece["inputs"].tolist() == ids("[ab  cd ]")
    assert piece["targets"].tolist() == [0, 1, 0, 0, 0, 2, 0, 0, 0]
    assert piece["weights"].tolist() == [0, 1, 0, 0, 0, 1, 0, 0, 0]
    where, task = setting(*NAMES, seq_len=9), make(data_config(task="tags"))
    found, right = task.score([(fields, [0])], {"tags": np.full((1, 9), 1)}, where)
    assert found == [["B-X", "O", "B-X", "O", "O"]]
    assert right == [fields["tags"]]


def test_labels_that_are_no_spans_are_scored_word_by_word():
    """All words alike, whatever their example."""
    where, task = setting("ADJ", "NOUN", "VERB"), make(data_config(task="tags,metrics=accuracy"))
    assert task.scores == ("accuracy",)
    first = {"words": ["a", "b", "c"], "tags": ["NOUN", "VERB", "ADJ"]}
    examples = [(first, [0]), ({"words": ["d"], "tags": ["NOUN"]}, [1])]
    predictions = np.array([[0, 1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0]])
    found, right = task.score(examples, {"tags": predictions}, where)
    assert right == ["NOUN", "VERB", "ADJ", "NOUN"]
    assert found == ["NOUN", "ADJ", "ADJ", "NOUN"]


@pytest.mark.parametrize("seed", range(5))
def test_word_pieces_of_a_trained_tokenizer(seed: int):
    """By an independent way: the text before a word's first token is what is before the word."""
    rng = np.random.default_rng(seed)
    words = [
        word if rng.random() < 0.6 else "".join(rng.choice([*"aé語\u2581ka,"], rng.integers(1, 6)))
        for word in rng.choice(WORDS, 12)
    ]
    tags = [str(tag) for tag in rng.choice(NAMES, 12)]
    (piece,) = encode("tags", {"words": words, "tags": tags}, *NAMES, tokenizer=TRAINED, seq_len=256)
    (places,) = np.nonzero(piece["weights"])
    assert [NAMES[i] for i in piece["targets"][places]] == tags
    tokens = piece["inputs"][1:-1].tolist()
    assert TRAINED.decode(tokens) == " ".join(words)
    for place, number in zip(places, range(12), strict=True):
        before, first = TRAINED.decode(tokens[: place - 1]), TRAINED.decode(tokens[:place])
        assert before.replace("\ufffd", "").rstrip(" ") == " ".join(words[:number])
        assert len(first) > len(" ".join(words[:number]))


def test_tags_that_do_not_match_the_words_are_refused():
    with pytest.raises(ValueError, match="it has 2 words and 1 tags"):
        encode("tags", {"words": ["a", "b"], "tags": ["O"]}, *NAMES)
    with pytest.raises(ValueError, match="its tag 'B-Y' is none of O, B-X, I-X"):
        encode("tags", {"words": ["a"], "tags": ["B-Y"]}, *NAMES)


def question(context: str, *answers: str, question: str = "qr") -> dict[str, Any]:
    return {
        "question": question,
        "context": context,
        "answers": list(answers),
        "starts": [context.index(answer) for answer in answers],
    }


def test_windows_of_a_context_overlap_and_know_where_the_answer_is():
    pieces = encode("questions,stride=2", question("abcdefghij", "de", "a"), seq_len=10)
    assert [piece["inputs"].tolist() for piece in pieces] == [
        ids("[qr]abcde]"),
        ids("[qr]defgh]"),
        ids("[qr]ghij]"),
    ]
    assert [(int(piece["starts"]), int(piece["ends"])) for piece in pieces] == [(7, 8), (4, 5), (0, 0)]
    assert pieces[2]["token_types"].tolist() == [0] * 4 + [1] * 5
    assert pieces[2]["candidates"].tolist() == [1, 0, 0, 0, 1, 1, 1, 1, 0]
    assert [float(piece["weights"]) for piece in pieces] == [1, 1, 1]


def test_an_answer_that_is_cut_by_a_window_is_not_in_it():
    pieces = encode("questions,stride=2", question("abcdefghij", "ef"), seq_len=10)
    assert [(int(piece["starts"]), int(piece["ends"])) for piece in pieces] == [(0, 0), (5, 6), (0, 0)]


def test_windows_without_the_answer_may_be_left_out_of_training():
    task, fields = "questions,stride=2,all_windows=0", question("abcdefghij", "ef")
    assert [int(piece["starts"]) for piece in encode(task, fields, seq_len=10)] == [5]
    assert len(encode(task, question("abcdefghij"), seq_len=10)) == 3  # a question that has no answer
    assert len(encode(task, fields, seq_len=10, evaluating=True)) == 3


def test_a_context_that_just_fits_has_one_window():
    assert [len(encode("questions,stride=2", question("abcdefghij"[:n]), seq_len=10)) for n in (4, 5, 6, 8, 9)] == [
        1,
        1,
        2,
        2,
        3,
    ]


def test_a_question_without_an_answer_is_the_first_token():
    (piece,) = encode("questions", question("abc"))
    assert (int(piece["starts"]), int(piece["ends"]), piece["candidates"][0]) == (0, 0, 1)


def test_white_space_is_no_candidate_and_not_part_of_an_answer():
    (piece,) = encode("questions", question("a  bc d", " bc "), seq_len=20)
    assert piece["candidates"].tolist() == [1, 0, 0, 0, 1, 0, 0, 1, 1, 0, 1, 0]
    assert (int(piece["starts"]), int(piece["ends"])) == (7, 8)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (question("abc", "b") | {"starts": [2]}, "its answer 'b' is not at character 2 of its context"),
        (question("abc", "b") | {"starts": []}, "it has 1 answers and 0 starts"),
        (question("a???c", "??"), "is in no window"),
        (question("abcdefghij", "bcdefgh"), "is in no window"),
    ],
)
def test_answers_that_cannot_be_found_are_refused(fields: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        encode("questions,stride=2", fields, seq_len=10)


def test_an_evaluation_keeps_questions_whose_answer_no_window_has():
    pieces = encode("questions,stride=2", question("abcdefghij", "bcdefgh"), seq_len=10, evaluating=True)
    assert [int(piece["starts"]) for piece in pieces] == [0, 0, 0]


def gold_logits(pieces: Any, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a model that is right: 9 at the answer, 5 at the first token where there is none."""
    starts, ends = np.zeros((2, len(pieces), length), np.float32)
    for row, piece in enumerate(pieces):
        starts[row, piece["starts"]] = ends[row, piece["ends"]] = 9 if piece["starts"] else 5
    return starts, ends


@pytest.mark.parametrize("tokenizer", ["letters", "trained", "words", "bytes", "pieces"])
@pytest.mark.parametrize("stride", [3, 8])
def test_every_answer_is_in_a_window_and_comes_back_as_it_was(tokenizer: str, stride: int, tmp_path: Path):
    made = {"letters": LETTERS, "trained": TRAINED}.get(tokenizer) or foreign(tokenizer, tmp_path)
    config = data_config(task=f"questions,stride={stride}", seq_len=24)
    where, task = Setting(made, config), Questions(stride=stride)
    rng = np.random.default_rng(0)
    for _ in range(40):
        words = [str(word) for word in rng.choice([*WORDS, "a", "to"], rng.integers(1, 30))]
        if tokenizer != "letters":
            words = [word.replace("i", "é").replace("ho", "語言") for word in words]
        first = int(rng.integers(len(words)))
        answer, before = words[first], " ".join([*words[:first], ""])
        fields = {"question": "ka", "context": " ".join(words), "answers": [answer], "starts": [len(before)]}
        if len(made.encode(f" {answer}")) > stride:
            continue
        pieces = task.encode(fields, where)
        assert any(piece["starts"] for piece in pieces)
        starts, ends = gold_logits(pieces, 24)
        found, right = task.score([(fields, [*range(len(pieces))])], {"starts": starts, "ends": ends}, where)
        assert (found, right) == ([answer], [[answer]])


def foreign(kind: str, directory: Path) -> Any:
    from data import load_tokenizer

    from .test_foreign_tokenizers import byte_level, sentence_piece, word_piece, write

    made = {"words": word_piece, "bytes": byte_level, "pieces": sentence_piece}[kind]()
    return load_tokenizer(write(directory / kind, made))


def test_the_best_span_over_all_windows_wins():
    fields, where, task = question("abcdefghij"), setting(seq_len=10), Questions(stride=2, longest=2, no_answer=False)
    starts, ends = np.zeros((2, 3, 10))
    starts[0, 4], ends[0, 8] = 50, 50  # longer than answers may be
    starts[1, 6], ends[1, 5] = 40, 40  # ends before it starts
    starts[1, 1], ends[1, 1] = 90, 90  # in the question
    starts[2, 5], ends[2, 6] = 30, 31
    assert task.score([(fields, [0, 1, 2])], {"starts": starts, "ends": ends}, where)[0] == ["hi"]


@pytest.mark.parametrize(("none", "threshold", "answer"), [(10, 0, "b"), (22, 0, ""), (22, 3, "b"), (22, 1.9, "")])
def test_no_answer_must_be_better_than_any(none: float, threshold: float, answer: str):
    task = Questions(threshold=threshold)
    starts, ends = np.zeros((2, 1, 10))
    starts[0, 0], starts[0, 5], ends[0, 5] = none, 10, 10
    predictions = {"starts": starts, "ends": ends}
    assert task.score([(question("abc"), [0])], predictions, setting(seq_len=10))[0] == [answer]


def test_windows_of_a_corpus_are_rows_in_the_order_of_their_examples(tmp_path: Path):
    rng = np.random.default_rng(0)
    examples = []
    for i in range(20):
        words = [f"{i}", *(str(word) for word in rng.choice(WORDS, 30))]
        first = int(rng.integers(1, 30))
        before = " ".join([*words[:first], ""])
        examples.append(
            {"question": "ka", "context": " ".join(words), "answers": [words[first]], "starts": [len(before)]}
        )
    corpus, data = prepared(tmp_path, examples, "questions,stride=8")
    rows: Any = open_rows(DataConfig.of(data), corpus, "valid", evaluating=True)
    pieces = rows_of(data, corpus, "valid", evaluating=True)
    records = corpus.records("valid")
    assert len(pieces) > 2 * len(records)
    owners = [rows.fields(i)["name"] for i in range(len(rows))]
    names = [record["name"] for record in records]
    assert [owner for owner, _ in itertools.groupby(owners)] == names
    starts, ends = gold_logits(pieces, 16)
    assert rows.score({"starts": starts, "ends": ends})[0] == [record["answers"][0] for record in records]
    cut = owners.index(names[2]) + 1  # the third example is not whole
    assert len(rows.score({"starts": starts[:cut], "ends": ends[:cut]})[0]) == 2


@pytest.mark.parametrize(
    ("answers", "starts", "said"),
    [([None], [0], r"answers \[None\] are not all texts"), (["ka"], ["0"], "'ka' starts at '0', which is no whole n")],
)
def test_an_answer_of_another_type_is_left_out_and_named(answers: list, starts: list, said: str):
    fields = {"question": "q", "context": "ka", "answers": answers, "starts": starts}
    with pytest.raises(ValueError, match=said):
        Questions().encode(fields, setting(seq_len=16))
