"""Preparation: what is written, what is left out, and that it is whole or absent."""

import gzip
import hashlib
import itertools
import json
import lzma
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from configs import base
from data import Corpus, DataConfig, eval_batches, make_batches, prepare
from data.cleaning import Cleaner
from data.preparation import open_job

ROOT = Path(__file__).parents[1]

# The first bytes of sha1(name), by sha1sum: e.txt 0acf, j.txt 40f9, d.txt 97e4, b.txt aceb, f/g.txt b127, h.txt c553,
# c.txt fe4c. Of 2^16 these are 0.042, 0.254, 0.593, 0.675, 0.692, 0.771, 0.993.
NAMES = ("e.txt", "c.txt", "j.txt", "d.txt", "b.txt", "f/g.txt", "h.txt")


def some_text(seed: int, lines: int = 12) -> str:
    rng = random.Random(seed)
    words = ["the", "model", "sees", "tokens", "and", "learns", "which", "of", "them", "comes", "next", "\u00fcber"]
    return "".join(
        f"{seed} {' '.join(rng.choices(words, k=rng.randint(1, 12)))} {rng.random()}\n" for _ in range(lines)
    )


def quiet(line: str) -> None:
    del line


@pytest.fixture
def data(tmp_path: Path) -> Any:
    """Settings for the seven documents of NAMES, two of them held out."""
    for i, name in enumerate(NAMES):
        path = tmp_path / "text" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(some_text(i))
    data: Any = base.get_config().data
    data.update(source=f"text,path={tmp_path / 'text'}", dir=str(tmp_path / "prepared"), valid_fraction=0.32)
    data.update(vocab_size=300, seq_len=16, batch_size=2, read_threads=0, prefetch=1)
    return data


def texts_of(data: Any) -> Path:
    """The folder of the texts."""
    return Path(data.source.removeprefix("text,path="))


def documents(corpus: Corpus, split: str) -> dict[str, str]:
    """Names and texts of a split as any other program reads them."""
    (info,) = (corpus.directory / "documents").glob("*/*/dataset_info.json")
    builder: Any = tfds.builder_from_directory(info.parent)
    records = builder.as_data_source(split=split)
    return {records[i]["name"].decode(): records[i]["text"].decode() for i in range(len(records))}


def all_documents(corpus: Corpus) -> dict[str, str]:
    return documents(corpus, "train") | documents(corpus, "valid")


def from_tokens(corpus: Corpus, split: str) -> list[str]:
    """The texts of a split, decoded from its token file, after checks of the ids that begin and end each."""
    ids = np.fromfile(corpus.directory / f"{split}.tokens", "<u2")
    starts = np.load(corpus.directory / f"{split}.starts.npy")
    assert starts[0] == 0
    assert starts[-1] == len(ids)
    pieces = [ids[a:b].tolist() for a, b in itertools.pairwise(starts)]
    assert all((piece[0], piece[-1]) == (1, 2) and min(piece[1:-1]) >= 4 for piece in pieces)
    return [corpus.tokenizer.decode(piece[1:-1]) for piece in pieces]


def state(directory: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in directory.rglob("*")}


def test_the_split_is_by_the_hash_of_the_name(data: Any):
    corpus = prepare(data, log=quiet)
    texts = {name: (texts_of(data) / name).read_text() for name in NAMES}
    assert documents(corpus, "valid") == {name: texts[name] for name in ("e.txt", "j.txt")}
    assert documents(corpus, "train") == {name: texts[name] for name in ("c.txt", "d.txt", "b.txt", "f/g.txt", "h.txt")}
    data.valid_fraction = 0.1
    assert list(documents(prepare(data, log=quiet), "valid")) == ["e.txt"]
    data.valid_fraction = 0.99
    assert list(documents(prepare(data, log=quiet), "train")) == ["c.txt"]


def test_token_files_hold_every_document_between_its_begin_and_end(data: Any):
    corpus = prepare(data, log=quiet)
    for split in ("train", "valid"):
        assert from_tokens(corpus, split) == list(documents(corpus, split).values())


