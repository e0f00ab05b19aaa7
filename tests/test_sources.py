"""Each source gives its documents, names them, and says what is wrong with them."""

import gzip
import json
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from configs import base
from data import SOURCES, Broken, Source, prepare
from data.sources import open_sources


def opened(kind: str, path: Path | str, **options: str) -> Source:
    """A source, chosen as a config does."""
    pairs = "".join(f",{name}={value}" for name, value in options.items())
    (source,) = open_sources("config.data.source", f"{kind},path={path}{pairs}")
    return source


def read(source: Source) -> dict[str, Any]:
    """Names and fields; of what is broken the reason."""
    records = list(source.examples())
    assert len({record.name for record in records}) == len(records)
    return {record[0]: record[1] for record in records}


def texts(source: Source) -> dict[str, Any]:
    """Names and texts, where there is nothing but text."""
    found = read(source)
    assert all(list(fields) == ["text"] for fields in found.values())
    return {name: fields["text"] for name, fields in found.items()}


def write(root: Path, **contents: str | bytes) -> Path:
    """Writes files named like the arguments; `__` stands for a dot."""
    for name, content in contents.items():
        path = root / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def write_dataset(directory: Path, texts: list[str], file_format: str = "array_record") -> None:
    """Prepares a dataset named `tiny_poems`, as a user does in another process: it stays unknown in this one."""

    class TinyPoems(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = epath.Path(directory)

        def _info(self) -> tfds.core.DatasetInfo:
            features = tfds.features.FeaturesDict(
                {"poem": tfds.features.Text(), "lines": tfds.features.Scalar(np.int32)}
            )
            return self.dataset_info_from_configs(features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
            for i, text in enumerate(texts):
                yield i, {"poem": text, "lines": 1}

    builder: Any = TinyPoems(data_dir=str(directory), file_format=file_format)
    builder.download_and_prepare(file_format=file_format)


def test_stdlib_has_pythons_own_sources_and_no_tests_or_installed_packages():
    (source,) = open_sources("config.data.source", "stdlib")
    documents = texts(source)
    root = Path(sysconfig.get_paths()["stdlib"])
    assert documents["argparse.py"] == (root / "argparse.py").read_bytes()
    assert documents["json/decoder.py"] == (root / "json" / "decoder.py").read_bytes()
    assert len(documents) > 200
    parts = {part for name in documents for part in name.split("/")}
    assert not parts & {"test", "tests", "idlelib", "site-packages"}


def test_text_reads_the_files_that_match_the_pattern_at_any_depth(tmp_path: Path):
    write(tmp_path, b__txt="B", a__txt="A", a__md="no", d__txt__gz=gzip.compress(b"D"))
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", c__txt=b"\xff")
    found = list(texts(opened("text", tmp_path)).items())
    assert found == [("a.txt", b"A"), ("b.txt", b"B"), ("d.txt.gz", b"D"), ("sub/c.txt", b"\xff")]
    assert texts(opened("text", tmp_path, pattern="*.md")) == {"a.md": b"no"}


def test_text_reads_one_file_whatever_the_pattern(tmp_path: Path):
    write(tmp_path, a__md="A", b__txt="B")
    assert texts(opened("text", tmp_path / "a.md")) == {"a.md": b"A"}


def test_a_file_name_that_is_not_utf8_is_a_name_like_others(tmp_path: Path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt")).write_text("text")
    (name,) = texts(opened("text", tmp_path))
    assert name.encode().endswith(b".txt")


@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_a_path_without_files_is_named(kind: str, tmp_path: Path):
    with pytest.raises(ValueError, match=rf"config\.data\.source='{kind},path=': path='' is neither"):
        opened(kind, "")
    with pytest.raises(ValueError, match=rf"config\.data\.source='{kind},path=.*': path='.*nothing' is neither"):
        opened(kind, tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"has no file that matches pattern='\*\.none'"):
        opened(kind, tmp_path, pattern="*.none")


def test_jsonl_names_examples_by_file_and_line(tmp_path: Path):
    write(tmp_path, a__jsonl='{"text": "one", "other": 1}\n\n  \n{"text": "tw\\u00f6"}')
    write(tmp_path, b__jsonl__gz=gzip.compress(b'\xef\xbb\xbf{"text": "three"}\r\n{"text": ""}\n'))
    assert read(opened("jsonl", tmp_path)) == {
        "a.jsonl:1": {"text": "one", "other": 1},
        "a.jsonl:4": {"text": "twö"},
        "b.jsonl.gz:1": {"text": "three"},
        "b.jsonl.gz:2": {"text": ""},
    }


def test_columns_have_the_names_that_tasks_use(tmp_path: Path):
    write(tmp_path, a__jsonl='{"review": "good", "text": "no", "sentiment": 1, "id": 7}\n{"review": "bad"}\n')
    assert read(opened("jsonl", tmp_path, rename="review:text/sentiment:label")) == {
        "a.jsonl:1": {"id": 7, "text": "good", "label": 1},
        "a.jsonl:2": "no column 'sentiment' to rename; there are review",
    }
    with pytest.raises(ValueError, match=r"config\.data\.source='jsonl,.*rename='review' is not of the form old:new"):
        opened("jsonl", tmp_path, rename="review")


def test_a_part_of_a_column_of_objects_has_a_name_with_a_dot(tmp_path: Path):
    """The form that SQuAD has in TFDS and Hugging Face's library."""
    answers = [{"text": ["ab", "b"], "answer_start": [0, 1]}, {"text": [], "answer_start": []}, {"text": ["ab"]}, None]
    (tmp_path / "parquet").mkdir()
    table = pyarrow.table({"context": ["ab"] * 4, "answers": answers})
    pq.write_table(table, tmp_path / "parquet" / "a.parquet")
    write(tmp_path, a__jsonl="".join(json.dumps({"context": "ab", "answers": one}) + "\n" for one in answers))
    rename = "answers.text:answers/answers.answer_start:starts"
    of_parquet = read(opened("parquet", tmp_path / "parquet", rename=rename))
    of_lines = read(opened("jsonl", tmp_path, rename=rename))
    assert list(of_lines.values()) == [
        {"context": "ab", "answers": ["ab", "b"], "starts": [0, 1]},
        {"context": "ab", "answers": [], "starts": []},
        "no column 'answers.answer_start' to rename; there are context, answers",
        "no column 'answers.text' to rename; there are context, answers",
    ]
    assert [*of_parquet.values()][:2] == [*of_lines.values()][:2]
    (tmp_path / "b.jsonl").write_text('{"a.b": 1, "a": {"b": 2}}')
    assert read(opened("jsonl", tmp_path, pattern="b.jsonl", rename="a.b:c")) == {"b.jsonl:1": {"a": {"b": 2}, "c": 1}}


@pytest.mark.parametrize(
    "line", ["{'text': 1}", "{", "[" * 100_000, '{\0"a', "[]", "null", b'{"text": "\xff"}'], ids=range(7)
)
def test_a_jsonl_line_that_is_no_object_is_named(line: str | bytes, tmp_path: Path):
    content = b'{"text": "fine"}\n' + (line if isinstance(line, bytes) else line.encode()) + b'\n{"text": "too"}'
    write(tmp_path, a__jsonl=content)
    found = read(opened("jsonl", tmp_path))
    assert list(found) == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3"]
    assert ("not UTF-8" if isinstance(line, bytes) else "not a JSON object") in found["a.jsonl:2"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"txt": "x", "id": 1}', "no column 'text'; there are txt, id"),
        ('{"text": 5}', "column 'text' is int, not str"),
        ('{"text": null}', "column 'text' is NoneType, not str"),
        ('{"text": ["x"]}', "column 'text' is list, not str"),
        ('{"text": "\\ud800"}', "column 'text' is not UTF-8 (byte 0)"),
    ],
)
def test_a_wrong_column_is_named_with_file_and_line(line: str, says: str, tmp_path: Path):
    write(tmp_path, a__jsonl=f'{{"text": "fine"}}\n{line}\n')
    data: Any = base.get_config().data
    data.update(source=f"jsonl,path={tmp_path}", dir=str(tmp_path / "prepared"))
    with pytest.raises(ValueError) as error:  # noqa: PT011
        prepare(data, log=lambda line: None)
    assert str(error.value).splitlines()[1:] == [f"  a.jsonl:2: {says}"]


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"{}\n" * 9)[:-9]], ids=["other", "cut off"])
def test_a_damaged_file_is_named_and_the_next_one_is_read(content: bytes, tmp_path: Path):
    write(tmp_path, a__jsonl__gz=content, b__jsonl="{}")
    *_, broken, last = opened("jsonl", tmp_path).examples()
    assert isinstance(broken, Broken)
    assert broken.name.startswith("a.jsonl.gz:")
    assert broken.reason.startswith("cannot be read: ")
    assert last == ("b.jsonl:1", {})


