"""Tasks: the way from documents or labelled examples to rows. A new one is a dataclass here and its row in TASKS."""

from collections.abc import Callable

from ..augment import make_augmentation
from ..config import DataConfig
from ..options import choose
from .causal import CausalLM
from .classification import Classification, Multilabel, Regression
from .finetuning import FineTuning
from .masked import MaskedLM
from .prefix import PrefixLM
from .questions import Questions
from .seq2seq import Continuation, Seq2Seq
from .span_corruption import SpanCorruption
from .tagging import Tagging
from .task import Setting as Setting
from .task import Task

TASKS: dict[str, Callable[..., Task]] = {
    "causal_lm": CausalLM,
    "masked_lm": MaskedLM,
    "prefix_lm": PrefixLM,
    "span_corruption": SpanCorruption,
    "seq2seq": Seq2Seq,
    "continuation": Continuation,
    "sft": FineTuning,
    "classification": Classification,
    "multilabel": Multilabel,
    "regression": Regression,
    "tags": Tagging,
    "questions": Questions,
}


def make_task(config: DataConfig) -> Task:
    """The task of a config.

    Raises:
        ValueError: an unknown one, an option it has not, or an augmentation that does not suit it.
    """
    task = choose("config.data.task", config.task, TASKS).make()
    make_augmentation(config.augment, getattr(task, "augmented", ()), task=config.task)  # only to check
    return task
