"""Boxes in images, shared by the methods that cut: int64 XYXY, ends exclusive."""

from __future__ import annotations

from types import EllipsisType

import torch
from torch import Tensor

__all__ = ["area", "beyond", "clipped_boxes", "inside", "slices"]


def clipped_boxes(
    center_y: Tensor, center_x: Tensor, side_y: Tensor | int, side_x: Tensor | int, height: int, width: int
) -> Tensor:
    """Return the boxes of the given centres and sides, clipped at the border of the image; shape (..., 4)."""
    top, left = center_y - side_y // 2, center_x - side_x // 2
    boxes = torch.stack([left, top, left + side_x, top + side_y], dim=-1)
    return boxes.clamp_(min=0).clamp_(max=torch.tensor([width, height, width, height]))


def inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return for boxes of shape (..., 4) which pixels lie inside, as booleans of shape (..., H, W)."""
    # A vector register holds half as many 64-bit integers, and no image needs them.
    left, top, right, bottom = boxes.to(torch.int32)[..., None, None, :].unbind(-1)
    rows, columns = _places(height, boxes.device)[:, None], _places(width, boxes.device)
    return ((rows >= top) & (rows < bottom)) & ((columns >= left) & (columns < right))


def beyond(boxes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return for boxes of shape (N, 4) which rows, (N, H), and which columns, (N, W), lie beyond them."""
    left, top, right, bottom = boxes.to(torch.int32)[..., None, :].unbind(-1)
    rows, columns = _places(height, boxes.device), _places(width, boxes.device)
    return (rows < top) | (rows >= bottom), (columns < left) | (columns >= right)


def _places(count: int, device: torch.device) -> Tensor:
    """Return the numbers from 0 to ``count - 1``, int32."""
    if device.type == "cpu" and torch.compiler.is_compiling():
        # A compiled range is built lane by lane wherever it is used; a table is loaded.
        return torch.tensor(list(range(count)), dtype=torch.int32)
    return torch.arange(count, device=device, dtype=torch.int32)


def slices(boxes: Tensor) -> list[tuple[EllipsisType | slice, ...]]:
    """Return for CPU boxes of shape (N, 4) the index of each box's pixels in an image or a batch, (..., H, W)."""
    return [(..., slice(top, bottom), slice(left, right)) for left, top, right, bottom in boxes.clamp(min=0).tolist()]


def area(boxes: Tensor) -> Tensor:
    """Return the number of pixels in each box."""
    left, top, right, bottom = boxes.unbind(-1)
    return (right - left).clamp(min=0) * (bottom - top).clamp(min=0)
