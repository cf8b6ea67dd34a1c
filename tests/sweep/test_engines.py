"""Engines: cells are processes that end with what started them, slots never share a core."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cells import PROGRAM, ROOT, installed, scores, statuses, surroundings, tables
from hypothesis import given
from hypothesis import strategies as st

from benchmark import cli
from benchmark.errors import UserError
from benchmark.record.stored import read_record
from benchmark.sweep import engines
from benchmark.sweep.engines import local, ray, slurm

ARGV = ("--method", "ncm", "--stream", "smoke", "--results", "out", "--device", "cpu", "--quiet")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory in which runs are stand-ins."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(engines, "COMMAND", PROGRAM)
    return tmp_path


def seeds(*numbers: int) -> list[tuple[str, ...]]:
    return [(*ARGV, "--seed", str(number)) for number in numbers]


def folder_of(seed: int) -> Path:
    (path,) = Path("out/runs/smoke/ncm").glob(f"*/seed{seed}-order0")
    return path


def running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(true: object, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


# A cell


def test_a_cell_tells_its_exit_code_and_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engines.run_cell(ARGV, engines.threads(1)) == (0, "ncm: done")
    assert read_record(folder_of(0)).complete and surroundings(folder_of(0))["threads"] == "1"
    monkeypatch.setenv("CELLS_FAIL", "ncm")
    assert engines.run_cell(ARGV, {}) == (1, "RuntimeError: the disk is full")
    monkeypatch.setattr(engines, "COMMAND", (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"))
    assert engines.run_cell(ARGV, {}) == (-9, "killed by SIGKILL")
    monkeypatch.setattr(engines, "COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))
    assert engines.run_cell(ARGV, {}) == (3, "exit code 3")


def test_the_real_command_refuses_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    code, line = engines.run_cell(("--method", "ncm", "--stream", "none.yaml"), {})
    assert (code, line) == (2, "error: none.yaml: file not found")


def test_a_cell_knows_its_parent_and_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os; print(os.environ['MORE'], os.environ['MBIL_PARENT'])"
    monkeypatch.setattr(engines, "COMMAND", (sys.executable, "-c", code))
    assert engines.run_cell((), {"MORE": "yes"}) == (0, f"yes {os.getpid()}")


def test_a_cell_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLS_SECONDS", "60")
    stop, begun = threading.Event(), time.monotonic()
    threading.Timer(1.0, stop.set).start()
    assert engines.run_cell(ARGV, {}, stop=stop) == (-15, "killed by SIGTERM")
    assert time.monotonic() - begun < 20


# Slots


@given(own=st.sets(st.integers(0, 63), min_size=1), data=st.data())
def test_no_core_is_in_two_slots_and_none_is_idle(own: set[int], data: st.DataObject) -> None:
    jobs = data.draw(st.none() | st.integers(1, len(own)))
    devices = [str(i) for i in range(data.draw(st.integers(0, 8)))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "cores", lambda: sorted(own))
        dealt = local.slots(jobs, devices)
    assert sorted(core for slot in dealt for core in slot.cores) == sorted(own)
    sizes = [len(slot.cores) for slot in dealt]
    assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 1
    assert sum(slot.threads for slot in dealt) == len(own)
    if jobs is not None:
        assert len(dealt) == jobs
    else:
        assert len(dealt) == (min(len(devices), len(own)) or len(own))
    used = [sum(slot.gpu == device for slot in dealt) for device in devices]
    assert not devices or max(used) - min(used) <= 1
    assert {slot.gpu for slot in dealt} <= ({*devices} or {None})


def test_a_run_over_several_devices_has_them_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "cores", lambda: list(range(8)))
    dealt = local.slots(None, ["0", "1", "2", "3", "5"], each=2)
    assert [(slot.gpu, slot.cores, slot.threads) for slot in dealt] == [
        ("0,1", (0, 1, 2, 3), 2),
        ("2,3", (4, 5, 6, 7), 2),
    ]
    assert [(slot.gpu, slot.threads) for slot in local.slots(None, [], each=2)] == [(None, 1)] * 4


def test_more_slots_than_cores_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "cores", lambda: [0, 3])
    for jobs in (0, 3):
        with pytest.raises(UserError, match=f"--jobs {jobs}: expected 1 to 2"):
            local.slots(jobs, [])


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, ["0", "1"]), ("", []), ("-1", []), ("1", ["1"]), ("1, 0", ["1", "0"]), ("GPU-8a1f,-1,0", ["GPU-8a1f"])],
)
def test_gpus_are_counted_as_cuda_does(
    visible: str | None, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\necho 'GPU 1: NVIDIA H100 (UUID: GPU-2)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert local.gpus() == expected
    monkeypatch.setenv("PATH", "/nowhere")
    assert local.gpus() == []


# On this machine


def test_cells_run_in_slots_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    core = local.cores()[0]
    places = [local.Slot((core,), "7"), local.Slot((core,))]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    outcomes = list(local.run(seeds(0, 1, 2), places))
    assert sorted(outcomes) == [(place, 0, "ncm: done") for place in range(3)]
    found = [surroundings(folder_of(seed)) for seed in range(3)]
    assert [r["cores"] for r in found] == [[core]] * 3 and [r["threads"] for r in found] == ["1"] * 3
    assert {r["gpu"] for r in found} == {"7", None}
    assert os.sched_getaffinity(0) == {*local.cores()}  # ours is as it was


def test_closing_the_engine_ends_the_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLS_SECONDS", "0")
    outcomes = local.run(seeds(0, 1, 2, 3), [local.Slot((local.cores()[0],))])
    assert next(outcomes).place == 0
    monkeypatch.setenv("CELLS_SECONDS", "60")
    begun = time.monotonic()
    outcomes.close()
    assert time.monotonic() - begun < 20
    assert not list(Path("out/runs").glob("*/*/*/seed3-order0"))


def test_a_cell_dies_with_a_killed_parent(tmp_path: Path) -> None:
    code = (
        f"from benchmark.sweep import engines; engines.COMMAND = {PROGRAM!r}\n"
        f"from benchmark.sweep.engines import local; list(local.run({seeds(0)!r}, [local.Slot((local.cores()[0],))]))"
    )
    environment = os.environ | {"CELLS_SECONDS": "60"}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment)
    try:
        wait_until(lambda: list(Path("out/runs").glob("*/*/*/*/run.json")))
        children = Path(f"/proc/{parent.pid}/task").glob("*/children")
        (child,) = [int(pid) for file in children for pid in file.read_text().split()]
        assert running(child)
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not running(child), 5)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, start in (
        ("submitit", lambda: slurm.run(seeds(0), None, {}, tmp_path)),
        ("ray", lambda: ray.run(seeds(0), None, {})),
    ):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UserError, match=r'pip install "mbil-bench\[(slurm|ray)\]"'):
            next(start())


# Clusters


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the workers of a cluster too, cells are stand-ins."""
    monkeypatch.setenv("PYTHONPATH", installed(tmp_path))
    monkeypatch.setenv("CELLS_LOG", str(tmp_path / "log"))


