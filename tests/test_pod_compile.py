"""The smallest pod config, compiled for its machine; `tests.bench.pod_table` compiles all of them."""

import pytest

from parallel import parse_machine
from tests.bench.pod_table import changes_of, config_of, known_rows
from tests.bench.pods import PODS
from train.compile import compile_step


@pytest.mark.tpu
@pytest.mark.xdist_group("tpu")
def test_it_fits_by_the_compilers_word():
    """And needs what docs/pods.md says; another version of the compiler may need a little more or less."""
    name = "gpt2_124m_v5e_8"
    found = compile_step(config_of(name), parse_machine(PODS[name].topology))
    assert found.memory.fits
    assert not found.messages
    assert found.memory.needed == pytest.approx(known_rows()[name]["needed"], rel=0.05)
    assert {kind for kind, _ in found.totals} == {"all-reduce"}  # replicas send gradients, and nothing else


@pytest.mark.parametrize("name", known_rows())
def test_what_was_compiled_is_what_is_committed_and_fits(name: str):
    row = known_rows()[name]
    assert row["fits"]
    assert row["changes"] == changes_of(name, PODS[name])
    assert row["topology"] == PODS[name].topology
