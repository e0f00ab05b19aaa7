"""How a conversation is written for a model: one form for training and for `train.generate --interactive`.

    begin  mark-of-role text end  mark-of-role text end ...

Begin and end are those of a document, so a model stops where a turn ends. The marks are ids that no text makes, where
the tokenizer has enough of them (`config.data.tokenizer="bpe,extra_ids=100"`, or an imported one that has some); else
they are the plain text "System: ", "User: ", "Assistant: ", which a text can spell as well.
"""

from collections.abc import Iterator, Mapping, Sequence

from .tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")

Message = Mapping[str, str]


def encode_chat(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    """A conversation as tokens.

    Args:
        tokenizer: any.
        messages: {"role": "system", "user" or "assistant", "content": text}, in order.

    Returns:
        Ids, and for each 1 if an assistant wrote it (text and end) and 0 if not.

    Raises:
        ValueError: a message is of another form.

    Example:
        ids, written = encode_chat(tokenizer, [{"role": "user", "content": "2 + 2?"}])
    """
    ids, written = [tokenizer.bos_id], [0]
    for role, content in _turns(messages):
        mark, text = _mark(tokenizer, role), [*tokenizer.encode(content), tokenizer.eos_id]
        ids += mark + text
        written += [0] * len(mark) + [int(role == "assistant")] * len(text)
    return ids, written


def chat_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """A conversation up to where an assistant is to write."""
    return encode_chat(tokenizer, messages)[0] + _mark(tokenizer, "assistant")


def _mark(tokenizer: Tokenizer, role: str) -> list[int]:
    free = [i for i in tokenizer.extra_ids if i != tokenizer.mask_id]
    if len(free) >= len(ROLES):
        return [free[ROLES.index(role)]]
    return tokenizer.encode(f"{role.capitalize()}: ")


def _turns(messages: Sequence[Message]) -> Iterator[tuple[str, str]]:
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise ValueError(f"message {number} is not an object with a role and a content")
        if message.get("role") not in ROLES:
            raise ValueError(f"message {number} has the role {message.get('role')!r}; use {', '.join(ROLES)}")
        yield message["role"], message["content"]
