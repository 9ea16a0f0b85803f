"""Images stay bytes up to the plan: who normalises them, by what, and for which models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import counterpoint as cp
from counterpoint import BYTES, UNIT, ConfigError
from counterpoint.algorithms import Normalize
from counterpoint.cli import main
from counterpoint.trainer import DataSpec
from tests.trainer.support import assert_equal, write_images

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)
LISTED = {"name": "normalize", "mean": [0.5], "std": [0.3]}


class ToUnit(cp.Algorithm[None], name="to_unit"):
    """Make images from 0 to 1 of bytes."""

    @cp.transform(inputs=cp.Edit(frozenset({BYTES}), gives=UNIT))
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch.with_inputs(batch.inputs / 255)


class Watched(nn.Module):
    """A model that keeps what it gets, in training and in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
        self.trained: list[Tensor] = []
        self.evaluated: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        (self.trained if self.training else self.evaluated).append(inputs)
        outputs: Tensor = self.layers(inputs.float() if inputs.dtype == torch.uint8 else inputs)
        return outputs


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_images(tmp_path / "images", count=4)
    return tmp_path / "images"


def folder(root: Path, *algorithms: Any, **keys: Any) -> dict[str, Any]:
    """A run of two steps on 8 images of two classes."""
    data = {"name": "image_folder", "root": str(root), "size": 8, "batch_size": 4, "augment": "none"}
    return {
        "task": "multiclass",
        "data": {**data, "mean": list(MEAN), "std": list(STD)},
        "model": {"name": "small_cnn", "width": 2},
        "max_duration": "2ba",
        "algorithms": list(algorithms),
        **keys,
    }


