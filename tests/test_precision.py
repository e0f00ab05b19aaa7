"""Training with products in 8 bits: on one device and on many, in a pipeline, to the end; chips, and their rates."""

import functools

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from parallel import CHIPS, MeshConfig, chip_of, make_mesh, parse_machine, shard_batch
from tests.helpers import one_device, uneven_batch
from tests.test_plan import ONE, medium
from train import init_state, make_train_step
from train.compose import preflight
from train.flops import peak_of
from train.layout import Layout
from train.planning import make_plan
from train.precision import check_products
from train.step_time import estimate_time
from train.workload import workload_of

each_kind = pytest.mark.parametrize("kind", ["int8", "float8"])


def losses(config: ConfigDict, *, steps: int = 6, **axes: int) -> list[float]:
    mesh = make_mesh(MeshConfig(**axes)) if axes else one_device()
    state, step, batch = init_state(config, mesh), make_train_step(config, mesh), uneven_batch(config)
    found = []
    for _ in range(steps):
        state, metrics = step(state, shard_batch(batch, mesh))
        found.append(float(metrics["loss"]))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype("float32")}
    return found


@each_kind
def test_a_mesh_trains_as_one_device_does(config: ConfigDict, kind: str):
    """A sum in another order now and then rounds to another of the 8-bit values: the tolerance is of that."""
    config.model.update(dtype=f"float32,products={kind}")
    one = losses(config)
    assert one[-1] < one[0] - 0.5
    np.testing.assert_allclose(losses(config, data=2, fsdp=2, tensor=2), one, rtol=1e-3)


def test_a_pipeline_trains_as_one_device_does(config: ConfigDict):
    """One that splits the backward pass, so that the gradients' products are apart."""
    config.model.dtype = "float32,products=int8"
    config.train.microbatch_rows = 1
    one = losses(config, steps=2)
    config.mesh.schedule = "zero_bubble"
    np.testing.assert_allclose(losses(config, steps=2, stage=2, data=4), one, rtol=1e-3)


@pytest.mark.parametrize(
    ("kind", "machine", "said"),
    [
        ("float8", "v5e:2x2", ["v5e has no float8", "h100", "'bfloat16,products=int8'"]),
        ("float8", "gpu:a100:8", ["a100 has no float8", "h200", "'bfloat16,products=int8'"]),
        ("int8", "tpu7x:2x2x1", ["tpu7x has no int8", "v6e", "'bfloat16,products=float8'"]),
    ],
)
def test_a_chip_without_such_products_is_refused(kind: str, machine: str, said: list[str]):
    config = medium(**{"model.dtype": f"bfloat16,products={kind}"})
    with pytest.raises(ValueError, match=r"^config\.model\.dtype='bfloat16,products=") as error:
        make_plan(config, parse_machine(machine))
    assert [part for part in said if part not in str(error.value)] == []


def test_a_run_on_such_a_chip_is_refused_before_it_begins(config: ConfigDict, monkeypatch: pytest.MonkeyPatch):
    config.model.dtype = "bfloat16,products=float8"
    preflight(config, one_device())  # a CPU does it, slowly
    monkeypatch.setattr("train.compose.chip_of", lambda kind: CHIPS["v5e"])
    with pytest.raises(ValueError, match="v5e has no float8 products"):
        preflight(config, one_device())


def test_rates_in_literal_numbers():
    """One v5e, 197 TFLOP/s in bfloat16 and 393 in int8; projections are all but the head and attention's products."""
    config, machine = medium(**{"model.dtype": "bfloat16,products=int8"}), parse_machine("v5e:1x1")
    layout = Layout(**ONE, microbatch_rows=4, remat="none", attention="splash")
    bound = estimate_time(workload_of(config), layout, machine, {})
    layers = 8 * (1024 * 128 * (8 + 2 * 4) + 8 * 128 * 1024 + 3 * 1024 * 4096)
    others = 32_000 * 1024 + 8 * 2 * 8 * 128 * (1025 / 2)
    seconds = 6 * 64 * 1024 * (layers / 393e12 + others / 197e12)
    assert bound.compute == pytest.approx(seconds)
    assert bound.mfu == pytest.approx(seconds / bound.overlapped)  # 100% is all products at their peaks
    assert peak_of(config, CHIPS["v5e"]) == pytest.approx(6 * 64 * 1024 * (layers + others) / seconds)
    plain = functools.partial(peak_of, medium())
    assert [plain(CHIPS[name]) for name in ("v5e", "h100")] == [197e12, 989e12]
    config.model.dtype = "bfloat16,products=float8"
    assert peak_of(config, CHIPS["v5p"]) == 459e12  # no figure
    check_products(workload_of(config).model, chip_of("NVIDIA H100 80GB HBM3"))
