"""GLUE and SuperGLUE: configs over TFDS that load, batch and fit their models, without a network."""

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from ml_collections import ConfigDict

from configs import glue, superglue
from data import make_batches, prepare
from data.sources import open_sources
from train.suitability import check_labels, check_suits


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("a test asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def small(config: Any, directory: Path) -> ConfigDict:
    config.model.update(architecture="encoder", num_layers=1, d_model=16, num_heads=2, num_kv_heads=2, d_mlp=16)
    config.data.update(dir=str(directory / "prepared"), vocab_size=300, seq_len=64, batch_size=4)
    for key in ("source", "valid_source"):
        config.data[key] = config.data[key].replace(",split", f",path={directory},split")
    return config


@pytest.mark.parametrize("task", glue.TASKS)
def test_glue_loads(task: str, tmp_path: Path, no_network: None):
    """TFDS makes the examples up; the mock would make up those that we store as well, so they go through a file."""
    config: Any = small(glue.get_config(task), tmp_path)
    check_suits(config)
    for key, number in (("source", 24), ("valid_source", 4)):  # the 4 are among the 24, and no training examples then
        with tfds.testing.mock_data(num_examples=number):
            (source,) = open_sources(key, config.data[key])
            lines = [json.dumps({**example.fields, "idx": 0}) for example in source.examples()]
        (tmp_path / f"{key}.jsonl").write_text("\n".join(lines))
        config.data[key] = f"jsonl,path={tmp_path / key}.jsonl"
    corpus = prepare(config.data, log=lambda line: None)
    labels = corpus.metadata.get("labels")
    assert labels is None if task == "stsb" else labels == ["0", "1", "2"][: glue.TASKS[task][1]]
    if task == "stsb":
        assert next(make_batches(config.data, corpus=corpus))["labels"].dtype == np.float32
    batch = next(make_batches(config.data, corpus=corpus))
    assert batch["inputs"].shape == (4, 64)
    assert (batch["token_types"].max() == 1) == ("text_b" in glue.TASKS[task][0])


class SuperGlue(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The columns of SuperGLUE's tasks, with one example for each class: its own code would need TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = epath.Path(__file__).parent
    name = "super_glue"

    @property
    def _task(self) -> str:
        return self.builder_config.name

    def _info(self) -> tfds.core.DatasetInfo:
        columns = {column: tfds.features.Text() for column in TEXTS[self._task]}
        label = {"label": tfds.features.ClassLabel(names=NAMES.get(self._task, ["False", "True"]))}
        if self._task == "record":
            label = {"answers": tfds.features.Sequence(tfds.features.Text())}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(columns | label))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in ("train", "validation")}

    def _generate_examples(self, split: str):
        for i in range(3):
            texts = {column: f"{column} {i} of {split}" for column in TEXTS[self._task]}
            label = {"label": i % len(NAMES.get(self._task, "ab"))}
            yield i, texts | ({"answers": [f"{i} of"]} if self._task == "record" else label)


def write_superglue(task: str, directory: Path) -> None:
    SuperGlue.BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=task)]
    SuperGlue.builder_configs = {task: SuperGlue.BUILDER_CONFIGS[0]}
    builder: Any = SuperGlue(config=task, data_dir=str(directory), file_format="array_record")
    builder.download_and_prepare(file_format="array_record")


NAMES = {"cb": ["entailment", "contradiction", "neutral"], "rte": ["entailment", "not_entailment"]}
TEXTS = {
    "boolq": ("question", "passage"),
    "cb": ("premise", "hypothesis"),
    "copa": ("premise", "question", "choice1", "choice2"),
    "multirc": ("paragraph", "question", "answer"),
    "record": ("passage", "query"),
    "rte": ("premise", "hypothesis"),
    "wic": ("word", "sentence1", "sentence2"),
    "wsc.fixed": ("text", "span1_text", "span2_text"),
}


@pytest.mark.parametrize("task", superglue.TASKS)
def test_superglue_loads(task: str, tmp_path: Path, no_network: None):
    write_superglue(task, tmp_path)
    config = small(superglue.get_config(task), tmp_path)
    corpus = prepare(config.data, log=lambda line: None)
    check_suits(config)
    check_labels(config, corpus.metadata.get("labels"))
    batch = next(make_batches(config.data, corpus=corpus))
    assert batch["token_types"].max() == 1
    assert (batch["weights"] == 1).all()


def test_joined_columns_are_a_text(tmp_path: Path):
    write_superglue("copa", tmp_path)
    config = small(superglue.get_config("copa"), tmp_path)
    corpus = prepare(config.data, log=lambda line: None)
    fields = corpus.records("valid")[0]
    assert fields["text"] == "premise 0 of validation question 0 of validation"
    assert fields["text_b"] == "choice1 0 of validation choice2 0 of validation"


def test_an_unknown_task_names_the_known():
    with pytest.raises(ValueError, match=r"GLUE has no task 'colla'; use one of cola, sst2"):
        glue.get_config("colla")
    with pytest.raises(ValueError, match=r"SuperGLUE has no task 'boolean'; use one of boolq"):
        superglue.get_config("boolean")