def test_metadata_counts_what_is_there(data: Any):
    corpus = prepare(data, log=quiet)
    metadata = json.loads((corpus.directory / "metadata.json").read_text())
    assert metadata == corpus.metadata
    for split, names in (("valid", ("e.txt", "j.txt")), ("train", ("c.txt", "d.txt", "b.txt", "f/g.txt", "h.txt"))):
        assert metadata["splits"][split] == {
            "documents": len(names),
            "bytes": sum((texts_of(data) / name).stat().st_size for name in names),
            "tokens": (corpus.directory / f"{split}.tokens").stat().st_size // 2,
            "tokens_sha256": hashlib.sha256((corpus.directory / f"{split}.tokens").read_bytes()).hexdigest(),
            "parts": [[0, len(names)]],
        }
    assert metadata["token_dtype"] == "<u2"
    assert metadata["vocab_size"] == 300
    assert metadata["left_out"] == {}


def test_gzip_and_xz_are_measured_on_the_validation_text(data: Any):
    measured = prepare(data, log=quiet).metadata["compressed_bits_per_byte"]
    text = b"".join((texts_of(data) / name).read_bytes() for name in ("e.txt", "j.txt"))
    assert measured == {
        "gzip": len(gzip.compress(text, compresslevel=9)) * 8 / len(text),
        "xz": len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) * 8 / len(text),
    }
    assert 1 < measured["gzip"] < 6


def test_a_second_preparation_does_nothing(data: Any):
    first = prepare(data, log=quiet)
    before, log = state(Path(data.dir)), []
    data.update(seq_len=8, batch_size=1, packing=False)  # not what the files depend on
    assert prepare(data, log=log.append).directory == first.directory
    assert log == []
    assert state(Path(data.dir)) == before
    assert os.listdir(data.dir) == [first.directory.name]


@pytest.mark.parametrize(
    "change",
    [
        {"vocab_size": 320},
        {"tokenizer": "unigram"},
        {"valid_fraction": 0.4},
        {"chunk_bytes": 500},
        {"max_bad_records": 0.5},
        {"tokenizer_bytes": 3000},
    ],
    ids=str,
)
def test_another_setting_makes_another_folder(change: dict[str, Any], data: Any):
    first = prepare(data, log=quiet)
    before = state(first.directory)
    data.update(change)
    second = prepare(data, log=quiet)
    assert second.directory != first.directory
    assert second.metadata["vocab_size"] == change.get("vocab_size", 300)
    assert state(first.directory) == before


def test_a_changed_file_makes_another_folder(data: Any):
    first = prepare(data, log=quiet)
    (texts_of(data) / "e.txt").write_text("something else")
    second = prepare(data, log=quiet)
    assert second.directory != first.directory
    assert documents(second, "valid")["e.txt"] == "something else"


def test_the_same_corpus_gives_the_same_files_anywhere(data: Any, tmp_path: Path):
    first = prepare(data, log=quiet)
    data.dir = str(tmp_path / "elsewhere")
    second = prepare(data, log=quiet)
    for name in ("metadata.json", "tokenizer.model", "train.tokens", "valid.tokens", "train.starts.npy"):
        assert (first.directory / name).read_bytes() == (second.directory / name).read_bytes()


def test_what_cannot_be_read_is_left_out_counted_and_named(data: Any):
    data.max_bad_records = 0.3  # two of seven are 0.286
    (texts_of(data) / "b.txt").write_bytes(b"fine \xff not")
    (texts_of(data) / "h.txt").write_bytes("cut \u20ac".encode()[:-1])
    log: list[str] = []
    corpus = prepare(data, log=log.append)
    reasons = ["b.txt: column 'text' is not UTF-8 (byte 5)", "h.txt: column 'text' is not UTF-8 (byte 4)"]
    assert corpus.metadata["left_out"] == {"unreadable": {"count": 2, "share": 0.285714, "first": reasons}}
    assert list(documents(corpus, "train")) == ["c.txt", "d.txt", "f/g.txt"]
    assert f"Left out 2 examples, 28.57% (unreadable): {', '.join(reasons)}" in log


@pytest.mark.parametrize(("limit", "bad", "of"), [(0.0, 1, 1), (0.1, 1, 7)])
def test_more_bad_records_than_the_limit_are_an_error_that_names_them(limit: float, bad: int, of: int, data: Any):
    data.max_bad_records = limit
    (texts_of(data) / "b.txt").write_bytes(b"fine \xff not")
    says = rf"data\.source='text.*: {bad} of the first {of} .*max_bad_records={limit} .*\n  b\.txt: .*UTF-8 \(byte 5\)"
    with pytest.raises(ValueError, match=says):
        prepare(data, log=quiet)
    assert os.listdir(data.dir) == []


