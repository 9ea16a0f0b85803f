from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import counterpoint as cp
from counterpoint import (
    CheckpointError,
    CompositionError,
    ConfigError,
    DataError,
    NonFiniteLossError,
    RunDirectoryError,
    RunError,
)
from counterpoint.trainer import DataSpec, RunConfig, load_config
from counterpoint.trainer.optim import SGD
from counterpoint.trainer.runs.checkpoint import latest_checkpoint
from tests.trainer.support import METHODS, assert_equal, blobs, config, lines, weights


def own_model(classes: int = 3, width: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, classes))


def own_config(folder: Path | None, **keys: Any) -> dict[str, Any]:
    return {"data": None, **config(folder, model=None, **keys)} | {"data": keys.get("data")}


@pytest.fixture(autouse=True)
def _generators_stay() -> Iterator[None]:
    """Neither torch's nor numpy's nor Python's global generator is moved by any test here."""
    torch.manual_seed(1234)
    assert cp.Trainer  # importing rich, which it does, draws from Python's generator once
    before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
    yield
    assert str(np.random.get_state()) == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]


@pytest.mark.slow
def test_a_run_writes_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    trainer = cp.Trainer(config(folder, algorithms=METHODS))
    assert not folder.exists()
    summary = trainer.fit()
    assert (summary.steps, summary.model_path) == (22, folder / "model.safetensors")
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoints",
        "config.resolved.yaml",
        "metrics.jsonl",
        "model.safetensors",
        "plan.json",
    ]
    assert load_config(folder / "config.resolved.yaml") == trainer.config
    assert json.loads((folder / "plan.json").read_text())["fingerprint"] == trainer.plan.fingerprint
    assert [(line["epoch"], line["step"]) for line in lines(folder)] == [(1, 11), (2, 22)]
    assert summary.metrics["evaluation_accuracy"] == lines(folder)[-1]["evaluation_accuracy"] > 0.5
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-00000011", "step-00000022"]


def test_no_global_generator_is_moved(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    cp.Trainer(config(tmp_path / "run", algorithms=METHODS, max_duration="3ba")).fit()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_the_seed_decides_the_run_and_nothing_else_does(tmp_path: Path) -> None:
    model = {"name": "mlp", "hidden": 16}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(hash(name) % 1000)
        cp.Trainer(config(tmp_path / name, seed=seed, model=model, algorithms=METHODS, max_duration="5ba")).fit()
    assert_equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert (tmp_path / "a" / "metrics.jsonl").read_text() == (tmp_path / "b" / "metrics.jsonl").read_text()
    assert not torch.equal(weights(tmp_path / "a")["1.weight"], weights(tmp_path / "c")["1.weight"])


@pytest.mark.slow
def test_the_loop_is_a_plain_loop(tmp_path: Path) -> None:
    """The trainer's weights are those of a loop written by hand, bit for bit."""
    keys = {"model": {"name": "small_cnn", "width": 4}, "optimizer": {"name": "sgd", "lr": 0.2, "weight_decay": 0.01}}
    trainer = cp.Trainer(config(tmp_path / "run", algorithms=["mixup"], max_duration="1ep", **keys))
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    data, sampler, plan = trainer.data.train, trainer._sampler, trainer.plan
    trainer.fit()

    model = trainer.config.model.build(trainer.data.spec)
    model.load_state_dict(start)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=0.01)
    sampler.start(0)
    for step, keys_of_batch in enumerate(sampler):
        for group in optimizer.param_groups:
            group["lr"] = 0.2 * (1 + np.cos(np.pi * step / 11)) / 2
        images, labels = zip(*(data[index] for _, index in keys_of_batch), strict=True)
        x, y = plan(torch.stack(images), torch.stack(labels), step=step)
        optimizer.zero_grad()
        plan.loss(model(x), y).backward()
        optimizer.step()
    found = weights(tmp_path / "run")
    for name, value in model.state_dict().items():
        assert torch.allclose(found[name], value, rtol=1e-6, atol=1e-7), name


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [2, 4])
def test_microbatches_change_nothing_but_rounding(tmp_path: Path, accumulate: int) -> None:
    for parts in (1, accumulate):
        cp.Trainer(config(tmp_path / str(parts), accumulate=parts, algorithms=METHODS, max_duration="4ba")).fit()
    whole, split = weights(tmp_path / "1"), weights(tmp_path / str(accumulate))
    for name, value in whole.items():
        assert torch.allclose(value, split[name], rtol=1e-4, atol=1e-6), name
    one, other = lines(tmp_path / "1")[0], lines(tmp_path / str(accumulate))[0]
    assert {key: pytest.approx(value, rel=1e-4) for key, value in one.items()} == other


