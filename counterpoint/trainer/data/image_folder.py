"""Folders of images as a data set."""

from __future__ import annotations

import hashlib
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Literal

from PIL import Image
from pydantic import Field, model_validator
from torch.utils.data import Dataset

from counterpoint.core.declare.randomness import Rng
from counterpoint.core.errors import DataError
from counterpoint.trainer.data.dataset import DataModule, DatasetConfig, DataSpec, Example, RandomDataset
from counterpoint.trainer.data.image_classes import Classes, list_classes
from counterpoint.trainer.data.image_crops import Box, centre_box, random_box, shift, to_bytes, to_tensor
from counterpoint.trainer.data.image_files import Reading, find_broken, list_broken, open_image, refuse_broken
from counterpoint.trainer.paths import FolderPath

__all__ = ["ImageFolder"]


# YAML gives lists where these are tuples; their numbers stay strict.
_Number = Annotated[float, Field(strict=True, ge=-1e6, le=1e6)]
_Positive = Annotated[float, Field(strict=True, ge=1e-6, le=1e6)]
_Pair = Annotated[tuple[_Positive, _Positive], Field(strict=False)]
_Share = Annotated[float, Field(strict=True, ge=0, le=1)]
_Colour = Annotated[tuple[_Share, _Share, _Share], Field(strict=False)]
_Mean = Annotated[tuple[_Number, _Number, _Number], Field(strict=False)]
_Std = Annotated[tuple[_Positive, _Positive, _Positive], Field(strict=False)]


class ImageFolder(DatasetConfig):
    """Image files in ``root/train/<class>/`` and ``root/val/<class>/`` and in folders below, decoded with Pillow.

    Inputs are uint8 (3, size, size), a quarter of what floats would take up to the device. They are normalised by
    ``mean`` and ``std`` in the plan, for a model that takes no bytes. Files of every format that Pillow decodes are
    read; those left out are counted and reported. Grey, palette, CMYK and 1-bit images become RGB, and images are
    turned upright as their EXIF data says. Of several frames the first is read, and colour profiles are not applied.
    Transparent parts are laid over ``background``. 16-bit numbers are scaled from 65535 to 255, floats from 1, and
    32-bit integers from ``white``, which they need. ``augment`` says what is random in training:

    - ``resized_crop``: a random part of the image, scaled to the size (Szegedy et al., CVPR 2015,
      https://arxiv.org/abs/1409.4842), flipped with probability ``flip``;
    - ``shift``: the middle of the image, scaled to the size, shifted by up to ``padding`` pixels each way, with the
      mean colour, rounded to bytes, in the empty pixels, and flipped;
    - ``none``: the middle of the image, scaled to the size.

    Evaluation takes the square in the middle whose side is ``evaluation_crop`` of the shorter side.

    Before training every file is read through, so that a broken one stops the run at once. On one core that takes
    about 0.05 ms for a PNG of 32x32 pixels and 1.2 ms for a JPEG of 500x375; all cores share the work. Checking a
    config reads the first image of each folder alone. With ``broken: skip`` the files are read through whenever the
    data is built, and broken ones are left out, counted and named.
    """

    root: FolderPath = Field(min_length=1, description="the folder that holds the two below")
    train: FolderPath = Field(default="train", min_length=1, description="folder of the training images in root")
    evaluation: FolderPath = Field(default="val", min_length=1, description="folder of the evaluation images in root")
    size: int = Field(default=224, ge=1, le=8_192, description="side of the images that the model gets, in pixels")
    augment: Literal["resized_crop", "shift", "none"] = Field(default="resized_crop", description="what is random")
    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a flip from left to right in training")
    scale: _Pair = Field(default=(0.08, 1.0), description="resized_crop: smallest and largest share of the area")
    ratio: _Pair = Field(default=(3 / 4, 4 / 3), description="resized_crop: smallest and largest width / height")
    padding: int = Field(default=4, ge=0, le=8_192, description="shift: largest shift each way, in pixels")
    evaluation_crop: float = Field(
        default=0.875, ge=1e-3, le=1, description="evaluation: side of the square in the middle"
    )
    mean: _Mean = Field(
        default=(0.485, 0.456, 0.406), description="of each channel, from 0 to 1, for the plan; ImageNet's by default"
    )
    std: _Std = Field(
        default=(0.229, 0.224, 0.225), description="of each channel, from 0 to 1, for the plan; ImageNet's by default"
    )
    background: _Colour = Field(
        default=(1.0, 1.0, 1.0), description="colour behind transparent parts, each channel from 0 to 1"
    )
    white: float | None = Field(
        default=None,
        gt=0,
        le=1e30,
        description="the number of white in images of 16-bit or 32-bit numbers; none: by the format",
    )
    broken: Literal["refuse", "skip"] = Field(default="refuse", description="what happens to images that are broken")

    @model_validator(mode="after")
    def _ordered(self) -> ImageFolder:
        for name, (low, high), most in (("scale", self.scale, 1.0), ("ratio", self.ratio, float("inf"))):
            if low > high or high > most:
                limit = " and at most 1" if most == 1 else ""
                raise ValueError(f"{name} is (smallest, largest){limit}, and was given ({low}, {high})")
        return self

    def build(self) -> DataModule:
        """List the files; ``verify`` of the result reads them through.

        Raises ``DataError`` if a folder is missing, a class is empty, or the two folders differ in their classes, and
        ``verify`` if an image is broken.
        """
        parts = {
            key: list_classes(Path(self.root) / name, key)
            for key, name in (("train", self.train), ("evaluation", self.evaluation))
        }
        notes = [f"data.{key}: {text}" for key, classes in parts.items() if (text := str(classes))]
        train, evaluation = parts.values()
        if differing := sorted(train.files.keys() ^ evaluation.files.keys()):
            raise DataError(
                f"data.root: these classes have a folder in only one of {self.train!r} and {self.evaluation!r}: "
                f"{', '.join(map(repr, differing))}; each class needs both"
            )
        if self.broken == "skip":
            skipped = find_broken([*train.paths, *evaluation.paths], self.reading)
            notes += [f"data.root: skipped {len(skipped)} broken: {'; '.join(list_broken(skipped))}"] if skipped else []
            train, evaluation = train.without(skipped, "train"), evaluation.without(skipped, "evaluation")
        names = tuple(train.files)
        return DataModule(
            _TrainImages(train, self),
            _EvaluationImages(evaluation, self),
            DataSpec("multiclass", "bytes", (3, self.size, self.size), len(names), names, self.mean, self.std),
            cache(partial(refuse_broken, [*train.paths, *evaluation.paths], self.reading)),
            tuple(notes),
        )

    @property
    def reading(self) -> Reading:
        """How the pixels of a file become bytes."""
        red, green, blue = to_bytes(self.background).tolist()
        return Reading((red, green, blue), self.white)


