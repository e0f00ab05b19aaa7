"""Whether a model suits what it is to learn."""

from collections.abc import Sequence
from typing import Any

from data import DataConfig, make_task
from model.choice import parse_choice
from model.choices import CHOICES

from .distill import teacher_config
from .objective import objective_name
from .samples import reach, reads_both_ways
from .scores import SCORES, check_score, spans

# objective -> the kinds of config.model.classifier that it needs, and how many classes if not any number.
_CLASSIFIERS: dict[str, tuple[tuple[str, ...], int]] = {
    "tokens_and_pairs": (("tanh", "first", "mean"), 2),
    "classes": (("first", "tanh", "mean", "last"), 0),
    "tags": (("tokens",), 0),
    "spans": (("tokens",), 2),
}

_NO_CHOICE = ("multilabel", "regression", "questions")  # tasks whose answer is not one of several classes


def check_labels(config: Any, labels: Sequence[str] | None) -> None:
    """Checks that the model has a class for each label of a corpus, where it has labels.

    Raises:
        ValueError: it has not, or they are none that the task's scores can count; it names the key.
    """
    if labels is None:
        return
    scores = make_task(DataConfig.of(config.data)).scores
    if "binary_f1" in scores and not {*labels} <= {"0", "1"}:
        raise ValueError(
            f"config.data.task={config.data.task!r}: binary_f1 is of the labels 0 and 1, and config.data.source="
            f"{config.data.source!r} has {', '.join(labels[:10])}; use metrics=accuracy/f1"
        )
    if "span_f1" in scores:
        try:
            spans(labels)
        except ValueError as error:
            raise ValueError(
                f"config.data.task={config.data.task!r} is scored by spans, but {error}; of other labels there is "
                "'tags,metrics=accuracy'"
            ) from error
    classifier = config.model.classifier
    kind = parse_choice("config.model.classifier", classifier, CHOICES["classifier"])
    if kind.classes != len(labels):
        raise ValueError(
            f"config.model.classifier={classifier!r} has {kind.classes} classes, but config.data.source="
            f"{config.data.source!r} has {len(labels)} labels ({', '.join(labels[:10])}); use "
            f"'{kind.kind},classes={len(labels)}'"
        )


def check_suits(config: Any) -> None:
    """Checks that the config's model can learn its task.

    Raises:
        ValueError: it cannot; it names the keys and a legal choice.
    """
    data, model = DataConfig.of(config.data), config.model
    task = make_task(data)
    task.check(data, None)
    architecture = parse_choice("config.model.architecture", model.architecture, CHOICES["architecture"]).kind
    said = f"config.data.task={config.data.task!r}"
    of_writing = filter(None, getattr(task, "metrics", "").split("/"))  # which a run would come to at its end
    for score in (*task.scores, *of_writing):
        if score not in SCORES:
            raise ValueError(f"{said}: {score!r} is no metric; use some of {', '.join(SCORES)}")
        check_score(score)
    if architecture not in task.architectures:
        raise ValueError(
            f"{said} is for config.model.architecture={' or '.join(map(repr, task.architectures))}, not "
            f"{model.architecture!r}"
        )
    if model.image:
        raise ValueError(f"{said} reads text, but config.model.image={model.image!r} reads images; use ''")
    _check_reach(config, max(data.seq_len, getattr(task, "source_length", 0)))
    objective = objective_name(config)
    masks_alone = (objective, task.objective) == ("tokens", "tokens_and_pairs")
    if objective in ("tokens", *_CLASSIFIERS) and objective != task.objective and not masks_alone:
        raise ValueError(
            f"config.train.objective={config.train.objective!r} does not go with {said}, which asks for "
            f"{task.objective!r}; use 'auto'"
        )
    _check_teacher(config, task)
    if objective in _CLASSIFIERS:
        kinds, classes = _CLASSIFIERS[objective]
        if objective == "classes" and architecture == "decoder":  # its first token has seen no other
            kinds = ("last", "mean")
        there = parse_choice("config.model.classifier", model.classifier, CHOICES["classifier"])
        if there.kind not in kinds or there.classes != (classes or there.classes):
            raise ValueError(
                f"{said} needs config.model.classifier='{kinds[0]},classes={classes or 'N'}'"
                + (f" (or {', '.join(kinds[1:])})" if kinds[1:] else "")
                + f", not {model.classifier!r}"
            )
        if config.mesh.context > 1:
            raise ValueError(f"{said} cannot be divided over the length; use config.mesh.context=1")
    if reads_both_ways(config):
        for key, value, legal in (
            ("model.window", model.window, (0,)),
            ("model.window_ramp", model.window_ramp, ("",)),
            ("model.block", model.block, ("pre", "post", "output", "both", "parallel")),
            ("model.position", model.position.partition(",")[0], ("rope", "learned", "sinusoidal", "none")),
            ("mesh.context", config.mesh.context, (1,)),
        ):
            if value not in legal:
                raise ValueError(
                    f"{said} lets the tokens of a prefix see one another, which config.{key}={value!r} does not; use "
                    f"{' or '.join(map(repr, legal))}"
                )


def _check_reach(config: Any, longest: int, whose: str = "") -> None:
    """Checks that a model has a learned position for each token of a row; beyond the last JAX would repeat it.

    Raises:
        ValueError: it has not.
    """
    if config.model.position.startswith("learned") and longest > reach(config):
        raise ValueError(
            f"rows of {longest} tokens (config.data.seq_len, or source_length of config.data.task) are longer than the "
            f"{reach(config)} learned positions of {whose or 'config.model.max_length'}; use at most {reach(config)}"
        )


def _check_teacher(config: Any, task: Any) -> None:
    """Checks that a teacher, if there is one, says something about the task that a student can learn.

    Raises:
        ValueError: it does not.
    """
    theirs = teacher_config(config)
    if theirs is None:
        return
    said = f"config.train.objective={config.train.objective!r}"
    kind = config.data.task.partition(",")[0].strip()
    if kind in _NO_CHOICE:
        raise ValueError(
            f"{said} learns probabilities of classes or tokens, and config.data.task={config.data.task!r} has none; "
            "use objective='auto'"
        )
    architecture = parse_choice("config.model.architecture", theirs.model.architecture, CHOICES["architecture"]).kind
    if architecture not in task.architectures:
        raise ValueError(f"{said}: the teacher has config.model.architecture={architecture!r}, which cannot do {kind}")
    _check_reach(theirs, max(config.data.seq_len, getattr(task, "source_length", 0)), "the teacher")
    ours = [
        parse_choice("config.model.classifier", model.classifier, CHOICES["classifier"]).options.get("classes", 0)
        for model in (config.model, theirs.model)
    ]
    if objective_name(config) in ("classes", "tags") and ours[0] != ours[1]:
        raise ValueError(
            f"{said}: the teacher has config.model.classifier={theirs.model.classifier!r}, which is not for the "
            f"{ours[0]} classes of {config.model.classifier!r}"
        )
