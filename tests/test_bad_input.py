"""Bad input: one clear error that names the key, both values and a legal choice, before anything is compiled."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from ml_collections import ConfigDict

import train.loop
from tests.helpers import command
from train import fit
from train.__main__ import main
from train.workdir import config_difference, corpus_facts

ROOT = Path(__file__).parents[1]


def snapshot(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def nothing_compiles(monkeypatch: pytest.MonkeyPatch):
    """Fails the test when anything is initialised or compiled."""
    for name in ("first_state", "make_train_step", "make_eval_step"):
        monkeypatch.setattr(train.loop, name, lambda *args, **kwargs: pytest.fail("compiled before the check"))


CASES = {
    "batch not divided by the mesh": (
        {"data.batch_size": 12},
        "config.data.batch_size=12 is not divisible by the 8 shards of the batch .*config.mesh.data=8.*use 16",
    ),
    "mesh larger than the devices": (
        {"mesh.fsdp": 16, "mesh.data": 1},
        "config.mesh.fsdp=16 needs 16 devices, but there are 8",
    ),
    "mesh smaller than the devices": (
        {"mesh.fsdp": 2, "mesh.data": 2},
        "leaves 4 of 8 devices idle; choose sizes whose product is 8",
    ),
    "mesh that the devices are no multiple of": (
        {"mesh.fsdp": 3},
        "config.mesh.fsdp=3 needs a multiple of 3 devices for config.mesh.data=-1, but there are 8",
    ),
    "heads not divided by tensor": (
        {"mesh.tensor": 4, "model.num_heads": 6, "model.head_dim": 8},
        "config.model.num_heads makes 6 heads, which are not divisible by the 4 parts of config.mesh.tensor=4; "
        r"use a multiple of 4, parts in \[1, 2, 3\], or",
    ),
    "heads not divided by kv heads": (
        {"model.num_kv_heads": 3},
        r"config.model.num_heads=4 is not divisible by config.model.num_kv_heads=3; use one of \[1, 2, 4\]",
    ),
    "width not divided by fsdp": (
        {"model.d_model": 36, "model.head_dim": 8, "mesh.fsdp": 8, "mesh.data": 1},
        "config.model.d_model makes 36 embed, which are not divisible by the 8 parts of config.mesh.fsdp=8; "
        r"use a multiple of 8, parts in \[1, 2, 3, 4, 6\], or",
    ),
    "microbatch that does not divide": (
        {"train.microbatch_rows": 3, "data.batch_size": 16},
        r"config.train.microbatch_rows=3 does not divide the 2 rows .* use one of \[1, 2\]",
    ),
    "layers not divided by stages": (
        {"mesh.stage": 4, "mesh.data": 2},
        "config.model.num_layers=2 is not divisible by the 4 pieces of config.mesh.stage=4 and "
        "config.mesh.schedule='1f1b'; use a multiple of 4",
    ),
    "schedule that is none": (
        {"mesh.stage": 2, "mesh.schedule": "2f2b"},
        "'2f2b' is not known; use one of gpipe, 1f1b",
    ),
    "chunks that the microbatches do not fill": (
        {"mesh.stage": 2, "mesh.schedule": "interleaved,chunks=2", "model.num_layers": 4},
        "config.mesh.schedule='interleaved' with chunks=2 takes microbatches in groups of config.mesh.stage=2, but "
        "a step has 1; choose config.train.microbatch_rows so that it has 2",
    ),
    "schedule and remat at odds": (
        {"mesh.stage": 2, "mesh.schedule": "zero_bubble", "model.remat": "full"},
        "'zero_bubble' keeps what config.model.remat='full' would compute again",
    ),
    "residual not divided by tensor": (
        {"mesh.tensor": 2, "data.seq_len": 31},
        "config.data.seq_len makes 31 residual_length, which are not divisible by the 2 parts of .*"
        "config.mesh.tensor=2; use a multiple of 2",
    ),
    "slices that no axis can cross": (
        {"mesh.num_slices": 8, "mesh.data": 4, "mesh.tensor": 2},
        "config.mesh.num_slices=8 cannot be divided over config.mesh.slice_axes='stage.data.fsdp'",
    ),
    "window longer than the corpus": (
        {"data.seq_len": 100_000},
        "config.data.seq_len=100000 needs windows of 100001 tokens, but train in .* has 2410; use at most 2409",
    ),
    "unknown source": (
        {"data.source": "folder"},
        "config.data.source='folder': 'folder' is not known; use one of stdlib",
    ),
    "unknown name to keep": (
        {"model.remat": "names,keep=logits"},
        "config.model.remat='names,keep=logits': 'logits' is no name; use some of layer_input, qkv",
    ),
    "a name kept twice": (
        {"model.remat": "names,keep=qkv,offload=qkv"},
        "config.model.remat='names,keep=qkv,offload=qkv': 'qkv' is to be kept and to be offloaded; name it once",
    ),
    "no names": ({"model.remat": "names"}, "config.model.remat='names' keeps nothing; use 'full', or keep="),
    "unknown remat": ({"model.remat": "some"}, "config.model.remat='some' is not known; use one of none, full"),
    "unknown rules": ({"mesh.rules": "zero"}, "config.mesh.rules='zero' is not known; use one of zero1, zero2, zero3"),
    "unknown platform": ({"platform": "npu"}, "config.platform='npu' is not known; use 'auto', 'cpu', 'gpu' or 'tpu'"),
    "absent platform": ({"platform": "gpu"}, "config.platform='gpu', but JAX found only 'cpu' devices"),
    "pattern that is none": ({"optimizer.no_decay": "["}, r"config.optimizer.no_decay='\[' is no pattern"),
    "seed out of range": ({"seed": 2**31}, "config.seed=2147483648 must be at least 0 and below 2.31"),
    "no steps": ({"train.steps": 0}, "config.train.steps=0 must be at least 1"),
    "sampling out of range": (
        {"sample.strategy": "sample,top_p=1.5"},
        "config.sample.strategy='sample,top_p=1.5': top_p=1.5 must be above 0 and at most 1",
    ),
    "unknown strategy": (
        {"sample.strategy": "best"},
        "config.sample.strategy='best': 'best' is not known; use one of greedy, sample, beam",
    ),
    "unknown end of a search": (
        {"sample.strategy": "beam,early_stopping=1"},
        "early_stopping=1 must be one of false, true, never",
    ),
    "a stop string that is everywhere": ({"sample.stop": ("",)}, r"config.sample.stop=\(''.\) must be texts that are"),
    "no tokens": ({"sample.max_tokens": 0}, "config.sample.max_tokens=0 must be at least 1"),
    "samples longer than learned positions": (
        {"model.position": "learned", "sample.max_tokens": 30},
        "a prompt of 4 tokens and config.sample.max_tokens=30 do not fit the config.data.seq_len=32 learned positions",
    ),
}


@pytest.mark.usefixtures("nothing_compiles")
@pytest.mark.parametrize("name", CASES)
def test_config_error_is_named_and_leaves_no_run(config: ConfigDict, tmp_path: Path, name: str):
    changes, message = CASES[name]
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        fit(config, tmp_path / "run")
    assert snapshot(tmp_path) == {}


@pytest.mark.usefixtures("nothing_compiles")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "config.data.source='text,path=.*: .* has no file that matches pattern"),
        ({"empty.txt": b""}, "the corpus of config.data.source='text,path=.*' is empty"),
        (
            {"bad.txt": b"ok \xff\xfe"},
            "(?s)max_bad_records=0.0 .*bad.txt: column 'text' is not UTF-8 .byte 3",
        ),
        ({"only.txt": b"one document " * 50}, "config.data.valid_fraction=0.3 leaves no document for"),
    ],
)
def test_corpus_error_is_named(config: ConfigDict, tmp_path: Path, content: dict[str, bytes], message: str):
    (tmp_path / "text").mkdir()
    for name, text in content.items():
        (tmp_path / "text" / name).write_bytes(text)
    config.data.update(source=f"text,path={tmp_path / 'text'}", dir=str(tmp_path / "prepared"), max_bad_records=0.0)
    with pytest.raises(ValueError, match=message):
        fit(config, tmp_path / "run")
    assert not list((tmp_path / "prepared").glob("*"))


def finished_run(config: ConfigDict, workdir: Path) -> dict[str, bytes]:
    """Files as a run leaves them, without training one."""
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    return snapshot(workdir)


@pytest.mark.usefixtures("nothing_compiles")
def test_workdir_of_another_model_says_what_differs_and_stays_as_it_is(config: ConfigDict, tmp_path: Path):
    before = finished_run(config, tmp_path / "run")
    config.model.d_model = 64
    config.seed = 7
    message = (
        "(?s)holds a run with other values of.*config.model.d_model: 32 there, 64 now.*config.seed: 0 there, 7 now"
    )
    with pytest.raises(ValueError, match=message):
        fit(config, tmp_path / "run")
    assert snapshot(tmp_path / "run") == before


def test_what_may_change_between_starts_is_shown(config: ConfigDict, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    finished_run(config, tmp_path / "run")
    config.train.steps = 3
    fit(config, tmp_path / "run")
    said = capfd.readouterr().err
    assert "Changed since the last start: config.train.steps: 10 -> 3" in said
    assert "Epochs: 0.32 of text" in said  # 3 steps of 8 of the 76 windows


def test_a_source_may_move_but_its_shares_may_not_change():
    """Whether what lies there is the same, the hashes of its tokens tell."""
    old, new = ({"data": {"source": source, "valid_source": ""}} for source in ("text,path=a + stdlib", ""))
    for source, fixed in (
        ("text,path=b,pattern=*.md + stdlib", []),
        ("jsonl,path=b,weight=1 + text,path=c", []),
        ("text,path=a,weight=2 + stdlib", ["data.source"]),
        ("text,path=a,epochs=1 + stdlib", ["data.source"]),
        ("text,path=a", ["data.source"]),
        ("", ["data.source"]),
    ):
        new["data"]["source"] = source
        assert list(config_difference(old, new)[0]) == fixed


@pytest.mark.usefixtures("nothing_compiles")
@pytest.mark.parametrize(("change", "fact"), [({"vocab_size": 295}, "tokenizer_sha256"), ({}, "tokens_sha256")])
def test_workdir_of_another_corpus_is_refused(config: ConfigDict, tmp_path: Path, change: dict, fact: str):
    """Another tokenizer, and other texts under the same tokenizer."""
    finished_run(config, tmp_path / "run")
    corpus = train.loop.prepare(config.data)
    facts = corpus_facts(corpus)
    if change:
        other = config.copy_and_resolve_references()
        other.data.update(change, dir=str(tmp_path / "prepared"))
        facts = corpus_facts(train.loop.prepare(other.data))
    facts["tokens_sha256"]["valid"] = "0"
    (tmp_path / "run" / "corpus.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=f"was trained on another corpus than .*{fact} was .*use another --workdir"):
        fit(config, tmp_path / "run")
    with pytest.raises(ValueError, match=f"was trained on another corpus than .*{fact} was"):
        command("evaluate")([f"--workdir={tmp_path / 'run'}"])


@pytest.mark.usefixtures("nothing_compiles")
def test_directory_with_something_else_in_it_is_refused(config: ConfigDict, tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        fit(config, tmp_path)
    assert snapshot(tmp_path) == {str(tmp_path / "thesis.tex"): b"precious"}


@pytest.mark.usefixtures("nothing_compiles")
def test_workdir_that_cannot_be_made_is_an_error(config: ConfigDict, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=f"cannot write to --workdir={tmp_path}/file/run"):
        fit(config, tmp_path / "file" / "run")


@pytest.mark.usefixtures("nothing_compiles")
def test_disk_too_small_for_a_checkpoint_is_an_error(
    config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    config.train.keep_checkpoints = 9
    with pytest.raises(OSError, match=r"has 1 MB free, but 10 checkpoints take 3 MB; use another disk, or config"):
        fit(config, tmp_path / "run")


def run_command(*argv: str, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m train` as a user runs it; `limit` is the largest file the system lets it write, in bytes."""
    shell = f"ulimit -f {limit // 512}; " if limit else ""
    command = f'{shell}exec "$@"'
    return subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, "-m", "train", *argv], capture_output=True, text=True, cwd=ROOT
    )


