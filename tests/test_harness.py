"""What needs no harness of the command that runs its tasks; tests/reference/test_harness.py has the rest."""

import importlib.util
from pathlib import Path

import pytest
from etils import epath
from ml_collections import ConfigDict

from train.harness import find_tasks, report, run_harness


def test_a_missing_harness_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="lm_eval is not installed; it comes with make train EXTRAS=dev,harness"):
        find_tasks("arc_easy")


def test_only_a_decoder_says_how_a_text_goes_on(config: ConfigDict, tmp_path: Path):
    config.model.architecture = "encoder"
    with pytest.raises(ValueError, match=r"config\.model\.architecture='encoder' does not say"):
        run_harness(config, epath.Path(tmp_path), "arc_easy")


def test_a_report_has_plain_values():
    class Scalar:
        def item(self) -> float:
            return 0.25

    found = {
        "results": {"arc": {"alias": "arc", "acc,none": Scalar(), "acc_stderr,none": "N/A"}},
        "groups": {},
        "n-shot": {"arc": 5},
        "versions": {"arc": 1.0},
        "n-samples": {"arc": {"original": 9, "effective": 4}},
        "config": {"model": "ours"},
    }
    assert report(found) == {
        "results": {"arc": {"acc,none": 0.25, "acc_stderr,none": "N/A"}},
        "num_fewshot": {"arc": 5},
        "versions": {"arc": 1.0},
        "num_examples": {"arc": 4},
    }