@pytest.mark.slow
def test_the_average_is_what_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``model.safetensors`` holds EMA's weights, computed here from the weights after every step."""
    from counterpoint.trainer.loop.loop import Loop

    seen: list[dict[str, Tensor]] = []
    after_step = Loop._after_step

    def watched(loop: Loop) -> None:
        seen.append({name: value.detach().clone() for name, value in loop._raw.state_dict().items()})
        after_step(loop)

    monkeypatch.setattr(Loop, "_after_step", watched)
    ema = {"name": "ema", "decay": 0.7, "warmup": False}
    keys = {"model": {"name": "small_cnn", "width": 4}, "max_duration": "8ba", "eval_every": "3ba"}
    summary = cp.Trainer(config(tmp_path / "run", algorithms=[ema], **keys)).fit()

    found = weights(tmp_path / "run")
    assert len(seen) == 8
    for name, last in seen[-1].items():
        if not last.is_floating_point():
            assert torch.equal(found[name], last)
            continue
        average = seen[0][name].double()
        for state in seen[1:]:
            average = 0.7 * average + 0.3 * state[name].double()
        assert torch.allclose(found[name].double(), average, rtol=1e-4, atol=1e-6), name
    checkpoint, _ = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert_equal(checkpoint.part("model"), seen[-1])
    assert summary.metrics["evaluation_accuracy"] == _accuracy(tmp_path / "run", keys["model"])


def _accuracy(folder: Path, model: dict[str, Any]) -> float:
    """The accuracy on the evaluation data of the weights that a run wrote."""
    trainer = cp.Trainer(config(None, model=model))
    trainer.model.load_state_dict(weights(folder))
    images, labels = (torch.stack(part) for part in zip(*trainer.data.evaluation, strict=True))
    with torch.no_grad():
        right = trainer.model.eval()(images).argmax(1) == labels
    return right.float().mean().item()


@pytest.mark.slow
def test_ones_own_model_and_data(tmp_path: Path) -> None:
    model, before = own_model(), torch.get_rng_state()
    trainer = cp.Trainer(
        own_config(tmp_path / "run", algorithms=["mixup", "ema"], max_duration="40ep"),
        model=model,
        train_data=blobs(96),
        eval_data=blobs(33, seed=1),
    )
    assert trainer.data.spec == DataSpec("multiclass", "features", (4,), 3)
    summary = trainer.fit()
    assert torch.equal(torch.get_rng_state(), before)
    assert summary.steps == 40  # 96 examples are fewer than a batch of 128, so that they are the only batch
    assert summary.metrics["evaluation_accuracy"] > 0.9
    assert weights(tmp_path / "run").keys() == model.state_dict().keys()


def test_the_batch_size_of_ones_own_data_is_the_configs(tmp_path: Path) -> None:
    data = {"name": "digits", "batch_size": 10}
    trainer = cp.Trainer(own_config(None, data=data), model=own_model(), train_data=blobs(96), eval_data=blobs())
    assert trainer.plan.facts.batch_size == 10
    assert trainer.plan.facts.clock.steps_per_epoch == 9


def test_a_config_model_on_ones_own_data() -> None:
    spec = DataSpec("multiclass", "unit", (2, 6, 6), 4)
    data = blobs(20, classes=4, shape=(2, 6, 6))
    keys = {**own_config(None), "model": {"name": "small_cnn", "width": 2}}
    trainer = cp.Trainer(keys, train_data=data, eval_data=data, spec=spec)
    assert trainer.model(torch.zeros(2, 2, 6, 6)).shape == (2, 4)
    assert trainer.plan.facts.inputs is cp.UNIT
    with pytest.raises(ConfigError, match=r"needs the number of classes; .*spec=counterpoint.trainer.DataSpec"):
        cp.Trainer(keys, train_data=data, eval_data=data)


def test_a_part_of_the_configs_data() -> None:
    whole = cp.Trainer(config(None)).data
    part = torch.utils.data.Subset(whole.train, range(100))
    trainer = cp.Trainer(config(None), train_data=part, eval_data=whole.evaluation)
    assert len(trainer.data.train) == 100
    assert trainer.data.spec == whole.spec