@pytest.mark.usefixtures("stand_ins")
def test_slurm_jobs_by_submitits_local_executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = (*ARGV, "--seed", "x")
    options = {"cluster": "local", "cpus_per_task": 2, "timeout_min": 5}
    outcomes = sorted(slurm.run([*seeds(0, 1), wrong], 2, options, tmp_path / "logs"))
    assert outcomes[:2] == [(0, 0, "ncm: done"), (1, 0, "ncm: done")]
    assert outcomes[2].code == 1 and "seed" in outcomes[2].line
    assert [surroundings(folder_of(seed))["threads"] for seed in (0, 1)] == ["2", "2"]
    with pytest.raises(UserError, match=r"--engine slurm: .*partitoin"):
        next(slurm.run(seeds(0), None, {"cluster": "local", "slurm_partitoin": "gpu"}, tmp_path / "logs"))


def test_slurm_is_not_taken_for_there_when_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"--engine slurm: .*slurm cluster"):
        next(slurm.run(seeds(0), None, {}, tmp_path / "logs"))
    assert not (tmp_path / "logs").exists()


def test_a_preempted_slurm_job_is_queued_again_with_its_arguments() -> None:
    from submitit.core.utils import DelayedSubmission

    again = DelayedSubmission(slurm._requeued, list(ARGV), {"A": "1"}, "/work")._checkpoint_function()
    assert again is not None
    assert (again.function, again.args) == (slurm._requeued, (list(ARGV), {"A": "1"}, "/work"))


@pytest.fixture
def two_nodes(seconds: str | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """A Ray cluster of two nodes on this machine, a core each, and its second node."""
    from ray.cluster_utils import Cluster

    if seconds is not None:
        monkeypatch.setenv("CELLS_SECONDS", seconds)  # before its workers start
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    try:
        yield cluster, cluster.add_node(**small)
    finally:
        cluster.shutdown()


def lose_a_node(cluster: Any, node: Any) -> threading.Thread:
    """Kill the node when each of the two is in the middle of a cell."""

    def watch() -> None:
        wait_until(lambda: statuses().count("running") == 2, 300)
        cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("seconds", ["8"])
def test_the_cell_of_a_lost_ray_node_continues_elsewhere(seconds: str, two_nodes: tuple[Any, Any]) -> None:
    cluster, node = two_nodes
    watcher = lose_a_node(cluster, node)
    outcomes = sorted(ray.run(seeds(0, 1, 2), None, {"address": cluster.address}))
    watcher.join()
    assert len(cluster.list_all_nodes()) == 1
    assert outcomes == [(place, 0, "ncm: done") for place in range(3)]
    lines = sorted(Path("log").read_text().splitlines())
    assert len(lines) == 4 and [line.rsplit(" ", 1)[1] for line in lines].count("continued") == 1
    assert statuses() == ["complete"] * 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seconds", [None])
def test_a_ray_sweep_that_lost_a_node_gives_the_tables_of_a_local_one(
    seconds: None, two_nodes: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real runs: two methods, two seeds, on a cluster of two nodes of which one is killed."""
    monkeypatch.setattr(engines, "COMMAND", (sys.executable, "-m", "benchmark", "run"))
    grid = ("sweep", "--methods", "sequential_lora ncm", "--streams", "smoke", "--seeds", "0 1", "--epochs", "1",
            "--device", "cpu")  # fmt: skip
    cluster, node = two_nodes
    watcher = lose_a_node(cluster, node)
    address = json.dumps({"address": cluster.address})
    assert cli.main([*grid, "--results", "out", "--engine", "ray", "--engine_args", address]) == 0
    watcher.join()
    assert len(cluster.list_all_nodes()) == 1
    assert statuses() == ["complete"] * 4
    assert cli.main([*grid, "--results", "local"]) == 0
    assert scores(Path("out")) == scores(Path("local")) and tables(Path("out")) == tables(Path("local"))
