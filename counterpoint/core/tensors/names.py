"""Names of a model's tensors without the wrappers that other libraries put around modules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from counterpoint.core.compat import WRAPPERS

__all__ = ["load_state", "named_tensors", "plain_name", "renamed", "state_of", "unwrapped_name"]

ValueT = TypeVar("ValueT")

_WRAPPED = re.compile(rf"(?:^|(?<=\.))(?:{'|'.join(sorted(WRAPPERS))})\.")


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Return the parameters and buffers of a model by the names that they have without wrappers.

    Tensors of lazy layers that have no shape yet are left out.

    >>> import torch
    >>> model = torch.nn.DataParallel(torch.nn.Linear(2, 1))
    >>> [name for name, _ in named_tensors(model)]
    ['weight', 'bias']
    """
    for named in (model.named_parameters(), model.named_buffers()):
        for name, value in named:
            if not is_lazy(value):
                yield unwrapped_name(model, name), value


def unwrapped_name(model: nn.Module, name: str) -> str:
    """Return the name of a tensor of a model without the wrappers on its path.

    A module of the user's that holds more than one called ``module`` is no wrapper, and stays in the name.
    """
    if not _WRAPPED.search(name):
        return name
    module, kept = model, []
    *path, last = name.split(".")
    for part in path:
        if part not in WRAPPERS or not _only_holds(module, part):
            kept.append(part)
        module = module.get_submodule(part)
    return ".".join([*kept, last])


def _only_holds(module: nn.Module, child: str) -> bool:
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return not own and [name for name, _ in module.named_children()] == [child]


def plain_name(name: str) -> str:
    """Return a name without any part that could be a wrapper's, where the model is not at hand.

    >>> plain_name("module._orig_mod.layer.0._fsdp_wrapped_module.weight")
    'layer.0.weight'
    """
    return _WRAPPED.sub("", name)


def renamed(values: Mapping[str, ValueT], wanted: Iterable[str]) -> dict[str, ValueT]:
    """Return values by the names wanted, where both differ by wrappers alone; else by the names that they have.

    >>> renamed({"module.weight": 1, "module.bias": 2}, ["weight", "bias"])
    {'weight': 1, 'bias': 2}
    """
    wanted = list(wanted)
    own, others = {plain_name(name): name for name in wanted}, {plain_name(name): name for name in values}
    clear = len(own) == len(wanted) and len(others) == len(values) and values.keys() != set(wanted)
    return {own.get(plain_name(name), name) if clear else name: value for name, value in values.items()}


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the ``state_dict`` of a model by the names that its tensors have without wrappers."""
    return {unwrapped_name(model, name): value for name, value in model.state_dict().items()}


def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a ``state_dict`` into a model, where both may have wrappers; raises ``RuntimeError`` if it does not fit."""
    model.load_state_dict(renamed(state, model.state_dict()))