@pytest.mark.parametrize(
    ("inputs", "kind"),
    [
        (torch.zeros(8, 3, 4, 4), "image"),
        (torch.zeros(8, 3, 4, 4, dtype=torch.uint8), "bytes"),
        (torch.zeros(8, 48), "features"),
        (torch.zeros(8, 48, dtype=torch.int64), "tokens"),
    ],
)
def test_kinds_of_ones_own_inputs(inputs: Tensor, kind: str) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(48, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            outputs: Tensor = self.linear(inputs.float().flatten(1))
            return outputs

    data = TensorDataset(inputs, torch.zeros(8, dtype=torch.int64))
    given = {"model": Flat(), "train_data": data, "eval_data": data}
    assert cp.Trainer(own_config(None), **given, model_inputs={kind}).data.spec.inputs == kind
    if kind == "bytes":
        with pytest.raises(cp.CompositionError, match=r"give Trainer your model and model_inputs=\{'bytes'\}"):
            cp.Trainer(own_config(None), **given)


def test_bytes_are_normalised_for_the_model_in_training_and_evaluation() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (64, 1, 4, 4), generator=generator, dtype=torch.uint8)
    labels = (images.float().mean((1, 2, 3)) > 127).long()
    floats = images.double().sub(255 * 0.5).div(255 * 0.25).float()

    def trained(inputs: Tensor, kind: str, *methods: object) -> tuple[dict[str, float], dict[str, Tensor]]:
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        with torch.no_grad():
            model[1].weight.copy_(torch.linspace(-1, 1, 32).view(2, 16))
            model[1].bias.zero_()
        data, spec = TensorDataset(inputs, labels), DataSpec("multiclass", kind, (1, 4, 4), 2)
        keys = own_config(None, algorithms=[*methods, "mixup"], max_duration="3ep")
        summary = cp.Trainer(keys, model=model, train_data=data, eval_data=data, spec=spec).fit()
        return summary.metrics, model.state_dict()

    metrics, weights = trained(images, "bytes", {"name": "normalize", "mean": [0.5], "std": [0.25]})
    wanted_metrics, wanted = trained(floats, "normalized")
    assert metrics == pytest.approx(wanted_metrics, abs=1e-6)
    torch.testing.assert_close(weights, wanted, rtol=0, atol=1e-6)


def test_other_tasks() -> None:
    features = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    jobs = {
        "regression": ("mse", own_model(1), features.sum(1, keepdim=True)),
        "multilabel": ("bce", own_model(4), (features > 0).float()),
    }
    for task, (loss, model, targets) in jobs.items():
        data = TensorDataset(features, targets)
        keys = own_config(None, task=task, loss=loss, algorithms=["mixup", "ema"], max_duration="3ep")
        summary = cp.Trainer(keys, model=model, train_data=data, eval_data=data).fit()
        assert summary.metrics.keys() == {"train_loss", "evaluation_loss"}


