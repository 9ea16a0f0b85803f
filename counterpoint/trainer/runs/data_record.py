"""A record of a data set: its size, its class names, the examples of each class, and a fingerprint."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from counterpoint.trainer.data.dataset import Data, DataModule
from counterpoint.trainer.runs.integrity import tensors_digest

__all__ = ["data_changes", "data_record", "examples_of"]

_LABELS = ("targets", "labels", "_labels")
_SHOWN = 5


def data_record(data: DataModule) -> dict[str, Any]:
    """Return what training and evaluation data hold, as plain data.

    The fingerprint is that of the data set's method ``fingerprint()``, or that of Hugging Face's data sets. Otherwise
    it is a digest of the tensors, arrays and lists among its attributes that have an entry for each example. A data set
    without any has no fingerprint, and only its size is compared.
    """
    classes = list(data.spec.classes)
    return {"classes": classes, "train": _part(data.train, classes), "evaluation": _part(data.evaluation, classes)}


def data_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs between the data of two starts of a run, a line each."""
    lines = []
    if before["classes"] != now["classes"]:
        lines.append(f"data: the classes were {_listed(before['classes'])}, and are {_listed(now['classes'])}")
    for name in ("train", "evaluation"):
        was, found = before[name], now[name]
        if was["examples"] != found["examples"]:
            lines.append(f"data.{name}: had {was['examples']} examples, and has {found['examples']}")
        counts = _count_changes(was["counts"] or {}, found["counts"] or {})
        lines += [f"data.{name}: {line}" for line in counts[:_SHOWN]]
        if len(counts) > _SHOWN:
            lines.append(f"data.{name}: and {len(counts) - _SHOWN} more classes of other sizes")
        if was["fingerprint"] != found["fingerprint"] and was["examples"] == found["examples"] and not counts:
            lines.append(f"data.{name}: other examples than before, of the same number")
    return [f"  {line}" for line in lines]


def _count_changes(was: Mapping[str, int], now: Mapping[str, int]) -> list[str]:
    names = [*was, *(name for name in now if name not in was)]
    return [
        f"class {name!r} had {was.get(name, 0)} examples, and has {now.get(name, 0)}"
        for name in names
        if was.get(name, 0) != now.get(name, 0)
    ]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(map(repr, names[:_SHOWN])) or "not named") + more


def examples_of(data: Data) -> Any:
    """Return the data set, also where a DataLoader of it was given."""
    return data.dataset if isinstance(data, DataLoader) else data


def _count(data: Any) -> int | None:
    """Return the number of examples; a stream has none."""
    try:
        return len(data)
    except TypeError:
        return None


def _part(given: Data, classes: Sequence[str]) -> dict[str, Any]:
    data = examples_of(given)
    labels = _labels(data)
    counts = None
    if labels is not None:
        counted = sorted(Counter(labels).items())
        counts = {classes[label] if 0 <= label < len(classes) else str(label): count for label, count in counted}
    return {"examples": _count(data), "counts": counts, "fingerprint": fingerprint(data)}


def fingerprint(data: object) -> str | None:
    """Return a digest of what a data set holds, as far as it can be known without loading every example."""
    stated = getattr(data, "fingerprint", None) or getattr(data, "_fingerprint", None)
    if stated is not None:
        return str(stated() if callable(stated) else stated)
    found = hashlib.sha256()
    count = 0
    for name, value in _aligned(data):
        found.update(f"{name}:{_digest(value)};".encode())
        count += 1
    return found.hexdigest()[:32] if count else None


def _aligned(data: Any) -> Iterator[tuple[str, object]]:
    """Give what of a data set has an entry for each example, by name."""
    if isinstance(data, TensorDataset):
        yield from ((str(number), tensor) for number, tensor in enumerate(data.tensors))
    elif isinstance(data, Subset):
        yield "indices", list(data.indices)
        yield "of", data.dataset
    elif isinstance(data, ConcatDataset):
        yield from ((str(number), part) for number, part in enumerate(data.datasets))
    elif isinstance(data, list | tuple):
        yield "items", data
    else:
        for name, value in sorted(getattr(data, "__dict__", {}).items()):
            if isinstance(value, Tensor | np.ndarray | list | tuple) and _length(value) == _count(data):
                yield name, value


def _length(value: Any) -> int:
    return 0 if isinstance(value, Tensor | np.ndarray) and value.ndim == 0 else len(value)


def _digest(value: object) -> str:
    """Return a digest of tensors, arrays and plain values in lists; of anything else, its type counts."""
    if isinstance(value, Tensor):
        return tensors_digest({"": value})
    if isinstance(value, np.ndarray) and value.dtype != object:
        digest = hashlib.sha256(f"{value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).view(np.uint8).data if value.size else b"")
        return digest.hexdigest()
    if isinstance(value, list | tuple | np.ndarray):
        digest = hashlib.sha256(f"{len(value)}".encode())
        for item in value:
            digest.update(_digest(item).encode())
        return digest.hexdigest()
    if isinstance(value, Dataset):
        return str(fingerprint(value))
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return f"{type(value).__name__} {value!r}"
    return type(value).__qualname__


def _labels(data: Any) -> list[int] | None:
    """Return the class index of every example, where a data set has them at hand."""
    if isinstance(data, Subset):
        inner = _labels(data.dataset)
        return None if inner is None else [inner[index] for index in data.indices]
    if isinstance(data, ConcatDataset):
        parts = [_labels(part) for part in data.datasets]
        return None if None in parts else [label for part in parts for label in part or ()]
    if isinstance(data, TensorDataset):
        return _whole_numbers(data.tensors[-1], len(data))
    return next((found for name in _LABELS if (found := _whole_numbers(getattr(data, name, None), _count(data)))), None)


def _whole_numbers(values: Any, count: int | None) -> list[int] | None:
    if isinstance(values, Tensor | np.ndarray):
        values = torch.as_tensor(values)
        values = values.tolist() if values.ndim == 1 and not values.is_floating_point() else None
    if not isinstance(values, list) or len(values) != count:
        return None
    return values if all(type(value) is int for value in values) else None
