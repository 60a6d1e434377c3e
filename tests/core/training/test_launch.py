"""Which rank a process has, by the environment that a launcher gives it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training import group
from cifar_cli.core.training import train as train_module
from cifar_cli.core.training.config import ResumeConfig, TrainConfig
from cifar_cli.core.training.group import joined
from cifar_cli.core.training.launch import (
    Place,
    first_host,
    place_of,
    require_agreement,
    require_gpus,
    started_count,
    tasks_per_node,
)
from cifar_cli.core.training.train import ranks_of
from cifar_cli.errors import ConfigError, ResourceError

TORCHRUN = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "n7",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}


def srun(rank: int, *, tasks_of_nodes: str, node: int = 0, local: int = 0, tasks: int = 2) -> dict[str, str]:
    """The variables that `srun` sets for a task."""
    return {
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(local),
        "SLURM_NODEID": str(node),
        "SLURM_NTASKS": str(tasks),
        "SLURM_STEP_NUM_TASKS": str(tasks),
        "SLURM_STEP_TASKS_PER_NODE": tasks_of_nodes,
        "SLURM_STEP_NODELIST": "n[07-08]" if tasks_of_nodes.startswith("1") else "n07",
    }


@pytest.mark.parametrize("rank", [0, 1])
def test_every_process_sees_that_a_launcher_started_more_than_there_are_gpus(rank: int) -> None:
    require_gpus(Place(rank=rank, world_size=2, local_rank=rank, local_size=2), gpus=2)
    with pytest.raises(ResourceError, match="started 2 processes on a machine, of which this one sees 1 GPU"):
        require_gpus(Place(rank=rank, world_size=2, local_rank=rank, local_size=2), gpus=1)


def test_processes_that_do_not_start_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "START_SECONDS", 0.5)
    for name, value in srun(0, tasks_of_nodes="2").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    expected = r"^1 of the 2 processes of this run started within 0.5 seconds"
    with pytest.raises(ResourceError, match=expected) as caught, joined(device="cpu"):
        pass
    assert "launcher's log" in (caught.value.remedy or "")


@pytest.mark.parametrize(("usable", "threads"), [(2, 8), (64, 4)])
def test_threads_are_shared_unless_the_launcher_has_shared_the_cores(
    monkeypatch: pytest.MonkeyPatch, usable: int, threads: int
) -> None:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(usable)))
    torch.set_num_threads(8)
    try:
        with group._threads_shared(2):
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_without_a_launcher_a_process_is_alone() -> None:
    assert place_of({"PATH": "/bin"}) == Place(rank=0, world_size=1)


def test_torchrun_gives_the_ranks() -> None:
    assert place_of(TORCHRUN) == Place(
        rank=3, world_size=4, local_rank=1, local_size=2, host="n7", port=29500, agent_store=True
    )


def test_srun_gives_the_ranks_of_two_tasks_on_one_node() -> None:
    places = [place_of(srun(rank, tasks_of_nodes="2", local=rank)) for rank in range(2)]
    assert [(place.rank, place.local_rank, place.local_size, place.world_size) for place in places] == [
        (0, 0, 2, 2),
        (1, 1, 2, 2),
    ]
    assert {(place.host, place.port) for place in places} == {("n07", places[0].port)}


def test_srun_gives_the_ranks_of_one_task_on_each_of_two_nodes() -> None:
    places = [place_of(srun(rank, tasks_of_nodes="1(x2)", node=rank)) for rank in range(2)]
    assert [(place.rank, place.local_rank, place.local_size, place.world_size) for place in places] == [
        (0, 0, 1, 2),
        (1, 0, 1, 2),
    ]
    assert {place.host for place in places} == {"n07"}


def test_a_batch_script_or_a_shell_of_slurm_is_no_task() -> None:
    batch = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}
    assert place_of(batch).world_size == 1
    assert place_of(batch | {"SLURM_STEP_ID": str(0xFFFFFFFA)}).world_size == 1


def test_torchrun_inside_a_slurm_job_decides() -> None:
    assert place_of(TORCHRUN | srun(0, tasks_of_nodes="2")).world_size == 4


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (TORCHRUN | {"RANK": "4"}, "RANK and WORLD_SIZE contradict each other: process 4"),
        ({"RANK": "0"}, "WORLD_SIZE=unset, which is no whole number"),
        (TORCHRUN | {"WORLD_SIZE": "two"}, "WORLD_SIZE=two, which is no whole number"),
        (srun(2, tasks_of_nodes="3"), "SLURM_PROCID and SLURM_NTASKS contradict each other"),
    ],
)
def test_an_environment_that_contradicts_itself_is_one_sentence(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        place_of(environment)
    assert caught.value.remedy


def test_another_number_of_tasks_than_devices_is_refused() -> None:
    four = place_of(srun(0, tasks_of_nodes="4", tasks=4))
    with pytest.raises(ConfigError, match="asks for 2 processes, and the launcher started 4"):
        require_agreement(four, devices=2, num_nodes=1)
    require_agreement(four, devices=2, num_nodes=2)
    require_agreement(four, devices=1, num_nodes=1)  # the defaults leave it to the launcher
    require_agreement(four, devices="auto", num_nodes=1)


def test_several_nodes_need_a_launcher() -> None:
    with pytest.raises(ConfigError, match="--num-nodes 2 needs") as caught:
        require_agreement(Place(), devices=2, num_nodes=2)
    assert "torchrun or srun" in str(caught.value)


def test_a_run_of_several_nodes_goes_on_on_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = TrainConfig(model=ModelConfig(name="null"), num_nodes=2, device="cpu")
    monkeypatch.setattr(train_module, "run_config", lambda run_dir: begun)
    with ranks_of(ResumeConfig(run_dir=tmp_path)) as ranks:
        assert ranks.world_size == 1


def test_wrong_tasks_are_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in srun(0, tasks_of_nodes="4", tasks=4).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="the launcher started 4"), joined(devices=2, device="cpu"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n7", "n7"), ("n[7-9,12],m1", "n7"), ("gpu[01,03]-ib", "gpu01-ib"), ("a,b", "a"), ("10.0.0.1", "10.0.0.1")],
)
def test_the_first_host_of_a_node_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_tasks_per_node() -> None:
    assert tasks_per_node("2(x2),1") == [2, 2, 1]
    assert tasks_per_node("") == []


def test_auto_takes_all_gpus_and_one_process_on_a_cpu() -> None:
    assert (started_count("auto", gpus=4), started_count("auto", gpus=0)) == (4, 1)
    assert (started_count(2, gpus=4), started_count(3, gpus=0)) == (2, 3)
    with pytest.raises(ResourceError, match="--devices 5 asks for more GPUs than the 4 of this machine"):
        started_count(5, gpus=4)
