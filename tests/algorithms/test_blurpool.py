"""BlurPool against loops in float64, and what surgery must keep: shapes, parameters, checkpoints, export, compiling."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.fx
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.algorithms import EMA, BlurPool, MixUp
from counterpoint.algorithms.blurpool import BlurConv2d, BlurMaxPool2d, Padding, replace_strided
from counterpoint.functional import blur2d, blur_kernel
from counterpoint.trainer.data.dataset import DataSpec
from counterpoint.trainer.models import ResNet18, SmallCNN
from counterpoint.trainer.trainer import Trainer

Array = NDArray[np.float64]
PADDINGS: tuple[Padding, ...] = ("replicate", "reflect", "zeros")


def beyond(index: int, length: int, padding: Padding) -> int | None:
    """Return the index that stands in for one beyond the border."""
    if 0 <= index < length:
        return index
    if padding == "zeros":
        return None
    if padding == "replicate":
        return 0 if index < 0 else length - 1
    return -index if index < 0 else 2 * (length - 1) - index


def naive_blur(images: Array, kernel: Array, stride: tuple[int, int], padding: Padding) -> Array:
    samples, channels, height, width = images.shape
    rows, columns = kernel.shape
    out = np.zeros((samples, channels, -(-height // stride[0]), -(-width // stride[1])))
    for n, c, i, j in np.ndindex(*out.shape):
        for a, b in np.ndindex(rows, columns):
            y = beyond(i * stride[0] + a - (rows - 1) // 2, height, padding)
            x = beyond(j * stride[1] + b - (columns - 1) // 2, width, padding)
            if y is not None and x is not None:
                out[n, c, i, j] += kernel[a, b] * images[n, c, y, x]
    return out


def naive_conv(images: Array, weight: Array, bias: Array, stride: tuple[int, int], padding: int) -> Array:
    images = np.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    size = weight.shape[-1]
    shape = [(extent - size) // step + 1 for extent, step in zip(images.shape[2:], stride, strict=True)]
    out = np.zeros((len(images), len(weight), *shape))
    for n, c, i, j in np.ndindex(*out.shape):
        window = images[n, :, i * stride[0] : i * stride[0] + size, j * stride[1] : j * stride[1] + size]
        out[n, c, i, j] = bias[c] + (window * weight[c]).sum()
    return out


def naive_max(images: Array, size: int, padding: int) -> Array:
    images = np.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)), constant_values=-np.inf)
    out = np.zeros((*images.shape[:2], images.shape[2] - size + 1, images.shape[3] - size + 1))
    for n, c, i, j in np.ndindex(*out.shape):
        out[n, c, i, j] = images[n, c, i : i + size, j : j + size].max()
    return out


def pascal(size: int) -> Array:
    row = [1]
    for _ in range(size - 1):
        row = [a + b for a, b in zip([0, *row], [*row, 0], strict=True)]
    return np.array(row, dtype=np.float64) / 2 ** (size - 1)


@contextmanager
def deprecated() -> Iterator[None]:
    """Ignore two warnings that torch gives for every padded model: that the way is deprecated, and a folding missed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", "Constant folding - Only steps=1")
        yield


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("size", range(1, 8))
def test_the_filter_is_a_row_of_pascals_triangle(size: int) -> None:
    np.testing.assert_array_equal(blur_kernel(size).numpy(), pascal(size).astype(np.float32))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (3, 3), (4, 5), (1, 3), (7, 1)])
def test_the_blur_against_loops(padding: Padding, rows: int, columns: int) -> None:
    kernel = np.outer(pascal(rows), pascal(columns))
    for shape, stride in product(((2, 3, 5, 7), (1, 1, 8, 4)), ((1, 1), (2, 2), (2, 1), (3, 2))):
        x = random(*shape)
        blurred = blur2d(x, torch.from_numpy(kernel), stride, padding=padding)
        wanted = naive_blur(x.numpy(), kernel, stride, padding)
        np.testing.assert_allclose(blurred.numpy(), wanted, rtol=0, atol=1e-14)


