"""Filters: what each leaves out, on literal cases, and that the report names it."""

import random
from pathlib import Path
from typing import Any

import pytest

from configs import base
from data import prepare
from data.filters import FILTERS, make_filters

PROSE = (
    "The palmette is a tree that grows flat against a wall.\nIts branches are led along wires, from the lowest up.\n"
    "A gardener cuts them twice a year, and in the third year the tree bears fruit."
)
GERMAN = "Die Palmette ist ein Baum, der flach an einer Mauer wächst.\nSeine Zweige folgen gespannten Drähten."
CHINESE = "这是一棵沿着墙壁生长的果树。\n园丁每年修剪两次, 第三年开始结果。"
HINDI = "यह एक पेड़ है जो दीवार के साथ बढ़ता है।\nमाली इसे साल में दो बार काटता है।"


def keeps(chosen: str, text: str) -> bool:
    return make_filters([chosen])[chosen](text)


@pytest.mark.parametrize(
    ("chosen", "text", "kept"),
    [
        ("length,min=3", "ab", False),
        ("length,min=3", "abc", True),
        ("length,max=3", "äöü", True),  # characters, not bytes
        ("length,max=3", "abcd", False),
        ("length,min=2,max=3", "ab", True),
        ("length", "", True),
        ("regex,drop=lorem ipsum", "so lorem ipsum goes", False),
        ("regex,drop=^Copyright", "first\nCopyright 2020", False),
        ("regex,drop=^Copyright", "no Copyright", True),
        ("regex,keep=[0-9]", "none", False),
        ("regex,keep=[0-9],drop=[a-z]", "1", True),
        ("regex,keep=[0-9],drop=[a-z]", "1a", False),
    ],
)
def test_length_and_regex(chosen: str, text: str, kept: bool):
    assert keeps(chosen, text) is kept


@pytest.mark.parametrize("text", [PROSE, GERMAN, CHINESE, HINDI], ids=["english", "german", "chinese", "hindi"])
def test_quality_keeps_prose_of_any_language(text: str):
    assert keeps("quality", text)


@pytest.mark.parametrize(
    ("text", "lifted"),
    [
        ("a b c d e f g h i", "min_word=1"),
        ("Donaudampfschifffahrt Gesellschaftskapitän Mützenabzeichen", "max_word=30"),
        (PROSE + " #" * 9, "max_symbols=1"),
        ("so... then... well... there... maybe... " + PROSE, "max_symbols=1"),
        ("1234 5678 9012 3456 words here", "min_alphabetic=0.3"),
        (
            "- one thing and more\n- two things of the kind\n* three things in all\n\u2022 four things at last",
            "max_bullets=1",
        ),
        (f"{PROSE}\nread on and on...\nand on and on there\u2026", "max_ellipses=1"),
        ("\n".join(["a line like others", PROSE, *["short line"] * 4]), "max_repeated_lines=0.9"),
        ("\n".join([PROSE, *["as long as that of the others, and a bit longer than most of them are"] * 2]), ""),
        ("buy this now " * 6, "max_frequent_pair=1"),
    ],
)
def test_quality_leaves_out_what_one_rule_forbids(text: str, lifted: str):
    assert not keeps("quality", text)
    if lifted:
        assert keeps(f"quality,{lifted}", text)
    else:
        assert keeps("quality,max_repeated_text=0.9", text)


def test_quality_has_nothing_to_say_for_no_words():
    assert not keeps("quality", " \n ")


def near(text: str, share: float, rng: random.Random) -> str:
    """A text with some words changed."""
    words = text.split()
    for i in rng.sample(range(len(words)), round(share * len(words))):
        words[i] = "".join(rng.choices("abcdefg", k=6))
    return " ".join(words)


def jaccard(first: str, second: str, n: int = 5) -> float:
    one, two = ({text[i : i + n] for i in range(len(text) - n + 1)} for text in (first, second))
    return len(one & two) / len(one | two)


