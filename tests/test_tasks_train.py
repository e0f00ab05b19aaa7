"""Labelled examples from a file to figures: what a task makes of them is what objectives and scores take."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from train import fit

from .conftest import tiny_config
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


def test_an_unknown_metric_is_named_before_anything_is_read(tmp_path: Path):
    config = tiny_config(tmp_path)
    config.data.task = "classification,metrics=accuracy/luck"
    with pytest.raises(ValueError, match=r"task='classification,metrics=accuracy/luck': 'luck' is no metric; use some"):
        fit(config, tmp_path / "run")
