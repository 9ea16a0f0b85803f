"""Folders of image files: listing them, finding broken ones, and turning them into tensors with Pillow."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from counterpoint.core.errors import DataError
from counterpoint.core.rng import Rng

__all__ = [
    "Box",
    "centre_box",
    "check_images",
    "list_classes",
    "open_image",
    "random_box",
    "shift",
    "to_bytes",
    "to_tensor",
]

Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge of a part of an image, in pixels."""

SUFFIXES = (".png", ".jpg", ".jpeg")
# What Pillow raises on files that are cut, flipped or no images at all.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, UnidentifiedImageError, Image.DecompressionBombError)
_SHOWN = 5


def list_classes(folder: Path, key: str) -> dict[str, list[Path]]:
    """Return the image files of each class folder, both sorted by name; hidden entries are left out.

    ``key`` is the setting that gave the folder. Raises ``DataError`` if the folder is missing, has no class folder, or
    a class folder holds no PNG or JPEG.
    """
    if not folder.is_dir():
        there = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"data.{key}: {str(folder)!r} {there}; it must hold one folder of images for each class")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"data.{key}: {str(folder)!r} holds no class; make one folder of images for each class in it")
    classes = {name: _list_images(folder / name) for name in names}
    if empty := [name for name, files in classes.items() if not files]:
        raise DataError(
            f"data.{key}: in {str(folder)!r} these classes hold no PNG or JPEG: {', '.join(map(repr, empty))}; "
            "add images to each or remove its folder"
        )
    return classes


def _list_images(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = sorted(
            entry.name for entry in entries if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")
        )
    return [folder / name for name in names]


def check_images(paths: Sequence[Path]) -> None:
    """Read every file through and raise ``DataError`` naming the broken ones.

    A PNG's checksums are verified without decoding it; a JPEG, which has none, is decoded at an eighth of its size.
    Threads share the work.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        broken = [f"  {path}: {fault}" for path, fault in zip(paths, pool.map(_fault, paths), strict=True) if fault]
    if broken:
        count = "1 image is" if len(broken) == 1 else f"{len(broken)} images are"
        more = [f"  and {len(broken) - _SHOWN} more"] if len(broken) > _SHOWN else []
        lines = "\n".join([*broken[:_SHOWN], *more])
        raise DataError(f"data.root: {count} broken; replace or remove:\n{lines}")


def _fault(path: Path) -> str:
    """Say what is wrong with an image file; nothing if it is whole."""
    try:
        with Image.open(path) as image:
            if image.format == "JPEG":
                image.draft(None, (1, 1))
                image.load()
            else:
                image.verify()
    except _BROKEN as error:
        return _describe(error)
    return ""


def _describe(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can read"
    return str(error) or type(error).__name__


def open_image(path: Path) -> Image.Image:
    """Decode an image file as RGB; raises ``DataError`` naming it if it is broken.

    Transparent parts keep the colour that is stored under them.
    """
    try:
        with Image.open(path) as image:
            # Pillow warns when it drops the transparency of a palette, and not when it drops that of RGBA.
            full = image.convert("RGBA") if image.mode == "P" and "transparency" in image.info else image
            return full.convert("RGB")
    except _BROKEN as error:
        raise DataError(f"data.root: {path}: {_describe(error)}; replace or remove this image") from error


def centre_box(width: int, height: int, share: float) -> Box:
    """Return the square in the middle of an image whose side is ``share`` of the image's shorter side.

    >>> centre_box(100, 80, 0.5)
    (30.0, 20.0, 70.0, 60.0)
    """
    side = share * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def random_box(width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], rng: Rng) -> Box:
    """Draw a part of an image.

    Its share of the area is uniform over ``scale``, its width / height log-uniform over ``ratio``. A part that would
    not fit is drawn again, ten times at most; then the largest square in the middle is taken (Szegedy et al., CVPR
    2015, https://arxiv.org/abs/1409.4842).
    """
    for _ in range(10):
        area = width * height * float(rng.uniform(*scale))
        aspect = math.exp(float(rng.uniform(math.log(ratio[0]), math.log(ratio[1]))))
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            left, top = float(rng.uniform(0, width - w)), float(rng.uniform(0, height - h))
            return left, top, left + w, top + h
    return centre_box(width, height, 1.0)


def shift(image: Tensor, padding: int, fill: Tensor, rng: Rng) -> Tensor:
    """Shift an image (C, H, W) by up to ``padding`` pixels each way, uniformly.

    Where nothing is left comes the colour ``fill``, (C) of the image's dtype.
    """
    _, height, width = image.shape
    padded = fill[:, None, None].repeat(1, height + 2 * padding, width + 2 * padding)
    padded[:, padding : padding + height, padding : padding + width] = image
    top, left = rng.integers(0, 2 * padding + 1, (2,)).tolist()
    return padded[:, top : top + height, left : left + width].contiguous()


def to_tensor(image: Image.Image) -> Tensor:
    """Turn an RGB image into uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def to_bytes(colour: Sequence[float]) -> Tensor:
    """Return the uint8 numbers nearest to a colour whose channels range from 0 to 1.

    >>> to_bytes((0.485, 0.456, 1.5))
    tensor([124, 116, 255], dtype=torch.uint8)
    """
    return torch.tensor(colour).mul(255).round().clamp(0, 255).to(torch.uint8)
