"""Several short examples in one row: which go together.

Best-fit decreasing on the numbers of tokens, as arXiv:2107.02027 packs sentence pairs: the longest example first, each
into the row that it leaves the least room in. It depends on the lengths alone, so all processes pack alike.
"""

from collections.abc import Sequence

import numpy as np

_TRIED = 8  # rows with the same room in the first dim that are looked at for room in the second


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
    filled = (lengths / sizes).max(axis=1)
    rows: list[list[int]] = []
    rooms: list[tuple[int, ...]] = []
    shelves: list[list[int]] = [[] for _ in range(int(sizes[0]) + 1)]  # rows by the room they have in the first dim
    stocked = 0  # a bit for each shelf that is not empty: the lowest one that is high enough is the best fit
    for example in np.argsort(-filled, kind="stable").tolist():
        needs = lengths[example].tolist()
        row = _find(needs, rooms, shelves, stocked)
        if row < 0:
            row = len(rows)
            rows.append([])
            rooms.append(tuple(int(size) for size in sizes))
        else:
            shelf = shelves[rooms[row][0]]
            shelf.remove(row)
            if not shelf:
                stocked &= ~(1 << rooms[row][0])
        rows[row].append(example)
        rooms[row] = tuple(room - need for room, need in zip(rooms[row], needs, strict=True))
        shelves[rooms[row][0]].append(row)
        stocked |= 1 << rooms[row][0]
    return rows


def _find(needs: list[int], rooms: list[tuple[int, ...]], shelves: list[list[int]], stocked: int) -> int:
    """The row with the least room that an example fits in; -1 is none."""
    level = needs[0]
    while above := stocked >> level:
        level += (above & -above).bit_length() - 1
        for row in reversed(shelves[level][-_TRIED:]):
            if all(room >= need for room, need in zip(rooms[row], needs, strict=True)):
                return row
        level += 1
    return -1