def test_nothing_is_written_without_a_run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    summary = cp.Trainer(config(None, max_duration="3ba")).fit()
    assert (summary.steps, summary.model_path) == (3, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_metrics_come_as_often_as_asked(tmp_path: Path) -> None:
    keys = {"max_duration": "26ba", "eval_every": "0.5ep", "checkpoint_every": "4ba"}
    cp.Trainer(config(tmp_path / "run", **keys)).fit()
    found = [
        (line["epoch"], line["step"], "train_loss" in line, "evaluation_loss" in line)
        for line in lines(tmp_path / "run")
    ]
    assert found == [
        (1, 6, False, True),
        (1, 11, True, True),
        (2, 17, False, True),
        (2, 22, True, True),
        (3, 26, True, True),
    ]
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-00000024", "step-00000026"]


@pytest.mark.slow
def test_accuracy_has_another_name_on_mixed_targets(tmp_path: Path) -> None:
    for name, algorithms in (("plain", ["cutout"]), ("mixed", ["mixup"])):
        cp.Trainer(config(tmp_path / name, algorithms=algorithms, max_duration="1ba")).fit()
    assert "train_accuracy" in lines(tmp_path / "plain")[0]
    assert "train_expected_accuracy" in lines(tmp_path / "mixed")[0]


def test_a_loss_that_is_nan_stops_the_run(tmp_path: Path) -> None:
    class Breaking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)
            self.calls = 0

        def forward(self, inputs: Tensor) -> Tensor:
            self.calls += self.training
            outputs: Tensor = self.linear(inputs)
            return outputs / 0 if self.calls == 6 else outputs

    keys = own_config(tmp_path / "run", algorithms=["mixup"], max_duration="9ba", checkpoint_every="2ba")
    trainer = cp.Trainer(keys, model=Breaking(), train_data=blobs(), eval_data=blobs())
    with pytest.raises(
        NonFiniteLossError, match=r"step 5: the loss is nan; draws of this step: mixup: lam .*perm .*step-00000004"
    ):
        trainer.fit()
    checkpoint, _ = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.data["step"] == 4
    assert all(value.isfinite().all() for value in checkpoint.part("model").values())
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.slow
def test_weights_that_are_nan_are_never_kept(tmp_path: Path) -> None:
    """The loss of step 5 is a number and its gradient is not; a checkpoint is due before the next loss would tell."""

    class Breaking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)
            self.calls = 0

        def forward(self, inputs: Tensor) -> Tensor:
            self.calls += self.training
            outputs: Tensor = self.linear(inputs)
            if self.calls == 6:
                outputs.register_hook(lambda gradient: gradient * float("nan"))
            return outputs

    def trainer() -> cp.Trainer:
        keys = own_config(tmp_path / "run", max_duration="9ba", checkpoint_every="2ba", eval_every="9ba")
        return cp.Trainer(keys, model=Breaking(), train_data=blobs(), eval_data=blobs())

    broken = r"step 5: its update made weights NaN or infinite: linear.weight, linear.bias"
    with pytest.raises(NonFiniteLossError, match=rf"{broken}.*the last checkpoint is .*step-00000004"):
        trainer().fit()
    checkpoint, _ = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.data["step"] == 4
    assert all(value.isfinite().all() for value in checkpoint.part("model").values())
    again = trainer()
    again.model.calls = 4
    with pytest.raises(NonFiniteLossError, match=rf"{broken}.*the last checkpoint is that of step 4"):
        again.fit(resume=True)


def test_a_loss_that_explodes_before_any_checkpoint(tmp_path: Path) -> None:
    keys = own_config(tmp_path / "run", optimizer={"name": "sgd", "lr": 1e30}, checkpoint_every="9ep")
    trainer = cp.Trainer(keys, model=own_model(), train_data=blobs(), eval_data=blobs())
    with pytest.raises(NonFiniteLossError, match="there is no checkpoint to go back to"):
        trainer.fit()


@pytest.mark.parametrize("label", [3, -1])
def test_labels_out_of_range(label: int) -> None:
    good = blobs(16)
    bad = TensorDataset(good.tensors[0], torch.full((16,), label))
    for train, evaluation in ((bad, good), (good, bad)):
        trainer = cp.Trainer(own_config(None), model=own_model(), train_data=train, eval_data=evaluation)
        with pytest.raises(DataError, match=str(label)):
            trainer.fit()


def _no_data() -> dict[str, Any]:
    return {"config": own_config(None), "model": own_model()}


def _no_model() -> dict[str, Any]:
    return {"config": config(None, model=None)}


def _no_evaluation() -> dict[str, Any]:
    return {"config": own_config(None), "model": own_model(), "train_data": blobs()}


def _loader() -> dict[str, Any]:
    loader = DataLoader(blobs(), collate_fn=lambda items: {"inputs": items})
    return {"config": own_config(None), "model": own_model(), "train_data": loader, "eval_data": blobs()}


def _empty() -> dict[str, Any]:
    return {"config": own_config(None), "model": own_model(), "train_data": blobs(), "eval_data": blobs(0)}


def _no_pairs() -> dict[str, Any]:
    return {"config": own_config(None), "model": own_model(), "train_data": blobs().tensors[0], "eval_data": blobs()}


def _other_shape() -> dict[str, Any]:
    return {"config": own_config(None), "model": own_model(), "train_data": blobs(), "eval_data": blobs(shape=(5,))}


def _narrow_model() -> dict[str, Any]:
    return {"config": own_config(None), "model": own_model(width=7), "train_data": blobs(), "eval_data": blobs()}


def _flat_model() -> dict[str, Any]:
    return {"config": own_config(None), "model": nn.Flatten(0), "train_data": blobs(), "eval_data": blobs()}


def _other_classes() -> dict[str, Any]:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
    return {"config": config(None), "model": model}


def _other_task() -> dict[str, Any]:
    return {"config": config(None, task="multilabel")}


def _too_short() -> dict[str, Any]:
    return {"config": config(None, max_duration="0.01ep")}


def _long_warmup() -> dict[str, Any]:
    return {"config": config(None, scheduler={"name": "cosine", "warmup": "9ep"})}