def test_near_duplicates_agree_with_the_exact_similarity():
    rng, found = random.Random(0), {True: [], False: []}
    for _ in range(200):
        text = " ".join("".join(rng.choices("abcdefghijkl", k=rng.randint(2, 8))) for _ in range(150))
        other = near(text, rng.choice([0, 0.01, 0.02, 0.1, 0.3]), rng)
        is_new = make_filters(["near_duplicates,threshold=0.8"])["near_duplicates,threshold=0.8"]
        assert is_new(text)
        found[is_new(other)].append(jaccard(text, other))
    assert len(found[False]) > 50
    assert len(found[True]) > 50
    assert min(found[False]) > 0.66  # four standard deviations below the threshold
    assert max(found[True]) < 0.94


def test_near_duplicates_do_not_mind_case_or_spaces_and_remember_all_texts():
    is_new = make_filters(["near_duplicates"])["near_duplicates"]
    texts = [PROSE, GERMAN, CHINESE, HINDI]
    assert [is_new(text) for text in texts] == [True] * 4
    assert [is_new(text.upper().replace("\n", "  \n\t")) for text in texts[:2]] == [False] * 2
    assert [is_new(text) for text in reversed(texts)] == [False] * 4
    assert is_new("")
    assert not is_new(" ")
    assert is_new("ab")


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ("spam", r"config\.data\.filters='spam': 'spam' is not known; use one of length, regex, quality, near"),
        ("length,least=3", r"'least' is no option of 'length'; it has min=\.\.\., max"),
        ("length,min=5,max=3", r"config\.data\.filters='length,min=5,max=3': max=3 is below min=5"),
        ("regex", r"config\.data\.filters='regex': keep=\.\.\. or drop=\.\.\. must be given"),
        ("regex,keep=[", r"config\.data\.filters='regex,keep=\[': .* is no pattern"),
        ("near_duplicates,threshold=0", r"threshold=0\.0 must be above 0"),
    ],
)
def test_a_filter_that_cannot_be_is_named(chosen: str, says: str):
    with pytest.raises(ValueError, match=says):
        make_filters([chosen])


def test_every_filter_is_tested():
    assert set(FILTERS) == {"length", "regex", "quality", "near_duplicates"}


@pytest.fixture
def data(tmp_path: Path) -> Any:
    """Twelve documents, the last three of which are too short, forbidden, and nearly a copy of an earlier one."""
    (tmp_path / "text").mkdir()
    rng = random.Random(1)
    texts = [" ".join("".join(rng.choices("abcdefghijkl", k=5)) for _ in range(60)) for _ in range(9)]
    texts += ["short", f"a secret {texts[0][:200]}", texts[4] + " end"]
    for i, text in enumerate(texts):
        (tmp_path / "text" / f"{i:02}.txt").write_text(text)
    data: Any = base.get_config().data
    data.update(source=f"text,path={tmp_path / 'text'}", dir=str(tmp_path / "prepared"), valid_fraction=0.3)
    data.update(vocab_size=300, filters=("length,min=10", "regex,drop=secret", "near_duplicates"))
    return data


def test_the_report_names_what_each_filter_left_out(data: Any):
    log: list[str] = []
    corpus = prepare(data, log=log.append)
    assert corpus.metadata["left_out"] == {
        "length,min=10": {"count": 1, "share": 0.083333, "first": ["09.txt"]},
        "regex,drop=secret": {"count": 1, "share": 0.083333, "first": ["10.txt"]},
        "near_duplicates": {"count": 1, "share": 0.083333, "first": ["11.txt"]},
    }
    assert "Left out 1 examples, 8.33% (near_duplicates): 11.txt" in log
    assert sum(facts["documents"] for facts in corpus.metadata["splits"].values()) == 9


def test_a_validation_source_is_not_filtered_but_nearly_its_copies_are(data: Any, tmp_path: Path):
    (tmp_path / "valid").mkdir()
    near_copy = (tmp_path / "text" / "02.txt").read_text() + " more"
    for name, text in (("one", near_copy), ("two", "secret"), ("three", near_copy + "!")):
        (tmp_path / "valid" / f"{name}.txt").write_text(text)
    data.valid_source = f"text,path={tmp_path / 'valid'}"
    corpus = prepare(data, log=lambda line: None)
    assert [record["name"] for record in corpus.records("valid")] == ["one.txt", "three.txt", "two.txt"]
    assert corpus.metadata["left_out"]["near_duplicates"]["first"] == ["02.txt", "11.txt"]