class _Images:
    """The files of one part of the data, and how they are read."""

    def __init__(self, classes: Classes, config: ImageFolder) -> None:
        self._paths, self._labels = classes.paths, classes.labels
        self._config, self._reading = config, config.reading

    def __len__(self) -> int:
        return len(self._paths)

    def fingerprint(self) -> str:
        """Return a digest of the name, the size in bytes and the class of every file."""
        digest = hashlib.sha256()
        for path, label in zip(self._paths, self._labels, strict=True):
            name = path.relative_to(self._config.root).as_posix()
            digest.update(f"{name}\0{path.stat().st_size}\0{label}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()[:32]

    def _open(self, index: int) -> Image.Image:
        return open_image(self._paths[index], self._reading)


class _EvaluationImages(_Images, Dataset[Example]):
    def __getitem__(self, index: int) -> Example:
        image, config = self._open(index), self._config
        box = centre_box(*image.size, config.evaluation_crop)
        return to_tensor(_resized(image, config.size, box)), self._labels[index]


class _TrainImages(_Images, RandomDataset):
    def example(self, index: int, rng: Rng) -> Example:
        """Decode the image at ``index`` and crop and flip it as ``rng`` says."""
        image, config = self._open(index), self._config
        box = centre_box(*image.size, 1.0)
        if config.augment == "resized_crop":
            box = random_box(*image.size, config.scale, config.ratio, rng)
        tensor = to_tensor(_resized(image, config.size, box))
        if config.augment == "shift":
            tensor = shift(tensor, config.padding, to_bytes(config.mean), rng)
        if config.augment != "none" and rng.coin(config.flip):
            tensor = tensor.flip(-1)
        return tensor, self._labels[index]


def _resized(image: Image.Image, size: int, box: Box) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)