def test_repetitions_and_empty_documents_are_left_out(data: Any):
    root = texts_of(data)
    (root / "h.txt").write_bytes((root / "e.txt").read_bytes())
    (root / "b.txt").write_bytes(b"")
    (root / "f" / "g.txt").write_bytes(b"\n")  # not empty
    corpus = prepare(data, log=quiet)
    assert corpus.metadata["left_out"] == {
        "empty": {"count": 1, "share": 0.142857, "first": ["b.txt"]},
        "copy of a validation example": {"count": 1, "share": 0.142857, "first": ["h.txt"]},
    }
    assert sorted(all_documents(corpus)) == ["c.txt", "d.txt", "e.txt", "f/g.txt", "j.txt"]


def test_what_repeats_a_held_out_example_is_no_training_example(data: Any):
    """Also where it comes first: c.txt is read before e.txt."""
    root = texts_of(data)
    (root / "e.txt").write_bytes((root / "c.txt").read_bytes())
    corpus = prepare(data, log=quiet)
    assert sorted(documents(corpus, "valid")) == ["e.txt", "j.txt"]
    assert sorted(documents(corpus, "train")) == ["b.txt", "d.txt", "f/g.txt", "h.txt"]


def other_texts(tmp_path: Path, **contents: str) -> str:
    """A source of documents named like the arguments."""
    (tmp_path / "other").mkdir(exist_ok=True)
    for name, content in contents.items():
        (tmp_path / "other" / f"{name}.txt").write_text(content)
    return f"text,path={tmp_path / 'other'}"


def test_a_validation_source_is_kept_whole_and_its_copies_leave_the_training_split(data: Any, tmp_path: Path):
    copied = (texts_of(data) / "c.txt").read_text()
    data.valid_source = other_texts(tmp_path, one=copied, two="twice", three="twice")
    corpus = prepare(data, log=quiet)
    assert documents(corpus, "valid") == {"one.txt": copied, "three.txt": "twice", "two.txt": "twice"}
    assert sorted(documents(corpus, "train")) == ["b.txt", "d.txt", "e.txt", "f/g.txt", "h.txt", "j.txt"]
    assert corpus.metadata["left_out"] == {
        "copy of a validation example": {"count": 1, "share": 0.1, "first": ["c.txt"]}
    }


def test_a_corpus_may_have_a_validation_split_alone(data: Any, tmp_path: Path):
    tokenizer = prepare(data, log=quiet).directory
    data.update(source="", valid_source=other_texts(tmp_path, one="a text " * 20), tokenizer=str(tokenizer))
    corpus = prepare(data, log=quiet)
    assert list(corpus.metadata["splits"]) == ["valid"]
    assert corpus.records("valid")[0] == {"name": "one.txt", "text": "a text " * 20}
    assert next(eval_batches(data))["weights"].sum() > 16
    with pytest.raises(ValueError, match=r"has no train split, only valid: config\.data\.source was empty"):
        next(make_batches(data))


def test_a_validation_split_alone_needs_a_tokenizer(data: Any, tmp_path: Path):
    data.update(source="", valid_source=other_texts(tmp_path, one="a"))
    with pytest.raises(ValueError, match=r"config\.data\.tokenizer='bpe' is trained on config\.data\.source, which is"):
        prepare(data, log=quiet)
    data.valid_source = ""
    with pytest.raises(ValueError, match=r"config\.data\.source='' is empty; use one of stdlib, text"):
        prepare(data, log=quiet)


@pytest.mark.parametrize("share", ["weight=2", "epochs=1"])
def test_a_validation_source_has_no_shares(share: str, data: Any, tmp_path: Path):
    data.valid_source = f"{other_texts(tmp_path, one='a')},{share}"
    with pytest.raises(
        ValueError, match=r"config\.data\.valid_source=.* has a weight or epochs, but all of it is read"
    ):
        prepare(data, log=quiet)


def test_an_empty_source_beside_another_is_named(data: Any, tmp_path: Path):
    data.valid_source = other_texts(tmp_path, one="")
    with pytest.raises(ValueError, match=r"config\.data\.valid_source='text,.*' has no example"):
        prepare(data, log=quiet)


