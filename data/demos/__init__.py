"""The data of the worked tasks, read from packages that pip installs. A new one is a function and its row in DEMOS.

The packages come with `pip install 'palmette[demos]'`, see docs/demos.md. Fields of an example, by kind of task:

    classification              name, text, label
    entities                    name, words, tags (BIO)
    translation, summarisation  name, source, target
    questions                   name, question, context, answers, starts (in characters; no answer: both are empty)
    instructions                name, messages: each has a role, "user" or "assistant", and content

A name is unique in its demo and the same on every machine.
"""

from collections.abc import Callable

from . import entities, instructions, questions, sentiment, summarisation, topic, translation
from .demo import SPLITS as SPLITS
from .demo import Demo as Demo
from .demo import Example as Example

DEMOS: dict[str, Callable[[], Demo]] = {
    "sentiment": sentiment.imdb,
    "sentences": sentiment.rotten_tomatoes,
    "topic": topic.newsgroups,
    "entities": entities.tweets,
    "translation": translation.german_english,
    "summarisation": summarisation.functions,
    "questions": questions.documentation,
    "instructions": instructions.standard_library,
}
