from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from counterpoint import ConfigError, Duration
from counterpoint.algorithms import EMA, CutMix, MixUp, OneOf
from counterpoint.core.check.settings import settings_of
from counterpoint.losses import CrossEntropy, MeanSquaredError
from counterpoint.trainer.component_config import ComponentConfig
from counterpoint.trainer.config.run_config import RunConfig
from counterpoint.trainer.data import Digits
from counterpoint.trainer.models import MLP, SmallCNN
from counterpoint.trainer.optim import SGD, AdamW, Cosine

LEAST: dict[str, Any] = {"task": "multiclass", "max_duration": "2ep"}


def test_a_component_is_a_name_a_mapping_or_an_instance() -> None:
    names = RunConfig(**LEAST, data="digits", model="small_cnn", loss="mse", optimizer="adamw", scheduler="cosine")
    mappings = RunConfig(
        **LEAST,
        data={"name": "digits"},
        model={"name": "small_cnn"},
        loss={"name": "mse"},
        optimizer={"name": "adamw"},
        scheduler={"name": "cosine"},
    )
    instances = RunConfig(
        **LEAST, data=Digits(), model=SmallCNN(), loss=MeanSquaredError(), optimizer=AdamW(), scheduler=Cosine()
    )
    assert names == mappings == instances
    assert isinstance(names.model, SmallCNN)


def test_settings_reach_the_component() -> None:
    config = RunConfig(**LEAST, data={"name": "digits", "batch_size": 7}, scheduler={"name": "cosine", "warmup": "3ba"})
    assert config.data == Digits(batch_size=7)
    assert config.scheduler == Cosine(warmup=Duration.parse("3ba"))
    assert (config.model, config.loss, config.optimizer) == (None, CrossEntropy(), SGD())


def test_algorithms_hold_what_was_written() -> None:
    config = RunConfig(
        **LEAST,
        algorithms=[
            "mixup",
            {"name": "ema", "half_life": 10, "start": "0.5ep", "after": ["mixup"]},
            {"name": "one_of", "algorithms": ["mixup", {"name": "cutmix", "alpha": 0.5}], "weights": [1, 3], "id": "x"},
            MixUp(id="other"),
        ],
    )
    assert config.algorithms == (
        MixUp(),
        EMA(half_life=10.0, start="0.5ep", after=("mixup",)),
        OneOf(algorithms=[MixUp(), CutMix(alpha=0.5)], weights=[1, 3], id="x"),
        MixUp(id="other"),
    )


def test_what_is_resolved_makes_an_equal_config() -> None:
    config = RunConfig(
        task="multilabel",
        seed=2**62,
        data={"name": "image_folder", "root": "images", "mean": [0.1, 0.2, 1e-7]},
        model={"name": "resnet18", "stem": "small"},
        loss={"name": "bce", "pos_weight": [1, 2.5]},
        optimizer={"name": "adamw", "betas": [0.8, 0.9], "lr": 1e-5},
        max_duration="300ba",
        algorithms=[
            {"name": "one_of", "algorithms": ["mixup", {"name": "cutmix", "end": "0.1dur"}], "p": 1 / 3},
            "ema",
        ],
        eval_every="0.3333333333333333ep",
        run_dir="null",
    )
    resolved = config.resolved()
    assert RunConfig.parse(resolved) == config
    assert resolved["model"]["name"] == "resnet18"
    assert resolved["algorithms"][0]["algorithms"][1] == {"name": "cutmix", "end": "0.1dur"}


def test_a_component_that_nobody_registered_is_written_down_under_its_own_name() -> None:
    class Own(ComponentConfig):
        width: int = 3

    resolved = RunConfig(**LEAST, model=Own()).resolved()
    assert resolved["model"] == {"name": "Own", "width": 3}
    with pytest.raises(ConfigError, match="no model is registered under the name 'Own'"):
        RunConfig.parse(resolved)


def test_it_is_frozen_and_strict() -> None:
    config = RunConfig(**LEAST)
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 3  # type: ignore[misc]
    for wrong in ({"seed": "3"}, {"seed": True}, {"workers": 1.0}, {"compile": 1}, {"strict_order": "yes"}):
        with pytest.raises(ValidationError):
            RunConfig(**LEAST, **wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"seed": -1}, "seed = -1"),
        ({"seed": 2**63}, "seed = 9223372036854775808"),
        ({"accumulate": 0}, "accumulate = 0"),
        ({"workers": -1}, "workers = -1"),
        ({"max_duration": 3}, "max_duration = 3"),
        ({"max_duration": "1.5ba"}, "batches are whole"),
        ({"checkpoint_every": "0dur"}, "write one above 0"),
        ({"run_dir": ""}, 'run_dir = ""'),
        ({"task": "classification"}, "write one of multiclass, segmentation, multilabel, regression"),
        ({"data": {"name": "digits", "batch_size": 128.0}}, "data.batch_size = 128.0"),
        ({"data": {"name": "image_folder"}}, "data.root: is missing"),
        ({"loss": {"name": "cross_entropy", "weight": [1, -2]}}, "loss.weight.1 = -2"),
        ({"loss": {"name": "cross_entropy", "label_smoothing": math.nan}}, "loss.label_smoothing = .nan"),
        ({"optimizer": {"name": "sgd", "lr": -math.inf}}, "optimizer.lr = -.inf"),
        ({"optimizer": {"name": "adamw", "betas": [0.9]}}, "optimizer.betas"),
        ({"model": {"name": 3}}, "model: is neither a name nor a mapping"),
        ({"loss": None}, "loss = null"),
        ({"algorithms": [[]]}, "algorithms.0: is neither a name nor a mapping"),
        ({"algorithms": {"name": "mixup"}}, "algorithms: is not allowed"),
        ({"algorithms": [{"name": "one_of"}]}, "algorithms.0.algorithms: is missing"),
        ({"algorithms": [{"name": "one_of", "algorithms": ["mixpu"]}]}, 'algorithms.0.algorithms.0 = "mixpu"'),
        ({"algorithms": [{"name": "one_of", "algorithms": ["mixup"], "weights": [1, 1]}]}, "2 weights for 1"),
    ],
)
def test_a_wrong_value_is_named(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse({**LEAST, **wrong}, source="run.yaml")
    assert str(caught.value).startswith("run.yaml: 1 fault in the config:\n")
    assert said in str(caught.value)
    (fault,) = caught.value.faults
    assert fault.fix


def test_plugins_are_packages_that_must_be_installed() -> None:
    assert RunConfig(**LEAST, plugins=["pydantic"]).plugins == ("pydantic",)
    with pytest.raises(ConfigError, match=r"plugins: not installed: outside\n +fix: run `pip install outside`"):
        RunConfig.parse({**LEAST, "plugins": ["pydantic", "outside"]})


def test_settings_in_words() -> None:
    assert {name: str(setting) for name, setting in settings_of(AdamW).items()} == {
        "lr": "a number, above 0 (default: 0.001)",
        "betas": "a list of 2 (default: [0.9, 0.999])",
        "eps": "a number, above 0 (default: 1e-08)",
        "weight_decay": "a number, at least 0 (default: 0.01)",
    }
    assert str(settings_of(OneOf)["algorithms"]) == "a list, at least 1 long"
    assert settings_of(MLP)["hidden"].description == "units of each hidden layer"
