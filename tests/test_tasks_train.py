"""Labelled examples from a file to figures: what a task makes of them is what objectives and scores take."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from etils import epath

from data import Corpus, prepare
from data.packing import pack
from train import evaluate, fit, init_state
from train.loop import _check_corpus as check_corpus
from train.workdir import with_labels_of

from .conftest import tiny_config
from .helpers import command, one_device
from .task_cases import WORDS, examples_config


def spans(i: int, rng: np.random.Generator) -> dict[str, Any]:
    words = [str(i), *(str(word) for word in rng.choice(WORDS, 20))]
    first = int(rng.integers(1, 20))
    before = " ".join([*words[:first], ""])
    return {"question": "ka", "context": " ".join(words), "answers": [words[first]], "starts": [len(before)]}


CASES: dict[str, tuple[Any, dict[str, Any], set[str]]] = {
    "tags": (
        lambda i, rng: {"words": [str(i), *map(str, rng.choice(WORDS, 3))], "tags": ["O", "B-X", "I-X", "O"]},
        {"architecture": "encoder", "classifier": "tokens,classes=3", "token_types": 2},
        {"precision", "recall", "f1"},
    ),
    "questions,stride=6": (
        spans,
        {"architecture": "encoder", "classifier": "tokens,classes=2", "token_types": 2},
        {"exact_match", "f1"},
    ),
    "seq2seq": (
        lambda i, rng: {"source": f"{i} {' '.join(rng.choice(WORDS, 4))}", "target": str(i)},
        {"architecture": "encoder_decoder"},
        {"perplexity"},
    ),
}


@pytest.mark.parametrize("task", CASES)
def test_a_task_is_trained_and_evaluated(task: str, tmp_path: Path):
    make, model, figures = CASES[task]
    rng, config = np.random.default_rng(0), tiny_config(tmp_path)
    data = examples_config(tmp_path, [make(i, rng) for i in range(40)], task, vocab_size=310)
    config.data.update(data.to_dict())
    config.model.update(num_layers=1, **model)
    config.mesh.update(data=1, allow_idle=True)
    config.sample.prompts = ()
    config.train.steps = 3
    validation = fit(config, tmp_path / "run").validation
    assert figures | {"loss"} <= set(validation)
    assert all(np.isfinite(figure) for figure in validation.values())


def test_the_validation_split_is_never_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither by an evaluation nor by a look at it before the first step, which would take a while."""
    fields, model, _ = CASES["seq2seq"]
    rng = np.random.default_rng(0)
    config = tiny_config(tmp_path)
    data = examples_config(tmp_path, [fields(i, rng) for i in range(30)], "seq2seq", vocab_size=310)
    config.data.update(data.to_dict())
    config.model.update(model)
    corpus, packed = prepare(config.data, log=lambda line: None), []

    def count(lengths: Any, sizes: Any) -> Any:
        packed.append(len(lengths))
        return pack(lengths, sizes)

    monkeypatch.setattr("data.examples.pack", count)
    check_corpus(config, corpus, epath.Path(tmp_path / "run"))
    assert packed == [len(corpus.records("train"))]


def test_a_limited_evaluation_scores_the_first_example_even_if_it_has_more_rows(tmp_path: Path):
    """Its first batch has a part of it alone, of which there is no score: the start of a run with train.best failed."""
    context = " ".join(WORDS * 4)
    examples = [
        {"question": str(i), "context": f"{i} {context}", "answers": ["ka"], "starts": [len(str(i)) + 1]}
        for i in range(12)
    ]
    config = tiny_config(tmp_path)
    data = examples_config(tmp_path, examples, "questions,stride=2", vocab_size=310)
    config.data.update(data.to_dict())
    config.model.update(num_layers=1, architecture="encoder", classifier="tokens,classes=2", token_types=2)
    config.mesh.update(data=1, allow_idle=True)
    mesh = one_device()
    values = evaluate(config, init_state(config, mesh).params, mesh, limit=1)
    assert values["rows"] > config.data.batch_size
    assert {"exact_match", "f1"} <= set(values)


