"""Mixtures: which part of a corpus each place of the training order is drawn from.

The weights are rounded to slots of a pattern that repeats every 10,000 places, so any 10,000 places in a row have them
exactly, and where a place falls takes no more than a look at the pattern.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from .sources import choose_sources

PERIOD = 10_000


class Mixture:
    """Places in the order of a mixture, as places in the orders of its parts.

    Args:
        slots: how many places of a period each part has.
    """

    def __init__(self, slots: Sequence[int]):
        self._slots = tuple(slots)
        # The middles of equal stretches: the slots of each part lie as evenly as those of the others let them.
        middles = np.concatenate([(np.arange(count) + 0.5) / count for count in slots])
        self._pattern = np.repeat(np.arange(len(slots)), slots)[np.argsort(middles, kind="stable")]
        self._ranks = np.zeros(len(self._pattern), np.int64)
        for part, count in enumerate(slots):
            self._ranks[self._pattern == part] = np.arange(count)

    def find(self, place: int) -> tuple[int, int]:
        """The part that a place falls in, and the place in that part's own order."""
        periods, slot = divmod(place, len(self._pattern))
        part = int(self._pattern[slot])
        return part, periods * self._slots[part] + int(self._ranks[slot])

    def counts(self, num_places: int) -> list[int]:
        """How many of the first places each part has."""
        periods, rest = divmod(num_places, len(self._pattern))
        begun = np.bincount(self._pattern[:rest], minlength=len(self._slots))
        return [periods * slots + int(more) for slots, more in zip(self._slots, begun, strict=True)]


def make_mixture(sources: str, num_rows: Sequence[int]) -> Mixture:
    """The mixture that config.data.source describes.

    Args:
        sources: what it says; parts have `weight` (1 where it is not given) or `epochs`. With epochs E a part comes E
            times in the time in which one of epochs=1 comes once.
        num_rows: rows of each part of the corpus.

    Returns:
        The mixture.

    Raises:
        ValueError: there are as many parts as the corpus has not, both kinds of shares, or one out of range.
    """
    what = f"config.data.source={sources!r}"
    shares, kind = read_shares(sources)
    if len(num_rows) == 1 and not sources:  # a corpus from elsewhere
        shares = [Fraction(1)]
    if len(shares) != len(num_rows):
        raise ValueError(f"{what} has {len(shares)} parts, but the corpus has {len(num_rows)}; prepare it anew")
    if len(shares) == 1:
        return Mixture((1,))
    weights = [share * rows if kind == "epochs" else share for share, rows in zip(shares, num_rows, strict=True)]
    slots = quantize(weights)
    if 0 in slots:
        raise ValueError(
            f"{what}: the {kind} of part {slots.index(0) + 1} leaves it none of {PERIOD:,} examples; use a larger one"
        )
    return Mixture(slots)


def read_shares(sources: str) -> tuple[list[Fraction], str]:
    """The weight or the epochs of each part, and which of the two they are.

    Raises:
        ValueError: both kinds of shares, or one out of range.
    """
    options = [chosen.options for chosen in choose_sources("config.data.source", sources)]
    kinds = {kind for kind in ("weight", "epochs") if any(kind in part for part in options)}
    if len(kinds) > 1:
        raise ValueError(f"config.data.source={sources!r} has parts with weight and with epochs; use one of the two")
    (kind,) = kinds or {"weight"}
    for part in options:
        if not 0 < part.get(kind, 1) < float("inf"):
            raise ValueError(f"config.data.source={sources!r}: {kind}={part[kind]} must be above 0, and finite")
    return [Fraction(part.get(kind, 1)) for part in options], kind


def quantize(weights: Sequence[Fraction]) -> list[int]:
    """Shares of PERIOD slots by the largest remainder, the first part first where two are alike."""
    ideals = [weight * PERIOD / sum(weights) for weight in weights]
    slots = [int(ideal) for ideal in ideals]
    by_remainder = sorted(range(len(slots)), key=lambda part: slots[part] - ideals[part])
    for part in by_remainder[: PERIOD - sum(slots)]:
        slots[part] += 1
    return slots