def test_command_prints_one_line_and_exits_with_2(tmp_path: Path):
    result = run_command("--config", "configs/tiny.py", f"--workdir={tmp_path / 'run'}", "--config.model.d_modl=3")
    assert result.returncode == 2
    assert result.stderr == "error: --config.model.d_modl: unknown config key; did you mean config.model.d_model?\n"
    assert snapshot(tmp_path) == {}


def test_disk_that_fills_up_during_preparation_leaves_nothing(corpus_directory: Path, tmp_path: Path):
    arguments = [f"--config.data.dir={tmp_path}", "--config.data.vocab_size=300"]
    arguments += [f"--config.data.source=text,path={corpus_directory / 'text'}", "--config.data.valid_fraction=0.3"]
    result = run_command("--config=configs/base.py", f"--workdir={tmp_path / 'run'}", *arguments, limit=4096)
    assert result.returncode == 2, result.stderr
    assert f"error: cannot write to config.data.dir='{tmp_path}'" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.glob("*text-*"))


def test_disk_that_fills_up_while_saving_is_one_error_that_names_the_workdir(config: ConfigDict, tmp_path: Path):
    config.train.update(checkpoint_every=2, steps=4)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    result = run_command(
        f"--config={tmp_path}/config.json", f"--workdir={tmp_path / 'run'}", limit=50_000
    )  # half of the parameters
    assert result.returncode == 2, result.stderr
    assert f"error: cannot write a checkpoint to --workdir={tmp_path / 'run'}" in result.stderr
    assert "there is none yet" in result.stderr


