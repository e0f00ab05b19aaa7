"""Every family equals `transformers`, live: `make test-reference` runs this with the extra [reference].

The golden files hold samples of the same models; here whole logits and gradients are compared, at more lengths, and
what is exported again goes back into `transformers`.
"""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.reference import ours
from tests.reference.models import REFERENCES
from tests.reference.weights import generator, make_batch, make_batches, make_prompts, write_directory

pytestmark = pytest.mark.reference
each_family = pytest.mark.parametrize("family", [pytest.param(f, marks=pytest.mark.xdist_group(f)) for f in REFERENCES])
GENERATORS = [name for name, reference in REFERENCES.items() if reference.kind in ("decoder", "encoder_decoder")]


@pytest.fixture
def theirs() -> Any:
    """PyTorch is imported by these tests alone."""
    from tests.reference import theirs

    return theirs


@pytest.fixture(scope="session")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The directory of a family, written once."""
    return functools.cache(lambda family: write_directory(family, tmp_path_factory.mktemp(family)))


@functools.cache
def imported(directory: Path) -> ours.Imported:
    return ours.load(directory)


def batches_of(family: str) -> list[dict[str, np.ndarray]]:
    """The golden batches, a row of one token beside a short one, and rows that are longer than any window twice."""
    reference = REFERENCES[family]
    if reference.kind == "image":
        return make_batches(family)
    more = [make_batch(reference, generator("live", family, lengths), lengths) for lengths in ((6, 1), (34, 33, 20))]
    return make_batches(family) + more


@each_family
def test_logits_and_gradients(family: str, directories: Any, theirs: Any):
    model, reference = imported(directories(family)), theirs.load(family, directories(family))
    for batch in batches_of(family):
        outputs, loss, gradients = ours.evaluate(model, batch)
        compare_outputs(outputs, theirs.outputs(family, reference, batch), batch.get("mask"))
        expected_loss, expected = theirs.gradients(family, reference, batch)
        assert loss == pytest.approx(expected_loss, abs=1e-4)
        compare_gradients(ours.gradients_on_disk(model, gradients), expected)


@pytest.mark.parametrize("family", [pytest.param(f, marks=pytest.mark.xdist_group(f)) for f in GENERATORS])
def test_greedy_tokens(family: str, directories: Any, theirs: Any):
    prompts = make_prompts(family)
    expected, _ = theirs.generate(family, theirs.load(family, directories(family)), prompts)
    np.testing.assert_array_equal(ours.continue_greedily(imported(directories(family)), prompts), expected)


@each_family
def test_export_gives_the_same_file_and_logits(family: str, directories: Any, theirs: Any, tmp_path: Path):
    model = imported(directories(family))
    exported = ours.export(model, model.params, tmp_path)
    original = load_file(directories(family) / "model.safetensors")
    assert {name: array.shape for name, array in exported.items()} == {n: array.shape for n, array in original.items()}
    assert [name for name in original if exported[name].tobytes() != original[name].tobytes()] == []
    before, after = theirs.load(family, directories(family)), theirs.load(family, tmp_path)
    for batch in make_batches(family):
        expected = theirs.outputs(family, before, batch)
        for name, output in theirs.outputs(family, after, batch).items():
            assert output.equal(expected[name]), name
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [REFERENCES[family].architecture]


def compare_outputs(outputs: dict[str, np.ndarray], expected: dict[str, Any], mask_BT: np.ndarray | None) -> None:
    """Within 1e-4 wherever there is a token."""
    assert outputs.keys() == expected.keys()
    for name, output in outputs.items():
        where = mask_BT == 1 if name in ("logits", "hidden") and mask_BT is not None else ...
        theirs = expected[name].detach().numpy()
        np.testing.assert_allclose(output[where], theirs[where], rtol=0, atol=1e-4, err_msg=name)


def compare_gradients(gradients: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Within 1e-3 of each parameter's norm, or of a small part of the largest where there is nothing but rounding."""
    norms = {name: float(np.linalg.norm(gradient)) for name, gradient in expected.items()}
    floor = 1e-4 * max(norms.values())
    errors = {
        name: float(np.linalg.norm(gradients[name] - gradient)) / max(norms[name], floor)
        for name, gradient in expected.items()
    }
    assert not {name: error for name, error in errors.items() if error > 1e-3}