def _frozen() -> dict[str, Any]:
    return {"config": config(None), "model": nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).requires_grad_(False)}


def _fp16() -> dict[str, Any]:
    return {"config": config(None, precision="fp16")}


def _features_for_a_cnn() -> dict[str, Any]:
    keys = {**own_config(None), "model": "small_cnn"}
    spec = DataSpec("multiclass", "features", (4,), 3)
    return {"config": keys, "train_data": blobs(), "eval_data": blobs(), "spec": spec}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (_no_data, ConfigError, "data: is missing"),
        (_no_model, ConfigError, "model: is missing"),
        (_no_evaluation, ConfigError, "train_data is given without eval_data"),
        (_loader, DataError, r"batches of the training data must be \(input tensor, target tensor\)"),
        (_empty, DataError, "evaluation data is empty"),
        (_no_pairs, DataError, r"items of the training data must be \(input tensor, target\)"),
        (_other_shape, DataError, r"first input of the evaluation data has shape \(5,\), and \(4,\) was stated"),
        (_narrow_model, ConfigError, r"model: it cannot take an input of shape \(4,\)"),
        (_flat_model, ConfigError, r"model: for multiclass it must give outputs \(N, classes\)"),
        (_other_classes, ConfigError, "with 10 classes, and for one input it gave the shape .1, 7."),
        (_other_task, ConfigError, "task: 'multilabel' is not that of the data; write `task: multiclass`"),
        (_too_short, ConfigError, "max_duration: '0.01ep' is less than one batch, as an epoch has 11"),
        (_long_warmup, ConfigError, "scheduler.warmup: '9ep' is 99 batches, and the run has only 22"),
        (_frozen, ConfigError, "model: it has no parameters to train"),
        (_fp16, ConfigError, "precision: 'fp16' needs a GPU"),
        (_features_for_a_cnn, ConfigError, "small_cnn takes images"),
    ],
)
def test_what_does_not_fit_is_found_before_training(make: Any, error: type[Exception], message: str) -> None:
    arguments = make()
    with pytest.raises(error, match=message):
        cp.Trainer(arguments.pop("config"), **arguments)


@pytest.mark.slow
def test_the_optimizer_of_the_model_is_built_once_and_after_methods_have_changed_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Blurpool replaces modules. The settings are checked on a weight that is not the model's."""
    build, built = SGD.build, list[list[int]]()

    def counted(self: SGD, model: nn.Module) -> torch.optim.Optimizer:
        built.append([parameter.numel() for parameter in model.parameters()])
        return build(self, model)

    monkeypatch.setattr(SGD, "build", counted)
    trainer = cp.Trainer(config(None, max_duration="1ba", model="small_cnn", algorithms=["blurpool"]))
    assert built == [[1]]
    trainer.fit()
    assert built == [[1], [parameter.numel() for parameter in trainer.model.parameters()]]


@pytest.mark.parametrize("warmup", ["0ba", "10ba"])
def test_settings_that_overflow_together_are_found_before_training(warmup: str) -> None:
    """The rate counts at its highest, also if a warm-up leads there."""
    optimizer = {"name": "sgd", "lr": 1e20, "weight_decay": 1e19}
    with pytest.raises(ConfigError, match="optimizer: its settings are too large together"):
        cp.Trainer(config(None, optimizer=optimizer, scheduler={"name": "constant", "warmup": warmup}))


def test_faults_of_composition_are_in_yaml_terms() -> None:
    with pytest.raises(CompositionError) as raised:
        cp.Trainer(config(None, algorithms=["mixup", "cutmix"]))
    assert {fault.code for fault in raised.value.faults} == {"two-mixers"}
    assert "`{name: one_of, algorithms: [mixup, cutmix]}`" in str(raised.value)


def test_a_wrong_config_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(CompositionError):
        cp.Trainer(config(tmp_path / "run", algorithms=["mixup", "cutmix"]))
    with pytest.raises(RunDirectoryError):
        cp.Trainer(config(Path("/proc/version/run")))
    assert not list(tmp_path.iterdir())


def test_a_trainer_runs_once() -> None:
    trainer = cp.Trainer(config(None, max_duration="1ba"))
    trainer.fit()
    with pytest.raises(RunError, match="make a new Trainer"):
        trainer.fit()