def own(count: int = 8) -> TensorDataset:
    """Bytes of two classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return TensorDataset(images, torch.arange(count) % 2)


def trainer_on(spec: DataSpec, *algorithms: Any, **given: Any) -> cp.Trainer:
    keys = {"task": "multiclass", "max_duration": "1ba", "algorithms": list(algorithms)}
    return cp.Trainer(keys, **{"model": Watched(), "train_data": own(), "eval_data": own(), "spec": spec, **given})


def stated(**facts: Any) -> DataSpec:
    return DataSpec("multiclass", "bytes", (3, 8, 8), 2, **facts)


def normalisation(plan: cp.Plan) -> Normalize:
    (found,) = (member.algorithm for member in plan.members if isinstance(member.algorithm, Normalize))
    return found


def test_a_folder_of_images_is_normalised_by_itself_and_the_plan_shows_it(root: Path) -> None:
    trainer = cp.Trainer(folder(root, "mixup", "cutout"))
    assert trainer.plan.order == ("dense_targets", "normalize", "cutout", "mixup")
    assert normalisation(trainer.plan) == Normalize(mean=MEAN, std=STD)
    assert "bytes → normalized" in trainer.plan.explain()
    (note,) = trainer.notes
    assert note == "normalize was added, as the data gives bytes; list it to choose otherwise"


def test_check_shows_it(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(folder(root)))  # which is YAML too
    assert main(["check", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "bytes → normalized" in shown
    assert "normalize was added" in shown


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "small_cnn", "resnet18", "resnet50"])
def test_the_built_in_models_are_built_for_it(root: Path, name: str) -> None:
    assert "normalize" in cp.Trainer(folder(root, model=name)).plan.order


def test_the_model_gets_the_same_in_training_and_evaluation(root: Path) -> None:
    model = Watched()
    trainer = cp.Trainer(folder(root, max_duration="1ep"), model=model)
    model.evaluated.clear()
    trainer.fit()
    for seen, data in ((model.trained, trainer.data.train), (model.evaluated, trainer.data.evaluation)):
        found = torch.cat(seen).double()
        assert found.shape == (8, 3, 8, 8)
        pixels = torch.stack([data[index][0] for index in range(8)]).double()
        wanted = (pixels / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        # Training shuffles: images are compared in the order of their sums.
        order, wanted_order = found.sum((1, 2, 3)).argsort(), wanted.sum((1, 2, 3)).argsort()
        torch.testing.assert_close(found[order], wanted[wanted_order], rtol=0, atol=1e-5)


def test_it_trains_as_with_the_step_written_out(root: Path) -> None:
    written = {"name": "normalize", "mean": list(MEAN), "std": list(STD)}
    added, listed = (cp.Trainer(folder(root, *methods, "mixup")) for methods in ((), (written,)))
    assert added.plan.fingerprint == listed.plan.fingerprint
    assert added.fit().metrics == listed.fit().metrics
    assert_equal(added.model.state_dict(), listed.model.state_dict())


def test_who_lists_it_is_obeyed(root: Path) -> None:
    model = Watched()
    settings = {**LISTED, "dtype": "bfloat16", "channels_last": True}
    trainer = cp.Trainer(folder(root, settings, "cutmix", precision="bf16"), model=model)
    assert normalisation(trainer.plan).mean == (0.5,)
    assert trainer.notes == ()
    trainer.fit()
    for inputs in (*model.trained, *model.evaluated[-1:]):
        assert inputs.dtype == torch.bfloat16
        assert inputs.is_contiguous(memory_format=torch.channels_last)


def test_half_precision_for_a_model_that_computes_in_float32_is_found_before_training(root: Path) -> None:
    settings = {**LISTED, "dtype": "bfloat16"}
    with pytest.raises(ConfigError, match=r"\(3, 8, 8\) and torch.bfloat16: .*; let the plan give float32, or"):
        cp.Trainer(folder(root, settings))
    cp.Trainer(folder(root, settings, precision="bf16"))


def test_bytes_of_ones_own_are_normalised_where_mean_and_std_are_stated() -> None:
    assert normalisation(trainer_on(stated(mean=(0.5,), std=(0.3,))).plan).mean == (0.5,)
    with pytest.raises(cp.CompositionError) as caught:
        trainer_on(stated())
    assert [fault.code for fault in caught.value.faults] == ["model-inputs"]


def test_a_model_that_takes_bytes_gets_bytes(root: Path) -> None:
    model = Watched()
    trainer = cp.Trainer(folder(root), model=model, model_inputs={"bytes"})
    assert trainer.plan.order == ()
    trainer.fit()
    assert {inputs.dtype for inputs in (*model.trained, *model.evaluated)} == {torch.uint8}


def test_a_model_of_other_inputs_is_not_normalised_for() -> None:
    spec = stated(mean=(0.5,), std=(0.3,))
    assert trainer_on(spec, ToUnit(), model_inputs={"unit"}).plan.order == ("to_unit",)
    assert trainer_on(spec, ToUnit()).plan.order == ("to_unit",)
    with pytest.raises(cp.CompositionError, match="inputs of kind unit, and would get bytes"):
        trainer_on(spec, model_inputs={"unit"})


def test_a_listed_choice_is_told_of_itself_alone(root: Path) -> None:
    with pytest.raises(cp.CompositionError) as caught:
        cp.Trainer(folder(root, {"name": "one_of", "algorithms": [LISTED]}))
    assert [fault.code for fault in caught.value.faults] == ["conditional-kind"]


def test_methods_for_bytes_come_before_it(root: Path) -> None:
    white = {"name": "cutout", "fill": 255, "space": "bytes"}
    trainer = cp.Trainer(folder(root, "mixup", white, "trivial_augment", strict_order=True))
    assert trainer.plan.order == ("dense_targets", "trivial_augment", "cutout", "normalize", "mixup")


def test_floats_where_bytes_were_stated(root: Path) -> None:
    images = TensorDataset(torch.rand(8, 3, 8, 8), torch.arange(8) % 2)
    with pytest.raises(cp.DataError, match=r"the first input of the training data is of torch.float32, and bytes"):
        cp.Trainer(folder(root), train_data=images, eval_data=images)
    with pytest.raises(cp.DataError, match=r"the first input of the evaluation data is of torch.float32, and bytes"):
        cp.Trainer(folder(root), train_data=own(), eval_data=images)
