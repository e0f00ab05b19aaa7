"""Strings that choose a kind and its options."""

from typing import Any

import pytest

from data.options import choose


def mask(*, rate: float = 0.15, whole: bool = False, name: str = "") -> tuple[float, bool, str]:
    return rate, whole, name


def read(*, path: str, lines: int = 0) -> tuple[str, int]:
    return path, lines


TABLE: dict[str, Any] = {"mask": mask, "read": read}


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("mask", (0.15, False, "")),
        ("mask,rate=0.3, whole=true", (0.3, True, "")),
        (" mask , rate = 0.3 ,whole= 1 ", (0.3, True, "")),
        ("mask,name=' a, = b '", (0.15, False, " a, = b ")),
        ('mask,name="x: "', (0.15, False, "x: ")),
        ('read,path="a, b.jsonl",lines=3', ("a, b.jsonl", 3)),
        ("read,path=~/x=y.txt", ("~/x=y.txt", 0)),
        ("read,path=C:\\data#1", ("C:\\data#1", 0)),
    ],
)
def test_reads(text: str, made: Any):
    assert choose("config.data.task", text, TABLE).make() == made


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("masc", r"config\.data\.task='masc': 'masc' is not known; use one of mask, read"),
        ("mask,ratio=1", r"'ratio' is no option of 'mask'; it has rate=\.\.\., whole=\.\.\., name=\.\.\."),
        ("mask,rate", r"'rate' is no option of 'mask'"),
        ("mask,rate=much", r"rate='much' must be of type float"),
        ("mask,whole=maybe", r"whole='maybe' must be of type bool"),
        ("read", r"'read' needs path=\.\.\., as in 'read,path=\.\.\.'"),
        ('read,path="a', r"no closing quotation; give it as 'kind,option=value'"),
        ("", r"config\.data\.task='' is empty; use one of mask, read"),
    ],
)
def test_refuses(text: str, error: str):
    with pytest.raises(ValueError, match=error):
        choose("config.data.task", text, TABLE)


def test_tells_what_was_given():
    chosen = choose("config.data.task", "mask,rate=0.3", TABLE)
    assert (chosen.kind, chosen.options) == ("mask", {"rate": 0.3})