TABLE = 'text,label\n"one, ""two""",1\n\nthree,2\n'


def test_csv_names_rows_by_file_and_first_line(tmp_path: Path):
    write(tmp_path, a__csv=TABLE + '"over\ntwo lines",3\nlast,4\n')
    assert read(opened("csv", tmp_path)) == {
        "a.csv:2": {"text": 'one, "two"', "label": "1"},
        "a.csv:4": {"text": "three", "label": "2"},
        "a.csv:5": {"text": "over\ntwo lines", "label": "3"},
        "a.csv:7": {"text": "last", "label": "4"},
    }


def test_csv_takes_a_separator_and_the_names_of_columns_that_have_none(tmp_path: Path):
    write(tmp_path, a__csv="one;1\n")
    found = read(opened("csv", tmp_path, separator=";", columns="text:label"))
    assert found == {"a.csv:1": {"text": "one", "label": "1"}}
    with pytest.raises(ValueError, match=r"separator='ab' must be one character"):
        opened("csv", tmp_path, separator="ab")


def test_each_file_of_a_table_has_its_own_first_row(tmp_path: Path):
    write(tmp_path, a__tsv="text\tid\none\t1\n", b__tsv="id\ttext\n2\ttwo\n")
    assert list(read(opened("tsv", tmp_path)).values()) == [{"text": "one", "id": "1"}, {"id": "2", "text": "two"}]