@pytest.mark.parametrize("padding", PADDINGS)
def test_a_strided_convolution_sees_a_blurred_input(padding: Padding) -> None:
    for stride, size, margin in (((2, 2), 3, 1), ((2, 1), 3, 0), ((3, 3), 1, 0), ((2, 2), 5, 2)):
        conv = nn.Conv2d(4, 2, size, stride=stride, padding=margin, dtype=torch.float64)
        model, x = nn.Sequential(conv), random(2, 4, 9, 8)
        before = model(x)
        assert replace_strided(model, filter_size=4, padding=padding, min_channels=4) == 1
        taps = [pascal(4) if step > 1 else np.ones(1) for step in stride]
        blurred = naive_blur(x.numpy(), np.outer(*taps), (1, 1), padding)
        weight, bias = (value.detach().numpy() for value in conv.parameters())
        after = model(x)
        assert after.shape == before.shape
        wanted = naive_conv(blurred, weight, bias, stride, margin)
        np.testing.assert_allclose(after.detach().numpy(), wanted, rtol=0, atol=1e-13)


def test_strided_max_pooling_pools_everywhere_and_subsamples_by_a_blur() -> None:
    for size, stride, margin in ((2, 2, 0), (3, 2, 1), (3, 3, 0)):
        model, x = nn.Sequential(nn.MaxPool2d(size, stride, margin)), random(2, 3, 11, 8)
        shape = model(x).shape
        assert replace_strided(model) == 1
        pooled = naive_max(x.numpy(), size, margin)
        wanted = naive_blur(pooled, np.outer(pascal(3), pascal(3)), (stride, stride), "replicate")
        assert model(x).shape == shape
        np.testing.assert_allclose(model(x).numpy(), wanted, rtol=0, atol=1e-14)


