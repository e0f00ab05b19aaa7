"""Supervised fine-tuning: a decoder learns to write what an assistant wrote."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..chat import chat_prompt, encode_chat
from ..config import DataConfig
from ..examples import open_examples
from ..tokenizer import Tokenizer
from .frame import check_frame
from .task import Batch, Fields, Prompt, Setting
from .written import next_tokens, no_tokens

_FORMS: dict[str, dict[str, tuple[type, ...]]] = {
    "chat": {"messages": (list,)},
    "turns": {"prompt": (str,), "completion": (str,)},
    "plain": {"prompt": (str,), "completion": (str,)},
}


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """The loss is on what an assistant says, the end of its turn included (Ouyang et al. 2022, arXiv:2203.02155).

    What does not fit into a row is cut at the end.

    Attributes:
        form: "chat" has "messages", a list of {"role", "content"}; "turns" has "prompt" and "completion", which
            become a chat of two turns; "plain" writes the completion right after the prompt, without any marks.
        metrics: as of `Seq2Seq`, of the last message of the assistant.
    """

    form: str = "chat"
    metrics: str = ""

    objective = "tokens"
    architectures = ("decoder",)
    scores = ()
    augmented = ()
    packs = True
    open = open_examples

    @property
    def fields(self) -> Mapping[str, tuple[type, ...]]:
        """Of the form."""
        return _FORMS.get(self.form, {})

    def check(self, config: DataConfig, tokenizer: Tokenizer | None) -> None:
        """The form is known."""
        check_frame(config, 2)
        if self.form not in _FORMS:
            raise ValueError(f"config.data.task={config.task!r}: form must be one of {', '.join(_FORMS)}")

    def texts(self, fields: Fields) -> Iterator[str]:
        """What is said; of a message of another form, which `encode` refuses, nothing."""
        yield from _contents(self._messages(fields))

    def labels_of(self, fields: Fields) -> Iterator[str]:
        """None."""
        yield from ()

    def _messages(self, fields: Fields) -> Sequence[Any]:
        if self.form == "chat":
            return fields["messages"]
        sides = (("user", "prompt"), ("assistant", "completion"))
        return [{"role": role, "content": fields[name]} for role, name in sides]

    def encode(self, fields: Fields, setting: Setting) -> list[Batch]:
        """One piece."""
        if self.form != "plain":
            return [next_tokens(*encode_chat(setting.tokenizer, self._messages(fields)), setting)]
        prompt, completion = self.prompt(fields, setting)
        ending = [*setting.tokenizer.encode(completion), setting.tokenizer.eos_id]
        return [next_tokens(prompt + ending, [0] * len(prompt) + [1] * len(ending), setting)]

    def asked(self, fields: Fields) -> Iterator[str]:
        """What is said but for the last message of the assistant."""
        messages = self._messages(fields)
        last = _answers(messages)[-1:]
        yield from _contents([message for number, message in enumerate(messages) if number not in last])

    def ask(self, text: str) -> Fields:
        """What a user says."""
        said = {"role": "user", "content": text}
        return {"messages": [said, {"role": "assistant", "content": ""}], "prompt": text, "completion": ""}

    def prompt(self, fields: Fields, setting: Setting) -> Prompt:
        """What comes before the last message of the assistant, and that; what a user says after it plays no part."""
        if self.form == "plain":
            ids = [setting.tokenizer.bos_id, *setting.tokenizer.encode(fields["prompt"])]
            return Prompt(ids, fields["completion"])
        messages = self._messages(fields)
        last = _answers(messages)[-1]
        return Prompt(chat_prompt(setting.tokenizer, messages[:last]), messages[last]["content"])

    def padding(self, setting: Setting) -> Batch:
        """A row without text."""
        return no_tokens(setting)


def _answers(messages: Sequence[Any]) -> list[int]:
    """The numbers of an assistant's messages."""
    roles = [message.get("role") if isinstance(message, Mapping) else None for message in messages]
    return [number for number, role in enumerate(roles) if role == "assistant"]


def _contents(messages: Sequence[Any]) -> Iterator[str]:
    """The texts of those messages that have one."""
    for message in messages:
        if isinstance(message, Mapping) and isinstance(message.get("content"), str):
            yield message["content"]