def test_a_bad_source_is_not_read_to_its_end(data: Any, tmp_path: Path):
    (tmp_path / "bad.jsonl").write_text("no\n" * 20_000)
    data.source = f"jsonl,path={tmp_path / 'bad.jsonl'}"
    with pytest.raises(ValueError, match=r"101 of the first 101 records cannot be read"):
        prepare(data, log=quiet)


def test_an_empty_corpus_is_named(data: Any):
    for name in NAMES:
        (texts_of(data) / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"corpus of config\.data\.source='text.*' is empty"):
        prepare(data, log=quiet)
    assert os.listdir(data.dir) == []


@pytest.mark.parametrize(("fraction", "split"), [(0.01, "valid"), (0.9999, "train")])
def test_a_split_without_documents_names_the_keys_that_help(fraction: float, split: str, data: Any):
    data.valid_fraction = fraction
    with pytest.raises(ValueError, match=rf"config\.data\.valid_fraction={fraction} leaves .* {split}") as error:
        prepare(data, log=quiet)
    assert "config.data.chunk_bytes" in str(error.value)
    assert os.listdir(data.dir) == []


def test_chunks_end_at_line_ends_and_make_up_the_document(data: Any):
    data.chunk_bytes = 100
    long_line = "".join(f"{i}\u20ac\U0001f600" for i in range(60))  # of characters of 1, 3 and 4 bytes
    (texts_of(data) / "b.txt").write_text(f"first\n{long_line}\nlast\r\n")
    corpus = prepare(data, log=quiet)
    assert corpus.metadata["left_out"] == {}
    chunks = {(name.split("@")[0], int(name.split("@")[1])): text for name, text in all_documents(corpus).items()}
    for name in NAMES:
        content = (texts_of(data) / name).read_bytes()
        mine = sorted((offset, text.encode()) for (of, offset), text in chunks.items() if of == name)
        assert b"".join(text for _, text in mine) == content
        assert [content[offset:][: len(text)] for offset, text in mine] == [text for _, text in mine]
        assert max(len(text) for _, text in mine) <= 100
        assert len(mine) >= len(content) // 100
        if name != "b.txt":
            assert all(text.endswith(b"\n") for _, text in mine)
    assert chunks["b.txt", 0] == "first\n"


def test_a_document_is_not_cut_when_it_is_short_enough(data: Any):
    sizes = [(texts_of(data) / name).stat().st_size for name in NAMES]
    data.chunk_bytes = max(sizes)
    assert sorted(all_documents(prepare(data, log=quiet))) == sorted(NAMES)


def test_the_smallest_chunks_cut_no_character(data: Any):
    data.update(chunk_bytes=4, vocab_size=330)
    (texts_of(data) / "e.txt").write_text("\U0001f600\U0001f601a\U0001f602\u20ac\u20ad\u00e9b\u00e8\U0001f603")
    corpus = prepare(data, log=quiet)
    assert "unreadable" not in corpus.metadata["left_out"]
    data.chunk_bytes = 3
    with pytest.raises(ValueError, match=r"config\.data\.chunk_bytes=3"):
        prepare(data, log=quiet)


def test_a_folder_that_cannot_be_made_is_named(data: Any, tmp_path: Path):
    (tmp_path / "file").write_text("")
    data.dir = str(tmp_path / "file" / "below")
    with pytest.raises(OSError, match=r"cannot write to config\.data\.dir='.*/file/below'"):
        prepare(data, log=quiet)


def test_an_error_while_writing_names_the_folder_and_keeps_nothing(data: Any):
    def full(line: str) -> None:
        if line.startswith("Tokenizing"):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"config\.data\.dir='.*prepared': .*No space left"):
        prepare(data, log=full)
    assert os.listdir(data.dir) == []


def truncate(by: int) -> Callable[[Path], int]:
    return lambda path: path.write_bytes(path.read_bytes()[:-by])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("tokenizer.model", lambda path: path.write_bytes(path.read_bytes() + b"\0")),
        ("tokenizer.model", lambda path: path.write_bytes(b"")),
        ("valid.tokens", truncate(2)),
        ("valid.tokens", truncate(1)),
        ("valid.tokens", lambda path: path.write_bytes(b"")),
        ("valid.starts.npy", truncate(8)),
        ("valid.starts.npy", lambda path: path.write_bytes(b"")),
        ("metadata.json", truncate(20)),
        ("metadata.json", lambda path: path.write_bytes(b"")),
    ],
)
def test_a_damaged_file_is_named(name: str, damage: Callable[[Path], int], data: Any):
    path = prepare(data, log=quiet).directory / name
    damage(path)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        next(eval_batches(data))
    assert str(path) in str(error.value)


