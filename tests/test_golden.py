"""Every family equals `transformers`, as the golden files of `python -m tests.reference.make_golden` have it.

`make test-reference` compares the same models live, and more of them.
"""

from pathlib import Path

import numpy as np
import pytest

from tests.reference import ours
from tests.reference.models import REFERENCES
from tests.reference.weights import GOLDEN, describe, project, write_directory

each_family = pytest.mark.parametrize("family", REFERENCES)
GENERATORS = [name for name, reference in REFERENCES.items() if reference.kind in ("decoder", "encoder_decoder")]


def read_golden(family: str) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """The file's arrays that belong to the model, and those that belong to each batch."""
    with np.load(GOLDEN / f"{family}.npz", allow_pickle=False) as file:
        arrays = dict(file)
    batches = [{}, {}]
    for name in [name for name in arrays if "/" in name]:
        number, key = name.split("/")
        batches[int(number)][key] = arrays.pop(name)
    return arrays, [batch for batch in batches if batch]


@each_family
def test_family_equals_the_golden_file(family: str, tmp_path: Path):
    model = ours.load(write_directory(family, tmp_path))
    golden, batches = read_golden(family)
    for batch in batches:
        outputs, loss, gradients = ours.evaluate(model, batch)
        compare_outputs(family, outputs, batch)
        if "loss" in batch:
            assert loss == pytest.approx(float(batch["loss"]), abs=1e-4)
            compare_gradients(family, ours.gradients_on_disk(model, gradients), batch)
    if family in GENERATORS:
        np.testing.assert_array_equal(ours.continue_greedily(model, golden["prompts"]), golden["generated"])


def compare_outputs(family: str, outputs: dict[str, np.ndarray], batch: dict[str, np.ndarray]) -> None:
    """Within 1e-4: token outputs at the positions that the file has, others whole."""
    names = {"logits", "hidden", "pooled", "classes"} & set(batch)
    assert names
    for name in names:
        ours_there = outputs[name]
        if name in ("logits", "hidden"):
            ours_there = ours_there[batch["rows"], batch["columns"]]
        np.testing.assert_allclose(ours_there, batch[name], rtol=0, atol=1e-4, err_msg=f"{family} {name}")


def compare_gradients(family: str, gradients: dict[str, np.ndarray], batch: dict[str, np.ndarray]) -> None:
    """Norm and random projections of each parameter's gradient, within 1e-3 of its norm.

    A bias of the keys has no gradient but rounding where positions do not turn them, as softmax ignores what it adds.
    """
    buffers = ("final_logits_bias", "e_score_correction_bias")  # not trained by `transformers`
    names = [name for name in sorted(describe(family)["tensors"]) if not name.endswith(buffers)]
    assert set(names) == {name for name in gradients if not name.endswith(buffers)}
    norms, errors = np.maximum(batch["gradient_norms"], 1e-4 * batch["gradient_norms"].max()), {}
    for i, name in enumerate(names):
        found = np.append(project(name, gradients[name]), np.linalg.norm(gradients[name]))
        errors[name] = (
            np.abs(found - np.append(batch["gradient_projections"][i], batch["gradient_norms"][i])).max() / norms[i]
        )
    assert not {name: error for name, error in errors.items() if error > 1e-3}, family
