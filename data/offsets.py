"""Characters that tokens stand for."""

import numpy as np


def trimmed(text: str, spans: np.ndarray) -> np.ndarray:
    """Spans of characters without the white space at their ends, (spans, 2); one of white space alone becomes empty.

    Args:
        text: the text.
        spans: [start, end) of each, as `Tokenizer.encode_with_offsets` gives them.
    """
    tight = np.array(spans, np.int64).reshape(-1, 2)
    for span in tight:
        while span[0] < span[1] and text[span[0]].isspace():
            span[0] += 1
        while span[0] < span[1] and text[span[1] - 1].isspace():
            span[1] -= 1
    return tight
