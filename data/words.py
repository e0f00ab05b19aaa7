"""Where words begin in a stream of tokens."""

import numpy as np

from .tokenizer import Tokenizer

# Writing without spaces between words, where each piece is a word of its own: CJK, kana, and ideographs beyond.
_UNSPACED = ((0x2E80, 0xA000), (0xF900, 0xFB00), (0xFF66, 0xFFA0), (0x20000, 0x40000))


class Words:
    """Tells the pieces of one word from those of the next.

    A piece goes on with a word if it begins with a letter, a digit or a mark on one, without a space before it, and the
    piece before it ends with one; so every sign of punctuation is a word. Parts of a character belong together.
    """

    def __init__(self, tokenizer: Tokenizer):
        pieces = tokenizer.pieces
        self._goes_on = np.array([bool(piece) and _joins(piece[0]) for piece in pieces])
        self._is_open = np.array([bool(piece) and _joins(piece[-1]) for piece in pieces])

    def numbers(self, ids: np.ndarray, segment_ids: np.ndarray) -> np.ndarray:
        """The number of each token's word, (T,), from 0."""
        goes_on = self._goes_on[ids[1:]] & self._is_open[ids[:-1]] & (segment_ids[1:] == segment_ids[:-1])
        return np.concatenate([[0], np.cumsum(~goes_on)])


def _joins(letter: str) -> bool:
    code = ord(letter)
    if any(first <= code < end for first, end in _UNSPACED):
        return False
    return letter.isalnum() or letter in "_\ufffd" or 0x300 <= code < 0x370