def test_another_source_is_evaluated_with_the_labels_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = tiny_config(tmp_path)
    examples = [{"text": f"{'ka' if i % 2 else 'ho'} {i}", "label": "ab"[i % 2]} for i in range(40)]
    data = examples_config(tmp_path, examples, "classification,metrics=accuracy", vocab_size=297)
    config.data.update(data.to_dict())
    config.model.update(num_layers=1, architecture="encoder", classifier="mean,classes=2")
    config.mesh.update(data=1, allow_idle=True)
    config.optimizer.update(warmup_steps=0, learning_rate=0.02)
    config.train.steps = 40
    assert fit(config, tmp_path / "run").validation["accuracy"] == 1.0
    (tmp_path / "other.jsonl").write_text('{"text": "ka 50", "label": "b"}\n{"text": "ka 51", "label": "b"}\n')
    capsys.readouterr()
    command("evaluate")([f"--workdir={tmp_path / 'run'}", f"--source=jsonl,path={tmp_path / 'other.jsonl'}"])
    values = json.loads(capsys.readouterr().out)
    assert (values["rows"], values["accuracy"]) == (2.0, 1.0)  # "b" is the only label there, and number 1 all the same


def test_a_model_without_a_corpus_takes_that_of_another_source(tmp_path: Path):
    """An imported one, on any text."""
    corpus = Corpus(tmp_path, {"labels": ["x"]})
    assert with_labels_of(epath.Path(tmp_path), corpus) == corpus


def test_an_evaluation_in_which_nothing_counts_is_an_error(tmp_path: Path):
    config, mesh = tiny_config(tmp_path), one_device()
    examples = [{"text": f"ka {i}", "label": "yes" if i % 2 else "no"} for i in range(12)]
    data = examples_config(tmp_path, examples, "classification", vocab_size=294)
    config.data.update(data.to_dict())
    config.model.update(num_layers=1, architecture="encoder", classifier="mean,classes=2")
    config.mesh.update(data=1, allow_idle=True)
    corpus = prepare(config.data, log=lambda line: None)
    corpus = dataclasses.replace(corpus, metadata={**corpus.metadata, "labels": ["0", "1"]})
    params = init_state(config, mesh).params
    with pytest.raises(ValueError, match="nothing in valid counts: the model knows none of the labels there"):
        evaluate(config, params, mesh, corpus=corpus)
    assert np.isnan(evaluate(config, params, mesh, corpus=corpus, limit=1)["loss"])


def writing(tmp_path: Path) -> Any:
    config, rng = tiny_config(tmp_path), np.random.default_rng(0)
    make, model, _ = CASES["seq2seq"]
    data = examples_config(tmp_path, [make(i, rng) for i in range(20)], "seq2seq,metrics=chrf", vocab_size=310)
    config.data.update(data.to_dict())
    config.model.update(num_layers=1, **model)
    config.mesh.update(data=1, allow_idle=True)
    config.sample.update(prompts=(), max_tokens=4, strategy="greedy")
    config.train.update(steps=3, eval_every=2)
    return config


def test_a_run_is_chosen_by_what_it_writes_where_it_writes_on_the_way(tmp_path: Path):
    config = writing(tmp_path)
    config.train.best = "chrf"
    with pytest.raises(ValueError, match=r"config.train.best='chrf' is no metric here; use one of loss, perplexity"):
        fit(config, tmp_path / "run")
    config.train.eval_batches = 0
    assert "chrf" in fit(config, tmp_path / "run").validation


def test_answers_stay_within_learned_positions(tmp_path: Path):
    """Beyond the last JAX would repeat it, and the score be that of another model."""
    config, mesh = writing(tmp_path), one_device()
    config.model.update(position="learned", max_length=16)
    config.sample.max_tokens = 16
    with pytest.raises(ValueError, match=r"max_tokens=16 do not fit .* use at most config.sample.max_tokens=15"):
        evaluate(config, init_state(config, mesh).params, mesh)


def test_an_unknown_metric_is_named_before_anything_is_read(tmp_path: Path):
    config = tiny_config(tmp_path)
    config.data.task = "classification,metrics=accuracy/luck"
    with pytest.raises(ValueError, match=r"task='classification,metrics=accuracy/luck': 'luck' is no metric; use some"):
        fit(config, tmp_path / "run")
