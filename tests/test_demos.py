"""The data of the worked tasks: each extraction on literal inputs, and, marked, what comes out of the packages."""

import gettext
import hashlib
import importlib.metadata
import json
import re
import struct
from pathlib import Path

import pytest

from data.demos import DEMOS, Demo, entities, instructions, questions, sentiment, summarisation, topic, translation
from data.demos.catalogues import read_catalogue
from data.demos.demo import Example, fraction, make_demo, near_duplicates, split_by_hash
from data.demos.functions import read_functions
from data.demos.packages import DATA_ONLY, package_files, package_sources

ROOT = Path(__file__).parents[1]
MODULE = '''"""A module."""

import math


@cached
def area(radius,
         unit="m"):
    """Return the area of a circle. It is never negative.

    Parameters
    ----------
    radius : float
        From the centre
        to the edge. Not the diameter.
    unit : {"m", "km"}, default="m"
        Of the result.
    exact : bool, optional (default=False)
        Whether to round.
    places : int
        Digits. The default is 4.

    Returns
    -------
    area : float
        In square units.

    Examples
    --------
    >>> area(0)
    0.0
    """
    # the formula
    square = radius * radius
    return math.pi * square


class Shape:
    """What has an area."""

    def sides(self):
        """Count the :attr:`sides`"""
        return len(
            self._sides)

    def empty(self):
        """Only a docstring."""

    async def draw(self): """On one line."""; pass
'''
DOCSTRING = next(read_functions(MODULE)).docstring


def examples(*texts: str) -> list[Example]:
    return [{"name": text, "text": text} for text in texts]


def texts(demo: Demo, split: str) -> list[str]:
    return [example["text"] for example in getattr(demo, split)()]


def catalogue(messages: dict[str, str], order: str = "<") -> bytes:
    """A .mo file, as the manual of GNU gettext has it."""
    strings = [text.encode() for pair in zip(*sorted(messages.items()), strict=True) for text in pair]
    count, tables, content, offset = len(messages), b"", b"", 28 + 16 * len(messages)
    for string in strings:
        tables += struct.pack(f"{order}2I", len(string), offset + len(content))
        content += string + b"\0"
    return struct.pack(f"{order}7I", 0x950412DE, 0, count, 28, 28 + 8 * count, 0, 0) + tables + content


# ---- Splits.


def test_the_hash_of_a_text_is_a_fixed_number():
    assert fraction("a") == int(hashlib.sha256(b"a").hexdigest()[:16], 16) / 2**64
    assert [split_by_hash(text) for text in ("c", "d", "a")] == ["valid", "test", "train"]


def test_near_duplicates_share_more_than_half_of_their_runs_of_four_words():
    text = "one two three four five six seven"  # four runs
    one_more = "One, two, three, four, five, six, seven, eight"  # 4 of 5
    two_changed = "one two three four five x y"  # 2 of 6
    assert near_duplicates([text, "short text", "other"], [one_more, "Short text!"]) == [True, True, False]
    assert near_duplicates([text], [two_changed]) == [False]
    assert near_duplicates(["!"], ["?", "..."]) == [False]


def test_what_is_held_out_is_nowhere_else_and_nothing_is_repeated():
    splits = {
        "train": examples("a b c", "A b c!", "kept", "in test", "in valid"),
        "valid": examples("in valid", "in test"),
        "test": examples("in test", "IN TEST", "more"),
    }
    demo = make_demo(splits, lambda example: example["text"])
    assert texts(demo, "train") == ["a b c", "kept"]
    assert texts(demo, "valid") == ["in valid"]
    assert texts(demo, "test") == ["in test", "more"] == texts(demo, "test")
    assert (demo.repeated, demo.leaked) == (2, 3)


# ---- Packages.


def test_a_package_that_is_not_there_says_what_installs_it():
    with pytest.raises(ValueError, match=r"no-such-package is not installed: pip install 'palmette\[demos\]'"):
        package_files("no-such-package", "*.py")
    with pytest.raises(ValueError, match=r"pytest [\d.]+ has no file locale/de.mo"):
        package_files("pytest", "locale/de.mo")


