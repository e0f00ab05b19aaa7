"""Requests about Python with answers from the documentation that its standard library brings.

They are made from docstrings (what does it do, how is it called, and what is it called that does this), from the
examples in docstrings that doctest runs (what does this print), and from the topics of `help()`. Another version of
Python has somewhat other ones; names stay.
"""

import doctest
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from .demo import Demo, Example, fraction, make_demo, split_by_hash, split_examples
from .functions import Function, read_functions

LEFT_OUT = {"test", "tests", "idlelib", "site-packages", "lib2to3", "turtledemo", "__pycache__"}
MIN_WORDS, MAX_WORDS = 5, 120  # of an answer

EXPLAIN = ("What does `{}` do?", "Explain `{}`.", "What is `{}` for?", "Tell me about `{}`.")
CALL = ("How is `{}` called?", "Which arguments does `{}` take?", "Show me the signature of `{}`.")
FIND = ("What in Python does this: {}", "Name what the standard library has for this: {}", "I need this: {}")
PRINT = ("What does Python print here?", "What is the output?", "What does this evaluate to?")
TOPIC = ("Explain this topic of Python: {}.", "What does Python's reference say under the heading {}?")


def standard_library() -> Demo:
    """A tenth of what is asked about is held out for the test, a tenth for validation."""
    root = Path(sysconfig.get_paths()["stdlib"])
    chats = list(_topics())
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if not LEFT_OUT & set(parts) and not any(part.startswith("_") and part != "__init__" for part in parts):
            module = ".".join(part for part in parts if part != "__init__")
            chats.extend(parse(path.read_text(encoding="utf-8", errors="replace"), module))
    splits = split_examples(chats, lambda chat: split_by_hash(chat["name"].partition(":")[0]))
    return make_demo(splits, lambda chat: "\n".join(message["content"] for message in chat["messages"]))


def parse(source: str, module: str) -> Iterator[Example]:
    """The chats about the public functions and classes of a module, each name made of theirs."""
    seen = set()
    for function in read_functions(source):
        name = f"{module}.{function.name}"
        if function.is_public and name not in seen:
            seen.add(name)
            yield from about(name, function)


def about(name: str, function: Function) -> Iterator[Example]:
    """What it does, also followed by how it is called; what does that; and its examples."""
    text = re.split(r"\n\s*>>> ", function.docstring)[0].strip()
    num_words = len(text.split())
    if MIN_WORDS <= num_words <= MAX_WORDS:
        chat = [*_turn(f"{name}:explain", EXPLAIN, name, text)]
        if "def " in function.signature and fraction(f"{name}:follow") < 0.3:
            chat += _turn(f"{name}:call", CALL, name, f"```python\n{function.signature}\n```")
        yield {"name": f"{name}:explain", "messages": chat}
    if MIN_WORDS <= len(function.summary.split()) <= 30 and fraction(f"{name}:find") < 0.5:
        yield {"name": f"{name}:find", "messages": _turn(f"{name}:find", FIND, function.summary, f"`{name}`")}
    yield from _examples(name, function.docstring)


def _turn(key: str, wordings: tuple[str, ...], subject: str, answer: str) -> list[dict[str, str]]:
    """A request in the wording that the hash of `key` chooses, and its answer."""
    request = wordings[int(fraction(f"wording of {key}") * len(wordings))].format(subject)
    return [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]


def _examples(name: str, docstring: str) -> Iterator[Example]:
    """The examples that print something short, each with those before it."""
    try:
        examples = doctest.DocTestParser().get_examples(docstring)
    except ValueError:  # a docstring whose examples doctest does not take
        return
    session = ""
    for number, example in enumerate(examples):
        before, after = example.source.rstrip("\n").split("\n", 1)[0], example.source.rstrip("\n").split("\n")[1:]
        session += "\n".join([f">>> {before}", *(f"... {line}" for line in after)]) + "\n"
        if example.want and len(example.want.split()) <= 40 and len(session.split()) <= MAX_WORDS:
            asked = _turn(f"{name}:{number}", PRINT, "", example.want.strip())
            asked[0]["content"] += f"\n\n```\n{session.rstrip()}\n```"
            yield {"name": f"{name}:print {number}", "messages": asked}
        session += example.want


def _topics() -> Iterator[Example]:
    """The first paragraphs of each topic, as many as are not too many words."""
    from pydoc_data.topics import topics

    for topic, text in sorted(topics.items()):
        paragraphs = re.split(r"\n\s*\n", text.replace('"', "`").strip())
        title = paragraphs[0].partition("\n")[0]
        chosen: list[str] = []
        for paragraph in paragraphs[1:]:
            if len(" ".join([*chosen, paragraph]).split()) > MAX_WORDS:
                break
            chosen.append(paragraph)
        if len(" ".join(chosen).split()) >= MIN_WORDS:
            yield {"name": f"topic {topic}", "messages": _turn(topic, TOPIC, title, "\n\n".join(chosen))}