@pytest.mark.slow
def test_a_folder_with_a_run_is_refused_resumed_or_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = config(tmp_path / "run", max_duration="3ba")
    cp.Trainer(keys).fit()
    model = (tmp_path / "run" / "model.safetensors").read_bytes()
    with pytest.raises(RunDirectoryError, match="holds a run already"):
        cp.Trainer(keys).fit()

    summary = cp.Trainer(keys).fit(resume=True)
    assert "holds this run, finished" in capsys.readouterr().out
    assert (summary.steps, summary.metrics["step"]) == (3, 3)

    cp.Trainer({**keys, "seed": 9}).fit(overwrite=True)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() != model
    assert len(lines(tmp_path / "run")) == 1
    assert load_config(tmp_path / "run" / "config.resolved.yaml").seed == 9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"optimizer": {"name": "sgd", "lr": 0.05}}, r"optimizer\.lr: was 0\.2, is 0\.05"),
        ({"model": {"name": "mlp", "hidden": 8}}, r"model\.hidden: was 64, is 8"),
        ({"algorithms": [{"name": "mixup", "alpha": 0.5}]}, r"algorithms\.0\.alpha: was 0\.2, is 0\.5"),
        ({"algorithms": []}, r"algorithms\.0\.name: was 'mixup', is 'not set'"),
        ({"max_duration": "9ba"}, r"max_duration: was '3ba', is '9ba'"),
        ({"seed": 4}, r"seed: was 3, is 4"),
    ],
)
def test_another_run_is_not_resumed(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    keys = config(tmp_path / "run", max_duration="3ba", algorithms=["mixup"])
    cp.Trainer(keys).fit()
    with pytest.raises(CheckpointError, match=rf"(?s)differs from this one.*{named}.*--overwrite"):
        cp.Trainer({**keys, **change}).fit(resume=True)


@pytest.mark.slow
def test_another_run_is_resumed_if_that_is_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = config(tmp_path / "run", max_duration="3ba", checkpoint_every="1ba", algorithms=["mixup"])
    cp.Trainer(keys).fit()
    (tmp_path / "run" / "model.safetensors").unlink()
    changed = {**keys, "max_duration": "5ba", "algorithms": [{"name": "mixup", "alpha": 0.5}]}
    summary = cp.Trainer(changed).fit(resume=True, allow_changes=True)
    assert summary.steps == 5
    said = capsys.readouterr().out
    assert "goes on otherwise than it began" in said
    assert "algorithms.0.alpha: was 0.2, is 0.5" in said
    (tmp_path / "run" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"ema\.updates"):
        cp.Trainer({**changed, "algorithms": ["mixup", "ema"]}).fit(resume=True, allow_changes=True)


def test_other_data_is_not_resumed(tmp_path: Path) -> None:
    keys = own_config(tmp_path / "run", max_duration="3ba", data={"name": "digits", "batch_size": 10})
    cp.Trainer(keys, model=own_model(), train_data=blobs(40), eval_data=blobs()).fit()
    with pytest.raises(CheckpointError, match=r"the plan: was [0-9a-f]+, is [0-9a-f]+ \(other data"):
        cp.Trainer(keys, model=own_model(), train_data=blobs(60), eval_data=blobs()).fit(resume=True)


def test_another_model_of_ones_own_is_not_resumed(tmp_path: Path) -> None:
    keys = own_config(tmp_path / "run", max_duration="3ba")
    cp.Trainer(keys, model=own_model(), train_data=blobs(), eval_data=blobs()).fit()
    (tmp_path / "run" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="the checkpoint is of another model"):
        cp.Trainer(keys, model=nn.Linear(4, 3), train_data=blobs(), eval_data=blobs()).fit(resume=True)


def test_the_mode_of_a_model_is_left_as_it_was() -> None:
    model = own_model().eval()
    model[2].train()
    cp.Trainer(own_config(None), model=model, train_data=blobs(), eval_data=blobs())
    assert [module.training for module in model.modules()] == [False, False, False, True, False]


@pytest.mark.slow
def test_bf16_trains(tmp_path: Path) -> None:
    summary = cp.Trainer(config(tmp_path / "run", precision="bf16", algorithms=METHODS)).fit()
    assert summary.metrics["evaluation_accuracy"] > 0.5
    assert all(value.dtype != torch.bfloat16 for value in weights(tmp_path / "run").values())
    cp.Trainer(config(None, precision="fp32", max_duration="1ba")).fit()


def test_a_config_object_and_a_file(tmp_path: Path) -> None:
    parsed = RunConfig.parse(config(None))
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(config(None)))
    assert cp.Trainer(parsed).plan.fingerprint == cp.Trainer(path).plan.fingerprint
