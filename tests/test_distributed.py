"""Several real processes that are one run: gloo over loopback, with parallel.launch."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from etils import epath
from ml_collections import ConfigDict

from data.command_line import load_config
from parallel import DistributedConfig, make_mesh
from parallel.place import find_place
from tests.test_resume import curves, wait_for, write_config
from train import fit
from train.inspect import tree_sha256
from train.metrics import read_metrics
from train.restore import restore_run

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 12  # config.distributed.timeout_s of the run whose process is killed; the others wait for busy machines
# Every process compiles for itself, what the ones before it have not left in the cache.
QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def launch(num_processes: int, devices: int, *command: str, grace_s: float = 60.0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "parallel.launch", f"--num-processes={num_processes}"),
            *(f"--devices-per-process={devices}", f"--grace-s={grace_s}", "--", "python", *command),
        ],
        cwd=ROOT,
        env=os.environ | QUICK,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def output(process: subprocess.Popen[str]) -> str:
    try:
        return process.communicate(timeout=150)[0]
    finally:
        process.kill()


def training(file: Path, workdir: Path, *overrides: str) -> list[str]:
    return ["-m", "train", f"--config={file}", f"--workdir={workdir}", *overrides]


def losses(workdir: Path) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in read_metrics(workdir) if "loss" in record}


# Finding one's place, without any process.

SLURM = {
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_NODELIST": "node[003-004]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
LAUNCH = {"PALMETTE_COORDINATOR": "127.0.0.1:7001", "PALMETTE_NUM_PROCESSES": "3", "PALMETTE_PROCESS_ID": "2"}
BY_HAND = {"coordinator": "host7", "num_processes": 2, "process_id": 1}


@pytest.mark.parametrize(
    ("environment", "fields", "place"),
    [
        ({}, {}, None),
        (LAUNCH, {}, ("127.0.0.1:7001", 3, 2, None)),
        (LAUNCH, {"coordinator": "host7", "port": 9000, "process_id": 0}, ("host7:9000", 3, 0, None)),
        ({}, BY_HAND, ("host7:8476", 2, 1, None)),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2(x2)"}, {}, ("node003:8476", 4, 3, [1])),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1(x4)"}, {}, ("node003:8476", 4, 3, None)),
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, {}, None),
        (OPEN_MPI, {"port": 7000}, ("10.96.0.1:7000", 2, 1, [1])),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, {}, ("10.96.0.1:8476", 2, 1, None)),
    ],
)
def test_place_by_config_launcher_or_cluster(environment, fields, place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("JAX_COORDINATOR_PORT", raising=False)
    monkeypatch.setattr(os, "environ", {"PATH": os.environ["PATH"]} | environment)
    found = find_place(DistributedConfig(**fields))
    seen = found and (found.coordinator, found.num_processes, found.process_id, found.local_device_ids)
    assert seen == place


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_processes": 2}, "coordinator='', num_processes=2, process_id=None do not make a place"),
        ({**BY_HAND, "process_id": 2}, "process_id=2 do not make a place"),
        ({"timeout_s": 0}, "timeout_s=0 must be at least 1"),
        ({"port": 70000}, "port=70000 from 0 to 65535"),
    ],
)
def test_an_impossible_place_is_an_error(fields, said, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "environ", {})
    with pytest.raises(ValueError, match=re.escape(said)):
        find_place(DistributedConfig(**fields))


def test_a_single_process_starts_nothing():
    """No backend and no thread; in a process of its own, for here JAX has long begun."""
    program = (
        "import parallel, threading; parallel.start(); from jax._src import xla_bridge; import jax; "
        "print(xla_bridge.backends_are_initialized(), jax.distributed.is_initialized(), threading.active_count())"
    )
    said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "False", "1"]


# What the processes say to one another.

TOGETHER = """
import os, pathlib, time, jax
from etils import epath
from parallel import DistributedConfig, barrier, check_shared, ends_together, exchange, in_turns, start
with ends_together():
    start(DistributedConfig(timeout_s=30))
    me = jax.process_index()
    print("exchanged", exchange("squares", str(me * me)))
    order = exchange("turn", in_turns("turn", lambda: str(time.monotonic())))
    print("turns", float(order[0]) < min(map(float, order[1:])))
    folder = epath.Path(FOLDER)
    check_shared(folder / "one")
    barrier("listed")
    print("shared", sorted(path.name for path in (folder / "one").iterdir()))
    try:
        check_shared(folder / str(min(me, 1)))
    except ValueError as error:
        print(error)
    if me != 1:
        try:
            barrier("lunch", 1.0)
        except TimeoutError as error:
            print(error)
    else:
        time.sleep(2)
    if me == 1:
        raise ValueError("there is no soup")
    time.sleep(60)