def test_a_quotation_mark_in_a_tsv_is_a_character_like_others(tmp_path: Path):
    write(tmp_path, a__tsv='text\tlabel\n"it is\t1\nhe said "no"\t0\n')
    assert [fields["text"] for fields in read(opened("tsv", tmp_path)).values()] == ['"it is', 'he said "no"']


def test_a_value_may_be_a_whole_document(tmp_path: Path):
    write(tmp_path, a__csv=f"text\n{'x' * 200_000}\n")
    assert len(read(opened("csv", tmp_path))["a.csv:2"]["text"]) == 200_000


def test_rows_that_are_none_are_named_and_those_after_them_are_read(tmp_path: Path):
    write(tmp_path, a__csv='text,label\none\n"a"b,1\ntwo,2\n"open,3\n')
    assert read(opened("csv", tmp_path)) == {
        "a.csv:2": "1 values for the 2 columns text, label",
        "a.csv:3": "not a row (',' expected after '\"')",
        "a.csv:4": {"text": "two", "label": "2"},
        "a.csv:5": "not a row (unexpected end of data)",
    }


def test_a_table_in_another_encoding_is_named_in_the_column(tmp_path: Path):
    write(tmp_path, a__csv="text\nRübe\n".encode("latin-1"))
    data: Any = base.get_config().data
    data.update(source=f"csv,path={tmp_path}", dir=str(tmp_path / "prepared"))
    with pytest.raises(ValueError, match=r"\n  a\.csv:2: column 'text' is not UTF-8 \(byte 1\)"):
        prepare(data, log=lambda line: None)


