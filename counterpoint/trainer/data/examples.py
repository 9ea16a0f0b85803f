"""Load examples in any process; an error names the example that cannot be made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import default_collate

from counterpoint.core.errors import CounterpointError, DataError, RunError
from counterpoint.core.run.failures import describe_error
from counterpoint.trainer.data.dataset import Example

__all__ = ["Failure", "attempt", "batches", "collate"]


@dataclass(frozen=True)
class Failure:
    """An error of an example or a batch in a worker, as data, because an exception would lose its type on the way."""

    message: str


def attempt(make: Callable[[], Example], index: int) -> Example | Failure:
    """Make the example at ``index``, or say why that cannot be done.

    >>> attempt(lambda: [][0], 17)
    Failure(message='example 17 cannot be made: IndexError: list index out of range (...)')
    """
    try:
        return make()
    except CounterpointError as error:
        return Failure(str(error))
    except Exception as error:  # noqa: BLE001 - the code of a data set, whose error is raised by the loop
        return Failure(f"example {index} cannot be made: {describe_error(error)}")


def collate(examples: Sequence[Example | Failure]) -> Any:
    """Put examples together as torch does, or return the first failure among them."""
    for example in examples:
        if isinstance(example, Failure):
            return example
    try:
        return default_collate(list(examples))
    except (RuntimeError, TypeError) as error:
        return Failure(f"examples cannot be put together: {error}; give all inputs one shape, and targets one form")


def batches(loader: Iterable[Any], name: str) -> Iterator[Any]:
    """Give the batches of a loader of the ``name`` data.

    Raises ``DataError`` for a failure, and ``RunError`` if a process that loads data has died.
    """
    try:
        for batch in loader:
            if isinstance(batch, Failure):
                raise DataError(f"the {name} data: {batch.message}")
            yield batch
    except RuntimeError as error:
        if isinstance(error, CounterpointError) or "DataLoader worker" not in str(error):
            raise
        raise RunError(f"a process that loads the {name} data has died, perhaps for want of memory: {error}") from error
