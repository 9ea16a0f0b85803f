"""Read the environment variables that a launcher of processes sets."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["TASKS", "asked_for_several", "started_processes"]

TASKS = {
    "SLURM_STEP_NUM_TASKS": "Slurm",
    "OMPI_COMM_WORLD_SIZE": "MPI",
    "PMI_SIZE": "MPI",
    "MV2_COMM_WORLD_SIZE": "MPI",
}
"""Variables with the number of tasks that a launcher other than torchrun started, and the name of the launcher."""
_RANKS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables by which a launcher tells a process that it is one of several, or the only one."""


def started_processes(environment: Mapping[str, str], default: int = 1) -> int:
    """Return the number of processes that torchrun started, ``default`` without it.

    >>> started_processes({"WORLD_SIZE": "2"}), started_processes({})
    (2, 1)
    """
    return int(environment.get("WORLD_SIZE") or default)


def asked_for_several(environment: Mapping[str, str]) -> bool:
    """Whether ``accelerate launch`` was asked for several processes and started one: with an address, without ranks.

    >>> asked_for_several({"ACCELERATE_DYNAMO_MODE": "default", "MASTER_ADDR": "127.0.0.1"})
    True
    >>> asked_for_several({"MASTER_ADDR": "127.0.0.1"})
    False
    """
    launched = environment.keys() >= {"ACCELERATE_DYNAMO_MODE", "MASTER_ADDR"}
    return launched and not any(environment.get(name) for name in _RANKS)
