"""Several short examples in one row: which go together.

Best-fit decreasing on the numbers of tokens, as arXiv:2107.02027 packs sentence pairs: the longest example first, each
into the row with the least room that is enough. With an encoder's part an example needs the larger of its two shares of
a row, and a row has the lesser of its two rooms: what goes together then fits on both sides. All of it depends on the
lengths alone, so all processes pack alike.
"""

from collections.abc import Sequence

import numpy as np


def pack(lengths: np.ndarray, sizes: Sequence[int]) -> list[list[int]]:
    """Says which examples share a row.

    Args:
        lengths: tokens of each example, (N, 1), or (N, 2) if rows have an encoder's part, too.
        sizes: how many fit in a row, of each.

    Returns:
        For each row its examples; every example is in one row.

    Example:
        pack(np.array([[5], [3], [4], [2]]), [8])  # [[0, 1], [2, 3]]
    """
    lengths = np.minimum(np.asarray(lengths, np.int64), sizes)
    scale = max(sizes)
    shares = -(-lengths * scale // np.asarray(sizes))  # of a row of `scale`, rounded up
    order = np.argsort(-shares.max(axis=1), kind="stable")
    shelves, rows = _Shelves(scale), []
    for example, needs in zip(order.tolist(), shares[order].tolist(), strict=True):
        row, rooms = shelves.take(max(needs)) or (len(rows), [scale] * len(needs))
        if row == len(rows):
            rows.append([])
        rows[row].append(example)
        shelves.put(row, [room - need for room, need in zip(rooms, needs, strict=True)])
    return rows


class _Shelves:
    """Rows by the room that they have, which is the lesser of their two."""

    def __init__(self, size: int):
        self._rows: list[list[tuple[int, list[int]]]] = [[] for _ in range(size + 1)]
        self._stocked = 0  # a bit for each shelf that is not empty: the lowest that is high enough is the best fit

    def put(self, row: int, rooms: list[int]) -> None:
        self._rows[min(rooms)].append((row, rooms))
        self._stocked |= 1 << min(rooms)

    def take(self, need: int) -> tuple[int, list[int]] | None:
        """The row with the least room that is enough, and its rooms; None if there is none."""
        above = self._stocked >> need
        if not above:
            return None
        level = need + (above & -above).bit_length() - 1
        found = self._rows[level].pop()
        if not self._rows[level]:
            self._stocked &= ~(1 << level)
        return found