"""


def test_processes_agree_wait_and_fail_together(tmp_path: Path):
    process = launch(3, 1, "-c", TOGETHER.replace("FOLDER", repr(str(tmp_path))))
    said = output(process)
    lines = said.splitlines()
    host = socket.gethostname()
    for i in range(3):
        assert f"[{i}] exchanged ['0', '1', '4']" in lines
        assert f"[{i}] turns True" in lines
        assert f"[{i}] shared []" in lines
        unseen = f"--workdir={tmp_path}/{min(i, 1)} is not shared: process 0 on {host} does not see what"
        assert any(unseen in line and f"process 1 on {host}, process 2 on {host}" in line for line in lines)
    for i in (0, 2):
        late = f"barrier 'lunch': after 1 s 1 of 3 processes have not come: process 1 on {host}"
        assert f"[{i}] {late}" in lines
        assert f"[{i}] error: process 1 on {host} failed: there is no soup" in lines
    assert "[1] error: there is no soup" in lines
    assert process.returncode == 2
    assert "terminate" not in said


def test_a_start_without_all_processes_says_who_is_missing(tmp_path: Path):
    program = "import parallel; parallel.start(parallel.DistributedConfig(num_processes=3, timeout_s=2))"
    process = launch(2, 1, "-c", f"{program}")
    said = output(process)
    assert process.returncode == 1
    for i in range(2):
        assert "ValueError: only 2 of 3 processes started within" in said
        assert f"missing: process 2; this is process {i} on " in said
    assert "Run on every worker" in said


def test_a_coordinators_port_that_is_taken_is_an_error():
    """Where JAX alone would crash; in a process of its own, which would become process 0."""
    with socket.create_server(("", 0)) as other:
        place = f"coordinator='localhost', port={other.getsockname()[1]}, num_processes=2, process_id=0"
        program = f"import parallel; parallel.start(parallel.DistributedConfig({place}))"
        said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.returncode == 1
    assert re.search(r"ValueError: process 0 on \S+ cannot listen on port \d+ .*: Address already in use", said.stderr)


def test_a_wrong_number_of_devices_says_what_was_seen():
    program = "import parallel; parallel.start(parallel.DistributedConfig(num_devices=8, timeout_s=20))"
    process = launch(2, 2, "-c", f"with __import__('parallel').ends_together(): exec({program!r})")
    said = output(process)
    assert process.returncode != 0
    assert (
        "config.distributed.num_devices=8, but JAX sees 4 devices (2 of them here) in 2 processes; by process: 0 ("
        in said
    )


# Training. The runs share the compiled programs, so those of a mesh come one after the other, in one worker.

FITS = """
import json, sys
from data.command_line import load_config
from parallel import ends_together
from train import fit
with ends_together():
    for workdir, mesh in json.loads(sys.argv[2]).items():
        config = load_config(sys.argv[1])
        config.mesh.update(mesh)
        fit(config, workdir)
"""
# Stages, and the ring of the context, each with its ends in different processes: outer axes span them.
TWO_BY_TWO = {
    "stages": {"data": 1, "stage": 2, "context": 2},
    "context": {"data": 1, "context": 2, "tensor": 2},
}


@pytest.fixture(scope="module")
def setting(corpus_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A config file, and a run of it on one device."""
    from tests.conftest import tiny_config

    config = tiny_config(corpus_directory)
    config.train.update(steps=8, checkpoint_every=4, eval_every=0)
    config.sample.prompts = ()
    directory = tmp_path_factory.mktemp("distributed")
    file = write_config(config, directory / "config.json")
    config.mesh.update(data=1, allow_idle=True)
    fit(config, directory / "one")
    return file, directory / "one"


