"""`cifar train` on two devices: real processes that are interrupted, killed and fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.core.training.crew import free_port

pytestmark = pytest.mark.slow
END_SECONDS = 30  # in which every process of the run has to end
START_SECONDS = 120

Start = Callable[..., subprocess.Popen[str]]


def children_of(pid: int) -> list[int]:
    """The processes that a process started, and theirs."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [(int(line.split()[0]), int(line.split()[1])) for line in listed.splitlines()]
    found: list[int] = []
    wanted = [pid]
    while wanted:
        new = [child for child, parent in pairs if parent in wanted and child not in found]
        found, wanted = found + new, new
    return found


def helpers_of(pid: int) -> list[int]:
    return [child for child in children_of(pid) if b"training.helper" in command_line(child)]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.fixture
def start(data_dir: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts `cifar train` on the drawn images; kills what is left after the test."""
    started: list[subprocess.Popen[str]] = []

    def run(
        *options: object, command: tuple[str, ...] = (sys.executable, "-m", "cifar_cli"), **environment: str
    ) -> subprocess.Popen[str]:
        words = ["--dataset", "shapes", "--data-dir", data_dir, "--run-dir", tmp_path / "run", "--device", "cpu"]
        numerics = ["--precision", "32", "--memory-format", "channels-last"]
        process = subprocess.Popen(
            [*command, "train", *map(str, words), *numerics, *map(str, options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def wait_for_epoch(process: subprocess.Popen[str], epoch: int) -> None:
    assert process.stderr is not None
    read = []
    for line in process.stderr:
        read.append(line)
        if line.startswith(f"epoch{epoch:>4}"):
            return
    raise AssertionError("".join(read))


def ended(process: subprocess.Popen[str], others: list[int]) -> tuple[str, str]:
    """What the command printed since; it and its processes end within END_SECONDS."""
    begin = time.monotonic()
    stdout, stderr = process.communicate(timeout=END_SECONDS)
    while any(map(is_running, others)):
        assert time.monotonic() - begin < END_SECONDS, "a process is left over"
        time.sleep(0.1)
    assert "Traceback" not in stderr, stderr
    return stdout, stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_and_ends_all(start: Start, tmp_path: Path, number: int, status: int) -> None:
    process = start("--devices", 2, "--max-epochs", 100_000)
    wait_for_epoch(process, 2)
    helpers = helpers_of(process.pid)
    assert len(helpers) == 1
    process.send_signal(number)
    stdout, stderr = ended(process, helpers)
    assert (process.returncode, stdout) == (status, "")
    assert stderr.count("error:") == 1
    assert "interrupted in epoch" in stderr
    assert f"cifar train --resume {tmp_path / 'run'}" in stderr


def test_a_killed_helper_ends_the_run_with_one_message(start: Start, tmp_path: Path) -> None:
    process = start("--devices", 3, "--max-epochs", 100_000, "--batch", 67)
    wait_for_epoch(process, 2)
    helpers = helpers_of(process.pid)
    assert len(helpers) == 2
    os.kill(helpers[0], signal.SIGKILL)
    stdout, stderr = ended(process, helpers)
    assert (process.returncode, stdout) == (1, "")
    assert stderr.count("error:") == 1
    assert "was killed by signal 9" in stderr
    assert f"cifar train --resume {tmp_path / 'run'}" in stderr


def test_a_process_that_hangs_ends_the_run(start: Start, tmp_path: Path) -> None:
    process = start("--devices", 2, "--max-epochs", 100_000)
    wait_for_epoch(process, 2)
    helpers = helpers_of(process.pid)
    os.kill(helpers[0], signal.SIGSTOP)
    _, stderr = ended(process, helpers)
    assert process.returncode == 1
    assert stderr.count("error:") == 1
    assert "another process of this run ended or can't be reached" in stderr
    assert f"cifar train --resume {tmp_path / 'run'}" in stderr


def test_a_killed_command_leaves_no_process(start: Start) -> None:
    process = start("--devices", 2, "--max-epochs", 100_000)
    wait_for_epoch(process, 1)
    helpers = helpers_of(process.pid)
    process.kill()
    ended(process, helpers)
    assert process.returncode == -signal.SIGKILL


def test_the_time_cap_ends_all_in_time(start: Start, tmp_path: Path) -> None:
    begin = time.monotonic()
    process = start("--devices", 2, "--max-epochs", 100_000, "--max-time", 20, "--json")
    wait_for_epoch(process, 1)
    stdout, _ = ended(process, helpers_of(process.pid))
    assert time.monotonic() - begin < 20 + 15  # of slack for a busy machine
    told = json.loads(stdout)
    assert (told["stopped_by"], told["processes"]) == ("time", 2)
    assert 0 <= told["test_accuracy"] <= 1


def test_nan_ends_all_with_the_message_of_one(start: Start) -> None:
    process = start("--devices", 2, "--max-epochs", 5, "--lr", "1e30")
    stdout, stderr = process.communicate(timeout=START_SECONDS)
    assert (process.returncode, stdout) == (1, "")
    assert stderr.count("error:") == 1
    assert "lower --lr" in stderr


@pytest.mark.parametrize("devices", [1, 2])
def test_no_space_ends_all_with_the_message_of_one(start: Start, devices: int) -> None:
    """A limit on the size of files, below that of a checkpoint, in place of a full disk."""
    limited = ("bash", "-c", 'ulimit -f 1000; exec "$@"', "bash", sys.executable, "-m", "cifar_cli")
    process = start("--devices", devices, "--max-epochs", 5, command=limited)
    stdout, stderr = process.communicate(timeout=START_SECONDS)
    assert (process.returncode, stdout) == (1, ""), stderr
    assert stderr.count("error:") == 1
    assert "there is no space left to write to" in stderr


def test_torchrun_trains_once_and_prints_once(start: Start, tmp_path: Path) -> None:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port")
    process = start("--max-epochs", 2, "--json", command=(*torchrun, str(free_port()), "-m", "cifar_cli"))
    stdout, stderr = process.communicate(timeout=START_SECONDS)
    assert process.returncode == 0, stderr
    assert json.loads(stdout)["processes"] == 2
    assert stderr.count("epoch   2") == 1
    assert stderr.count("training null") == 1
    assert (tmp_path / "run/metrics.csv").read_text().count("\n") == 3


@pytest.mark.parametrize("nodes", [1, 2])
def test_two_tasks_of_srun_train_one_run(start: Start, nodes: int) -> None:
    def task(rank: int) -> subprocess.Popen[str]:
        return start(
            "--max-epochs", 1, "--num-nodes", nodes, "--devices", 2 // nodes,
            SLURM_JOB_ID=str(port), SLURM_STEP_ID="0", SLURM_PROCID=str(rank), SLURM_NTASKS="2",
            SLURM_STEP_NUM_TASKS="2", SLURM_STEP_NODELIST="localhost", MASTER_PORT=str(port),
            SLURM_LOCALID=str(rank if nodes == 1 else 0), SLURM_NODEID=str(0 if nodes == 1 else rank),
            SLURM_STEP_TASKS_PER_NODE="2" if nodes == 1 else "1(x2)",
        )  # fmt: skip

    port = free_port()
    first, second = task(0), task(1)
    stdout, stderr = first.communicate(timeout=START_SECONDS)
    assert first.returncode == 0, stderr
    assert "test accuracy" in stdout
    assert second.communicate(timeout=END_SECONDS) == ("", "")
    assert second.returncode == 0


def test_more_tasks_than_devices_are_one_sentence(start: Start, tmp_path: Path) -> None:
    process = start(
        "--devices", 2, SLURM_JOB_ID="1", SLURM_STEP_ID="0", SLURM_PROCID="0", SLURM_NTASKS="4",
        SLURM_STEP_NODELIST="localhost", SLURM_LOCALID="0", SLURM_NODEID="0", SLURM_TASKS_PER_NODE="4",
    )  # fmt: skip
    stdout, stderr = process.communicate(timeout=START_SECONDS)
    assert (process.returncode, stdout) == (1, "")
    assert "the launcher started 4" in stderr
    assert not (tmp_path / "run").exists()


def test_a_run_of_two_is_resumed_by_one(start: Start, tmp_path: Path) -> None:
    process = start("--devices", 2, "--max-epochs", 100_000)
    wait_for_epoch(process, 1)
    process.send_signal(signal.SIGINT)
    ended(process, [])
    epochs = len((tmp_path / "run/metrics.csv").read_text().splitlines()) + 1  # the header, one row per epoch, one more
    words = ["--resume", str(tmp_path / "run"), "--devices", "1", "--max-epochs", str(epochs), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "cifar_cli", "train", *words], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["processes"] == 1
