"""Evaluation of tasks: exact whatever the batch size and the mesh, on other sources, and of what a model writes."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from data import make_task
from data.tasks import TASKS
from parallel import MeshConfig, make_mesh
from tests.conftest import tiny_config
from tests.helpers import command, one_device
from tests.task_cases import WORDS, data_config, examples_config
from train import evaluate, fit, init_state
from train.predictions import PREDICTIONS
from train.suitability import check_labels


def classes_config(directory: Path) -> Any:
    """Texts whose class is their first word."""
    rng = np.random.default_rng(0)
    texts = [[str(i), WORDS[i % 8], *map(str, rng.choice(WORDS, 2))] for i in range(82)]
    examples = [{"text": " ".join(words), "label": words[1]} for words in texts]
    config = tiny_config(directory)
    task = "classification,metrics=accuracy/f1/matthews"
    config.data.update(examples_config(directory, examples, task, vocab_size=310).to_dict())
    config.model.update(num_layers=1, architecture="encoder", token_types=2)
    config.model.classifier = f"mean,classes={len(WORDS)}"
    config.mesh.update(data=1, allow_idle=True)
    config.train.steps = 3
    return config


def test_figures_do_not_depend_on_batch_size_or_mesh(tmp_path: Path):
    config = classes_config(tmp_path)
    config.data.batch_size = 7
    alone = evaluate(config, init_state(config, one_device()).params, one_device())
    assert alone["rows"] > 7
    assert alone["rows"] % 7
    for batch_size, sizes in ((12, {"data": 4}), (20, {"data": 2, "fsdp": 2, "tensor": 2})):
        config.data.batch_size = batch_size
        mesh = make_mesh(MeshConfig(**sizes), devices=jax.devices()[: int(np.prod(list(sizes.values())))])
        figures = evaluate(config, init_state(config, mesh).params, mesh)
        assert figures["loss"] == pytest.approx(alone["loss"], rel=1e-6)
        assert {**figures, "loss": 0} == {**alone, "loss": 0}  # of predictions, so equal to the last digit


def test_another_source_is_evaluated_with_the_run_s_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = classes_config(tmp_path / "data")
    fit(config, tmp_path / "run")
    lines = [{"text": f"{i} {WORDS[-1]} {WORDS[0]}", "label": WORDS[-1]} for i in range(5)]
    (tmp_path / "test.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    capsys.readouterr()
    command("evaluate")([f"--workdir={tmp_path / 'run'}", f"--source=jsonl,path={tmp_path / 'test.jsonl'}"])
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 5
    assert found["source"] == f"jsonl,path={tmp_path / 'test.jsonl'}"
    assert found["accuracy"] in (0, 1)  # all are alike; as number 0, the only label there would be another class
    assert found["loss"] > 0.5 or found["accuracy"] == 1


def test_a_model_needs_a_class_for_each_label(tmp_path: Path):
    config = classes_config(tmp_path)
    config.model.classifier = "mean,classes=2"
    with pytest.raises(ValueError, match=r"classifier='mean,classes=2' has 2 classes.* use 'mean,classes=8'"):
        check_labels(config, WORDS)
    with pytest.raises(ValueError, match=r"has 2 classes, but config.data.source='jsonl"):
        fit(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_what_a_model_writes_is_scored_at_the_end(tmp_path: Path):
    rng = np.random.default_rng(0)
    examples = [{"source": f"{i} {' '.join(rng.choice(WORDS, 4))}", "target": str(i)} for i in range(24)]
    config = tiny_config(tmp_path)
    task = "seq2seq,metrics=chrf"
    config.data.update(examples_config(tmp_path, examples, task, vocab_size=310).to_dict())
    config.model.update(num_layers=1, architecture="encoder_decoder")
    config.mesh.update(data=1, allow_idle=True)
    config.sample.update(prompts=("1 ka",), strategy="greedy", max_tokens=4)
    config.train.update(steps=4, eval_every=2)
    validation = fit(config, tmp_path / "run").validation
    assert 0 <= validation["chrf"] <= 100
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    evaluations = [record for record in records if "valid_loss" in record]
    assert ["valid_chrf" in record for record in evaluations] == [False, True]


@pytest.mark.parametrize("task", [*TASKS, "masked_lm,next_sentence=1"])
def test_a_model_predicts_what_is_scored_and_nothing_else(task: str):
    """The logits of what nobody scores would be computed and fetched in vain."""
    made = make_task(data_config(task=task))
    assert (made.objective in PREDICTIONS) == bool(made.scores)
