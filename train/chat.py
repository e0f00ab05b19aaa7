"""A conversation in the terminal."""

import contextlib
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from data import DataConfig, Tokenizer, make_task
from data.chat import chat_prompt

from .samples import Writer, check_lengths, check_prompts, reach, reads_apart

Message = Mapping[str, str]  # "role", which is "user" or "assistant", and "content"


def conversation_tokens(config: Any, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """A conversation as token ids that the model continues with its answer.

    One that was tuned on chats sees them in their form. Any other knows texts, not speakers: it continues the user's
    line, and a line's end follows what it wrote.
    """
    task: Any = make_task(DataConfig.of(config.data))
    if getattr(task, "form", "plain") != "plain":
        return chat_prompt(tokenizer, messages)
    text = "".join(m["content"] + ("\n" if m["role"] == "assistant" else "") for m in messages)
    return [tokenizer.bos_id, *tokenizer.encode(text)]


def fitting(config: Any, tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], int]:
    """Token ids of as many of the last messages as leave room for an answer, and how many turns had to go.

    Raises:
        ValueError: the last line alone is too long; it names the keys.
    """
    task: Any = make_task(DataConfig.of(config.data))
    answers_alone = hasattr(task, "ask") and not hasattr(task, "form")  # such as translations: no conversation
    if reads_apart(config) or answers_alone:
        return check_prompts(config, tokenizer, [messages[-1]["content"]])[0], 0
    limit, dropped = reach(config) - config.sample.max_tokens, 0
    while len(ids := conversation_tokens(config, tokenizer, messages[2 * dropped :])) > limit:
        if 2 * dropped + 1 >= len(messages):
            key = "model.max_length" if config.model.max_length else "data.seq_len"
            raise ValueError(
                f"this line has {len(ids)} tokens, but config.{key}={reach(config)} leaves {max(limit, 0)} beside "
                f"config.sample.max_tokens={config.sample.max_tokens}; use a shorter line, or fewer tokens"
            )
        dropped += 1
    check_lengths(config, [ids])
    return ids, dropped


def converse(config: Any, tokenizer: Tokenizer, write: Writer) -> None:
    """Reads lines and answers each, with what was said before in mind, until the input ends.

    /reset forgets what was said. Ctrl-C ends the answer that is being written, or else the conversation.

    Args:
        config: the whole config.
        tokenizer: the run's tokenizer.
        write: the model.
    """
    _note("Ctrl-C ends an answer, /reset forgets what was said, Ctrl-D ends.")
    with contextlib.suppress(KeyboardInterrupt):  # wherever no answer is being written
        _converse(config, tokenizer, write)


def _converse(config: Any, tokenizer: Tokenizer, write: Writer) -> None:
    messages: list[Message] = []
    while (line := _read_line()) is not None:
        if line == "/reset":
            messages = []
            _note("What was said is forgotten.")
        if not line or line == "/reset":
            continue
        messages.append({"role": "user", "content": line})
        try:
            ids, dropped = fitting(config, tokenizer, messages)
        except ValueError as error:
            messages.pop()
            _note(str(error))
            continue
        if dropped:
            del messages[: 2 * dropped]
            _note(f"The oldest {dropped} of the turns so far no longer fit and are forgotten.")
        messages.append({"role": "assistant", "content": _answer(write, ids)})


def _read_line() -> str | None:
    """The user's next line; None where there is no more."""
    try:
        if sys.stdin.isatty():
            return input("> ")
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None
    except EOFError:
        return None


def _answer(write: Writer, ids: Sequence[int]) -> str:
    """Prints an answer as it comes, and returns as much of it as there was time for.

    Ctrl-C is looked for between the pieces: raised in the midst of JAX it could be swallowed.
    """
    said, is_stopped = "", False

    def stop(*_: object) -> None:
        nonlocal is_stopped
        is_stopped = True
        signal.signal(signal.SIGINT, before)  # a second one does not wait

    before = signal.signal(signal.SIGINT, stop)
    try:
        for piece in write(ids):
            said += piece
            print(piece, end="", flush=True)
            if is_stopped:
                break
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGINT, before)
    print(flush=True)
    return said


def _note(text: str) -> None:
    """Beside the conversation, so that what is piped on is the answers alone."""
    print(text, file=sys.stderr, flush=True)