@pytest.mark.parametrize("compress", [gzip.compress, lambda data: pyarrow.compress(data, "zstd", asbytes=True)])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv"])
def test_compressed_files_are_read_like_others(kind: str, compress: Any, tmp_path: Path):
    ending = "gz" if compress is gzip.compress else "zst"
    content = {"jsonl": '{"a": "1"}\n' * 2, "csv": "a\n1\n1\n", "tsv": "a\n1\n1\n"}[kind].encode()
    half = len(content) // 2
    path = tmp_path / f"x.{kind}.{ending}"
    path.write_bytes(compress(content[:half]) + compress(content[half:]))  # two frames
    assert list(read(opened(kind, tmp_path)).values()) == [{"a": "1"}] * 2
    path.write_bytes(compress(content)[:-2])
    (tmp_path / f"y.{kind}").write_bytes(content)
    *_, broken, _, last = opened(kind, tmp_path).examples()
    assert isinstance(broken, Broken)
    assert broken.name.startswith(path.name)
    assert last.name.startswith(f"y.{kind}")


def test_parquet_reads_rows_and_names_what_is_no_text_and_no_file(tmp_path: Path):
    table = pyarrow.table({"text": ["one", None, "zwölf"], "labels": [[1, 2], [], [3]]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    write(tmp_path, b__parquet=b"none")
    ends = pyarrow.array([0, 1, 2], "int32").buffers()[1]
    bad = pyarrow.StringArray.from_buffers(2, ends, pyarrow.py_buffer(b"x\xff"))
    pq.write_table(pyarrow.table({"text": bad}), tmp_path / "c.parquet")
    found = read(opened("parquet", tmp_path))
    assert found.pop("b.parquet:0").startswith("cannot be read: ")
    assert found == {
        "a.parquet:0": {"text": "one", "labels": [1, 2]},
        "a.parquet:1": {"text": None, "labels": []},
        "a.parquet:2": {"text": "zwölf", "labels": [3]},
        "c.parquet:0": {"text": "x"},
        "c.parquet:1": "not UTF-8 (byte 0 of a column)",
    }


def save_to_disk(directory: Path, texts: list[str], files: int = 2, **state: Any) -> None:
    """Writes what `datasets.Dataset.save_to_disk` does: streams of Arrow, dataset_info.json and state.json."""
    directory.mkdir(parents=True)
    names = [f"data-{i:05}-of-{files:05}.arrow" for i in range(files)]
    for i, name in enumerate(names):
        batch = pyarrow.record_batch({"text": texts[i::files], "label": list(range(len(texts)))[i::files]})
        with pyarrow.ipc.new_stream(str(directory / name), batch.schema) as stream:
            stream.write_batch(batch)
    (directory / "dataset_info.json").write_text(json.dumps({"features": {"text": {"dtype": "string"}}}))
    facts = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "f", "_split": None}
    (directory / "state.json").write_text(json.dumps(facts | state))


def test_hf_disk_reads_a_saved_dataset_and_the_splits_of_several(tmp_path: Path):
    save_to_disk(tmp_path / "one", ["a", "b", "c"])
    assert read(opened("hf_disk", tmp_path / "one")) == {
        "data-00000-of-00002.arrow:0": {"text": "a", "label": 0},
        "data-00000-of-00002.arrow:1": {"text": "c", "label": 2},
        "data-00001-of-00002.arrow:0": {"text": "b", "label": 1},
    }
    save_to_disk(tmp_path / "many" / "test", ["d"], files=1)
    (tmp_path / "many" / "dataset_dict.json").write_text('{"splits": ["test"]}')
    assert read(opened("hf_disk", tmp_path / "many", split="test")) == {
        "data-00000-of-00001.arrow:0": {"text": "d", "label": 0}
    }
    with pytest.raises(ValueError, match=r"split='train' is not in path=.*; use one of test"):
        opened("hf_disk", tmp_path / "many")
    with pytest.raises(ValueError, match=r"holds no dataset that save_to_disk wrote"):
        opened("hf_disk", tmp_path)
    save_to_disk(tmp_path / "shuffled", ["a"], _indices_data_files=[{"filename": "indices.arrow"}])
    with pytest.raises(ValueError, match=r"save flatten_indices\(\) of it"):
        opened("hf_disk", tmp_path / "shuffled")


def test_hf_disk_names_a_file_that_is_cut_off(tmp_path: Path):
    save_to_disk(tmp_path / "one", ["a", "b", "c"])
    path = tmp_path / "one" / "data-00000-of-00002.arrow"
    path.write_bytes(path.read_bytes()[:200])
    broken, whole = opened("hf_disk", tmp_path / "one").examples()
    assert broken.name == "data-00000-of-00002.arrow:0"
    assert whole == ("data-00001-of-00002.arrow:0", {"text": "b", "label": 1})


def write_records(path: Path, records: list[bytes]) -> None:
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def test_array_record_reads_objects_or_text(tmp_path: Path):
    write_records(tmp_path / "a.array_record", [b'{"text": "one"}', b"none"] + [b"{}"] * 300)
    found = read(opened("array_record", tmp_path))
    assert len(found) == 302
    assert found["a.array_record:0"] == {"text": "one"}
    assert found["a.array_record:1"].startswith("not a JSON object")
    assert texts(opened("array_record", tmp_path, format="text"))["a.array_record:1"] == b"none"
    with pytest.raises(ValueError, match=r"format='xml' is not known; use json or text"):
        opened("array_record", tmp_path, format="xml")


def test_array_record_names_a_file_that_is_none(tmp_path: Path):
    write(tmp_path, a__array_record=b"none at all")
    write_records(tmp_path / "b.array_record", [b"{}"])
    broken, whole = opened("array_record", tmp_path).examples()
    assert broken.name == "a.array_record:0"
    assert broken.reason.startswith("cannot be read: ")
    assert whole.name == "b.array_record:0"


@pytest.mark.parametrize("chosen", ["parquet,path={}", "hf_disk,path={}", "jsonl,path={}"])
def test_a_package_that_is_not_there_names_the_extra(chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, a__parquet=b"", a__jsonl__zst=b"")
    for module in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=r"needs pyarrow: pip install 'palmette\[formats\]'"):
        list(open_sources("config.data.source", chosen.format(tmp_path))[0].examples())


