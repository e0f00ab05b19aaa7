"""Tasks: the way from documents or labelled examples to rows. A new one is a dataclass here and its row in TASKS."""

from collections.abc import Callable

from ..config import DataConfig
from ..options import choose
from .language_model import CausalLM
from .task import Task

TASKS: dict[str, Callable[..., Task]] = {
    "causal_lm": CausalLM,
}


def make_task(config: DataConfig) -> Task:
    """The task of a config.

    Raises:
        ValueError: an unknown one, or an option it has not.
    """
    return choose("config.data.task", config.task, TASKS).make()