def test_fewer_steps_than_the_run_has_made_are_refused(config: ConfigDict, tmp_path: Path):
    config.train.steps = 3
    fit(config, tmp_path / "run")
    config.train.steps = 2
    config.optimizer.warmup_steps = 1
    with pytest.raises(ValueError, match=r"config.train.steps=2, but --workdir=.* is at step 3"):
        fit(config, tmp_path / "run")


def test_a_start_that_was_killed_before_it_wrote_its_config_can_be_repeated(config: ConfigDict, tmp_path: Path):
    (tmp_path / ".probe-1").write_text("x")
    (tmp_path / ".config.json.tmp").write_text("{")
    config.train.steps = 3
    assert fit(config, tmp_path).step == 3


def test_clipping_may_be_switched_off_on_a_restart(config: ConfigDict, tmp_path: Path):
    config.train.steps = 3
    fit(config, tmp_path)
    config.train.steps = 4
    config.optimizer.clip_norm = 0.0
    assert fit(config, tmp_path).step == 4


def test_missing_flags_and_files_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"python -m train needs --config=configs/NAME\.py"):
        main([f"--workdir={tmp_path}"])
    with pytest.raises(ValueError, match=r"python -m train needs --workdir=\.\.\."):
        main([f"--config={ROOT / 'configs/base.py'}"])
    with pytest.raises(ValueError, match=r"tinny.py: no such file; did you mean tiny.py"):
        main([f"--config={ROOT / 'configs/tinny.py'}", f"--workdir={tmp_path}"])


def test_named_device_count_is_what_conftest_simulates():
    assert len(jax.devices()) == 8
    assert os.environ["JAX_PLATFORMS"] == "cpu"
