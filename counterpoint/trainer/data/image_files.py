"""Image files: whatever Pillow decodes as RGB bytes, in the value range of the file, and broken files by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from counterpoint.core.errors import DataError

__all__ = ["Reading", "find_broken", "formats", "list_broken", "open_image", "refuse_broken", "suffixes"]

# Pillow identifies these and leaves them to other programs, such as Ghostscript for EPS.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_SHOWN = 5

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How an image is turned upright, by the orientation that its EXIF data states."""

_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
_WIDE = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of one channel whose numbers go beyond a byte."""


@dataclass(frozen=True)
class Reading:
    """How the pixels of a file become RGB bytes.

    ``background`` is the colour, three bytes, that transparent parts are laid over. ``white`` is the number that stands
    for white in images of 16-bit or 32-bit numbers; without it, 16-bit images range to 65535 (12-bit TIFFs to 4095) and
    floats to 1, and 32-bit integers are refused.
    """

    background: tuple[int, int, int] = (255, 255, 255)
    white: float | None = None


@cache
def formats() -> tuple[str, ...]:
    """Return the formats that Pillow decodes here, sorted."""
    Image.init()
    return tuple(sorted(Image.OPEN.keys() - _NOT_DECODED))


@cache
def suffixes() -> frozenset[str]:
    """Return the suffixes of files in those formats, in lower case, such as ``.png``."""
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, name in known.items() if name in formats() or name == "MPO")


def open_image(path: Path, reading: Reading) -> Image.Image:
    """Decode an image file as RGB, turned upright as its EXIF data says; of several frames, the first.

    Raises ``DataError`` naming the file if it is broken, or if its numbers are not in the range of ``reading``.
    """
    return _opened(path, partial(_decoded, reading=reading))


def find_broken(paths: Sequence[Path], reading: Reading) -> dict[Path, str]:
    """Read every file through and return the broken ones, each with what is wrong.

    A PNG's checksums are verified without decoding it; a JPEG, which has none, is decoded at an eighth of its size;
    other formats are decoded. Threads share the work.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(partial(_fault, reading=reading), paths)
        return {path: fault for path, fault in zip(paths, found, strict=True) if fault}


def refuse_broken(paths: Sequence[Path], reading: Reading) -> None:
    """Raise ``DataError`` naming the broken files among ``paths``."""
    if broken := find_broken(paths, reading):
        count = "1 image is" if len(broken) == 1 else f"{len(broken)} images are"
        raise DataError(
            f"data.root: {count} broken; replace or remove, or write `broken: skip` to leave such images out:\n"
            + "\n".join(f"  {line}" for line in list_broken(broken))
        )


def list_broken(broken: dict[Path, str]) -> list[str]:
    """Return a line for each of the first broken files, and how many more there are."""
    lines = [f"{path}: {fault}" for path, fault in list(broken.items())[:_SHOWN]]
    return [*lines, f"and {len(broken) - _SHOWN} more"] if len(broken) > _SHOWN else lines


def _fault(path: Path, reading: Reading) -> str:
    """Say what is wrong with an image file; nothing if it is whole."""
    try:
        _opened(path, partial(_read_through, reading=reading))
    except DataError as error:
        return _describe(error.__cause__ or error)
    return ""


def _opened(path: Path, read: Callable[[Image.Image], Image.Image]) -> Image.Image:
    try:
        # Opened by its path, Pillow would map an uncompressed TIFF into memory, with sides swapped where it is turned.
        with path.open("rb") as file, Image.open(file, formats=formats()) as image:
            return read(image)
    except Exception as error:  # a decoder of Pillow's may raise anything on a damaged file
        raise DataError(f"data.root: {path}: {_describe(error)}; replace or remove this image") from error


def _describe(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can read"
    return str(error) or type(error).__name__


def _read_through(image: Image.Image, reading: Reading) -> Image.Image:
    plain = image.mode not in (*_WIDE, "LAB")
    if image.format in ("JPEG", "MPO") and plain:
        image.draft("", (1, 1))
        image.load()
        _orientation(image)
    elif image.format == "PNG" and plain and "exif" not in image.info:
        image.verify()
    else:
        _decoded(image, reading)
    return image


def _decoded(image: Image.Image, reading: Reading) -> Image.Image:
    image.load()
    if image.mode == "LAB":
        raise DataError("its colours are in LAB, which Pillow does not convert to RGB")
    turn = _UPRIGHT.get(_orientation(image))
    narrow = _narrowed(image, reading.white) if image.mode in _WIDE else image
    opaque = _laid_over(narrow, reading.background).convert("RGB")
    return opaque if turn is None else opaque.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """Return the orientation of the EXIF data, 1 where there is none."""
    found = image.getexif().get(_ORIENTATION, 1)
    return found if isinstance(found, int) else 1


def _laid_over(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Lay an image that has transparency over a colour; return any other as it is."""
    palette = image.palette.mode if image.palette is not None else ""
    if not (image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info or palette == "RGBA"):
        return image
    full = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", full.size, (*background, 255)), full)


def _narrowed(image: Image.Image, white: float | None) -> Image.Image:
    """Scale the numbers of an image of one channel to bytes, where 255 is white."""
    numbers = np.asarray(image).astype(np.float64)
    low, high = float(numbers.min()), float(numbers.max())
    top = _white(image) if white is None else white
    if top is None:
        raise DataError(
            f"it holds 32-bit integers from {low:.0f} to {high:.0f}, and not which of them is white: set data.white, "
            "or convert it to 16 bits"
        )
    if not 0 <= low <= high <= top:
        raise DataError(f"it holds numbers from {low:g} to {high:g}, and black is 0 and white {top:g}: set data.white")
    levels = np.rint(numbers * (255 / top)).astype(np.uint8)
    if _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO:
        levels = 255 - levels
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return Image.fromarray(levels)
    opacity = np.where(numbers == clear, 0, 255).astype(np.uint8)
    return Image.merge("LA", (Image.fromarray(levels), Image.fromarray(opacity)))


def _white(image: Image.Image) -> float | None:
    """Return the number that stands for white in a format, or ``None`` where that is not laid down."""
    if image.mode == "F":
        return 1.0
    if image.mode == "I":
        return 65535.0 if image.format in ("PNG", "PPM") else None
    bits = _tag(image, _BITS)
    return 4095.0 if bits == 12 else 65535.0


def _tag(image: Image.Image, number: int) -> object:
    """Return a tag of a TIFF file, ``None`` for other files."""
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) and value else value
