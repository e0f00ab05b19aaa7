"""The data of the worked tasks, read from packages that pip installs. A new one is a function and its row in DEMOS.

The packages come with `pip install 'palmette[demos]'`, see docs/demos.md. Fields of an example, by kind of task:

    classification   name, text, label
    entities         name, words, tags (BIO)

A name is unique in its demo and the same on every machine.
"""

from collections.abc import Callable

from . import entities, sentiment, topic
from .demo import Demo as Demo
from .demo import Example as Example

DEMOS: dict[str, Callable[[], Demo]] = {
    "sentiment": sentiment.imdb,
    "sentences": sentiment.rotten_tomatoes,
    "topic": topic.newsgroups,
    "entities": entities.tweets,
}
