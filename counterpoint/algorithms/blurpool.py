"""BlurPool: blur before subsampling, so that a small shift of the image changes the features little."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from counterpoint.core import Algorithm, Event, Fault, Scope, before
from counterpoint.core.compat import child_places
from counterpoint.core.declare.kinds import Claim, Slot
from counterpoint.core.errors import DataError

__all__ = ["Blur2d", "BlurConv2d", "BlurMaxPool2d", "BlurPool", "Padding", "blur2d", "blur_kernel", "replace_strided"]

Padding = Literal["replicate", "reflect", "zeros"]
SUBSAMPLING = Claim(Slot("subsampling", "the second would find nothing that the first has not replaced"))


def blur_kernel(size: int) -> Tensor:
    """Return the binomial low-pass filter of ``size`` taps, which sum to 1: float32, of shape (size).

    ``size`` is at least 1; a filter of one tap is the identity.

    >>> blur_kernel(3)
    tensor([0.2500, 0.5000, 0.2500])

    Zhang, Making Convolutional Networks Shift-Invariant Again, ICML 2019, https://arxiv.org/abs/1904.11486
    """
    taps = torch.ones(1, dtype=torch.float64)
    for _ in range(size - 1):
        taps = (F.pad(taps, (0, 1)) + F.pad(taps, (1, 0))) / 2
    return taps.float()


def blur2d(
    inputs: Tensor, kernel: Tensor, stride: tuple[int, int] = (1, 1), *, padding: Padding = "replicate"
) -> Tensor:
    """Filter each channel of images and keep each ``stride``-th position.

    ``inputs`` is floating, (N, C, H, W); ``kernel`` is (KH, KW). The result is (N, C, ceil(H / SH), ceil(W / SW)):
    images are padded by KH - 1 rows and KW - 1 columns, ``(K - 1) // 2`` of them before the first. ``padding`` repeats
    the border (``replicate``), mirrors the image at it (``reflect``) or puts zeros there. Raises ``DataError`` for
    ``reflect`` on images that are too small to be mirrored.

    >>> blur2d(torch.tensor([[[[4.0, 0.0, 0.0, 8.0]]]]), blur_kernel(3)[None])
    tensor([[[[3., 1., 2., 6.]]]])
    >>> blur2d(torch.ones(1, 1, 5, 4), torch.ones(1, 1), (2, 2)).shape
    torch.Size([1, 1, 3, 2])

    Zhang, Making Convolutional Networks Shift-Invariant Again, ICML 2019, https://arxiv.org/abs/1904.11486
    """
    _check_mirror(inputs, kernel, padding)
    return _blur(inputs, kernel, stride, _margins(kernel), padding, inputs.shape[1])


def _margins(kernel: Tensor) -> tuple[int, int, int, int]:
    """Return by how many positions images are padded: left, right, above and below."""
    rows, columns = kernel.shape
    return (columns - 1) // 2, columns // 2, (rows - 1) // 2, rows // 2


def _check_mirror(inputs: Tensor, kernel: Tensor, padding: str) -> None:
    """Raise ``DataError`` for images that are too small to be mirrored."""
    if padding != "reflect":
        return
    height, width = inputs.shape[-2], inputs.shape[-1]
    rows, columns = kernel.shape[0], kernel.shape[1]
    if rows // 2 >= height or columns // 2 >= width:
        raise DataError(
            f"features of {height}x{width} positions cannot be mirrored for a blur of {rows}x{columns} taps: "
            "use padding='replicate'"
        )


torch.fx.wrap("_check_mirror")  # one call in a symbolic trace, where sizes cannot be compared


def _blur(
    inputs: Tensor,
    kernel: Tensor,
    stride: tuple[int, int],
    margins: tuple[int, int, int, int],
    padding: str,
    channels: int,
) -> Tensor:
    """Pad, then filter each of the ``channels``; written for ``torch.jit.script``, which compiles it too."""
    padded = F.pad(inputs, margins, mode="constant" if padding == "zeros" else padding)
    weight = kernel.to(inputs.dtype).expand(channels, 1, -1, -1)
    return F.conv2d(padded, weight, stride=stride, groups=channels)


def _constant(size: int) -> int:
    """Return a size as a constant of a traced graph: ONNX needs the number of groups as a constant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Converting a tensor to a Python integer")
        return int(size)