def test_sources_of_a_package_have_names_that_hold_everywhere():
    names = [name for name, _ in package_sources("pytest")]
    assert "pytest/_pytest/python.py" in names
    assert names == sorted(names)


def test_data_of_packages_is_pinned_once():
    pinned = (ROOT / "constraints" / "demos.txt").read_text().splitlines()
    assert [line for line in pinned if line[0] != "#"] == [f"{name}=={version}" for name, version in DATA_ONLY.items()]


# ---- Reviews, messages, tweets.


def test_reviews_of_one_source_without_markup():
    lines = ["text,label,source\n", '"Bad.<br /><br />Very bad, ""so"" bad.",0,imdb\n', "good,1,rt\n", "fine ,1,imdb\n"]
    assert list(sentiment.parse(lines, "imdb")) == [
        {"name": "imdb/0", "text": 'Bad.\nVery bad, "so" bad.', "label": "negative"},
        {"name": "imdb/1", "text": "fine", "label": "positive"},
    ]


def test_reviews_are_held_out_in_blocks_of_both_labels():
    reviews = [
        {"name": f"r/{i}", "text": f"{i}", "label": label} for label in ("negative", "positive") for i in range(9)
    ]
    for i, review in enumerate(reviews):
        review["text"] = "0" if i == 4 else f"{i}"  # the fifth is the first again
    splits = sentiment.split_blocks(reviews, 2, {"test": 2, "valid": 1})
    assert {split: len(found) for split, found in splits.items()} == {"test": 8, "valid": 4, "train": 6}
    assert sorted(e["label"] for e in splits["test"]) == ["negative"] * 4 + ["positive"] * 4
    assert reviews[4] in splits["train"]
    kept = [int(review["text"]) for review in splits["test"] + splits["valid"]]
    assert all(second - first == 1 or first == 3 for first, second in zip(kept[::2], kept[1::2], strict=True))


def test_messages_of_an_orange_table():
    lines = ["Category\tText\n", "d\tstring\n", "class\t\n", "sci.space\tto the moon \n", "alt.atheism\n", "a\t\n"]
    assert list(topic.parse(lines, "test")) == [{"name": "test/0", "text": "to the moon", "label": "sci.space"}]


def test_tweets_of_a_conll_file():
    lines = [
        "Empire\tB-facility\n",
        "State\tI-facility\n",
        "\t\n",
        "\n",
        "Paris\tI-geo-loc\n",
        "is\tO\n",
        "a\tI-person",
    ]
    assert list(entities.parse(lines)) == [
        {"name": "tweet/0", "words": ["Empire", "State"], "tags": ["B-facility", "I-facility"]},
        {"name": "tweet/1", "words": ["Paris", "is", "a"], "tags": ["B-geo-loc", "O", "B-person"]},
    ]


# ---- Catalogues.


@pytest.mark.parametrize("order", "<>")
def test_catalogue_gives_messages_without_header_and_context(tmp_path: Path, order: str):
    path = tmp_path / "de.mo"
    messages = {
        "": "Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=2; plural=(n != 1);\n",
        "%d day\0%d days": "%d Tag\0%d Tage",
        "menu\x04Open the file": "Öffne die Datei",
        "not yet": "",
    }
    path.write_bytes(catalogue(messages, order))
    with path.open("rb") as file:  # the standard library reads the same
        assert gettext.GNUTranslations(file).pgettext("menu", "Open the file") == "Öffne die Datei"
    assert list(read_catalogue(path)) == [
        ("%d day", "%d Tag"),
        ("%d days", "%d Tage"),
        ("Open the file", "Öffne die Datei"),
    ]


def test_a_broken_catalogue_is_named(tmp_path: Path):
    path = tmp_path / "de.mo"
    for content in (b"text", b"x" * 40, catalogue({"a": "b"})[:-20]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"de\.mo is no message catalogue"):
            list(read_catalogue(path))


