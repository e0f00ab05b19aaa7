"""Texts that are much alike, found among many.

A text is the set of its n-grams. One hash function throws them into bins, and the smallest hash of each bin is the
text's signature (one permutation hashing, Li, Owen and Zhang 2012): the share of bins in which two signatures agree
estimates the Jaccard similarity of the sets. Signatures that agree in a whole band of bins are compared (locality
sensitive hashing, Broder 1997).
"""

import re
from collections import defaultdict

import numpy as np

_BINS = 128  # a power of two; the estimate's standard deviation at a similarity of 0.8 is 0.035
_RECALL = 0.99  # of pairs whose similarity is the threshold
_EMPTY = np.uint64(2**64 - 1)
_FACTORS = np.random.Generator(np.random.Philox(0)).integers(0, 2**64, 64, np.uint64) | np.uint64(1)


class NearDuplicates:
    """Remembers texts, in about 8 KB each whatever their length, and says which are new.

    Args:
        threshold: similarity from which on a text is not.
        ngram: characters of an n-gram, at most 64.

    Raises:
        ValueError: one of them cannot be.
    """

    def __init__(self, threshold: float, ngram: int):
        if not 0 < threshold <= 1 or not 1 <= ngram <= len(_FACTORS):
            raise ValueError(f"threshold={threshold} must be above 0 and at most 1, ngram={ngram} from 1 to 64")
        self._threshold, self._ngram = threshold, ngram
        found = [rows for rows in (1, 2, 4, 8, 16, 32) if 1 - (1 - threshold**rows) ** (_BINS // rows) >= _RECALL]
        self._rows = max(found, default=1)  # the longest bands make the fewest comparisons
        self._signatures: list[np.ndarray] = []
        self._bands: defaultdict[bytes, list[int]] = defaultdict(list)

    def is_new(self, text: str) -> bool:
        """Whether no text that was new is like this one; a new one is remembered."""
        signature = self._signature(text)
        bands = signature.reshape(-1, self._rows)
        keys = [bytes([i]) + band.tobytes() for i, band in enumerate(bands) if (band != _EMPTY).any()]
        for other in {other for key in keys for other in self._bands.get(key, ())}:
            theirs = self._signatures[other]
            filled = (signature != _EMPTY) | (theirs != _EMPTY)
            if np.mean((signature == theirs)[filled]) >= self._threshold:
                return False
        for key in keys:
            self._bands[key].append(len(self._signatures))
        self._signatures.append(signature)
        return True

    def _signature(self, text: str) -> np.ndarray:
        """The smallest hash in each bin, (bins,); a bin without one says `_EMPTY`, which is no likeness."""
        characters = np.frombuffer(re.sub(r"\s+", " ", text.lower()).strip().encode("utf-32-le"), "<u4")
        if len(characters) < self._ngram:
            characters = np.pad(characters, (0, self._ngram - len(characters)))
        count = len(characters) - self._ngram + 1
        hashes = np.zeros(count, np.uint64)
        for i in range(self._ngram):  # multilinear, modulo 2^64
            hashes += characters[i : i + count].astype(np.uint64) * _FACTORS[i]
        hashes ^= hashes >> np.uint64(32)  # high bits say little of low ones until they are mixed
        hashes *= _FACTORS[0]
        hashes ^= hashes >> np.uint64(29)
        hashes = np.sort(hashes)
        edges = np.arange(_BINS, dtype=np.uint64) << np.uint64(64 - _BINS.bit_length() + 1)
        first = np.searchsorted(hashes, edges)
        ends = np.append(first[1:], count)
        return np.where(first < ends, hashes[np.minimum(first, count - 1)], _EMPTY)
