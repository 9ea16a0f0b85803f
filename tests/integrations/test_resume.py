"""A run goes on as it began in every loop, or is refused; and the average can be taken out of each checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import lightning.pytorch as pl
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerState, TrainingArguments, ViTConfig, ViTForImageClassification

import counterpoint as cp
from counterpoint.algorithms import MixUp
from counterpoint.core.run.training import origin
from counterpoint.integrations.accelerate import AcceleratedSteps
from counterpoint.integrations.average import average_from
from counterpoint.integrations.lightning import CounterpointCallback
from counterpoint.integrations.transformers import weights
from tests.integrations import hf, recipe
from tests.integrations.lit import QUIET, Module, compose, loader, make_trainer

pytestmark = [QUIET, pytest.mark.kind("7b")]
STEPS = 4


class Loop(Protocol):
    """Trains some steps, saves, and resumes in a fresh model; both give the engine."""

    def save(self, plan: cp.Plan, folder: Path) -> cp.Engine: ...
    def resume(self, plan: cp.Plan, folder: Path, **allowed: bool) -> cp.Engine: ...
    def checkpoint(self, folder: Path) -> Any: ...


class Plain:
    """A loop by hand, which saves the engine's state."""

    def save(self, plan: cp.Plan, folder: Path) -> cp.Engine:
        engine = self._engine(plan)
        for inputs, targets in recipe.batches()[:STEPS]:
            with engine.batch(inputs, targets) as batch:

                def closure(batch: cp.Batch = batch) -> Tensor:
                    loss = plan.loss(engine.model(batch.inputs), batch.targets)
                    loss.backward()
                    return loss.detach()

                engine.step(closure)
        torch.save(engine.state_dict(), folder / "engine.pt")
        return engine

    def resume(self, plan: cp.Plan, folder: Path, **allowed: bool) -> cp.Engine:
        engine = self._engine(plan)
        engine.load_state_dict(self.checkpoint(folder), **allowed)
        return engine

    def checkpoint(self, folder: Path) -> Any:
        return torch.load(folder / "engine.pt", weights_only=True)

    def _engine(self, plan: cp.Plan) -> cp.Engine:
        net = recipe.model()
        return cp.Engine(plan, model=net, optimizer=recipe.optimizer(net))


class Accelerated:
    """A loop on Accelerate."""

    def save(self, plan: cp.Plan, folder: Path) -> cp.Engine:
        steps = self._steps(plan)
        for batch in recipe.batches()[:STEPS]:
            steps.step([batch])
        steps.accelerator.save_state(str(folder))
        return steps.engine

    def resume(self, plan: cp.Plan, folder: Path, **allowed: bool) -> cp.Engine:
        steps = self._steps(plan, **allowed)
        steps.accelerator.load_state(str(folder))
        return steps.engine

    def checkpoint(self, folder: Path) -> Any:
        return folder

    def _steps(self, plan: cp.Plan, **allowed: bool) -> AcceleratedSteps[Any]:
        accelerator, net = Accelerator(cpu=True), recipe.model()
        engine = cp.Engine(plan, model=net)
        model, engine.optimizer = accelerator.prepare(net, recipe.optimizer(net))
        return AcceleratedSteps(engine, accelerator, model, **allowed)


class Lit:
    """Lightning."""

    def save(self, plan: cp.Plan, folder: Path, **settings: Any) -> cp.Engine:
        callback = CounterpointCallback(plan, criterion="criterion", **settings)
        trainer = make_trainer(callback, max_steps=STEPS)
        trainer.fit(Module(), loader())
        trainer.save_checkpoint(folder / "last.ckpt")
        return callback.engine

    def resume(self, plan: cp.Plan, folder: Path, **allowed: bool) -> cp.Engine:
        callback = CounterpointCallback(plan, criterion="criterion", **allowed)
        make_trainer(callback, max_steps=STEPS).fit(Module(), loader(), ckpt_path=folder / "last.ckpt")
        return callback.engine

    def checkpoint(self, folder: Path) -> Any:
        return folder / "last.ckpt"


class Stops(TrainerCallback):
    """Ends a run before its first step."""

    def on_epoch_begin(self, *given: Any, **known: Any) -> None:
        raise KeyboardInterrupt


class HuggingFace:
    """Hugging Face's Trainer."""

    def save(self, plan: cp.Plan, folder: Path) -> cp.Engine:
        trainer = hf.trainer(folder, plan, max_steps=STEPS, save_strategy="steps", save_steps=STEPS)
        trainer.train()
        return trainer.engine

    def resume(self, plan: cp.Plan, folder: Path, **allowed: bool) -> cp.Engine:
        trainer = hf.trainer(folder, plan, None, {**allowed, "callbacks": [Stops()]}, max_steps=STEPS + 1)
        with pytest.raises(KeyboardInterrupt):
            trainer.train(resume_from_checkpoint=True)
        return trainer.engine

    def checkpoint(self, folder: Path) -> Any:
        return folder / f"checkpoint-{STEPS}"


