"""Each source gives its documents, names them, and says what is wrong with them."""

import gzip
import json
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath

from configs import base
from data import SOURCES, DataConfig, prepare


def settings(source: str, path: Path | str = "", **changes: Any) -> DataConfig:
    data: Any = base.get_config().data
    data.update(source=source, path=str(path), **changes)
    return DataConfig.of(data)


def read(config: DataConfig) -> dict[str, bytes]:
    return dict(SOURCES[config.source](config).documents())


def identity(config: DataConfig) -> str:
    return SOURCES[config.source](config).identity


def write(root: Path, **contents: str | bytes) -> Path:
    """Writes files named like the arguments; `__` stands for a dot."""
    for name, content in contents.items():
        path = root / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def write_dataset(directory: Path, texts: list[str]) -> None:
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

    builder: Any = TinyPoems(data_dir=str(directory), file_format="array_record")
    builder.download_and_prepare(file_format="array_record")


def test_stdlib_has_pythons_own_sources_and_no_tests_or_installed_packages():
    documents = read(settings("stdlib"))
    root = Path(sysconfig.get_paths()["stdlib"])
    assert documents["argparse.py"] == (root / "argparse.py").read_bytes()
    assert documents["json/decoder.py"] == (root / "json" / "decoder.py").read_bytes()
    assert len(documents) > 200
    parts = {part for name in documents for part in name.split("/")}
    assert not parts & {"test", "tests", "idlelib", "site-packages"}


def test_text_reads_the_files_that_match_the_pattern_at_any_depth(tmp_path: Path):
    write(tmp_path, b__txt="B", a__txt="A", a__md="no")
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", c__txt=b"\xff")
    assert list(read(settings("text", tmp_path)).items()) == [("a.txt", b"A"), ("b.txt", b"B"), ("sub/c.txt", b"\xff")]
    assert read(settings("text", tmp_path, pattern="*.md")) == {"a.md": b"no"}


def test_text_reads_one_file_whatever_the_pattern(tmp_path: Path):
    write(tmp_path, a__md="A", b__txt="B")
    assert read(settings("text", tmp_path / "a.md")) == {"a.md": b"A"}


def test_a_file_name_that_is_not_utf8_is_a_name_like_others(tmp_path: Path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt")).write_text("text")
    config = settings("text", tmp_path)
    (name,) = read(config)
    assert name.encode().endswith(b".txt")
    assert identity(config)


@pytest.mark.parametrize("source", ["text", "jsonl"])
def test_a_path_without_files_is_named(source: str, tmp_path: Path):
    with pytest.raises(ValueError, match=r"config\.data\.path is empty"):
        read(settings(source))
    with pytest.raises(ValueError, match=r"config\.data\.path='.*nothing' is neither"):
        read(settings(source, tmp_path / "nothing"))
    with pytest.raises(ValueError, match=r"config\.data\.pattern='\*\.none'"):
        read(settings(source, tmp_path, pattern="*.none"))


def test_jsonl_names_documents_by_file_and_line(tmp_path: Path):
    write(tmp_path, a__jsonl='{"text": "one", "other": 1}\n\n  \n{"text": "tw\\u00f6"}')
    write(tmp_path, b__jsonl__gz=gzip.compress(b'\xef\xbb\xbf{"text": "three"}\r\n{"text": ""}\n'))
    assert read(settings("jsonl", tmp_path, pattern="*.jsonl*")) == {
        "a.jsonl:1": b"one",
        "a.jsonl:4": "twö".encode(),
        "b.jsonl.gz:1": b"three",
        "b.jsonl.gz:2": b"",
    }


def test_jsonl_takes_the_field_of_the_config(tmp_path: Path):
    write(tmp_path, a__jsonl='{"text": "one", "body": "two"}\n')
    assert read(settings("jsonl", tmp_path / "a.jsonl", text_field="body")) == {"a.jsonl:1": b"two"}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{'text': 1}", "not a JSON object"),
        ("{", "not a JSON object"),
        ("[" * 100_000, "not a JSON object"),
        ('{\0"a', "not a JSON object"),
        ("[]", "config.data.text_field='text'; the line has list"),
        ("null", "config.data.text_field='text'; the line has NoneType"),
        ('{"txt": "x", "id": 1}', "config.data.text_field='text'; the line has txt, id"),
        ('{"text": 5}', "config.data.text_field='text'"),
        ('{"text": null}', "config.data.text_field='text'"),
        ('{"text": ["x"]}', "config.data.text_field='text'"),
    ],
)
def test_a_jsonl_line_without_text_is_named(line: str, says: str, tmp_path: Path):
    write(tmp_path, a__jsonl=f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(ValueError) as error:  # noqa: PT011
        read(settings("jsonl", tmp_path / "a.jsonl"))
    assert "a.jsonl:2: " in str(error.value)
    assert says in str(error.value)


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"text")[:-9]], ids=["other", "cut off"])
def test_a_damaged_gzip_file_is_named(content: bytes, tmp_path: Path):
    write(tmp_path, a__jsonl__gz=content)
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz"):
        prepare(settings("jsonl", tmp_path / "a.jsonl.gz", dir=str(tmp_path)), log=lambda line: None)


