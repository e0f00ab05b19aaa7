"""Estimated cycles and kernels of a program, on literal text."""

import pytest

from parallel.cycles import Kernel, work
from parallel.hlo import parse_program

PROGRAM = """HloModule jit_step, is_scheduled=true, num_partitions=4

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8] parameter(0)
  ROOT %inner = f32[8] negate(%p), backend_config={"window_config":{"estimated_cycles":"999"}}
}

%below (s: (s32[], f32[8])) -> pred[] {
  %s = (s32[], f32[8]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %limit = s32[] constant(3)
  ROOT %more = pred[] compare(%i, %limit), direction=LT
}

%body (s: (s32[], f32[8])) -> (s32[], f32[8]) {
  %s = (s32[], f32[8]) parameter(0)
  %x = f32[8] get-tuple-element(%s), index=1
  %f = f32[8] fusion(%x), kind=kLoop, calls=%fused, backend_config={"window_config":{"estimated_cycles":"100"}}
  %r = f32[8] all-reduce(%f), replica_groups={}, backend_config={"window_config":{"estimated_cycles":"77"}}
  %splash_mha_fwd = f32[8] custom-call(%r), custom_call_target="tpu_custom_call", metadata={op_name="jit(f)/attention"}
  ROOT %t = (s32[], f32[8]) tuple(%x, %splash_mha_fwd)
}

%small (x: f32[8]) -> f32[8] {
  %x = f32[8] parameter(0)
  ROOT %c = f32[8] copy(%x), backend_config={"window_config":{"estimated_cycles":"5"}}
}

%large (x: f32[8]) -> f32[8] {
  %x = f32[8] parameter(0)
  ROOT %c = f32[8] convert(%x), backend_config={"window_config":{"estimated_cycles":"40"}}
}

ENTRY %main (a: f32[8], n: s32[]) -> f32[8] {
  %a = f32[8] parameter(0)
  %n = s32[] parameter(1)
  %start = s32[] constant(START)
  %first = (s32[], f32[8]) tuple(%start, %a)
  %loop = (s32[], f32[8]) while(%first), condition=%below, body=%body
  %alloc = f32[8] custom-call(), custom_call_target="AllocateBuffer"
  %moved = (f32[8], f32[8], u32[]) copy-start(%a), backend_config={"window_config":{"estimated_cycles":"12"}}
  %y = f32[8] get-tuple-element(%loop), index=1
  %z = f32[8] conditional(%n, %y, %y), branch_computations={%small, %large}
  ROOT %e = f32[8] fusion(%z), kind=kLoop, calls=%fused, backend_config={"window_config":{"estimated_cycles":"7"}}
}
"""


def test_loops_are_multiplied_out_and_what_runs_beside_is_left_out():
    """Three rounds of 100, then 7; of branches the longer; nothing of a copy or collective, nor within fusions."""
    done = work(parse_program(PROGRAM.replace("START", "0")))
    assert done.cycles == {"fusion": 307, "convert": 40}
    assert done.total_cycles == 347
    assert done.kernels == (Kernel("tpu_custom_call", "splash_mha_fwd jit(f)/attention", 3),)
    assert done.endless == ()
    assert work(parse_program(PROGRAM.replace("START", "1"))).cycles["fusion"] == 207


def test_xlas_own_count_of_rounds_goes_first():
    rounds = 'body=%body, backend_config={"known_trip_count":{"n":"9"}}'
    text = PROGRAM.replace("START", "0").replace("body=%body", rounds)
    assert work(parse_program(text)).cycles["fusion"] == 907


def test_a_loop_of_unknown_length_is_named():
    text = PROGRAM.replace("START", "0").replace("direction=LT", "direction=NE")
    done = work(parse_program(text))
    assert done.endless == ("loop",)
    assert done.cycles["fusion"] == 107


@pytest.mark.parametrize("target", ["__cudnn$fmhaSoftmaxF16", "__cublas$lt$matmul", "tpu_custom_call"])
def test_kernels_of_other_platforms(target: str):
    text = PROGRAM.replace("START", "0").replace("tpu_custom_call", target)
    assert [kernel.target for kernel in work(parse_program(text)).kernels] == [target]


def test_what_a_kernel_says_of_itself_over_several_lines_ends_nothing():
    """A splash kernel's attributes as XLA writes them: line breaks, and a bracket at the start of a line."""
    attributes = 'custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={\n"block": 512\n}}, '
    text = PROGRAM.replace("START", "0").replace('custom_call_target="tpu_custom_call", ', attributes)
    text = text.replace("  ROOT %t = ", "  %after = f32[8] add(%x, %x), backend_config={TEN}\n  ROOT %t = ")
    text = text.replace("{TEN}", '{"window_config":{"estimated_cycles":"10"}}')
    done = work(parse_program(text))
    assert done.cycles == {"fusion": 307, "convert": 40, "add": 30}
    assert done.kernels == (Kernel("tpu_custom_call", "splash_mha_fwd jit(f)/attention", 3),)