def test_shapes_stay_for_every_extent() -> None:
    for extent, size, stride, dilation in product(range(5, 12), (1, 2, 3), (2, 3, 4), (1, 2)):
        x = random(1, 16, extent, extent + 1)
        for layer in (
            nn.MaxPool2d(size, stride, size // 2, dilation),
            nn.Conv2d(16, 2, size, stride, size // 2, dilation, dtype=torch.float64),
        ):
            model = nn.Sequential(layer)
            shape = model(x).shape
            assert replace_strided(model) == 1
            assert model(x).shape == shape


def test_mirroring_what_is_too_small_says_so() -> None:
    model = nn.Sequential(nn.MaxPool2d(2))
    replace_strided(model, padding="reflect")
    with pytest.raises(cp.DataError, match=r"1x1 positions cannot be mirrored .* padding='replicate'"):
        model(torch.zeros(1, 1, 2, 2))
    with deprecated():
        script = torch.jit.script(model)
    with pytest.raises(torch.jit.Error, match=r"1x1 positions cannot be mirrored .* padding='replicate'"):
        script(torch.zeros(1, 1, 2, 2))


class TestWhatIsReplaced:
    def test_resnet18(self) -> None:
        model = ResNet18(stem="large").build(DataSpec("multiclass", "normalized", (3, 64, 64), 10))
        parameters = list(model.parameters())
        assert replace_strided(model) == 3 * 2 + 1  # the first convolution has 3 channels
        assert sum(isinstance(module, BlurConv2d) for module in model.modules()) == 6
        assert sum(isinstance(module, BlurMaxPool2d) for module in model.modules()) == 1
        assert {id(parameter) for parameter in model.parameters()} == {id(parameter) for parameter in parameters}
        assert replace_strided(model) == 0
        assert replace_strided(model, min_channels=3) == 1

    def test_switches(self) -> None:
        def model() -> nn.Module:
            return nn.Sequential(nn.Conv2d(16, 16, 1, 2), nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(16, 8, 1, 2)))

        assert replace_strided(model(), convolutions=False) == 1
        assert replace_strided(model(), max_pools=False) == 2
        assert replace_strided(model(), min_channels=17) == 1

    def test_what_stays(self) -> None:
        stays = [nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(2, return_indices=True), nn.MaxPool2d(3, 1)]
        stays += [nn.Conv2d(16, 16, 3), nn.AvgPool2d(2), nn.Conv1d(16, 16, 3, 2)]
        assert replace_strided(nn.ModuleList(stays)) == 0

    def test_a_module_in_two_places_stays_one(self) -> None:
        pool = nn.MaxPool2d(2)
        model = nn.Sequential(pool, nn.Sequential(pool))
        assert replace_strided(model) == 1
        assert model[0] is model[1][0]

    def test_modes_and_names_stay(self) -> None:
        model = nn.ModuleDict({"first": nn.MaxPool2d(2), "second": nn.Conv2d(16, 16, 2, 2)}).eval()
        replace_strided(model)
        assert not any(module.training for module in model.modules())
        assert {name for name, _ in model.named_parameters()} == {"second.conv.weight", "second.conv.bias"}


def small_cnn() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SmallCNN(width=16).build(DataSpec("multiclass", "normalized", (1, 8, 8), 4))


def composed(*algorithms: object, **settings: Any) -> cp.Plan:
    loss = nn.CrossEntropyLoss()
    return cp.compose(
        list(algorithms), loss=loss, task="multiclass", num_classes=4, contract="always", seed=17, **settings
    )


class TestSurgery:
    def test_it_comes_before_the_optimizer_and_keeps_the_parameters(self) -> None:
        model, plan = small_cnn(), composed(BlurPool())
        with pytest.raises(cp.CompositionError) as caught:
            cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
        assert [fault.code for fault in caught.value.faults] == ["late-surgery"]
        assert "blurpool changes the model's modules" in str(caught.value)
        assert not any(isinstance(module, BlurConv2d) for module in model.modules())
        before = list(model.parameters())
        cp.Engine(plan, model=model)
        assert [id(parameter) for parameter in model.parameters()] == [id(parameter) for parameter in before]
        assert sum(isinstance(module, BlurConv2d) for module in model.modules()) == 2

    @pytest.mark.parametrize(
        ("algorithm", "model", "words"),
        [
            (BlurPool(), nn.Sequential(nn.Linear(2, 2)), "no strided Conv2d of at least 16 input channels"),
            (BlurPool(max_pools=False), nn.Sequential(nn.MaxPool2d(2)), "Conv2d"),
            (BlurPool(min_channels=64), nn.Sequential(nn.Conv2d(32, 32, 3, 2)), "at least 64 input channels"),
            (BlurPool(convolutions=False, max_pools=False), nn.Sequential(nn.MaxPool2d(2)), "switched off"),
            (BlurPool(), nn.MaxPool2d(2), "inside the model .MaxPool2d."),
        ],
    )
    def test_a_model_with_nothing_to_blur_is_refused(self, algorithm: BlurPool, model: nn.Module, words: str) -> None:
        with pytest.raises(cp.CompositionError, match=words) as caught:
            cp.Engine(composed(algorithm), model=model)
        assert [fault.code for fault in caught.value.faults] == ["nothing-to-replace"]

    def test_a_second_one_and_a_schedule_are_refused(self) -> None:
        for listed, code in (([BlurPool(), BlurPool(id="two")], "two-owners"), ([BlurPool(p=0.5)], "schedule-unused")):
            with pytest.raises(cp.CompositionError) as caught:
                composed(*listed)
            assert [fault.code for fault in caught.value.faults] == [code]

    def test_the_state_dict_loads_back_and_a_plain_model_refuses_it(self) -> None:
        model, other = small_cnn(), small_cnn()
        cp.Engine(composed(BlurPool()), model=model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(generator=torch.Generator().manual_seed(3))
        saved = model.state_dict()
        with pytest.raises(RuntimeError, match=r"blur\.kernel"):
            other.load_state_dict(saved)
        replace_strided(other)
        other.load_state_dict(saved)
        x = torch.rand(2, 1, 8, 8)
        assert torch.equal(model.eval()(x), other.eval()(x))

    @pytest.mark.slow
    @pytest.mark.parametrize("backend", ["eager", "aot_eager"])
    def test_compiling(self, backend: str) -> None:
        model, x = small_cnn(), torch.rand(4, 1, 8, 8)
        cp.Engine(composed(BlurPool()), model=model)
        compiled: Callable[[Tensor], Tensor] = torch.compile(model.eval(), backend=backend, fullgraph=True)
        torch.testing.assert_close(compiled(x), model(x))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
    def test_other_dtypes(self, dtype: torch.dtype) -> None:
        model = small_cnn().to(dtype)
        cp.Engine(composed(BlurPool()), model=model)
        assert model(torch.rand(2, 1, 8, 8, dtype=dtype)).dtype == dtype


@st.composite
def subsampling(draw: st.DrawFn) -> nn.Module:
    """Draw a model with a strided layer, blurred by an even or odd number of taps."""
    stride = draw(st.sampled_from([(2, 2), (2, 1), (1, 3)]))
    layer = draw(
        st.sampled_from([nn.MaxPool2d(3, stride, 1), nn.Conv2d(4, 6, 3, stride, 1), nn.Conv2d(4, 4, 2, stride)])
    )
    model = nn.Sequential(nn.Conv2d(2, 4, 1), layer, nn.ReLU()).eval()
    settings = {"filter_size": draw(st.integers(2, 5)), "padding": draw(st.sampled_from(PADDINGS)), "min_channels": 4}
    assert replace_strided(model, **settings) == 1
    return model


def scripted(model: nn.Module, x: Tensor, folder: Path) -> Callable[[Tensor], Tensor]:
    with deprecated():
        torch.jit.save(torch.jit.script(model), folder / "model.pt")
        loaded: Callable[[Tensor], Tensor] = torch.jit.load(folder / "model.pt")
    return loaded


def traced(model: nn.Module, x: Tensor, folder: Path) -> Callable[[Tensor], Tensor]:
    with deprecated():
        graph: Callable[[Tensor], Tensor] = torch.jit.trace(model, (x,))
    return graph


def symbolic(model: nn.Module, x: Tensor, folder: Path) -> Callable[[Tensor], Tensor]:
    return torch.fx.symbolic_trace(model)


def exported(model: nn.Module, x: Tensor, folder: Path) -> Callable[[Tensor], Tensor]:
    sizes = {0: torch.export.Dim("samples"), 2: torch.export.Dim("height", min=8), 3: torch.export.Dim("width", min=8)}
    return torch.export.export(model, (x,), dynamic_shapes=(sizes,)).module()


def onnx_graph(model: nn.Module, x: Tensor, folder: Path) -> Callable[[Tensor], Tensor]:
    axes = {"x": {0: "samples", 2: "height", 3: "width"}}
    file = str(folder / "model.onnx")
    with deprecated():
        torch.onnx.export(model, (x,), file, dynamo=False, input_names=["x"], dynamic_axes=axes)
    graph = ReferenceEvaluator(file)
    return lambda inputs: torch.from_numpy(graph.run(None, {"x": inputs.numpy()})[0])


WAYS_OUT = [scripted, traced, symbolic, exported, onnx_graph]


@pytest.mark.slow
@pytest.mark.kind("16")
@pytest.mark.parametrize("way", WAYS_OUT)
@settings(max_examples=12, deadline=None)
@given(model=subsampling())
def test_a_blurred_model_leaves_torch_with_dynamic_sizes(
    way: Callable[..., Callable[[Tensor], Tensor]], model: nn.Module
) -> None:
    """Other sizes than those of the example, samples and both extents, give what the model gives."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        outside = way(model, torch.rand(2, 2, 16, 13), Path(folder))
        for shape in ((2, 2, 16, 13), (3, 2, 9, 12), (1, 2, 11, 20)):
            x = torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))
            torch.testing.assert_close(outside(x), model(x))


@pytest.mark.slow
@pytest.mark.kind("16")
@pytest.mark.parametrize("way", WAYS_OUT)
@pytest.mark.parametrize("padding", PADDINGS)
def test_a_whole_network_leaves_torch_after_the_method_has_edited_it(
    way: Callable[..., Callable[[Tensor], Tensor]], padding: Padding, tmp_path: Path
) -> None:
    model = small_cnn().eval()
    cp.Engine(composed(BlurPool(padding=padding)), model=model)
    with torch.no_grad():
        outside = way(model, torch.rand(2, 1, 16, 24), tmp_path)
        for shape in ((2, 1, 16, 24), (3, 1, 32, 8)):
            x = torch.rand(*shape)
            torch.testing.assert_close(outside(x), model(x))


@pytest.mark.kind("16")
def test_a_scripted_blur_trains_like_the_model() -> None:
    model = small_cnn()
    replace_strided(model)
    x, gradients = torch.rand(4, 1, 8, 8), []
    with deprecated():
        script = torch.jit.script(model)
    for module in (model, script):
        module.zero_grad()
        module(x).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)


def train(engine: cp.Engine, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(6, 1, 8, 8, generator=generator), torch.randint(4, (6,), generator=generator)
        with engine.batch(x, y) as batch:

            def closure(batch: cp.Batch = batch) -> Tensor:
                loss = engine.plan.loss(engine.model(batch.inputs), batch.targets)
                loss.backward()
                return loss.detach()

            engine.step(closure)


def started(plan: cp.Plan) -> tuple[cp.Engine, torch.optim.Optimizer]:
    model = small_cnn()
    engine = cp.Engine(plan, model=model)
    engine.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return engine, engine.optimizer


@pytest.mark.slow
def test_it_trains_beside_others_and_resumes_bit_for_bit() -> None:
    plan = composed(BlurPool(), MixUp(), EMA(half_life=2))
    whole, _ = started(plan)
    train(whole, range(6))
    first, optimizer = started(plan)
    train(first, range(3))
    saved = [first.model.state_dict(), first.state_dict(), optimizer.state_dict()]
    second, optimizer = started(plan)
    for part, state in zip((second.model, second, optimizer), saved, strict=True):
        part.load_state_dict(state)
    train(second, range(3, 6))
    for engine in (whole, second):
        with engine.evaluation():
            kernels = [value for name, value in engine.model.state_dict().items() if name.endswith("kernel")]
            assert all(torch.equal(value, torch.outer(blur_kernel(3), blur_kernel(3))) for value in kernels)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


CONFIG = {"task": "multiclass", "data": "digits", "max_duration": "2ba", "algorithms": ["blurpool"]}


@pytest.mark.slow
def test_the_trainer_puts_the_blurs_in_before_it_makes_the_optimizer() -> None:
    trainer = Trainer({**CONFIG, "model": {"name": "small_cnn", "width": 16}})
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    assert trainer.fit().steps == 2
    assert sum(isinstance(module, BlurConv2d) for module in trainer.model.modules()) == 2
    for parameter, old in zip(trainer.model.parameters(), before, strict=True):
        assert not torch.equal(parameter, old)


def test_the_trainer_refuses_a_model_with_nothing_to_blur_before_it_writes(tmp_path: Path) -> None:
    with pytest.raises(cp.CompositionError, match="nothing-to-replace"):
        Trainer({**CONFIG, "model": "mlp", "run_dir": str(tmp_path / "run")})
    assert not (tmp_path / "run").exists()


def test_a_shift_of_the_image_changes_the_features_less() -> None:
    def change(model: nn.Module) -> float:
        x = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return float((model(x) - model(x.roll(1, -1))).square().mean() / model(x).var(0).mean())

    plain, blurred = small_cnn().eval(), small_cnn().eval()
    replace_strided(blurred)
    assert change(blurred) < change(plain)
