"""What a model cannot learn is said at the start, by the names of config keys."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from configs import base
from train.suitability import check_labels, check_suits


def config_of(task: str, **model: Any) -> ConfigDict:
    config = base.get_config()
    config.data.task = task
    config.model.update(model)
    return config


@pytest.mark.parametrize("task", ["seq2seq,metrics=bleu/luck", "continuation,metrics=luck", "sft,metrics=luck"])
def test_a_metric_of_what_is_written_is_known_at_the_start(task: str):
    """Else a run of days ends in a KeyError, without its last figures."""
    architecture = "encoder_decoder" if task.startswith("seq2seq") else "decoder"
    with pytest.raises(ValueError, match=r"config.data.task=.*: 'luck' is no metric; use some of accuracy"):
        check_suits(config_of(task, architecture=architecture))


@pytest.mark.parametrize(
    ("task", "module", "model"),
    [
        ("classification", "sklearn.metrics", {"architecture": "encoder", "classifier": "mean,classes=2"}),
        ("continuation,metrics=bleu", "sacrebleu", {}),
    ],
)
def test_a_metric_without_its_package_is_named_at_the_start(
    task: str, module: str, model: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    check_suits(config_of(task, **model))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match="not installed; it comes with make train EXTRAS=dev,metrics"):
        check_suits(config_of(task, **model))


@pytest.mark.parametrize("kind", ["first", "tanh"])
def test_a_decoder_does_not_classify_by_its_first_token(kind: str):
    """It has seen no other, so that all texts would be alike to it."""
    with pytest.raises(ValueError, match=rf"needs config.model.classifier='last,classes=N' \(or mean\), not '{kind}"):
        check_suits(config_of("classification", classifier=f"{kind},classes=2"))
    check_suits(config_of("classification", classifier="last,classes=2"))
    check_suits(config_of("classification", architecture="encoder", classifier=f"{kind},classes=2"))


@pytest.mark.parametrize(
    ("task", "architecture", "length"),
    [("causal_lm", "decoder", 256), ("seq2seq,source_length=300", "encoder_decoder", 300)],
)
def test_rows_stay_within_learned_positions(task: str, architecture: str, length: int):
    config = config_of(task, architecture=architecture, position="learned", max_length=128)
    config.data.seq_len = min(256, config.data.seq_len)
    with pytest.raises(ValueError, match=rf"rows of {length} tokens .* are longer than the 128 learned positions"):
        check_suits(config)
    config.model.max_length = 512
    check_suits(config)


def test_an_objective_of_other_arrays_is_refused():
    config = config_of("causal_lm", classifier="last,classes=2")
    config.train.objective = "classes"
    with pytest.raises(ValueError, match=r"objective='classes' does not go with config.data.task='causal_lm', which"):
        check_suits(config)
    config = config_of("masked_lm,next_sentence=1", architecture="encoder")
    config.data.tokenizer = "bpe,extra_ids=10"
    config.train.objective = "tokens"
    check_suits(config)


ENCODER = {"architecture": "encoder", "classifier": "mean,classes=3"}


@pytest.mark.parametrize(
    ("task", "model", "theirs", "message"),
    [
        ("questions", ENCODER | {"classifier": "tokens,classes=2"}, {}, "'questions' has none; use objective='auto'"),
        ("regression", ENCODER | {"classifier": "mean,classes=1"}, {}, "'regression' has none"),
        ("multilabel", ENCODER, {}, "'multilabel' has none"),
        ("classification", ENCODER, {"classifier": "mean,classes=2"}, "is not for the 3 classes of 'mean,classes=3'"),
        ("classification", ENCODER, {"classifier": ""}, "classifier='', which is not for the 3 classes"),
        ("causal_lm", {}, {"architecture": "encoder"}, "architecture='encoder', which cannot do causal_lm"),
        ("causal_lm", {}, {"position": "learned", "max_length": 64}, "longer than the 64 learned positions of the tea"),
    ],
)
def test_a_teacher_can_tell_a_student_something(
    task: str, model: dict[str, Any], theirs: dict[str, Any], message: str, tmp_path: Path
):
    config = config_of(task, **model)
    teacher = config_of(task, **(model | theirs))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(teacher.to_dict()))
    config.train.objective = f"distill,teacher={tmp_path}"
    with pytest.raises(ValueError, match=message):
        check_suits(config)


def test_labels_of_words_must_be_tags_of_spans():
    """Else the first evaluation ends the run."""
    config = config_of("tags", architecture="encoder", classifier="tokens,classes=3")
    check_labels(config, ["O", "B-PER", "I-PER"])
    with pytest.raises(ValueError, match=r"config.data.task='tags' is scored by spans, but 'NOUN' is no tag; use 'O'"):
        check_labels(config, ["O", "NOUN", "VERB"])
    config.data.task = "tags,metrics=accuracy"
    check_labels(config, ["O", "NOUN", "VERB"])


def test_the_f1_of_one_class_needs_to_know_which():
    """Else the first evaluation ends the run."""
    config = config_of("classification,metrics=binary_f1", architecture="encoder", classifier="mean,classes=2")
    check_labels(config, ["0", "1"])
    with pytest.raises(ValueError, match=r"binary_f1 is of the labels 0 and 1, and config.data.source=.* has no, yes"):
        check_labels(config, ["no", "yes"])
