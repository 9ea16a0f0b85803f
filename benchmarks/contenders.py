"""The libraries that are compared, each by the functions its own documentation uses; one that is absent is left out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import one_hot

import counterpoint as cp
from benchmarks.check import CLASSES, MEAN, SMOOTHING, STD

__all__ = ["LENGTH", "Contender", "Ours", "chain", "peers"]

HOST = torch.device("cpu")
LENGTH = 0.5
"""Side of the hole as a share of the image's; those that draw an area get this side's."""


class Contender(Protocol):
    """What a library does to a batch: each part, and the whole chain; made for a device and a dtype.

    ``hole_each`` is true where ``erase`` draws a hole for each image, false where one hole serves the batch.
    """

    name: str
    hole_each: bool

    def normalize(self, images: Tensor) -> Tensor:
        """Turn bytes into normalised values of the dtype."""

    def erase(self, images: Tensor) -> Tensor:
        """Fill a hole with 0."""

    def mix(self, images: Tensor, labels: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        """MixUp, with dense targets."""

    def paste(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """CutMix, with dense targets."""


def chain(contender: Contender, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Run all parts: bytes, normalised, erased, mixed, with smoothed dense targets."""
    return contender.mix(contender.erase(contender.normalize(images)), labels, SMOOTHING)


def _smoothed(rows: Tensor, smoothing: float) -> Tensor:
    return rows * (1 - smoothing) + smoothing / CLASSES if smoothing else rows


