"""The state of algorithms, as flat named tensors for a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from counterpoint.core.errors import CheckpointError, DeclarationError
from counterpoint.core.plan.member import Member
from counterpoint.core.tensors.names import renamed
from counterpoint.core.tensors.sharding import placed_like, whole

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["Remembered", "load_states", "pack_states"]


class Remembered:
    """The state of the algorithms of a plan, by their names.

    It is created at the first call, and the model may be sharded before that; ``states`` is ``None`` until then.
    """

    def __init__(self, members: Sequence[Member], model: nn.Module) -> None:
        self._members, self._model = members, model
        self.states: dict[str, object] | None = None

    def __call__(self) -> dict[str, object]:
        """Return the states of those that have one."""
        if self.states is None:
            self.states = self.made()
        return self.states

    def made(self) -> dict[str, object]:
        """Return new states for the current model; their tensors can be changed outside of inference mode."""
        with torch.inference_mode(False):
            made = {member.identity: member.algorithm.init(self._model) for member in self._members}
        return {identity: state for identity, state in made.items() if state is not None}


def _tensors(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{name}.{key}")
    elif is_dataclass(value) and not isinstance(value, type):
        for part in _kept(value):
            yield from _tensors(getattr(value, part.name), f"{name}.{part.name}")
    else:
        raise DeclarationError(
            f"{name} = {value!r}",
            "the state of an algorithm is checkpointed as tensors",
            "a dataclass of tensors and of mappings of tensors; a count is torch.tensor(0)",
        )


def _kept(state: DataclassInstance) -> list[Field[Any]]:
    """Return the fields that are kept: one with ``init=False`` is a cache, which starts empty."""
    return [part for part in fields(state) if part.init]


def pack_states(states: Mapping[str, object], *, gathered: bool = False) -> dict[str, Tensor]:
    """Return every tensor of the states by a flat name, as ``ema.weights.0.weight``; ``gathered`` from its shards.

    Only what is not contiguous is copied, since files hold contiguous tensors.
    """
    named = _named(states)
    return {name: (whole(tensor) if gathered else tensor).contiguous() for name, tensor in named.items()}


def _named(states: Mapping[str, object]) -> dict[str, Tensor]:
    return {name: tensor for identity, state in states.items() for name, tensor in _tensors(state, identity)}


def load_states(remembered: Remembered, packed: Mapping[str, Tensor]) -> None:
    """Load packed tensors as the states; nothing changes unless all names and shapes fit the current model.

    Names may differ by what wrappers such as DDP and ``torch.compile`` add to them. Raises ``CheckpointError`` for
    names or shapes that do not fit.
    """
    states = remembered.made()
    own = _named(states)
    packed = renamed(packed, own)
    missing, unknown = sorted(own.keys() - packed.keys()), sorted(packed.keys() - own.keys())
    if missing or unknown:
        raise CheckpointError(
            f"the saved state is of other methods or of another model: missing {missing}, unknown {unknown}; compose "
            "the same methods, and load the weights of the model before the state of the engine"
        )
    for name, tensor in own.items():
        if tensor.shape != packed[name].shape:
            raise CheckpointError(
                f"{name} has shape {tuple(packed[name].shape)}, and needs {tuple(tensor.shape)}; load the weights of "
                "the model before the state of the engine"
            )
    with torch.inference_mode(False), torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(placed_like(packed[name], tensor))
    remembered.states = states
