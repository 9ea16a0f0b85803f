"""The facts about the data of a run, and the interfaces of data sets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from counterpoint.core.declare.randomness import Rng
from counterpoint.core.errors import DataError
from counterpoint.trainer.component_config import ComponentConfig

__all__ = [
    "Data",
    "DataModule",
    "DataSpec",
    "DatasetConfig",
    "Example",
    "RandomDataset",
    "SizedDataset",
]

Example = tuple[Tensor, int | Tensor]
"""One item of a data set: its input, and its target (for classification the class index)."""


@dataclass(frozen=True)
class DataSpec:
    """The facts about a data set that a model and a plan need.

    ``task`` and ``inputs`` are the words that ``counterpoint.compose`` takes (``"multiclass"``, ``"normalized"``).
    ``input_shape`` is that of one input, images (C, H, W). ``num_classes`` is ``None`` where there are no classes.
    ``classes`` names them in the order of their indices, where they have names. ``mean`` and ``std`` are those of each
    channel of images, in the scale from 0 to 1, or one for all. If they are stated, the trainer normalises bytes by
    them for a model that takes none. Raises ``DataError`` unless they are equally many and each std is above 0.

    >>> DataSpec("multiclass", "normalized", (1, 8, 8), 10).outputs
    10
    """

    task: str
    inputs: str
    input_shape: tuple[int, ...]
    num_classes: int | None = None
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not all(number > 0 for number in self.std):
            raise DataError(
                f"the mean is stated as {self.mean} and the std as {self.std}; state as many numbers of each, or none, "
                "and each std above 0"
            )

    @property
    def outputs(self) -> int:
        """How many numbers a model gives for one input: one for each class, or one."""
        return 1 if self.num_classes is None else self.num_classes


class SizedDataset(Sized, Protocol):
    """A map-style data set: ``len(data)`` items; ``data[index]`` is an ``Example``."""

    def __getitem__(self, index: int, /) -> Example: ...


Data: TypeAlias = SizedDataset | DataLoader[Any]
"""A data set, or a DataLoader of batches (inputs, targets), which is taken as it is."""


class RandomDataset(Dataset[Example]):
    """A map-style data set whose examples are random and differ in each epoch, such as by random crops.

    All randomness comes from the generator that ``example`` receives, which is keyed by (seed, epoch, index). The
    examples do not depend on the number of workers, and a resumed run gets the same ones.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of examples."""

    @abstractmethod
    def example(self, index: int, rng: Rng) -> Example:
        """Make the example at ``index`` with the randomness of ``rng``."""

    def __getitem__(self, index: int) -> Example:
        """Make the example at ``index`` as in epoch 0 of a run with seed 0."""
        return self.example(index, Rng(0, "example", index))


def _whole() -> None:
    """Take the data as it is."""


@dataclass(frozen=True)
class DataModule:
    """The two data sets of a run, both map-style with items (input, target), and the facts that hold for both.

    ``verify()`` checks what takes too long for a check of a config, such as every file; a run calls it before anything
    is written. It raises ``DataError`` if the data is not whole. ``notes`` are printed at the start of a run and by
    ``counterpoint check``, such as the number of files left out.
    """

    train: Data
    evaluation: Data
    spec: DataSpec
    verify: Callable[[], None] = _whole
    notes: tuple[str, ...] = ()


class DatasetConfig(ComponentConfig):
    """The base of a registered data set: its settings, and ``build``."""

    batch_size: int = Field(default=128, ge=1, le=10**9, description="training examples in a device batch")

    @abstractmethod
    def build(self) -> DataModule:
        """Make the data sets; raises ``DataError`` if they are not whole."""
