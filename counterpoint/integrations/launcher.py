"""Compare what the launcher of the processes asked for with what a loop has."""

from __future__ import annotations

import os
from collections.abc import Iterator

from counterpoint.core.declare.events import Event
from counterpoint.core.faults import Fault
from counterpoint.launcher import asked_for_several, started_processes

__all__ = ["check_precision", "check_processes"]


def check_processes(known: int, loop: str, on_cpus: str, torchrun: str) -> Iterator[Fault]:
    """Find that a loop knows of another number of processes than were started or asked for.

    ``known`` is the number that the ``loop`` knows of. ``on_cpus`` says which setting connects processes on CPUs, and
    ``torchrun`` is the command that starts them.
    """
    started = started_processes(os.environ)
    if started != known:
        message = f"{started} processes were started, and {loop} knows of {known}"
        yield Fault("loop-limit", message, f"on CPUs, {on_cpus}", event=Event.FIT)
    elif started == 1 and asked_for_several(os.environ):
        yield Fault(
            "loop-limit",
            "accelerate launch was asked for several processes and started one, as it does with --cpu",
            f"start them by {torchrun} --nproc_per_node N script.py, or ask for --num_processes 1; where MASTER_ADDR "
            "was set by hand, unset it",
            event=Event.FIT,
        )


def check_precision(precision: str, where: str, fix: str) -> Iterator[Fault]:
    """Find that ``accelerate launch`` asks for another mixed precision than the loop is set to.

    ``where`` names what the loop's ``precision`` is stated to. In ``fix``, ``{launched}`` stands for the launcher's.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", precision):
        yield Fault(
            "loop-limit",
            f"accelerate launch asks for mixed_precision={launched!r}, and {where} for {precision!r}",
            f"write {fix.format(launched=launched)}, or launch with --mixed_precision {precision}",
            event=Event.FIT,
        )