def test_batches_prepare_a_corpus_that_is_not_there(data: Any, capsys: pytest.CaptureFixture[str]):
    batch = next(make_batches(data))
    assert batch["inputs"].shape == (2, 16)
    assert capsys.readouterr().err.startswith("Preparing text in ")


def test_a_process_that_is_second_takes_what_the_first_wrote(data: Any):
    first: list[Corpus] = []

    def overtake(line: str) -> None:
        if line.startswith("Training"):
            first.append(prepare(data, log=quiet))
            before.update(state(first[0].directory))

    before: dict[str, tuple[int, int]] = {}
    second = prepare(data, log=overtake)
    assert second.directory == first[0].directory
    assert second.metadata == first[0].metadata
    assert state(second.directory) == before
    assert os.listdir(data.dir) == [second.directory.name]


def start(data: Any, tmp_path: Path) -> subprocess.Popen[str]:
    """Starts `python -m data.prepare` on these settings."""
    config = tmp_path / "config.py"
    lines = ["from configs import base", "def get_config():", "    config = base.get_config()"]
    lines += [f"    config.data.update({data.to_dict()!r})", "    return config"]
    config.write_text("\n".join(lines))
    command = [sys.executable, "-m", "data.prepare", f"--config={config}"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("moment", ["Preparing", "Training", "Tokenizing valid"])
def test_a_killed_preparation_leaves_no_corpus_and_the_next_one_succeeds(moment: str, data: Any, tmp_path: Path):
    process = start(data, tmp_path)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(moment):
            break
    else:
        pytest.fail(f"it never said {moment}")
    process.kill()
    process.communicate()
    finished = [path for path in Path(data.dir).glob("*") if not path.name.startswith(".")]
    for path in finished:  # it may have been faster than the signal; then it is whole
        assert (path / "metadata.json").exists()
        assert finished == [prepare(data, log=quiet).directory]
    corpus = prepare(data, log=quiet)
    for split in ("train", "valid"):
        assert from_tokens(corpus, split) == list(documents(corpus, split).values())


def test_two_processes_may_prepare_at_once(data: Any, tmp_path: Path):
    processes = [start(data, tmp_path) for _ in range(2)]
    output = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], output
    corpus = prepare(data, log=quiet)
    assert os.listdir(data.dir) == [corpus.directory.name]
    for out, _ in output:
        assert json.loads(out) == {"directory": str(corpus.directory)} | corpus.metadata
    assert from_tokens(corpus, "valid") == list(documents(corpus, "valid").values())