def test_tfds_reads_a_prepared_dataset_by_its_name(tmp_path: Path):
    write_dataset(tmp_path, ["Rosen", "Über\nallen Gipfeln"])
    assert read(opened("tfds", tmp_path, name="tiny_poems")) == {
        "train/0": {"poem": b"Rosen", "lines": 1},
        "train/1": {"poem": "Über\nallen Gipfeln".encode(), "lines": 1},
    }


def test_tfds_names_an_unknown_dataset_and_how_to_prepare_one(tmp_path: Path):
    with pytest.raises(ValueError, match=r"config\.data\.source='tfds,.*: name='tiny_poms'") as error:
        opened("tfds", tmp_path, name="tiny_poms")
    assert "download_and_prepare(file_format='array_record')" in str(error.value)
    assert len(str(error.value).splitlines()) <= 3  # not the list of all datasets there are


def test_tfds_refuses_a_dataset_prepared_as_parquet(tmp_path: Path):
    """TFDS writes those 100 rows at a time and loses the rest."""
    write_dataset(tmp_path, ["Rosen"] * 150, file_format="parquet")
    with pytest.raises(ValueError, match=r"it was prepared as parquet\nPrepare it once: .*file_format='array_record'"):
        opened("tfds", tmp_path, name="tiny_poems")


def test_tfds_names_the_splits_there_are(tmp_path: Path):
    write_dataset(tmp_path, ["Rosen"])
    with pytest.raises(ValueError, match=r"split='test' is not in name='tiny_poems'; use one of train"):
        opened("tfds", tmp_path, name="tiny_poems", split="test")


