"""The handwritten digits that come with scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from counterpoint.trainer.data.dataset import DataModule, DatasetConfig, DataSpec, Example

__all__ = ["Digits"]

DIGITS_MEAN, DIGITS_STD = 0.30538, 0.37612
_DIGITS_EVALUATION = 360


@dataclass(frozen=True)
class _Tensors(Dataset[Example]):
    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Example:
        return self.inputs[index], self.targets[index]


class Digits(DatasetConfig):
    """The 1,797 handwritten digits of 8x8 pixels that come with scikit-learn.

    A fixed split, stratified by class, keeps 360 images for evaluation. Inputs are float32 (1, 8, 8), normalised by
    the mean 0.30538 and the standard deviation 0.37612 of the training pixels, where 1 is full ink.

    >>> data = Digits().build()
    >>> len(data.train), len(data.evaluation), data.train[0][0].shape
    (1437, 360, torch.Size([1, 8, 8]))
    """

    def build(self) -> DataModule:
        """Make the data sets; nothing is downloaded."""
        # scikit-learn takes a second to import, and is needed only for digits.
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        pixels = torch.from_numpy(digits.images).to(torch.float32)[:, None] / 16
        inputs, targets = (pixels - DIGITS_MEAN) / DIGITS_STD, torch.from_numpy(digits.target).to(torch.int64)
        train, evaluation = train_test_split(
            np.arange(len(inputs)), test_size=_DIGITS_EVALUATION, stratify=digits.target, random_state=0
        )
        names = tuple(str(name) for name in digits.target_names)
        return DataModule(
            _Tensors(inputs[train], targets[train]),
            _Tensors(inputs[evaluation], targets[evaluation]),
            DataSpec("multiclass", "normalized", (1, 8, 8), len(names), names),
        )
