"""The benchmark of the speed pack, with made-up runs: what it trains, how it counts, and that pieces are merged."""

from pathlib import Path

import pytest

import tests.bench.ablations as bench
import tests.bench.results as results
from data.command_line import flatten
from train.compose import make_model
from train.stages import Growth


def test_each_part_is_a_config_that_differs_from_the_plain_gpt_by_its_fields():
    plain = flatten(bench.make_config("base", 90))
    assert [plain["model.activation"], plain["model.qk_norm"], plain["model.value_mix"]] == ["gelu", "none", ""]
    for part, (_, changes) in bench.PARTS.items():
        config = bench.make_config(part, 90)
        make_model(config)
        found = flatten(config)
        assert {key for key in found if found[key] != plain[key]} == set(changes)
    together = flatten(bench.make_config("together", 90))
    assert together["model.value_mix"] == "first_layer+embedding,tables=3"
    assert [stage.window for stage in Growth.of(bench.make_config("window_ramp", 90)).stages] == [32, 64, 128, 0]
    assert Growth.of(bench.make_config("window_ramp", 90)).at(60).window == 0


def test_pieces_are_merged_and_a_slower_part_has_fewer_steps_in_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for module in (bench, results):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "tests" / "bench").mkdir(parents=True)
    slower = {"base": 1.001, "qk_norm": 1.25, "soft_cap": 0.995}
    monkeypatch.setattr(bench, "race", lambda part, steps: ([slower[part] * 0.5] * steps, [0.5] * steps))
    seen = []

    def run(part: str, seed: int, steps: int) -> bench.Run:
        seen.append((part, seed, steps))
        loss = 4.0 + 0.1 * seed - (part == "qk_norm") * 0.5 + (180 - steps) / 100
        return bench.Run(loss, [{"step": i + 1, "loss": 5.0, "valid_loss": loss} for i in range(steps)])

    with pytest.raises(ValueError, match="held to 'base', of which there is no row yet"):
        bench.main(["qk_norm"], run=run)
    bench.main(["base"], run=run)
    assert seen == [("base", seed, 180) for seed in (0, 1, 2)]
    bench.main(["soft_cap", "qk_norm"], run=run)
    assert seen[3:] == [
        *(("soft_cap", seed, 180) for seed in (0, 1, 2)),
        *(("qk_norm", seed, steps) for steps in (180, 144) for seed in (0, 1, 2)),
    ]
    assert [*bench.read_rows()] == ["base", "qk_norm", "soft_cap"]
    page = (tmp_path / "docs" / "ablations.md").read_text()
    assert "| QK norm | `qk_norm=head` | 3.600 ± 0.100 | -0.500 | 1.25 | 144 | 3.960 ± 0.100 |" in page
    assert "| plain GPT |  | 4.100 ± 0.100 |  | 1.00 | 180 | 4.100 ± 0.100 |" in page
    assert (tmp_path / "docs" / "ablations.svg").exists()
    monkeypatch.setitem(bench.PROTOCOL, "steps", 3)
    assert bench.read_rows() == {}
    with pytest.raises(ValueError, match="'qknorm' is not known; use some of 'base', 'qk_norm'"):
        bench.main(["qknorm"], run=run)