def test_tfds_reads_a_prepared_dataset_by_its_name(tmp_path: Path):
    write_dataset(tmp_path, ["Rosen", "Über\nallen Gipfeln"])
    documents = read(settings("tfds", tmp_path, tfds_name="tiny_poems", text_field="poem"))
    assert documents == {"train/0": b"Rosen", "train/1": "Über\nallen Gipfeln".encode()}


def test_tfds_names_the_key_of_an_unknown_dataset_and_how_to_prepare_one(tmp_path: Path):
    with pytest.raises(ValueError, match=r"config\.data\.tfds_name='tiny_poms'") as error:
        read(settings("tfds", tmp_path, tfds_name="tiny_poms"))
    assert "download_and_prepare(file_format='array_record')" in str(error.value)
    assert len(str(error.value).splitlines()) <= 3  # not the list of all datasets there are


def test_tfds_names_the_key_of_a_field_that_is_not_there_and_the_legal_ones(tmp_path: Path):
    write_dataset(tmp_path, ["Rosen"])
    with pytest.raises(ValueError, match=r"config\.data\.text_field='text' .* use one of (poem, lines|lines, poem)"):
        read(settings("tfds", tmp_path, tfds_name="tiny_poems"))


def test_tfds_names_the_key_of_a_field_that_is_no_text(tmp_path: Path):
    write_dataset(tmp_path, ["Rosen"])
    with pytest.raises(ValueError, match=r"config\.data\.text_field='lines'"):
        read(settings("tfds", tmp_path, tfds_name="tiny_poems", text_field="lines"))


def test_every_source_gives_the_same_documents_twice(tmp_path: Path):
    write(tmp_path, a__txt="A", b__txt="B", c__jsonl='{"text": "C"}\n{"text": "D"}\n')
    write_dataset(tmp_path, ["E", "F"])
    configs = [
        settings("stdlib"),
        settings("text", tmp_path),
        settings("jsonl", tmp_path, pattern="*.jsonl"),
        settings("tfds", tmp_path, tfds_name="tiny_poems", text_field="poem"),
    ]
    assert {config.source for config in configs} == set(SOURCES)
    for config in configs:
        source = SOURCES[config.source](config)
        first = list(source.documents())
        assert len(first) >= 2
        assert len({document.name for document in first}) == len(first)
        assert list(source.documents()) == first
        assert list(SOURCES[config.source](config).documents()) == first
        assert identity(config) == source.identity


def test_identity_changes_with_the_size_time_name_and_number_of_files(tmp_path: Path):
    for config in (settings("text", tmp_path), settings("jsonl", tmp_path)):
        write(tmp_path, a__txt=json.dumps({"text": "A"}))
        seen = [identity(config)]
        write(tmp_path, a__txt=json.dumps({"text": "longer"}))
        seen.append(identity(config))
        os.utime(tmp_path / "a.txt", (1, 1))
        seen.append(identity(config))
        write(tmp_path, a__txt=json.dumps({"text": "longer still"}))
        os.utime(tmp_path / "a.txt", (1, 1))
        seen.append(identity(config))
        write(tmp_path, b__txt=json.dumps({"text": "B"}))
        seen.append(identity(config))
        (tmp_path / "b.txt").rename(tmp_path / "c.txt")
        seen.append(identity(config))
        assert len(set(seen)) == 6
        (tmp_path / "c.txt").unlink()


def test_identity_of_a_tfds_dataset_changes_when_it_is_prepared_with_other_texts(tmp_path: Path):
    found = []
    for directory, texts in ((tmp_path / "1", ["one"]), (tmp_path / "2", ["another one"])):
        directory.mkdir()
        write_dataset(directory, texts)
        found.append(identity(settings("tfds", directory, tfds_name="tiny_poems", text_field="poem")))
    assert found[0] != found[1]


def test_an_unknown_source_is_told_the_known_ones(tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"config\.data\.source='csv' is not known; use one of stdlib, text, jsonl, tfds"
    ):
        prepare(settings("csv", tmp_path))