class Composer:
    """MosaicML Composer's functions; its normalisation is torchvision's, as in its examples."""

    name = "Composer's functions"
    hole_each = False

    def __init__(self, device: torch.device = HOST, dtype: torch.dtype = torch.float32) -> None:
        self._cutout = import_module("composer.algorithms.cutout").cutout_batch
        self._mixup = import_module("composer.algorithms.mixup").mixup_batch
        self._cutmix = import_module("composer.algorithms.cutmix").cutmix_batch
        self._mean = torch.tensor(MEAN).mul(255).view(-1, 1, 1).to(device, dtype)
        self._std = torch.tensor(STD).mul(255).view(-1, 1, 1).to(device, dtype)

    def normalize(self, images: Tensor) -> Tensor:
        return images.to(self._mean.dtype).sub_(self._mean).div_(self._std)

    def erase(self, images: Tensor) -> Tensor:
        return self._cutout(images, num_holes=1, length=LENGTH)

    def mix(self, images: Tensor, labels: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        rows = _smoothed(one_hot(labels, CLASSES).float(), smoothing)
        inputs, partners, share = self._mixup(images, rows, alpha=0.2)
        return inputs, (1 - share) * rows + share * partners

    def paste(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        rows = one_hot(labels, CLASSES).float()
        inputs, partners, kept, _ = self._cutmix(images, rows, alpha=1.0)
        return inputs, kept * rows + (1 - kept) * partners


class Torchvision:
    """torchvision.transforms.v2, in place where it can; its holes are the same for the whole batch."""

    name = "torchvision v2"
    hole_each = False

    def __init__(self, device: torch.device = HOST, dtype: torch.dtype = torch.float32) -> None:
        self._t = t = import_module("torchvision.transforms.v2")
        self._to_float = t.ToDtype(dtype, scale=True)
        self._normalize = t.Normalize(MEAN, STD, inplace=True)
        self._erase = t.RandomErasing(p=1.0, scale=(LENGTH**2, LENGTH**2), ratio=(1.0, 1.0), inplace=True)
        self._mixup = t.MixUp(alpha=0.2, num_classes=CLASSES)
        self._cutmix = t.CutMix(alpha=1.0, num_classes=CLASSES)

    def normalize(self, images: Tensor) -> Tensor:
        return self._normalize(self._to_float(images))

    def erase(self, images: Tensor) -> Tensor:
        return self._erase(images)

    def mix(self, images: Tensor, labels: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        inputs, rows = self._mixup(images, labels)
        return inputs, _smoothed(rows, smoothing)

    def paste(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return self._cutmix(images, labels)


class Timm:
    """timm: what its loader does to a batch (normalise, erase a box a sample), and its Mixup."""

    name = "timm"
    hole_each = True

    def __init__(self, device: torch.device = HOST, dtype: torch.dtype = torch.float32) -> None:
        self._data = import_module("timm.data")
        self._mean = torch.tensor(MEAN).mul(255).view(1, -1, 1, 1).to(device, dtype)
        self._std = torch.tensor(STD).mul(255).view(1, -1, 1, 1).to(device, dtype)
        erasing = import_module("timm.data.random_erasing").RandomErasing
        area = LENGTH**2
        self.erasing = erasing(probability=1.0, min_area=area, max_area=area, min_aspect=1.0, max_aspect=1.0)
        self.erasing.device = str(device)

    def normalize(self, images: Tensor) -> Tensor:
        return images.to(self._mean.dtype).sub_(self._mean).div_(self._std)

    def erase(self, images: Tensor) -> Tensor:
        return self.erasing(images)

    def mix(self, images: Tensor, labels: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        return self._data.Mixup(mixup_alpha=0.2, label_smoothing=smoothing, num_classes=CLASSES)(images, labels)

    def paste(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        mixer = self._data.Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, label_smoothing=0.0, num_classes=CLASSES)
        return mixer(images, labels)


class Kornia:
    """kornia's augmentation modules."""

    name = "kornia"
    hole_each = True

    def __init__(self, device: torch.device = HOST, dtype: torch.dtype = torch.float32) -> None:
        k, self._dtype = import_module("kornia.augmentation"), dtype
        keys = {"data_keys": ["input", "class"]}
        self._normalize = k.Normalize(torch.tensor(MEAN), torch.tensor(STD)).to(device)
        self._erase = k.RandomErasing(p=1.0, scale=(LENGTH**2, LENGTH**2), ratio=(1.0, 1.0))
        self._mixup = k.RandomMixUpV2(p=1.0, lambda_val=torch.tensor([0.0, 1.0]), **keys)
        self._cutmix = k.RandomCutMixV2(p=1.0, **keys)

    def normalize(self, images: Tensor) -> Tensor:
        return self._normalize(images.to(self._dtype) / 255)

    def erase(self, images: Tensor) -> Tensor:
        return self._erase(images)

    def mix(self, images: Tensor, labels: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        inputs, mixed = self._mixup(images, labels)
        return inputs, self._rows(mixed, smoothing)

    def paste(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        inputs, mixed = self._cutmix(images, labels)
        return inputs, self._rows(mixed[0], 0.0)

    def _rows(self, mixed: Tensor, smoothing: float) -> Tensor:
        own, other = (_smoothed(one_hot(mixed[:, part].long(), CLASSES).float(), smoothing) for part in (0, 1))
        share = mixed[:, 2:]
        return (1 - share) * own + share * other


class Ours:
    """A plan of counterpoint, called for one step after the other."""

    def __init__(self, name: str, algorithms: list[Any], *, donate: bool = False, **settings: Any) -> None:
        self.name, self._donate = name, donate
        facts = {"loss": torch.nn.CrossEntropyLoss(), "task": "multiclass", "num_classes": CLASSES, "contract": "off"}
        self.plan = cp.compose(algorithms, **facts | settings)
        self.step = 0

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Edit a batch."""
        self.step += 1
        return self.plan(images, labels, step=self.step, donate=self._donate)

    def drawn(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the holes and the weights of the last call, from its draws."""
        count, _, height, width = images.shape
        draws = self.plan.draws(self.step, cp.BatchSpec(count, tuple(images.shape[1:]), CLASSES))
        holes, weights = torch.zeros(count, 1, height, width, dtype=torch.bool), torch.eye(count).double()
        if "cutout" in draws:
            for number, boxes in enumerate(draws["cutout"].expand(count, -1, -1).tolist()):
                for left, top, right, bottom in boxes:
                    holes[number, :, top:bottom, left:right] = True
        if "mixup" in draws:
            lam, perm = draws["mixup"]
            weights = lam * weights + (1 - lam) * weights[perm]
        return holes.expand_as(images), weights


def peers(device: torch.device = HOST, dtype: torch.dtype = torch.float32) -> tuple[list[Contender], dict[str, str]]:
    """Return the libraries that can be imported here, and why the others cannot."""
    found: list[Contender] = []
    absent: dict[str, str] = {}
    made: tuple[Callable[..., Contender], ...] = (Composer, Torchvision, Timm, Kornia)
    for make in made:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found.append(make(device, dtype))
        except ImportError as error:
            absent[str(getattr(make, "name", make))] = str(error).splitlines()[0]
    return found, absent
