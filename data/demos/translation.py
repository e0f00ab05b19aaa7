"""German into English: what programs say, from the message catalogues that their packages bring.

They are translations by people, of one message to a few sentences; and they are of programs, so that figures say
nothing about other texts.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from .catalogues import read_catalogue
from .demo import Demo, Example, make_demo, split_by_hash, split_examples, words_of
from .packages import package_files

# From the one with the most prose to the one with the least: of repeated messages the first stays.
CATALOGUES = {
    "pretix": "locale/de/LC_MESSAGES/*.mo",
    "mercurial": "locale/de/LC_MESSAGES/*.mo",
    "gramps": "locale/de/LC_MESSAGES/*.mo",
    "mayan-edms": "locale/de_DE/LC_MESSAGES/*.mo",
    "wagtail": "locale/de/LC_MESSAGES/*.mo",
    "django-oscar": "locale/de/LC_MESSAGES/*.mo",
    "django": "locale/de/LC_MESSAGES/*.mo",
    "jupyterlab-language-pack-de-DE": "locale/de_DE/LC_MESSAGES/*.mo",
    "sphinx": "locale/de/LC_MESSAGES/*.mo",
}
MIN_WORDS, MAX_WORDS = 3, 80  # below they are labels, which leave open what they mean
MAX_RATIO = 3  # of the lengths in characters: beyond it one of the two says something else
MAX_COPIED = 0.5  # of the words: beyond it there is more code than language
MAX_PLACEHOLDERS = 2  # like %(name)s, which count as several words for BLEU
_PLACEHOLDER = re.compile(r"%\(\w+\)\w|%\w\b|\{\w*\}|\$\{?\w+\}?")


def german_english() -> Demo:
    """A tenth is held out for the test, a tenth for validation; all translations of one message stay together."""
    splits = split_examples(_read(), lambda pair: split_by_hash(" ".join(words_of(pair["target"]))))
    return make_demo(splits, lambda pair: pair["source"])


def _read() -> Iterator[Example]:
    for package, pattern in CATALOGUES.items():
        messages = (message for path in package_files(package, pattern) for message in read_catalogue(path))
        yield from pairs(messages, package)


def pairs(messages: Iterable[tuple[str, str]], package: str) -> Iterator[Example]:
    """German to English from messages in English with their translations, but for labels, markup and code.

    Line breaks become spaces, and the underscore that marks a letter as a menu's shortcut is taken away.
    """
    for number, message in enumerate(messages):
        english, german = (re.sub(r"(?<!\w)_(?=\w)", "", " ".join(text.split())) for text in message)
        if is_sentence(english) and is_sentence(german) and is_translation(english, german):
            yield {"name": f"{package}/{number}", "source": german, "target": english}


def is_sentence(text: str) -> bool:
    """Whether a text is of words, neither too few nor too many, with few placeholders and no HTML or template tags."""
    num_words = len(re.findall(r"[^\W\d_]{2,}", text))
    is_plain = len(_PLACEHOLDER.findall(text)) <= MAX_PLACEHOLDERS and not re.search(
        r"</?[a-zA-Z][^>]*>|\{%|&\w+;", text
    )
    return MIN_WORDS <= num_words <= MAX_WORDS and is_plain


def is_translation(english: str, german: str) -> bool:
    """Whether the lengths go together, and the words are not the same ones."""
    shorter, longer = sorted((len(english), len(german)))
    words = Counter(words_of(english))
    copied = sum((words & Counter(words_of(german))).values())
    return longer <= MAX_RATIO * shorter and copied <= MAX_COPIED * sum(words.values())
