"""The edits of single images in float64 loops over pixels, written from what Pillow documents, not from our code.

Each takes an image (C, H, W) whose white is ``white`` (255 for bytes, whose results are whole numbers; 1 for floats),
and a magnitude, and returns the edited image.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Naive = Callable[[Array, float, int], Array]


def whole(value: float, white: int) -> float:
    """Cut a value off at black and white; bytes also at the point."""
    value = min(max(value, 0.0), float(white))
    return float(math.floor(value)) if white == 255 else value


def level(value: float, white: int) -> int:
    return min(max(math.floor(value * 255 / white + 0.5), 0), 255)


def pointwise(image: Array, function: Callable[[float], float]) -> Array:
    return np.array([[[function(float(v)) for v in row] for row in channel] for channel in image])


def auto_contrast(image: Array, magnitude: float, white: int) -> Array:
    edited = image.copy()
    for c, channel in enumerate(image):
        low, high = float(channel.min()), float(channel.max())
        if high > low:
            scale = white / (high - low)
            edited[c] = pointwise(channel[None], lambda v, s=scale, o=-low * scale: whole(v * s + o, white))[0]
    return edited


def equalize(image: Array, magnitude: float, white: int) -> Array:
    edited = np.empty_like(image)
    for c, channel in enumerate(image):
        counts = [0] * 256
        for value in channel.flat:
            counts[level(float(value), white)] += 1
        present = [count for count in counts if count]
        step = (sum(present) - present[-1]) // 255
        table, n = [], step // 2
        for i in range(256):
            table.append(min(n // step, 255) if step else i)
            n += counts[i]
        edited[c] = pointwise(channel[None], lambda v, t=table: t[level(v, white)] * white / 255)[0]
    return edited


def solarize(image: Array, threshold: float, white: int) -> Array:
    return pointwise(image, lambda v: v if v * 255 / white < threshold else white - v)


def posterize(image: Array, bits: float, white: int) -> Array:
    kept = 2 ** (8 - int(bits))
    return pointwise(image, lambda v: level(v, white) // kept * kept * white / 255)


def luma(image: Array, row: int, column: int, white: int) -> float:
    if len(image) == 1:
        return float(image[0, row, column])
    red, green, blue = (float(image[c, row, column]) for c in range(3))
    grey = (19595 * red + 38470 * green + 7471 * blue) / 65536
    return math.floor(grey + 0.5) if white == 255 else grey


def blended(image: Array, other: Callable[[int, int, int], float], factor: float, white: int) -> Array:
    edited = np.empty_like(image)
    for c, row, column in np.ndindex(*image.shape):
        base, value = other(c, row, column), float(image[c, row, column])
        if white == 255:  # Pillow blends bytes in single precision, which decides what is left before the point
            mixed = float(np.float32(base) + np.float32(factor) * np.float32(value - base))
        else:
            mixed = base + factor * (value - base)
        edited[c, row, column] = whole(mixed, white)
    return edited


def color(image: Array, factor: float, white: int) -> Array:
    return blended(image, lambda c, row, column: luma(image, row, column, white), factor, white)


def contrast(image: Array, factor: float, white: int) -> Array:
    places = list(np.ndindex(*image.shape[1:]))
    mean = sum(luma(image, row, column, white) for row, column in places) / len(places)
    mean = math.floor(mean + 0.5) if white == 255 else mean
    return blended(image, lambda c, row, column: mean, factor, white)


def brightness(image: Array, factor: float, white: int) -> Array:
    return blended(image, lambda c, row, column: 0.0, factor, white)


def sharpness(image: Array, factor: float, white: int) -> Array:
    height, width = image.shape[1:]

    def smooth(c: int, row: int, column: int) -> float:
        if row in (0, height - 1) or column in (0, width - 1):
            return float(image[c, row, column])
        around = [image[c, row + i, column + j] for i in (-1, 0, 1) for j in (-1, 0, 1)]
        mean = (sum(float(v) for v in around) + 4 * float(image[c, row, column])) / 13
        return math.floor(mean + 0.5) if white == 255 else mean

    return blended(image, smooth, factor, white)


def displaced(image: Array, matrix: tuple[float, ...]) -> Array:
    a, b, c, d, e, f = matrix
    fixed = [math.floor(v * 65536 + 0.5) for v in (a, b, c + a / 2 + b / 2, d, e, f + d / 2 + e / 2)]
    channels, height, width = image.shape
    edited = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            x = (fixed[0] * column + fixed[1] * row + fixed[2]) // 65536
            y = (fixed[3] * column + fixed[4] * row + fixed[5]) // 65536
            if 0 <= x < width and 0 <= y < height:
                for channel in range(channels):
                    edited[channel, row, column] = image[channel, y, x]
    return edited


def rotate(image: Array, degrees: float, white: int) -> Array:
    height, width = image.shape[1:]
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return displaced(image, (cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y))


NAIVE: dict[str, Naive] = {
    "identity": lambda image, magnitude, white: image,
    "auto_contrast": auto_contrast,
    "equalize": equalize,
    "rotate": rotate,
    "solarize": solarize,
    "color": color,
    "posterize": posterize,
    "contrast": contrast,
    "brightness": brightness,
    "sharpness": sharpness,
    "shear_x": lambda image, v, white: displaced(image, (1, v, 0, 0, 1, 0)),
    "shear_y": lambda image, v, white: displaced(image, (1, 0, 0, v, 1, 0)),
    "translate_x": lambda image, v, white: displaced(image, (1, 0, v, 0, 1, 0)),
    "translate_y": lambda image, v, white: displaced(image, (1, 0, 0, 0, 1, v)),
}
