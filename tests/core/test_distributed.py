"""Facts about the processes of a run, alone and with real processes over gloo."""

import os
import pathlib
import socket
import subprocess
import textwrap

import pytest
import torch

from helios.core import distributed
from helios.errors import ConfigurationError


@pytest.fixture(autouse=True)
def not_started_by_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


# Without a process group.


def test_one_process() -> None:
    assert not distributed.is_dist_active()
    assert distributed.get_dist_info() == (0, 0, 1, 1)
    info = distributed.get_dist_info()
    assert info.local_rank == info.global_rank == 0
    assert info.local_world_size == info.global_world_size == 1
    assert distributed.get_local_rank() == distributed.get_global_rank() == 0


def test_nothing_to_wait_for_or_to_shut_down() -> None:
    distributed.safe_barrier()
    distributed.shutdown_dist()
    assert not distributed.is_dist_active()


@pytest.mark.parametrize("name", ["all_reduce_tensors", "gather_into_tensor"])
def test_collectives_need_a_group(name: str) -> None:
    with pytest.raises(RuntimeError, match=rf"{name}\(\).*init_dist\(\)"):
        getattr(distributed, name)(torch.ones(2))


@pytest.mark.parametrize("given", [{"rank": 0}, {"world_size": 2}])
def test_only_one_of_rank_and_world_size(given: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="pass both") as caught:
        distributed.init_dist("gloo", **given)
    assert isinstance(caught.value, ValueError)
    assert not distributed.is_dist_active()


def test_print_in_one_process(capsys: pytest.CaptureFixture[str]) -> None:
    distributed.global_print("global", 1)
    distributed.local_print("local", 2)
    distributed.global_print("elsewhere", global_rank=1)
    distributed.local_print("elsewhere", local_rank=1)
    assert capsys.readouterr().out == "global 1\nlocal 2\n"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"LOCAL_RANK": "0"}, False),
        ({"TORCHELASTIC_RUN_ID": "run"}, False),
        ({"TORCHELASTIC_RUN_ID": "run", "LOCAL_RANK": "0"}, True),
    ],
)
def test_is_using_torchrun(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: bool
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert distributed.is_using_torchrun() is expected


# With two processes.

PROGRAM = textwrap.dedent(
    """
    import sys, torch
    from helios.core import distributed

    rank, by_environment = int(sys.argv[1]), sys.argv[2] == "environment"
    if by_environment:
        distributed.init_dist("gloo")
    else:
        distributed.init_dist("gloo", rank=rank, world_size=2)
    assert distributed.is_dist_active()
    info = distributed.get_dist_info()
    assert info.global_rank == distributed.get_global_rank() == rank, info
    assert info.local_rank == distributed.get_local_rank() == (5 if by_environment else rank), info
    assert info.local_world_size == (1 if by_environment else 2), info
    assert info.global_world_size == 2, info

    tensor = torch.tensor([1.0, 10.0]) * (rank + 1)
    assert distributed.all_reduce_tensors(tensor) is tensor
    assert tensor.tolist() == [3.0, 30.0], tensor

    for part in (torch.tensor(rank), torch.full((2, 3), rank), torch.tensor([rank > 0])):
        gathered = distributed.gather_into_tensor(part)
        assert gathered.shape == (2, *part.shape), gathered.shape
        assert gathered.dtype == part.dtype
        assert (gathered[0] == 0).all() and (gathered[1] == 1).all(), gathered

    transposed = torch.arange(6).reshape(2, 3).t() + 100 * rank
    gathered = distributed.gather_into_tensor(transposed)
    assert torch.equal(gathered[rank], transposed), gathered
    assert torch.equal(gathered[1] - gathered[0], torch.full((3, 2), 100)), gathered

    distributed.safe_barrier()
    distributed.global_print("global", rank)
    distributed.global_print("other", rank, global_rank=1)
    distributed.shutdown_dist()
    assert not distributed.is_dist_active()
    assert distributed.get_dist_info() == (0, 0, 1, 1)
    """
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("how", ["arguments", "environment"])
def test_two_processes(tmp_path: pathlib.Path, python: list[str], how: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = []
    for rank in range(2):
        # Two nodes with one process each, to tell local and global numbers apart.
        own = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "5", "LOCAL_WORLD_SIZE": "1"}
        processes.append(
            subprocess.Popen(
                [*python, str(program), str(rank), how],
                env={**os.environ, **address, **(own if how == "environment" else {})},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        results = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, (_, errors) in zip(processes, results, strict=True):
        assert process.returncode == 0, errors
    assert [output for output, _ in results] == ["global 0\n", "other 1\n"]