def test_every_source_gives_the_same_examples_twice(tmp_path: Path):
    write(tmp_path, a__txt="A", b__txt="B", c__jsonl='{"text": "C"}\n{"text": "D"}\n')
    write(tmp_path, d__csv="text\nE\nF\n", e__tsv="text\nE\nF\n")
    pq.write_table(pyarrow.table({"text": ["G", "H"]}), tmp_path / "f.parquet")
    save_to_disk(tmp_path / "disk", ["I", "J"])
    (tmp_path / "records").mkdir()
    write_records(tmp_path / "records" / "g.array_record", [b'{"text": "K"}', b'{"text": "L"}'])
    write_dataset(tmp_path, ["E", "F"])
    chosen = {
        "stdlib": "stdlib",
        "text": f"text,path={tmp_path}",
        "jsonl": f"jsonl,path={tmp_path}",
        "csv": f"csv,path={tmp_path}",
        "tsv": f"tsv,path={tmp_path}",
        "parquet": f"parquet,path={tmp_path}",
        "hf_disk": f"hf_disk,path={tmp_path / 'disk'}",
        "array_record": f"array_record,path={tmp_path / 'records'}",
        "tfds": f"tfds,path={tmp_path},name=tiny_poems,rename=poem:text",
    }
    assert set(chosen) == set(SOURCES) - {"demo"}  # which tests/test_demos.py reads
    for text in chosen.values():
        (source,) = open_sources("config.data.source", text)
        first = list(source.examples())
        assert len(first) >= 2
        assert list(source.examples()) == first
        (again,) = open_sources("config.data.source", text)
        assert list(again.examples()) == first
        assert again.identity == source.identity


def test_identity_changes_with_the_size_time_name_and_number_of_files(tmp_path: Path):
    for kind, path in (("text", tmp_path), ("jsonl", tmp_path)):
        options = {"pattern": "*.txt"}
        write(tmp_path, a__txt=json.dumps({"text": "A"}))
        seen = [opened(kind, path, **options).identity]
        write(tmp_path, a__txt=json.dumps({"text": "longer"}))
        seen.append(opened(kind, path, **options).identity)
        os.utime(tmp_path / "a.txt", (1, 1))
        seen.append(opened(kind, path, **options).identity)
        write(tmp_path, a__txt=json.dumps({"text": "longer still"}))
        os.utime(tmp_path / "a.txt", (1, 1))
        seen.append(opened(kind, path, **options).identity)
        write(tmp_path, b__txt=json.dumps({"text": "B"}))
        seen.append(opened(kind, path, **options).identity)
        (tmp_path / "b.txt").rename(tmp_path / "c.txt")
        seen.append(opened(kind, path, **options).identity)
        seen.append(opened(kind, path, rename="text:body", **options).identity)
        assert len(set(seen)) == 7
        (tmp_path / "c.txt").unlink()


def test_identity_stays_when_a_folder_moves_or_has_another_share(tmp_path: Path):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        write(tmp_path / place, a__txt="A")
        os.utime(tmp_path / place / "a.txt", (1, 1))
    assert opened("text", tmp_path / "here").identity == opened("text", tmp_path / "there", weight="3").identity


def test_identity_of_a_tfds_dataset_changes_when_it_is_prepared_with_other_texts(tmp_path: Path):
    found = []
    for directory, poems in ((tmp_path / "1", ["one"]), (tmp_path / "2", ["another one"])):
        directory.mkdir()
        write_dataset(directory, poems)
        found.append(opened("tfds", directory, name="tiny_poems").identity)
    assert found[0] != found[1]


def test_an_unknown_source_is_told_the_known_ones():
    says = r"config\.data\.source='xls': 'xls' is not known; use one of stdlib, text, jsonl, "
    with pytest.raises(ValueError, match=says):
        open_sources("config.data.source", "xls")


def test_an_option_that_a_source_has_not_is_told_those_it_has():
    says = r"'file' is no option of 'jsonl'; it has path=\.\.\., pattern=\.\.\., rename=\.\.\., weight=\.\.\., epochs"
    with pytest.raises(ValueError, match=says):
        open_sources("config.data.source", "stdlib + jsonl,file=x")


def test_parts_are_joined_by_a_plus_that_stands_in_no_quotes(tmp_path: Path):
    (tmp_path / "b + c").mkdir()
    write(tmp_path / "b + c", a__txt="A")
    both = open_sources("config.data.source", f'stdlib,weight=2 + text,path="{tmp_path / "b + c"}"')
    assert [len(texts(source)) for source in both][1] == 1
