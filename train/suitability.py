"""Whether a model suits what it is to learn."""

from collections.abc import Sequence
from typing import Any

from data import DataConfig, make_task
from model.choice import parse_choice
from model.config import ARCHITECTURES, CLASSIFIERS

from .objective import objective_name
from .scores import SCORES

# objective -> the kinds of config.model.classifier that it needs, and how many classes if not any number.
_CLASSIFIERS: dict[str, tuple[tuple[str, ...], int]] = {
    "tokens_and_pairs": (("tanh", "first", "mean"), 2),
    "classes": (("first", "tanh", "mean", "last"), 0),
    "tags": (("tokens",), 0),
    "spans": (("tokens",), 2),
}


def check_labels(config: Any, labels: Sequence[str] | None) -> None:
    """Checks that the model has a class for each label of a corpus, where it has labels.

    Raises:
        ValueError: it has not; it names the key.
    """
    if labels is None:
        return
    classifier = config.model.classifier
    kind = parse_choice("config.model.classifier", classifier, CLASSIFIERS)
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
    architecture = parse_choice("config.model.architecture", model.architecture, ARCHITECTURES).kind
    said = f"config.data.task={config.data.task!r}"
    unknown = [score for score in task.scores if score not in SCORES]
    if unknown:
        raise ValueError(f"{said}: {unknown[0]!r} is no metric; use some of {', '.join(SCORES)}")
    if architecture not in task.architectures:
        raise ValueError(
            f"{said} is for config.model.architecture={' or '.join(map(repr, task.architectures))}, not "
            f"{model.architecture!r}"
        )
    if model.image:
        raise ValueError(f"{said} reads text, but config.model.image={model.image!r} reads images; use ''")
    objective = objective_name(config)
    if objective in _CLASSIFIERS:
        kinds, classes = _CLASSIFIERS[objective]
        there = parse_choice("config.model.classifier", model.classifier, CLASSIFIERS)
        if there.kind not in kinds or there.classes != (classes or there.classes):
            raise ValueError(
                f"{said} needs config.model.classifier='{kinds[0]},classes={classes or 'N'}'"
                + (f" (or {', '.join(kinds[1:])})" if kinds[1:] else "")
                + f", not {model.classifier!r}"
            )
        if config.mesh.context > 1:
            raise ValueError(f"{said} cannot be divided over the length; use config.mesh.context=1")
    if config.data.task.startswith("prefix_lm"):
        for key, value, legal in (
            ("model.window", model.window, (0,)),
            ("model.block", model.block, ("pre", "post", "output", "both", "parallel")),
            ("model.position", model.position.partition(",")[0], ("rope", "learned", "sinusoidal", "none")),
            ("mesh.context", config.mesh.context, (1,)),
        ):
            if value not in legal:
                raise ValueError(
                    f"{said} lets the tokens of a prefix see one another, which config.{key}={value!r} does not; use "
                    f"{' or '.join(map(repr, legal))}"
                )
