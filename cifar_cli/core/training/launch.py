"""Who starts the processes of a run, and which of them this one is."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cifar_cli.errors import ConfigError, Interrupted, ResourceError

ALIVE_FD = "CIFAR_ALIVE_FD"  # read end of a pipe that the first process holds open while it lives
REQUEUE_SECONDS = 30.0  # that scontrol gets
LEAVE_SECONDS = 3.0  # that a process gets to end by itself
FIRST_SPECIAL_STEP = 0xFFFFFFF0  # SLURM's numbers for a batch script and an interactive shell, which are no tasks


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """This process among those of the run, and where they meet."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Among the processes of this machine; the number of its GPU."""
    local_size: int = 1
    """Processes on this machine."""
    host: str = "127.0.0.1"
    port: int = 0
    agent_store: bool = False
    """torchrun listens on the port; otherwise rank 0 does."""


def place_of(environment: Mapping[str, str]) -> Place:
    """The place that torchrun, or SLURM's `srun`, gave to this process; alone where neither did.

    Raises ConfigError for an environment that contradicts itself.
    """
    if "RANK" in environment or "WORLD_SIZE" in environment:
        return _checked(_of_torchrun(environment), "torchrun's RANK and WORLD_SIZE")
    step = environment.get("SLURM_STEP_ID", "")
    if step.isdigit() and int(step) < FIRST_SPECIAL_STEP and "SLURM_PROCID" in environment:
        return _checked(_of_srun(environment), "srun's SLURM_PROCID and SLURM_NTASKS")
    return Place()


def silence_all_but_rank_0() -> None:
    """Send what this process prints nowhere if a launcher gave it another rank: rank 0 speaks for all."""
    if place_of(os.environ).rank > 0:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nowhere, stream)


@contextmanager
def requeued_on_time_limit(requeue: bool) -> Iterator[None]:
    """Put the SLURM job back into its queue when the block ends because the job's time limit is near.

    Raises what the block raises; the remedy says whether the job was requeued. requeue: False does nothing.
    """
    try:
        try:
            yield
        except KeyboardInterrupt as early:  # before the run has begun, which then handles the signal itself
            if early.args[:1] != (getattr(signal, "SIGUSR1", None),):
                raise
            stopped = Interrupted("interrupted outside of the training")
            stopped.before_time_limit, stopped.exit_code = True, 128 + signal.SIGTERM
            raise stopped from early
    except Interrupted as error:
        if requeue and error.before_time_limit and place_of(os.environ).rank == 0:
            job = os.environ["SLURM_JOB_ID"]
            try:
                subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, timeout=REQUEUE_SECONDS)
                error.remedy = f"nothing: job {job} is in the queue again"
            except (OSError, subprocess.SubprocessError) as failure:
                error.what += f"; `scontrol requeue {job}` failed ({failure})"
        raise


def require_agreement(place: Place, *, devices: int | str, num_nodes: int) -> None:
    """Raise ConfigError where the launcher started another number of processes than was asked for."""
    if place.world_size == 1:
        if num_nodes > 1:
            raise ConfigError(
                f"--num-nodes {num_nodes} needs one process a device on every node, and this is a single process",
                remedy="start the command with torchrun or srun",
            )
        return
    asked = None if devices in ("auto", 1) and num_nodes == 1 else devices
    if isinstance(asked, int) and asked * num_nodes != place.world_size:
        raise ConfigError(
            f"--devices {devices} --num-nodes {num_nodes} asks for {asked * num_nodes} processes, and the launcher "
            f"started {place.world_size}",
            remedy="leave both out: the launcher decides; or start as many tasks as devices",
        )


def _of_torchrun(environment: Mapping[str, str]) -> Place:
    return Place(
        rank=_number(environment, "RANK"),
        world_size=_number(environment, "WORLD_SIZE"),
        local_rank=_number(environment, "LOCAL_RANK", "RANK"),
        local_size=_number(environment, "LOCAL_WORLD_SIZE", "WORLD_SIZE"),
        host=environment.get("MASTER_ADDR", "127.0.0.1"),
        port=_number(environment, "MASTER_PORT"),
        agent_store=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )


