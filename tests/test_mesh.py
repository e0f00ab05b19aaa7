"""The mesh: sizes that resolve, sizes that do not, and the platform.

Eight simulated devices; a literal shape lists stage, data, fsdp, expert, context and tensor.
"""

from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from configs import base
from parallel import AXES, MeshConfig, abstract_mesh, check_platform, compute_capability, make_mesh
from parallel.mesh import group_slices


def test_axes_are_in_the_order_from_slow_to_fast_links():
    assert AXES == ("stage", "data", "fsdp", "expert", "context", "tensor")
    assert make_mesh().axis_names == ("stage", "data", "fsdp", "expert", "context", "tensor")


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({}, (1, 8, 1, 1, 1, 1)),
        ({"fsdp": 2}, (1, 4, 2, 1, 1, 1)),
        ({"fsdp": 2, "tensor": 2}, (1, 2, 2, 1, 1, 2)),
        ({"data": 2, "fsdp": -1}, (1, 2, 4, 1, 1, 1)),
        ({"data": 1, "fsdp": 4, "tensor": -1}, (1, 1, 4, 1, 1, 2)),
        ({"data": 2, "fsdp": 2, "tensor": 2}, (1, 2, 2, 1, 1, 2)),
        ({"data": 8, "tensor": -1}, (1, 8, 1, 1, 1, 1)),
    ],
)
def test_sizes_resolve_to_all_devices(sizes, shape):
    mesh = make_mesh(MeshConfig(**sizes))
    assert mesh.devices.shape == shape
    assert {device.id for device in mesh.devices.flat} == set(range(8))


def test_the_tensor_axis_has_neighbouring_devices():
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2))
    ids = np.vectorize(lambda device: device.id)(mesh.devices)
    assert ids.squeeze().tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


def test_all_axes_are_auto():
    assert make_mesh(MeshConfig(fsdp=2)).axis_types == (AxisType.Auto,) * 6


def test_the_mesh_section_of_the_config_will_do():
    section: Any = base.get_config().mesh
    section.fsdp = 4
    assert make_mesh(section).devices.shape == (1, 2, 4, 1, 1, 1)


def test_devices_can_be_given():
    devices = jax.devices()[4:6]
    assert list(make_mesh(MeshConfig(data=1, tensor=2), devices=devices).devices.flat) == devices
    assert make_mesh(devices=devices[:1]).devices.shape == (1, 1, 1, 1, 1, 1)


def test_idle_devices_are_an_error_unless_allowed():
    with pytest.raises(ValueError, match=r"config\.mesh\.data=3 leaves 5 of 8 devices idle; .*allow_idle=true"):
        make_mesh(MeshConfig(data=3))
    with pytest.raises(ValueError, match=r"config\.mesh\.\*=1 leaves 7 of 8 devices idle"):
        make_mesh(MeshConfig(data=1))
    mesh = make_mesh(MeshConfig(data=3, allow_idle=True))
    assert mesh.devices.shape == (1, 3, 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"data": 4, "tensor": 4}, ["config.mesh.data=4", "config.mesh.tensor=4", "16 devices", "there are 8"]),
        ({"data": 16, "allow_idle": True}, ["config.mesh.data=16", "16 devices", "there are 8"]),
        ({"fsdp": 3}, ["config.mesh.fsdp=3", "multiple of 3", "config.mesh.data=-1", "there are 8", "divides 8"]),
        ({"data": -1, "fsdp": -1}, ["config.mesh.data", "config.mesh.fsdp", "both -1", "only one"]),
        ({"fsdp": 0}, ["config.mesh.fsdp=0", "at least 1"]),
        ({"tensor": -2}, ["config.mesh.tensor=-2", "at least 1"]),
        ({"stage": 0}, ["config.mesh.stage=0", "at least 1"]),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_name_the_keys_and_numbers(sizes, said):
    with pytest.raises(ValueError, match="config") as error:
        make_mesh(MeshConfig(**sizes))
    for part in said:
        assert part in str(error.value)


def ids(**sizes: Any) -> list[int]:
    return [device.id for device in make_mesh(MeshConfig(**sizes)).devices.flat]