def test_preparing_and_reading_never_import_tensorflow(data: Any):
    program = f"""
import sys
from data import eval_batches, make_batches
settings = {data.to_dict()!r}
print(next(make_batches(settings))["inputs"].shape, next(eval_batches(settings))["inputs"].shape)
print("tensorflow" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["(2, 16) (2, 16)", "False"]


@pytest.fixture
def labelled(tmp_path: Path, data: Any) -> Any:
    """Settings for a table of labelled texts, four of whose rows are repetitions."""
    rows = [f"{some_text(i % 26, 1).strip()!r},{i % 2},{i}" for i in range(30)]
    (tmp_path / "table.csv").write_text("\n".join(["review,label,id", *rows]).replace("'", '"') + "\n")
    data.update(source=f"csv,path={tmp_path / 'table.csv'},rename=review:text", task="classification")
    return data


def test_labelled_examples_are_stored_as_the_columns_of_their_task(labelled: Any):
    corpus = prepare(labelled, log=quiet)
    records = [record for split in ("train", "valid") for record in corpus.records(split)]
    assert all(sorted(record) == ["label", "name", "text"] for record in records)
    assert {record["text"]: record["label"] for record in records} == {
        some_text(i, 1).strip(): str(i % 2) for i in range(26)
    }
    counts = {reason: found["count"] for reason, found in corpus.metadata["left_out"].items()}
    assert counts == {"exact repetition": 3, "copy of a validation example": 1}
    assert corpus.metadata["labels"] == ["0", "1"]
    assert next(make_batches(labelled))["inputs"].shape == (2, 16)


CHATS = {name: [{"role": "user", "content": name}, {"role": "assistant", "content": "b"}] for name in ("a", "b")}


@pytest.mark.parametrize(
    ("task", "held_out", "copy", "others"),
    [
        (
            "classification",
            {"text": "a", "label": 0},
            {"text": "a", "text_b": None, "label": 1},
            [{"text": "a", "text_b": "c", "label": 0}, {"text": "b", "label": 0}, {"text": "b", "label": 1}],
        ),
        (
            "tags",
            {"words": ["a"], "tags": ["O"]},
            {"words": ["a"], "tags": ["B-X"]},
            [{"words": ["b"], "tags": ["O"]}, {"words": ["b"], "tags": ["B-X"]}],
        ),
        (
            "continuation",
            {"source": "a", "target": "b"},
            {"source": "a", "target": "c"},
            [{"source": "b", "target": "b"}, {"source": "b", "target": "a"}],
        ),
        (
            "sft",
            {"messages": CHATS["a"]},
            {"messages": [CHATS["a"][0], {"role": "assistant", "content": "c"}]},
            [{"messages": CHATS["b"]}, {"messages": [*CHATS["a"], *CHATS["b"]]}],
        ),
        (
            "sft,form=plain",
            {"prompt": "", "completion": "a"},
            {"prompt": "", "completion": "a"},
            [{"prompt": "", "completion": "b"}],
        ),
    ],
)
def test_an_example_that_asks_what_a_validation_example_asks_is_no_training_example(
    task: str, held_out: dict[str, Any], copy: dict[str, Any], others: list[dict[str, Any]], data: Any, tmp_path: Path
):
    """Whatever its label; what asks nothing has only itself. In the training split alone all columns must agree."""
    train = [copy, *others, others[0]]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in train))
    (tmp_path / "valid.jsonl").write_text(json.dumps(held_out))
    data.update(source=f"jsonl,path={tmp_path}/train.jsonl", valid_source=f"jsonl,path={tmp_path}/valid.jsonl")
    data.update(task=task, tokenizer="bpe,extra_ids=10")
    job = open_job(DataConfig.of(data))
    cleaner = Cleaner(job.config, job.task, job.train, job.valid)
    assert [json.loads(example.content) for example in cleaner.examples("valid")] == [held_out]
    assert [json.loads(example.content) for example in cleaner.examples("train")] == others
    named = {reason: found["first"] for reason, found in cleaner.left_out.report().items()}
    repeated = f"train.jsonl:{len(train)}"
    assert named == {"copy of a validation example": ["train.jsonl:1"], "exact repetition": [repeated]}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('{"text": "a"}', "no column 'label'; there are text"),
        ('{"text": 3, "label": "a"}', "column 'text' is int, not str"),
        ('{"text": "a", "label": null}', "column 'label' is NoneType, not str or int"),
        ('{"text": "a", "label": ["b"]}', "column 'label' is list, not str or int"),
        ('{"text": "\\ud800", "label": 1}', "column 'text' is not UTF-8"),
    ],
)
def test_a_column_that_the_task_cannot_take_is_named(row: str, says: str, data: Any, tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text(row)
    data.update(source=f"jsonl,path={tmp_path / 'rows.jsonl'}", task="classification")
    with pytest.raises(ValueError) as error:  # noqa: PT011
        prepare(data, log=quiet)
    assert str(error.value).splitlines()[1:] == [f"  rows.jsonl:1: {says}"]


def test_numbers_of_a_table_are_numbers_where_a_task_takes_no_text(tmp_path: Path, data: Any):
    (tmp_path / "table.tsv").write_text("".join(f"{some_text(i, 1).strip()}\t{i / 4}\n" for i in range(30)) + "a\tb\n")
    data.update(source=f"tsv,path={tmp_path / 'table.tsv'},columns=text:label", task="regression", max_bad_records=0.1)
    corpus = prepare(data, log=quiet)
    labels = [record["label"] for split in ("train", "valid") for record in corpus.records(split)]
    assert sorted(labels) == [i / 4 for i in range(30)]
    (bad,) = corpus.metadata["left_out"]["unreadable"]["first"]
    assert bad == "table.tsv:31: column 'label' is str, not float or int"
