"""Times of collectives over the links of an axis, in literal numbers."""

import pytest

from parallel import abstract_mesh, links_of, parse_machine

GB = 10**9


def links(topology: str, num_slices: int = 1, **sizes: int):
    return links_of(parse_machine(topology, num_slices), dict(abstract_mesh(sizes).shape))


def test_an_axis_over_the_whole_torus_sends_along_all_its_dims_both_ways():
    link = links("v5p:4x4x4", fsdp=64)["fsdp"]
    assert link.bandwidth == 6 * 90 * GB
    assert link.seconds("all-gather", 64 * GB) == pytest.approx(63 / 540)
    assert link.seconds("all-reduce", 64 * GB) == pytest.approx(2 * 63 / 540)


def test_without_wraps_a_dim_sends_one_way():
    assert links("v5e:4x4", fsdp=16)["fsdp"].bandwidth == 2 * 45 * GB
    assert links("v5e:16x16", fsdp=256)["fsdp"].bandwidth == 4 * 45 * GB


def test_axes_take_dims_from_the_innermost():
    found = links("v5p:4x4x8", fsdp=32, tensor=4)
    assert found["tensor"].bandwidth == 2 * 90 * GB
    assert found["fsdp"].bandwidth == 4 * 90 * GB


def test_a_part_of_a_dim_is_a_line():
    assert links("v5p:4x4x4", fsdp=32, tensor=2)["tensor"].bandwidth == 90 * GB


def test_a_dim_that_is_taken_whole_after_another_axis_sends_both_ways():
    """Tensor takes 2 of the first dim; fsdp what is left of it, which is a line, and two rings."""
    assert links("v5p:4x4x4", fsdp=32, tensor=2)["fsdp"].bandwidth == (1 + 2 + 2) * 90 * GB
    # 16 of 4 x 8 x 8 is no product of whole dims: of 4 all, and of the next a half.
    assert links("v5p:4x8x8", fsdp=16, tensor=16)["tensor"].bandwidth == (2 + 1) * 90 * GB


def test_an_all_to_all_crosses_the_busiest_link():
    """Of a ring of 16, each link in each direction is passed by 16 / 8 of what a device sends; of a line by 16 / 4."""
    assert links("v5e:16x16", expert=16, data=16)["expert"].seconds("all-to-all", 45 * GB) == pytest.approx(2)
    # A torus of 4 x 4 x 4 is no ring of 64: half of it crosses each link, all dims at once.
    assert links("v5p:4x4x4", expert=64)["expert"].seconds("all-to-all", 90 * GB) == pytest.approx(0.5)
    assert links("v5e:4x4", expert=16)["expert"].seconds("all-to-all", 45 * GB) == pytest.approx(1)
    assert links("gpu:h100:8", expert=8)["expert"].seconds("all-to-all", 450 * GB) == pytest.approx(7 / 8)


def test_a_reduce_scatter_that_the_compiler_lacks_is_an_all_reduce():
    link = links("v5p:4x4x4", fsdp=64)["fsdp"]
    assert link.seconds("reduce-scatter", 1, reduce_scatters=False) == link.seconds("all-reduce", 1)
    assert link.seconds("reduce-scatter", 1) == link.seconds("all-gather", 1)


def test_across_slices_each_device_sends_its_part():
    link = links("v5p:4x4x4", 2, data=2, fsdp=64)["data"]
    assert (link.within, link.across, link.name) == (1, 2, "DCN")
    assert link.seconds("all-reduce", 10 * GB) == pytest.approx(2 * 10 / 2 / 6.25)
    both = links("v5p:4x4x4", 2, fsdp=128)["fsdp"]
    assert (both.within, both.across) == (64, 2)
    assert both.seconds("all-gather", 64 * GB) == pytest.approx(63 / 540 + 0.5 / 6.25)


def test_hosts_of_gpus():
    found = links("gpu:h100:8x2", fsdp=8, data=2)
    assert found["fsdp"].name == "NVLink"
    assert found["fsdp"].seconds("all-gather", 8 * GB) == pytest.approx(7 / 450)
    assert found["data"].seconds("all-reduce", 1 * GB) == pytest.approx(2 * 0.5 / 50)


def test_slices_that_no_axis_can_cross():
    with pytest.raises(ValueError, match=r"config\.mesh\.num_slices=2 cannot be divided"):
        links("v5p:2x2x1", 2, tensor=8)