@pytest.fixture(scope="module")
def four(setting: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run on four processes, parameters and heads divided over them."""
    workdir = tmp_path_factory.mktemp("four") / "run"
    process = launch(4, 1, *training(setting[0], workdir, "--config.mesh.fsdp=2", "--config.mesh.tensor=2"))
    said = output(process)
    assert process.returncode == 0, said
    return workdir


@pytest.mark.xdist_group("four processes")
def test_four_processes_train_as_one_device(setting, four: Path):
    assert losses(four) == pytest.approx(losses(setting[1]), rel=1e-6)
    assert sorted(path.name for path in four.iterdir()) == sorted(path.name for path in setting[1].iterdir())


@pytest.mark.xdist_group("two processes")
def test_two_processes_of_two_devices_train_as_one_device(setting, tmp_path: Path):
    meshes = {str(tmp_path / name): mesh for name, mesh in TWO_BY_TWO.items()}
    process = launch(2, 2, "-c", FITS, str(setting[0]), json.dumps(meshes))
    said = output(process)
    assert process.returncode == 0, said
    for name in TWO_BY_TWO:
        assert losses(tmp_path / name) == pytest.approx(losses(setting[1]), rel=1e-6), name


def children(process: subprocess.Popen[str]) -> list[int]:
    """The launched processes, in their order."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return sorted(map(int, found))


@pytest.mark.xdist_group("four processes")
def test_a_killed_process_is_named_and_the_same_command_continues(setting, four: Path, tmp_path: Path):
    command = training(setting[0], tmp_path, "--config.mesh.fsdp=2", "--config.mesh.tensor=2")
    process = launch(4, 1, *command, f"--config.distributed.timeout_s={TIMEOUT_S}")
    wait_for(lambda: (tmp_path / "metrics.jsonl").exists() and len(losses(tmp_path)) >= 1)
    os.kill(children(process)[2], signal.SIGKILL)
    killed = time.monotonic()
    said = output(process)
    assert time.monotonic() - killed < 2 * TIMEOUT_S + 10  # the service looks at its own pace, and a machine is busy
    assert process.returncode == 137
    assert "launch: process 2 (pid " in said
    assert "was killed by SIGKILL" in said
    for i in (0, 1, 3):
        assert re.search(rf"\[{i}\] error: process 2 on \S+ died or was silent for {TIMEOUT_S} s", said), said
    assert "launch: killing" not in said  # they ended by themselves
    process = launch(4, 1, *command)
    said = output(process)
    assert process.returncode == 0, said
    assert curves(tmp_path) == curves(four)


RESTORE = """
import jax, sys
from jax.sharding import NamedSharding, PartitionSpec
from data.command_line import load_config
from etils import epath
from parallel import barrier, ends_together, make_mesh, start
from train import fit
from train.inspect import tree_sha256
from train.restore import restore_run
with ends_together():
    config, workdir = load_config(sys.argv[1]), epath.Path(sys.argv[2])
    start(config.distributed)
    config.mesh.update(eval(sys.argv[3]))
    mesh = make_mesh(config.mesh)
    state = restore_run(config, workdir, mesh)
    whole = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))(state)
    print("restored", int(state.step), tree_sha256(whole))
    barrier("restored")
    if config.mesh.context > 1:
        if jax.process_index() == 0:
            (workdir / "checkpoints" / "8").rmtree()
        barrier("removed")
        fit(config, workdir)
"""


@pytest.mark.xdist_group("four processes")
def test_fewer_processes_restore_the_same_bits_and_continue_the_curve(setting, four: Path, tmp_path: Path):
    """Parameters, moments and the step; two processes, with a ring between them, and one."""
    one, two = tmp_path / "one", tmp_path / "two"
    shutil.copytree(four, one)
    shutil.copytree(four, two)
    process = launch(2, 1, "-c", RESTORE, str(setting[0]), str(two), "{'data': 1, 'context': 2}")
    said = output(process)
    assert process.returncode == 0, said
    config = load_config(setting[0])
    config.mesh.update(data=1, allow_idle=True)
    state = restore_run(config, epath.Path(one), make_mesh(config.mesh))
    seen = set(re.findall(r"restored \d+ \w+", said))
    assert seen == {f"restored 8 {tree_sha256(state)}"}
    shutil.rmtree(one / "checkpoints" / "8")
    fit(config, one)
    assert "continuing at step 4 of 8" in said
    for workdir in (one, two):
        assert losses(workdir) == pytest.approx(losses(four), rel=1e-5)


@pytest.mark.xdist_group("two processes")
@pytest.mark.parametrize("to", ["launch", "process 1"])
def test_a_signal_stops_all_processes_at_one_step(setting, tmp_path: Path, to: str):
    """Ctrl-C comes to all at once; a cloud's SIGTERM perhaps to one host alone."""
    process = launch(2, 1, *training(setting[0], tmp_path, "--config.train.steps=100000"))
    wait_for(lambda: (tmp_path / "metrics.jsonl").exists() and len(losses(tmp_path)) >= 3)
    if to == "launch":
        process.send_signal(signal.SIGINT)
    else:
        os.kill(children(process)[1], signal.SIGTERM)
    said = output(process)
    assert process.returncode == (130 if to == "launch" else 143), said
    (step,) = re.findall(r"Saved step (\d+) in", said)
    assert max(losses(tmp_path)) == int(step)
    assert max(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == int(step)
    assert "Traceback" not in said
    assert "killing" not in said


def test_hosts_with_other_data_are_named(config: ConfigDict, monkeypatch: pytest.MonkeyPatch):
    import train.workdir
    from data import prepare

    corpus = prepare(config.data)
    monkeypatch.setattr(train.workdir, "name_of", lambda i: f"process {i} on host{i}")

    def exchange(name: str, value: str) -> list[str]:
        other = json.loads(value)
        other["tokens_sha256"]["train"] = "0"
        return [value, value, json.dumps(other)]

    monkeypatch.setattr(train.workdir, "exchange", exchange)
    with pytest.raises(
        ValueError, match="tokens_sha256 of the prepared data differs: process 2 on host2 from process 0"
    ):
        train.workdir.check_equal_corpora(corpus)
