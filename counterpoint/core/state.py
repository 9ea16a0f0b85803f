"""What algorithms remember, as flat named tensors that a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor, nn

from counterpoint.core.errors import CheckpointError, DeclarationError
from counterpoint.core.member import Member
from counterpoint.core.sharding import placed_like, whole

__all__ = ["Remembered", "load_states", "pack_states"]


class Remembered:
    """What the algorithms of a plan remember, by their names.

    It is made at the first call, up to which a model may be sharded; ``states`` is ``None`` before.
    """

    def __init__(self, members: Sequence[Member], model: nn.Module) -> None:
        self._members, self._model = members, model
        self.states: dict[str, object] | None = None

    def __call__(self) -> dict[str, object]:
        """Return the states of those that have one."""
        if self.states is None:
            made = {member.identity: member.algorithm.init(self._model) for member in self._members}
            self.states = {identity: state for identity, state in made.items() if state is not None}
        return self.states


def _tensors(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{name}.{key}")
    elif is_dataclass(value) and not isinstance(value, type):
        for part in fields(value):
            yield from _tensors(getattr(value, part.name), f"{name}.{part.name}")
    else:
        raise DeclarationError(
            f"{name} = {value!r}",
            "what an algorithm remembers is checkpointed as tensors",
            "a dataclass of tensors and of mappings of tensors; a count is torch.tensor(0)",
        )


def pack_states(states: Mapping[str, object], *, gathered: bool = False) -> dict[str, Tensor]:
    """Return every tensor of the states by a flat name, as ``ema.weights.0.weight``; ``gathered`` from its shards.

    Only what is not contiguous is copied, since files hold contiguous tensors.
    """
    named = _named(states)
    return {name: (whole(tensor) if gathered else tensor).contiguous() for name, tensor in named.items()}


def _named(states: Mapping[str, object]) -> dict[str, Tensor]:
    return {name: tensor for identity, state in states.items() for name, tensor in _tensors(state, identity)}


def load_states(states: Mapping[str, object], packed: Mapping[str, Tensor]) -> None:
    """Copy packed tensors back into the states; nothing changes unless all names and shapes fit.

    Raises ``CheckpointError`` otherwise.
    """
    own = _named(states)
    missing, unknown = sorted(own.keys() - packed.keys()), sorted(packed.keys() - own.keys())
    if missing or unknown:
        raise CheckpointError(f"the saved state is of other methods: missing {missing}, unknown {unknown}")
    for name, tensor in own.items():
        if tensor.shape != packed[name].shape:
            raise CheckpointError(f"{name} has shape {tuple(packed[name].shape)}, and needs {tuple(tensor.shape)}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(placed_like(packed[name], tensor))