def _of_srun(environment: Mapping[str, str]) -> Place:
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "127.0.0.1")
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE", "")
    node = _number(environment, "SLURM_NODEID") if "SLURM_NODEID" in environment else 0
    world_size = _number(environment, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    local_sizes = tasks_per_node(tasks)
    job, step = (int(environment.get(name, "0") or 0) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return Place(
        rank=_number(environment, "SLURM_PROCID"),
        world_size=world_size,
        local_rank=_number(environment, "SLURM_LOCALID", "SLURM_PROCID"),
        local_size=local_sizes[node] if node < len(local_sizes) else world_size,
        host=environment.get("MASTER_ADDR") or first_host(nodes),
        # Below Linux's ephemeral ports; steps of one job that run side by side differ.
        port=int(environment.get("MASTER_PORT") or 15_000 + (job * 7 + step) % 15_000),
    )


def first_host(nodes: str) -> str:
    """The first name in a SLURM node list: "n7" of "n[7-9,12],m1"."""
    found = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\])?([^,\[]*)", nodes)
    return "".join(part or "" for part in found.groups()) if found else nodes


def tasks_per_node(tasks: str) -> list[int]:
    """Numbers of tasks by node: [2, 2, 1] of SLURM's "2(x2),1"; empty for anything else."""
    parts = [re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part) for part in tasks.split(",")]
    return [int(part[1]) for part in parts if part for _ in range(int(part[2] or 1))]


def _number(environment: Mapping[str, str], *names: str) -> int:
    """The first of these variables that is set. Raises ConfigError where none is a whole number."""
    text = next((environment[name] for name in names if name in environment), "")
    if not text.isdigit():
        raise ConfigError(
            f"the environment has {names[0]}={text or 'unset'}, which is no whole number",
            remedy="start the command with torchrun or srun, or unset RANK and WORLD_SIZE",
        )
    return int(text)


def _checked(place: Place, names: str) -> Place:
    if not (place.rank < place.world_size and place.local_rank < place.world_size):
        raise ConfigError(
            f"{names} contradict each other: process {place.rank} (on its node {place.local_rank}) of "
            f"{place.world_size}",
            remedy="start the command with torchrun or srun, and leave their variables alone",
        )
    return place


class Helpers:
    """The processes that a command starts on its own machine: all but the first, which is the command itself.

    They end when the pipe does whose write end this process holds, so that none is left over even if it is killed.
    """

    def __init__(self, world_size: int, *, port: int, device: str) -> None:
        watched, self._alive = os.pipe()
        # Found again where the package is not installed; a copy of this process's path would also shadow modules.
        package = str(Path(__file__).parents[3])
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC_")}
        shared = environment | {"PYTHONPATH": path, ALIVE_FD: str(watched), "WORLD_SIZE": str(world_size)}
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": str(world_size)}
        self._processes = {
            rank: subprocess.Popen(
                [sys.executable, "-P", "-m", "cifar_cli.core.training.helper", device],
                env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(watched,),
                process_group=0,  # a terminal's Ctrl-C reaches the first process only, which tells the others
            )
            for rank in range(1, world_size)
        }
        os.close(watched)

    def dead(self) -> str | None:
        """A clause about the first process that ended; None while all run."""
        for rank, process in self._processes.items():
            status = process.poll()
            if status is not None:
                how = f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
                return f"process {rank} of {len(self._processes) + 1} {how}"
        return None

    def end(self, *, wait_seconds: float = LEAVE_SECONDS) -> None:
        """Wait until all have ended; after `wait_seconds`, end those that are left."""
        deadline = time.monotonic() + wait_seconds
        for process in self._processes.values():
            _wait(process, deadline - time.monotonic())
        os.close(self._alive)
        for process in self._processes.values():
            if not _wait(process, 1.0):
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether the process has ended within so many seconds."""
    try:
        process.wait(max(seconds, 0.0))
    except subprocess.TimeoutExpired:
        return False
    return True


def end_with_the_first_process() -> None:
    """Let this helper end at once when the process that started it does."""
    watched = int(os.environ[ALIVE_FD])

    def watch() -> None:
        while os.read(watched, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def require_gpus(place: Place, *, gpus: int) -> None:
    """Raise ResourceError where a launcher started more processes on this machine than it has GPUs.

    Each process checks the number of all, so that rank 0, which speaks for them, says it.
    """
    needed = max(place.local_size, place.local_rank + 1)
    if needed > gpus:
        raise ResourceError(
            f"the launcher started {needed} processes on a machine, of which this one sees "
            f"{gpus} GPU{'s' if gpus > 1 else ''}",
            remedy="start as many processes as GPUs, and let each see all of them (with srun: --gpus-per-node), "
            "or pass --device cpu",
        )


def started_count(devices: int | str, *, gpus: int) -> int:
    """Processes to start on this machine. gpus: those that a run would use; 0 for a run on the CPU.

    Raises ResourceError for more devices than there are.
    """
    if devices == "auto":
        return max(gpus, 1)
    assert isinstance(devices, int)
    if gpus and devices > gpus:
        raise ResourceError(
            f"--devices {devices} asks for more GPUs than the {gpus} of this machine",
            remedy=f"pass --devices {gpus}, or auto",
        )
    return devices
