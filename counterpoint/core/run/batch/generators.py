"""The global random generators, which no method may draw from."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

from counterpoint.core.errors import ContractError

__all__ = ["GeneratorWatch"]

_Result = TypeVar("_Result")


class GeneratorWatch:
    """Finds draws from the global generators of torch (of the CPU and the current GPU), NumPy and Python.

    ``check(who)`` raises ``ContractError`` if one has moved since the watch was made.

    >>> watch = GeneratorWatch()
    >>> watch.check("mixup.draw")
    """

    def __init__(self) -> None:
        self._before = _states()

    def check(self, who: str) -> None:
        """Raise ``ContractError`` naming the generators that ``who`` has moved."""
        after = _states()
        moved = [name for name, state in self._before.items() if after[name] != state]
        if moved:
            raise ContractError(
                f"{who} draws from the global generator of {' and '.join(moved)}, so its numbers depend on whatever "
                "else draws from it and no resumed run repeats them: draw by `rng` in `draw(self, batch, rng)`, or run "
                "what must use it in torch.random.fork_rng()"
            )

    def except_for(self, who: str, call: Callable[[], _Result]) -> _Result:
        """Return what a call returns, which may draw from them."""
        self.check(who)
        result = call()
        self._before = _states()
        return result


def _states() -> dict[str, Any]:
    states: dict[str, Any] = {
        "torch": torch.random.get_rng_state().numpy().tobytes(),
        "NumPy": _plain(np.random.get_state(legacy=False)),  # noqa: NPY002, the global one is what is watched
        "Python": random.getstate(),
    }
    if torch.cuda.is_available() and not torch.cuda.is_current_stream_capturing():
        states["torch.cuda"] = torch.cuda.get_rng_state().numpy().tobytes()
    return states


def _plain(state: Any) -> Any:
    """Return the state of NumPy's generator with arrays as bytes, to compare."""
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    return state.tobytes() if isinstance(state, np.ndarray) else state
