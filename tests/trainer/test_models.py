from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from counterpoint import ConfigError
from counterpoint.trainer.data.dataset import DataSpec
from counterpoint.trainer.models import MLP, ResNet18, ResNet50, SmallCNN

DIGITS = DataSpec("multiclass", "normalized", (1, 8, 8), 10)
COLOUR = DataSpec("multiclass", "normalized", (3, 32, 32), 7)


@pytest.mark.slow
@pytest.mark.parametrize("config", [SmallCNN(width=4), MLP(hidden=8), ResNet18(), ResNet50()])
@pytest.mark.parametrize("spec", [DIGITS, COLOUR], ids=["1x8x8", "3x32x32"])
def test_outputs_and_gradients(config: SmallCNN, spec: DataSpec) -> None:
    model = config.build(spec)
    outputs = model(torch.randn(2, *spec.input_shape))
    assert outputs.shape == (2, spec.num_classes)
    outputs.logsumexp(1).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(("size", "small"), [(32, True), (64, True), (65, False), (224, False)])
def test_the_stem_follows_the_image_size(size: int, small: bool) -> None:
    model = ResNet18().build(DataSpec("multiclass", "normalized", (3, size, size), 2))
    assert isinstance(model.stem[0], nn.Conv2d)
    assert model.stem[0].kernel_size == ((3, 3) if small else (7, 7))
    reduced = model.stem(torch.zeros(1, 3, size, size)).shape[-1]
    assert reduced == (size if small else -(-size // 4))


@pytest.mark.slow
def test_the_stem_can_be_chosen() -> None:
    assert ResNet18(stem="large").build(COLOUR).stem[0].kernel_size == (7, 7)
    assert ResNet18(stem="small").build(DataSpec("multiclass", "normalized", (3, 224, 224), 2)).stem[0].stride == (1, 1)


@pytest.mark.slow
def test_the_last_stage_sees_a_thirty_second_of_the_image() -> None:
    model = ResNet50().build(DataSpec("multiclass", "normalized", (3, 224, 224), 2))
    with torch.no_grad():
        assert model.blocks(model.stem(torch.zeros(1, 3, 224, 224))).shape == (1, 2048, 7, 7)


@pytest.mark.slow
@pytest.mark.parametrize(("zero", "identity"), [(True, True), (False, False)])
def test_zero_init_makes_each_block_start_as_its_shortcut(zero: bool, identity: bool) -> None:
    model = ResNet18(zero_init_residual=zero).build(COLOUR)
    inputs = torch.rand(2, 64, 8, 8)  # not negative, so that the ReLU at the end changes nothing
    assert torch.equal(model.blocks[0](inputs), inputs) is identity


def test_convolutions_start_from_the_fan_out_normal() -> None:
    weight = ResNet18().build(COLOUR).blocks[-1].branch[3].weight
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


@pytest.mark.kind("30")
def test_the_fan_out_counts_where_it_differs_from_the_fan_in() -> None:
    weight = ResNet18().build(COLOUR).blocks[4].branch[0].weight
    assert weight.shape == (256, 128, 3, 3)
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)


@pytest.mark.kind("30")
def test_widths_strides_and_layers_are_as_set() -> None:
    convolutions = [layer for layer in SmallCNN(width=4).build(COLOUR) if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [4, 8, 16]
    assert [layer.stride for layer in convolutions] == [(1, 1), (2, 2), (2, 2)]
    linear = [layer for layer in MLP(layers=3, hidden=5).build(DIGITS) if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(64, 5), (5, 5), (5, 5), (5, 10)]


def test_regression_has_one_output() -> None:
    assert MLP().build(DataSpec("regression", "features", (5,)))(torch.zeros(3, 5)).shape == (3, 1)


def test_an_mlp_without_hidden_layers_is_linear() -> None:
    model = MLP(layers=0).build(DataSpec("multiclass", "features", (5,), 3))
    assert [type(layer) for layer in model] == [nn.Flatten, nn.Linear]


@pytest.mark.parametrize("config", [SmallCNN(), ResNet18(), ResNet50()])
def test_image_models_refuse_other_inputs(config: SmallCNN) -> None:
    with pytest.raises(ConfigError, match=r"takes images of shape \(C, H, W\).*\(5,\).*mlp"):
        config.build(DataSpec("multiclass", "features", (5,), 3))


@pytest.mark.parametrize("settings", [{"width": 0}, {"width": 4.5}, {"widht": 4}])
def test_settings_are_checked(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SmallCNN.model_validate(settings)