def test_pairs_are_sentences_in_two_languages():
    messages = [
        ("_Open the\n   file_name now", "Öffne _jetzt die Datei"),
        ("Open", "Öffnen"),
        ("see <b>this</b> page now", "siehe <b>diese</b> Seite jetzt"),
        ("one two three", "one two three"),
        ("hg email -b here", "hg email -b hier"),
        ("Do it now", "Das sollte man vielleicht doch lieber jetzt gleich tun"),
        ("%(a)s and %(b)s or %s wins", "%(a)s und %(b)s oder %s gewinnt"),
    ]
    assert list(translation.pairs(messages, "x")) == [
        {"name": "x/0", "source": "Öffne jetzt die Datei", "target": "Open the file_name now"}
    ]


# ---- Functions.


def test_functions_come_without_their_docstrings():
    area, shape, sides = read_functions(MODULE)
    assert area.body == (
        'def area(radius,\n         unit="m"):\n'
        "    # the formula\n    square = radius * radius\n    return math.pi * square"
    )
    assert area.signature == 'def area(radius,\n         unit="m"):'
    assert area.summary == "Return the area of a circle. It is never negative."
    assert (shape.name, shape.signature, sides.name) == ("Shape", "class Shape:", "Shape.sides")
    assert sides.body == "def sides(self):\n    return len(\n        self._sides)"
    assert [function.line for function in (area, shape, sides)] == [7, 38, 41]
    assert list(read_functions("def broken(:")) == []


@pytest.mark.parametrize(
    "source", ['def f(x): "It doubles."; return 2', 'def f(\n  x): "It."\n', 'def f():\n "It."; x\n']
)
def test_a_docstring_on_a_line_with_other_code_is_left_alone(source: str):
    assert list(read_functions(source)) == []


def test_summaries_are_first_sentences():
    [pair] = summarisation.parse(MODULE, "shapes.py")
    assert pair["name"] == "shapes.py:7"
    assert pair["target"] == "Return the area of a circle."
    assert "Return the area" not in pair["source"]
    cases = {
        "Return :class:`~a.Foo` of ``x``. More.": "Return a.Foo of x.",
        "Uses e.g. two lines (of text). More": "Uses e.g. two lines (of text).",
        "No end": "",
        "Ends in dots...": "",
    }
    assert {text: summarisation.first_sentence(text) for text in cases} == cases


# ---- Questions.


def test_answers_are_spans_of_the_context():
    context = questions.context_of(DOCSTRING)
    assert context.startswith("Return the area")
    assert context.endswith("In square units.")
    found = {}
    for kind, subject, span in questions.askable("area", context):
        found[kind, subject] = span and context[slice(*span)]
    [name] = {subject.removesuffix(" of area") for _, subject in found} & set(questions.ELSEWHERE)
    assert found == {
        ("type", "radius of area"): "float",
        ("meaning", "radius of area"): "From the centre\n    to the edge",
        ("default", "radius of area"): None,
        ("type", "unit of area"): '{"m", "km"}',
        ("meaning", "unit of area"): "Of the result",
        ("default", "unit of area"): '"m"',
        ("type", "exact of area"): "bool",
        ("meaning", "exact of area"): "Whether to round",
        ("default", "exact of area"): "False",
        ("type", "places of area"): "int",
        ("meaning", "places of area"): "Digits",
        ("default", "places of area"): "4",
        ("type", f"{name} of area"): None,
        ("meaning", f"{name} of area"): None,
        ("default", f"{name} of area"): None,
        ("returned type", "area"): "float",
        ("returned", "area"): "In square units",
        ("raised", "area"): None,
    }


def test_three_questions_with_an_answer_and_one_without():
    context = questions.context_of(DOCSTRING)
    asked = list(questions.ask("shapes.py:7", "area", context))
    assert [bool(example["answers"]) for example in asked] == [True, True, True, False]
    for example in asked:
        kind, subject = example["name"].split(":")[2:]
        assert example["question"] in [wording.format(subject) for wording in questions.WORDINGS[kind]]
        for answer, start in zip(example["answers"], example["starts"], strict=True):
            assert context[start : start + len(answer)] == answer