LOOPS: Mapping[str, Loop] = {"plain": Plain(), "accelerate": Accelerated(), "lightning": Lit(), "hf": HuggingFace()}
every_loop = pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
EMA = {"name": "ema", "half_life": 3.0, "warmup": False}
OTHERS = {
    "method": compose("cutmix", EMA),
    "setting": compose({"name": "mixup", "alpha": 0.7}, EMA),
    "seed": compose("mixup", EMA, seed=18),
    "average": compose("mixup", {**EMA, "half_life": 4.0}),
}


@pytest.mark.slow
@every_loop
def test_another_plan_is_refused_and_can_be_allowed(loop: Loop, tmp_path: Path) -> None:
    plan = compose("mixup", EMA)
    saved = loop.save(plan, tmp_path).state_dict()
    for other in OTHERS.values():
        with pytest.raises(cp.CheckpointError, match=rf"{plan.fingerprint}(.|\n)*{other.fingerprint}"):
            loop.resume(other, tmp_path)
    assert loop.resume(OTHERS["method"], tmp_path, allow_changes=True).batches == STEPS
    again = loop.resume(compose("mixup", EMA), tmp_path).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in saved.items())


@pytest.mark.slow
@every_loop
@pytest.mark.parametrize("changed", ["torch", "source of mixup", "source of the loss"])
def test_other_versions_are_refused_and_can_be_allowed(
    loop: Loop, changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, version, source = compose("mixup", EMA), origin.version_of, origin._source
    loop.save(plan, tmp_path)
    if changed == "torch":
        monkeypatch.setattr(origin, "version_of", lambda name: "9.9" if name == "torch" else version(name))
    else:
        part = MixUp if changed == "source of mixup" else origin._defined(plan.loss_spec.function)
        monkeypatch.setattr(origin, "_source", lambda of: "changed" if of is part else source(of))
    with pytest.raises(cp.CheckpointError, match=r"(torch|mixup|the loss) .*, and this is (9.9|changed)"):
        loop.resume(plan, tmp_path)
    assert loop.resume(plan, tmp_path, allow_changes=True).batches == STEPS


def test_a_source_is_told_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a package in an editable checkout, which changes without a version."""
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "class Holds:\n    factor = {}\n"
    found = []
    for factor in (1, 2):
        (tmp_path / f"held_{factor}.py").write_text(text.format(factor))
        found.append(origin._source(import_module(f"held_{factor}").Holds))
    assert found[0].partition(" ")[2] != found[1].partition(" ")[2]
    assert origin._source(cp.algorithms.MixUp).startswith("counterpoint ")
    assert origin._source(nn.CrossEntropyLoss).startswith("torch ")


def test_a_state_without_its_origin_is_refused(tmp_path: Path) -> None:
    plan = compose("mixup", EMA)
    state = LOOPS["plain"].save(plan, tmp_path).state_dict()
    del state["origin"]
    engine = cp.Engine(plan, model=recipe.model())
    with pytest.raises(cp.CheckpointError, match="does not say which plan"):
        engine.load_state_dict(state)
    engine.load_state_dict(state, allow_changes=True)
    assert engine.batches == STEPS


@pytest.mark.slow
@given(st.data())
def test_a_damaged_origin_is_refused_in_words(data: st.DataObject) -> None:
    plan = compose("mixup")
    packed = origin.pack_origin(plan)
    number = data.draw(st.integers(0, len(packed) - 1))
    damaged = data.draw(
        st.sampled_from([packed[:number], packed.clone().index_fill(0, torch.tensor([number]), 0), packed.float()])
    )
    with pytest.raises(cp.CheckpointError):
        origin.check_origin(plan, damaged)


def evaluated(engine: cp.Engine) -> dict[str, Tensor]:
    with engine.evaluation():
        return {name: value.clone() for name, value in engine.model.state_dict().items()}


@pytest.mark.slow
@every_loop
@pytest.mark.parametrize("method", [EMA, {"name": "swa", "start": "1ba"}], ids=["ema", "swa"])
def test_the_average_comes_out_of_each_checkpoint(loop: Loop, method: Any, tmp_path: Path) -> None:
    engine = loop.save(compose("mixup", method), tmp_path)
    average = average_from(loop.checkpoint(tmp_path))
    wanted = evaluated(engine)
    assert average.keys() == wanted.keys()
    assert all(torch.equal(average[name], wanted[name]) for name in wanted)
    trained = engine.model.state_dict()
    assert not any(torch.equal(average[name], trained[name]) for name in trained if name.endswith("weight"))
    engine.model.load_state_dict(average)


@pytest.mark.slow
def test_no_average_is_answered(tmp_path: Path) -> None:
    LOOPS["hf"].save(compose("mixup"), tmp_path)
    with pytest.raises(cp.CheckpointError, match="without an average"):
        average_from(tmp_path / f"checkpoint-{STEPS}")
    engine = cp.Engine(compose(EMA), model=recipe.model())
    with pytest.raises(cp.CheckpointError, match="ema has averaged nothing"):
        average_from(engine.state_dict())
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(cp.CheckpointError, match="has no state of Counterpoint's"):
            average_from(missing)
    make_trainer(max_steps=1).fit(Module(), loader())
    trainer = make_trainer(max_steps=1)
    trainer.fit(Module(), loader())
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    with pytest.raises(cp.CheckpointError, match="without CounterpointCallback"):
        average_from(tmp_path / "plain.ckpt")


def test_an_average_has_the_dtypes_and_the_shared_weights_of_the_model(tmp_path: Path) -> None:
    class Tied(Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(16, recipe.CLASSES, bias=False)
            self.head.weight = self.net[3].weight
            self.register_buffer("passing", torch.zeros(2), persistent=False)
            self.small = nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))

    callback = CounterpointCallback(compose(EMA), criterion="criterion")
    trainer, module = make_trainer(callback, max_steps=3), Tied()
    trainer.fit(module, loader())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    average = average_from(tmp_path / "last.ckpt")
    assert average.keys() == module.state_dict().keys()
    assert average["small"].dtype == torch.bfloat16
    assert torch.equal(average["head.weight"], average["net.3.weight"])
    assert torch.equal(average["head.weight"], evaluated(callback.engine)["net.3.weight"])


class Validated(Module):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))


class TestSavedAverage:
    """In Lightning, ``save_average`` puts the average where weights are looked for."""

    @pytest.mark.slow
    def test_a_checkpoint_chosen_by_the_average_holds_it(self, tmp_path: Path) -> None:
        best = ModelCheckpoint(tmp_path, monitor="loss", save_top_k=1)
        callback = CounterpointCallback(compose("mixup", EMA), criterion="criterion", save_average=True)
        trainer = make_trainer(callback, best, max_epochs=3, enable_checkpointing=True, num_sanity_val_steps=0)
        trainer.fit(Validated(), loader(), loader())
        loaded = Validated.load_from_checkpoint(best.best_model_path)
        found = make_trainer().validate(loaded, loader(), verbose=False)[0]["loss"]
        assert found == pytest.approx(float(best.best_model_score), abs=1e-6)
        average = average_from(best.best_model_path)
        assert all(torch.equal(value, average[name]) for name, value in loaded.state_dict().items())

    def test_it_goes_on_from_the_weights_in_training(self, tmp_path: Path) -> None:
        plan = compose("mixup", EMA)
        engine = Lit().save(plan, tmp_path, save_average=True)
        saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
        assert torch.equal(saved["state_dict"]["net.1.weight"], evaluated(engine)["net.1.weight"])
        again = Lit().resume(plan, tmp_path).model.state_dict()
        assert all(torch.equal(value, again[name]) for name, value in engine.model.state_dict().items())
        callback, module = CounterpointCallback(plan, criterion="criterion"), Validated()
        make_trainer(callback).validate(module, loader(), ckpt_path=tmp_path / "last.ckpt", verbose=False)
        assert torch.equal(module.net[1].weight, engine.model.state_dict()["net.1.weight"])
        assert torch.equal(evaluated(callback.engine)["net.1.weight"], evaluated(engine)["net.1.weight"])

    def test_without_it_a_checkpoint_holds_the_weights_in_training(self, tmp_path: Path) -> None:
        engine = Lit().save(compose("mixup", EMA), tmp_path)
        saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
        assert torch.equal(saved["state_dict"]["net.1.weight"], engine.model.state_dict()["net.1.weight"])


def test_evaluation_takes_a_checkpoint_of_another_plan(tmp_path: Path) -> None:
    """Nothing goes on there."""
    engine = Lit().save(compose("mixup", EMA), tmp_path)
    callback = CounterpointCallback(compose("cutmix", EMA), criterion="criterion")
    make_trainer(callback).validate(Validated(), loader(), ckpt_path=tmp_path / "last.ckpt", verbose=False)
    assert torch.equal(evaluated(callback.engine)["net.1.weight"], evaluated(engine)["net.1.weight"])


class TestNamesOfWeights:
    """Hugging Face's own resume warns of names that differ, and leaves those weights as they were made."""

    def vit(self, folder: Path, **options: Any) -> hf.Noting:
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        torch.manual_seed(len(str(folder)))
        config = ViTConfig(image_size=6, patch_size=3, num_channels=1, num_labels=recipe.CLASSES, **sizes)
        saving = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": STEPS}
        return hf.trainer(folder, compose("mixup", EMA), ViTForImageClassification(config), options, **saving)

    def renamed(self, folder: Path, old: str, new: str) -> int:
        path = folder / f"checkpoint-{STEPS}" / "model.safetensors"
        weights = load_file(path)
        save_file({name.replace(old, new): value for name, value in weights.items()}, path, metadata={"format": "pt"})
        return sum(old in name for name in weights)

    @pytest.mark.slow
    def test_a_vit_goes_on(self, tmp_path: Path) -> None:
        trained = self.vit(tmp_path)
        trained.train()
        again = self.vit(tmp_path, callbacks=[Stops()])
        again.args.max_steps += 1
        with torch.no_grad():
            for parameter in again.model.parameters():
                parameter.zero_()
        with pytest.raises(KeyboardInterrupt):
            again.train(resume_from_checkpoint=True)
        for name, value in trained.model.state_dict().items():
            assert torch.equal(value, again.model.state_dict()[name]), name

    @pytest.mark.slow
    @pytest.mark.parametrize("allow_changes", [False, True])
    def test_names_that_no_version_knows_are_refused(self, allow_changes: bool, tmp_path: Path) -> None:
        self.vit(tmp_path).train()
        assert self.renamed(tmp_path, "layernorm_before", "norm_in_front") == 2
        with pytest.raises(cp.CheckpointError, match=r"no weights for .*missing_keys: vit\.\S+layernorm_before"):
            self.vit(tmp_path, allow_changes=allow_changes).train(resume_from_checkpoint=True)

    @pytest.mark.slow
    def test_names_of_a_model_of_ones_own_are_refused(self, tmp_path: Path) -> None:
        LOOPS["hf"].save(compose("mixup", EMA), tmp_path)
        assert self.renamed(tmp_path, "3.weight", "4.weight") == 1
        with pytest.raises(cp.CheckpointError, match=r"no weights for 3.weight of the model, and has 4.weight, which"):
            LOOPS["hf"].resume(compose("mixup", EMA), tmp_path)

    @pytest.mark.slow
    def test_the_best_model_is_whole(self, tmp_path: Path) -> None:
        trained: dict[str, Tensor] = {}

        class Spoils(TrainerCallback):
            """Notes the weights of the last checkpoint, and sets those of the model to zero."""

            def on_save(self, args: TrainingArguments, state: TrainerState, *given: Any, **known: Any) -> None:
                state.best_model_checkpoint = str(tmp_path / f"checkpoint-{state.global_step}")
                trained.update({name: value.clone() for name, value in trainer.model.state_dict().items()})
                with torch.no_grad():
                    for parameter in trainer.model.parameters():
                        parameter.zero_()

        trainer = self.vit(tmp_path, callbacks=[Spoils()])
        trainer.args.load_best_model_at_end = True
        trainer.train()
        assert len(trained) > 10
        for name, value in trainer.model.state_dict().items():
            assert torch.equal(value, trained[name]), name

    def test_weights_that_are_shared_are_saved_once(self, tmp_path: Path) -> None:
        model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        save_file({"1.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
        assert weights._differing(model, tmp_path).startswith("has no weights for 0.weight of the model")
        model[0].weight = model[1].weight
        save_file({f"{n}.weight": torch.zeros(2, 2) for n in (1, 2)}, tmp_path / "model.safetensors")
        assert "has 2.weight, which the model has not" in weights._differing(model, tmp_path)
        save_file({"1.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
        assert weights._differing(model, tmp_path) == ""


@pytest.mark.slow
def test_the_record_is_in_every_loops_files(tmp_path: Path) -> None:
    plan = compose("mixup", EMA)
    for name, loop in LOOPS.items():
        (tmp_path / name).mkdir()
        loop.save(plan, tmp_path / name)
    for folder in (tmp_path / "accelerate", tmp_path / "hf" / f"checkpoint-{STEPS}"):
        assert torch.equal(load_file(folder / "counterpoint.safetensors")["origin"], origin.pack_origin(plan))
    state = torch.load(tmp_path / "lightning" / "last.ckpt", weights_only=True)["callbacks"]["CounterpointCallback"]
    assert torch.equal(state["origin"], origin.pack_origin(plan))


def test_the_other_callbacks_state_is_left_alone() -> None:
    assert CounterpointCallback(compose()).state_dict() == {}
    assert isinstance(CounterpointCallback(compose()), pl.Callback)