def test_the_axes_that_cross_slices_are_outermost_in_the_devices_order():
    """Devices 0 to 3 are one slice, 4 to 7 the other; the mesh is listed with the last axis running fastest."""
    assert ids(data=2, tensor=4, num_slices=2) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert ids(data=1, tensor=8, num_slices=2, slice_axes="tensor") == [0, 1, 2, 3, 4, 5, 6, 7]
    assert ids(data=2, tensor=4, num_slices=2, slice_axes="tensor") == [0, 1, 4, 5, 2, 3, 6, 7]
    assert ids(data=4, fsdp=2, num_slices=4, slice_axes="fsdp+data") == [0, 2, 1, 3, 4, 6, 5, 7]


def test_slices_go_over_several_axes():
    assert ids(stage=2, data=2, tensor=2, num_slices=4) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert ids(stage=2, data=2, tensor=2, num_slices=4, slice_axes="data+stage") == [0, 1, 2, 3, 4, 5, 6, 7]
    assert ids(stage=2, data=2, tensor=2, num_slices=4, slice_axes="tensor+stage") == [0, 2, 1, 3, 4, 6, 5, 7]


class FakeTPU:
    """A device that says which slice it is in."""

    platform = "tpu"

    def __init__(self, slice_index: int):
        self.slice_index = slice_index


def test_tpus_are_grouped_by_their_slice():
    devices = [FakeTPU(i % 2) for i in range(4)]
    assert group_slices(devices, 2) == [[devices[0], devices[2]], [devices[1], devices[3]]]
    with pytest.raises(ValueError, match=r"config\.mesh\.num_slices=1, but the devices are in 2 slices; use .*=2"):
        group_slices(devices, 1)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"num_slices": 3}, ["config.mesh.num_slices=3", "8 devices"]),
        (
            {"num_slices": 2, "data": 1, "tensor": 8},
            ["config.mesh.num_slices=2", "config.mesh.data=1", "multiple of 2"],
        ),
        ({"num_slices": 2, "slice_axes": "model"}, ["config.mesh.slice_axes", "'model'", "'fsdp'"]),
    ],
    ids=str,
)
def test_slices_that_do_not_fit_name_the_keys(sizes, said):
    with pytest.raises(ValueError, match="config") as error:
        make_mesh(MeshConfig(**sizes))
    for part in said:
        assert part in str(error.value)


@pytest.mark.parametrize("platform", ["auto", "cpu"])
def test_the_platform_at_hand_is_accepted(platform):
    check_platform(platform)
    assert jax.default_backend() == "cpu"


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_another_platform_is_an_error_and_not_a_fallback(platform):
    with pytest.raises(ValueError, match=f"config.platform='{platform}', but JAX found only 'cpu'") as error:
        check_platform(platform)
    assert "config.platform='cpu' runs" in str(error.value)
    assert {"gpu": "palmette[cuda]", "tpu": "palmette[tpu]"}[platform] in str(error.value)


def test_an_unknown_platform_is_an_error():
    with pytest.raises(ValueError, match=r"config\.platform='cuda' is not known; use 'auto', 'cpu', 'gpu' or 'tpu'"):
        check_platform("cuda")


class Gpu:
    """As much of a device as tells what its kernels can do; one of a topology does not."""

    def __init__(self, **attributes: str):
        vars(self).update(attributes)


@pytest.mark.parametrize(
    ("here", "of_mesh", "expected"),
    [
        ("9.0", {"compute_capability": "9.0"}, 9.0),
        ("9.0", {"compute_capability": "8.0"}, 8.0),  # compiled for another machine
        ("9.0", {}, 9.0),
        ("8.0", None, 8.0),  # the mesh that a step knows while it is traced
        ("", {}, 8.0),  # a machine without a GPU
        ("", {"compute_capability": "9.0"}, 8.0),
        ("gfx942", {"compute_capability": "gfx942"}, 0.0),
        ("gfx942", None, 0.0),
    ],
)
def test_kernels_count_on_the_gpus_that_jax_asks(
    monkeypatch: pytest.MonkeyPatch, here: str, of_mesh: dict[str, str] | None, expected: float
):
    if here:
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        monkeypatch.setattr(jax, "local_devices", lambda: [Gpu(compute_capability=here)])
    mesh = abstract_mesh() if of_mesh is None else Mesh(np.array([Gpu(**of_mesh)]), ("data",))
    assert compute_capability(mesh) == expected