@pytest.mark.parametrize(
    ("first_line", "description", "default"),
    [
        ("x : int, default 3", "", "3"),
        ("x : float, default: 1e-4", "", "1e-4"),
        ("x : str or None", "What it is. Default is 'both'.", "'both'"),
        ("x : tuple (default=(0, 1))", "", "(0, 1)"),
        ("x : graph (default: nx.Graph)", "", "nx.Graph"),
        ("x : bool", "By default it is the other.", None),
        ("x : bool", "The default of 0.05.", None),
        ("x : float", "It defaults to -.5.", "-.5"),
    ],
)
def test_defaults_are_literals(first_line: str, description: str, default: str | None):
    context = f"F.\n\nParameters\n----------\n{first_line}\n    {description}\n"
    [entry] = questions.entries(context, questions.sections(context)["Parameters"])
    span = questions.default_span(context, entry)
    assert (span and context[slice(*span)]) == default


# ---- Instructions.


def test_chats_about_a_module():
    chats = {chat["name"]: chat["messages"] for chat in instructions.parse(MODULE, "shapes")}
    assert all([m["role"] for m in chat] == ["user", "assistant"] * (len(chat) // 2) for chat in chats.values())
    explained = chats["shapes.area:explain"]
    assert "`shapes.area`" in explained[0]["content"]
    assert explained[1]["content"].startswith("Return the area of a circle.")
    assert ">>>" not in explained[1]["content"]
    request, printed = chats["shapes.area:print 0"]
    assert request["content"].endswith("\n\n```\n>>> area(0)\n```")
    assert printed["content"] == "0.0"


# ---- The packages themselves.

FIELDS = {
    "sentiment": {"name", "text", "label"},
    "sentences": {"name", "text", "label"},
    "topic": {"name", "text", "label"},
    "entities": {"name", "words", "tags"},
    "translation": {"name", "source", "target"},
    "summarisation": {"name", "source", "target"},
    "questions": {"name", "question", "context", "answers", "starts"},
    "instructions": {"name", "messages"},
}


def test_every_demo_has_its_fields_here():
    assert list(FIELDS) == list(DEMOS)


@pytest.mark.demos
@pytest.mark.parametrize("name", DEMOS)
def test_data_is_as_documented(name: str):
    """The sizes are those of docs/demos.md; the standard library's depend on the version of Python."""
    demo = DEMOS[name]()
    splits = {split: list(getattr(demo, split)()) for split in ("train", "valid", "test")}
    everything = [example for found in splits.values() for example in found]
    assert len({example["name"] for example in everything}) == len(everything)
    assert all(set(example) == FIELDS[name] for example in everything)
    [row] = re.findall(
        rf"^\| `{name}` \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| (\d+) \| (\d+) \|$", DOCUMENTED, re.MULTILINE
    )
    documented = [int(number.replace(",", "")) for number in row]
    sizes = [*map(len, splits.values()), demo.repeated, demo.leaked]
    if name == "instructions":
        assert sizes[:3] == pytest.approx(documented[:3], rel=0.15)
    else:
        assert sizes == documented


DOCUMENTED = (ROOT / "docs" / "demos.md").read_text()


@pytest.mark.demos
def test_reviews_held_out_are_two_thousand_and_balanced():
    labels = [review["label"] for review in DEMOS["sentiment"]().test()]
    assert (labels.count("positive"), labels.count("negative")) == (1000, 1000)


@pytest.mark.demos
def test_data_comes_in_the_same_order_each_time():
    first, second = (json.dumps(list(DEMOS["questions"]().test())) for _ in range(2))
    assert first == second


@pytest.mark.demos
def test_installed_packages_are_those_of_the_pins():
    for package, version in DATA_ONLY.items():
        assert importlib.metadata.version(package) == version
