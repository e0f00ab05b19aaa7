"""The recipes of docs/launch/, as far as a machine without a cluster can tell."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

RECIPES = Path(__file__).parents[1] / "docs" / "launch"


def recorded(script: str, *arguments: str, tool: str, directory: Path, **environment: str) -> list[list[str]]:
    """Runs a recipe with a tool that only notes how it was called."""
    fake, calls = directory / tool, directory / "calls"
    fake.write_text(f'#!/usr/bin/env bash\nprintf "%q " "$@" >> {shlex.quote(str(calls))}; echo >> {calls}\n')
    fake.chmod(0o755)
    path = f"{directory}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", RECIPES / script, *arguments], check=True, env={"PATH": path} | environment)
    return [shlex.split(line) for line in calls.read_text().splitlines()]


@pytest.mark.parametrize("script", ["tpu_vm.sh", "slurm.sbatch"])
def test_scripts_are_sound(script: str):
    subprocess.run(["bash", "-n", RECIPES / script], check=True)
    found = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), RECIPES / script], capture_output=True, text=True
    )
    assert found.stdout == ""
    usage = subprocess.run(["bash", RECIPES / script], capture_output=True, text=True)
    assert (usage.returncode, usage.stderr[:7]) == (2, "usage: ")


def test_tpu_vm_runs_the_same_command_on_all_workers(tmp_path: Path):
    arguments = ["pod", "us-east5-a", "gs://b/run", "configs/tiny.py", "--config.name=a b"]
    copy, install, train = recorded("tpu_vm.sh", *arguments, tool="gcloud", directory=tmp_path)
    assert copy[:4] == ["compute", "tpus", "tpu-vm", "scp"]
    for call in (install, train):
        assert call[:7] == ["compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=us-east5-a", "--worker=all"]
    run = shlex.split(train[7].removeprefix("--command="))
    assert run[:5] == ["cd", "palmette", "&&", ".venv/bin/python", "-m"]
    assert run[5:] == [
        "train",
        "--config=configs/tiny.py",
        "--workdir=gs://b/run",
        "--config.platform=tpu",
        *arguments[4:],
    ]


def test_slurm_expects_all_gpus(tmp_path: Path):
    sizes = {"SLURM_JOB_NUM_NODES": "3", "SLURM_GPUS_PER_NODE": "4"}
    (call,) = recorded("slurm.sbatch", "configs/tiny.py", "/shared/run", tool="srun", directory=tmp_path, **sizes)
    assert call[1:4] == [".venv/bin/python", "-m", "train"]
    assert call[4:6] == ["--config=configs/tiny.py", "--workdir=/shared/run"]
    assert call[-1] == "--config.distributed.num_devices=12"
    assert "#SBATCH --ntasks-per-node=1\n" in (RECIPES / "slurm.sbatch").read_text()


def test_jobset_agrees_with_itself():
    jobset = yaml.safe_load((RECIPES / "gke_jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (slices,) = jobset["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"] == 4
    pod = job["template"]["spec"]
    x, y = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    (container,) = pod["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert chips * job["parallelism"] == x * y
    assert f"--config.distributed.num_devices={slices['replicas'] * x * y}" in container["command"]
    assert container["ports"] == [{"containerPort": 8476}]
