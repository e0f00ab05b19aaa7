"""One text from another: translation, summaries.

Letters: T length, S encoder length.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from ..config import DataConfig
from ..examples import open_examples
from ..tokenizer import Tokenizer
from .frame import check_frame
from .task import Batch, Fields, Prompt, Setting
from .written import next_tokens, no_source_and_target, no_tokens

_PAIR = {"source": (str,), "target": (str,)}
_STARTS = ("pad", "bos", "eos")


@dataclasses.dataclass(frozen=True)
class Seq2Seq:
    """An encoder reads the source, a decoder writes the target. What is too long loses its end, not its end's mark.

    Attributes:
        prefix: what to put before each source, such as "summarize: ".
        start: what the decoder begins with: "pad" as T5 and Marian, "bos" or "eos" as BART.
        bos: whether source and target begin with it, as BART's do.
        source_length: tokens of the encoder, S; 0 is as many as config.data.seq_len.
        metrics: of `train.SCORES`, such as "bleu/chrf" or "rouge", of what the model writes at the last evaluation, by
            config.sample; "" has it write nothing.
    """

    prefix: str = ""
    start: str = "pad"
    bos: bool = False
    source_length: int = 0
    metrics: str = ""

    objective = "tokens"
    architectures = ("encoder_decoder",)
    scores = ()
    fields = _PAIR
    augmented = ("source",)
    packs = True
    open = open_examples

    def check(self, config: DataConfig, tokenizer: Tokenizer | None) -> None:
        """There is room, and the start is known."""
        check_frame(config, 2)
        if self.source_length < 0 or self.source_length == 1:
            raise ValueError(f"config.data.task={config.task!r}: source_length must be 0, or at least 2")
        if self.start not in _STARTS:
            raise ValueError(f"config.data.task={config.task!r}: start must be one of {', '.join(_STARTS)}")

    def texts(self, fields: Fields) -> Iterator[str]:
        """Both."""
        yield self.prefix + fields["source"]
        yield fields["target"]

    def labels_of(self, fields: Fields) -> Iterator[str]:
        """None."""
        yield from ()

    def encode(self, fields: Fields, setting: Setting) -> list[Batch]:
        """One piece, with an encoder's part."""
        if not fields["target"]:
            raise ValueError("it has no target")
        targets = np.array(self._ids(fields["target"], setting.config.seq_len, setting.tokenizer), np.int32)
        piece = {
            "encoder_inputs": np.array(self.prompt(fields, setting).ids, np.int32),
            "inputs": np.array([getattr(setting.tokenizer, f"{self.start}_id"), *targets[:-1]], np.int32),
            "targets": targets,
        }
        return [piece | {"weights": np.ones(len(targets), np.float32)}]

    def _ids(self, text: str, length: int, tokenizer: Tokenizer) -> list[int]:
        begins = [tokenizer.bos_id] * self.bos
        return [*[*begins, *tokenizer.encode(text)][: length - 1], tokenizer.eos_id]

    def asked(self, fields: Fields) -> Iterator[str]:
        """The source."""
        yield fields["source"]

    def ask(self, text: str) -> Fields:
        """A source."""
        return {"source": text, "target": ""}

    def prompt(self, fields: Fields, setting: Setting) -> Prompt:
        """What the encoder reads, and the target."""
        length = self.source_length or setting.config.seq_len
        return Prompt(self._ids(self.prefix + fields["source"], length, setting.tokenizer), fields["target"])

    def padding(self, setting: Setting) -> Batch:
        """A row without text, (T,) and (S,)."""
        length = setting.config.seq_len
        return no_source_and_target(setting, self.source_length or length, length)


@dataclasses.dataclass(frozen=True)
class Continuation:
    """A decoder reads the source and goes on with the target, on which alone the loss is.

    A source that is too long loses its end, and so does a target that the row has no room for.

    Attributes:
        prefix: as of `Seq2Seq`.
        separator: what to put between source and target.
        source_length: tokens of the source, its prefix included; 0 is half a row.
        metrics: as of `Seq2Seq`.
    """

    prefix: str = ""
    separator: str = "\n"
    source_length: int = 0
    metrics: str = ""

    objective = "tokens"
    architectures = ("decoder",)
    scores = ()
    fields = _PAIR
    augmented = ("source",)
    packs = True
    open = open_examples

    def check(self, config: DataConfig, tokenizer: Tokenizer | None) -> None:
        """There is room."""
        check_frame(config, 4)
        if not 0 <= self.source_length < config.seq_len - 2:
            raise ValueError(
                f"config.data.task={config.task!r}: source_length must be less than config.data.seq_len - 2, which is "
                f"{config.seq_len - 2}"
            )

    def texts(self, fields: Fields) -> Iterator[str]:
        """Both, as one."""
        yield self.prefix + fields["source"] + self.separator + fields["target"]

    def labels_of(self, fields: Fields) -> Iterator[str]:
        """None."""
        yield from ()

    def encode(self, fields: Fields, setting: Setting) -> list[Batch]:
        """One piece."""
        if not fields["target"]:
            raise ValueError("it has no target")
        prompt, target = self.prompt(fields, setting)
        ending = [*setting.tokenizer.encode(target), setting.tokenizer.eos_id]
        return [next_tokens(prompt + ending, [0] * len(prompt) + [1] * len(ending), setting)]

    def asked(self, fields: Fields) -> Iterator[str]:
        """The source."""
        yield fields["source"]

    def ask(self, text: str) -> Fields:
        """A source."""
        return {"source": text, "target": ""}

    def prompt(self, fields: Fields, setting: Setting) -> Prompt:
        """What comes before the target, and the target."""
        encode, length = setting.tokenizer.encode, self.source_length or setting.config.seq_len // 2
        source = encode(self.prefix + fields["source"])[:length]
        return Prompt([setting.tokenizer.bos_id, *source, *encode(self.separator)], fields["target"])

    def padding(self, setting: Setting) -> Batch:
        """A row without text."""
        return no_tokens(setting)