class Blur2d(nn.Module):
    """Blurs images along the axes whose ``stride`` is above 1, with ``size`` taps, and subsamples if ``subsample``.

    Maps (N, C, H, W) to (N, C, H, W), or (N, C, ceil(H / SH), ceil(W / SW)). The filter is a buffer: loading this
    module's ``state_dict`` into a model without the blur fails instead of changing the result. ``torch.jit``,
    ``torch.fx``, ``torch.export`` and ``torch.onnx`` take it, with batch size, height and width as dynamic sizes.
    """

    def __init__(
        self,
        size: int,
        stride: tuple[int, int],
        *,
        subsample: bool,
        padding: Padding,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.stride, self.padding = stride if subsample else (1, 1), padding
        rows, columns = (blur_kernel(size if step > 1 else 1) for step in stride)
        self.kernel: Tensor  # not in the class: torch.jit.script cannot resolve a postponed annotation there
        self.register_buffer("kernel", torch.outer(rows, columns).to(device))
        self.margins = _margins(self.kernel)

    def forward(self, inputs: Tensor) -> Tensor:
        """Blur."""
        channels = inputs.shape[1]
        if isinstance(channels, Tensor):  # while torch.jit.trace or ONNX traces: no size can be compared
            channels = _constant(channels)
        else:
            _check_mirror(inputs, self.kernel, self.padding)
        return _blur(inputs, self.kernel, self.stride, self.margins, self.padding, channels)


class BlurConv2d(nn.Module):
    """A strided convolution whose input is blurred; ``conv`` is the original convolution."""

    def __init__(self, conv: nn.Conv2d, size: int, padding: Padding) -> None:
        super().__init__()
        self.blur = Blur2d(size, _pair(conv.stride), subsample=False, padding=padding, device=conv.weight.device)
        self.conv = conv

    def forward(self, inputs: Tensor) -> Tensor:
        """Blur, then convolve."""
        outputs: Tensor = self.conv(self.blur(inputs))
        return outputs


class BlurMaxPool2d(nn.Module):
    """Max pooling at every position, then a blur that subsamples by the stride that ``pool`` had."""

    def __init__(self, pool: nn.MaxPool2d, size: int, padding: Padding, device: torch.device) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(pool.kernel_size, stride=1, padding=pool.padding, dilation=pool.dilation)
        self.blur = Blur2d(size, _pair(pool.stride), subsample=True, padding=padding, device=device)

    def forward(self, inputs: Tensor) -> Tensor:
        """Pool, then blur."""
        outputs: Tensor = self.blur(self.pool(inputs))
        return outputs


def replace_strided(
    model: nn.Module,
    *,
    filter_size: int = 3,
    padding: Padding = "replicate",
    convolutions: bool = True,
    max_pools: bool = True,
    min_channels: int = 16,
) -> int:
    """Add a blur to each strided convolution and max pooling of a model, in place; return how many there are.

    A convolution becomes a ``BlurConv2d`` that holds it, with the same parameter objects; max pooling a
    ``BlurMaxPool2d``. The shapes of all features stay as they were. Not replaced are convolutions of fewer than
    ``min_channels`` input channels, pooling with ``ceil_mode`` or ``return_indices``, and modules with a blur. A module
    that is used in several places is replaced by the same new module in all of them.

    >>> model = nn.Sequential(nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    >>> replace_strided(model)
    2
    >>> model(torch.rand(1, 16, 8, 8)).shape
    torch.Size([1, 16, 2, 2])

    Zhang, Making Convolutional Networks Shift-Invariant Again, ICML 2019, https://arxiv.org/abs/1904.11486
    """
    device = next(model.parameters(), torch.empty(0)).device
    replaced: dict[nn.Module, nn.Module] = {}
    for parent, name, module in list(_strided(model, convolutions, max_pools, min_channels)):
        if module not in replaced and isinstance(module, nn.Conv2d):
            replaced[module] = BlurConv2d(module, filter_size, padding)
        elif module not in replaced and isinstance(module, nn.MaxPool2d):
            replaced[module] = BlurMaxPool2d(module, filter_size, padding, device)
        setattr(parent, name, replaced[module].train(module.training))
    return len(replaced)


def _strided(
    model: nn.Module, convolutions: bool, max_pools: bool, min_channels: int
) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Yield the modules to replace, with their parents and their names there; once for each place."""
    for parent in model.modules():
        if isinstance(parent, BlurConv2d | BlurMaxPool2d):
            continue
        for name, module in child_places(parent):
            conv = isinstance(module, nn.Conv2d) and convolutions and module.in_channels >= min_channels
            pool = isinstance(module, nn.MaxPool2d) and max_pools and not (module.ceil_mode or module.return_indices)
            if isinstance(module, nn.Conv2d | nn.MaxPool2d) and (conv or pool) and max(_pair(module.stride)) > 1:
                yield parent, name, module


def _pair(stride: int | tuple[int, ...]) -> tuple[int, int]:
    return (stride, stride) if isinstance(stride, int) else (stride[0], stride[1])


class BlurPool(Algorithm[None], name="blurpool"):
    """Blur before every subsampling, so that the model depends less on where in the image things are.

    Before training, each strided convolution gets a blurred input, and each strided max pooling becomes pooling at
    every position followed by a blur that subsamples. The filter is binomial, of ``filter_size`` taps, along the axes
    that are subsampled. Parameters and the shapes of all features stay as they were. The optimizer must come
    afterwards: ``Engine(plan, model=model)`` first. ``replace_strided`` does the same to your own model, which can then
        load trained weights. A model with nothing to replace is refused (``nothing-to-replace``).

    >>> BlurPool(filter_size=5).padding
    'replicate'

    Zhang, Making Convolutional Networks Shift-Invariant Again, ICML 2019, https://arxiv.org/abs/1904.11486
    """

    filter_size: int = Field(default=3, ge=2, le=7, description="taps of the blur along each axis")
    padding: Padding = Field(
        default="replicate", description=f"what lies beyond the border for the blur: {', '.join(get_args(Padding))}"
    )
    convolutions: bool = Field(default=True, description="blurs the inputs of strided convolutions")
    max_pools: bool = Field(default=True, description="blurs the outputs of strided max pooling")
    min_channels: int = Field(
        default=16,
        ge=1,
        le=10**9,
        description="a convolution of fewer input channels, such as a first layer, stays as it is",
    )

    def misfits(self, model: nn.Module) -> Iterable[Fault]:
        """Require at least one module to replace."""
        if any(_strided(model, self.convolutions, self.max_pools, self.min_channels)):
            return
        wanted = [f"Conv2d of at least {self.min_channels} input channels"] if self.convolutions else []
        wanted += ["MaxPool2d without ceil_mode and return_indices"] if self.max_pools else []
        looked = f"found no strided {' and no strided '.join(wanted)} inside the model ({type(model).__name__})"
        yield Fault(
            "nothing-to-replace",
            f"{self.identity} {looked if wanted else 'has both convolutions and max_pools switched off'}",
            f"lower min_channels, switch on convolutions or max_pools, or leave {self.identity} out",
            (self.identity,),
            Event.SETUP,
        )

    @before(Event.SETUP, writes="modules", claims=SUBSAMPLING)
    def replace(self, state: None, scope: Scope) -> None:
        """Put in the blurs."""
        replace_strided(
            scope.model,
            filter_size=self.filter_size,
            padding=self.padding,
            convolutions=self.convolutions,
            max_pools=self.max_pools,
            min_channels=self.min_channels,
        )
