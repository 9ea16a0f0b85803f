"""The recipe in a loop on Accelerate: the same weights, its checkpoints, and two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_simple_launcher_cmd_env
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

import counterpoint as cp
from counterpoint.integrations.accelerate import AcceleratedSteps
from counterpoint.integrations.fields import Fields
from tests.integrations import recipe
from tests.integrations.recipe import assert_close, assert_same

Steps = AcceleratedSteps[Any]


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps what the first accelerator of a process was told."""
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def make(microbatches: int = 1, **stated: Any) -> tuple[Steps, Any]:
    """A run of the recipe that has not begun, and its loader."""
    accelerator = Accelerator(cpu=True)
    bare = recipe.model()
    engine = cp.Engine(recipe.plan(**stated), model=bare, rank=accelerator.process_index)
    loader = DataLoader(recipe.items(microbatches), batch_size=recipe.SIZE)
    model, engine.optimizer, loader = accelerator.prepare(bare, recipe.optimizer(bare), loader)
    return Steps(engine, accelerator, model), loader


def train(steps: Steps, loader: Any, microbatches: int = 1) -> list[float]:
    return [steps.step(group).item() for group in steps.groups(loader, microbatches)]


@pytest.mark.slow
def test_the_loop_trains_as_the_plain_one_bit_for_bit() -> None:
    steps, loader = make()
    assert_same(recipe.result(steps.engine, train(steps, loader)), recipe.plain())


@pytest.mark.slow
@pytest.mark.parametrize("microbatches", [1, 2])
def test_an_engine_in_a_loop_on_accelerate_trains_so_too(microbatches: int) -> None:
    """Without the help of ``AcceleratedSteps``."""
    accelerator, bare = Accelerator(cpu=True), recipe.model()
    engine = cp.Engine(recipe.plan(), model=bare, rank=accelerator.process_index)
    loader = DataLoader(recipe.items(microbatches), batch_size=recipe.SIZE)
    model, engine.optimizer, loader = accelerator.prepare(bare, recipe.optimizer(bare), loader)
    losses, batches = [], iter(loader)
    for _ in range(recipe.STEPS):
        with ExitStack() as opened:
            edited = [opened.enter_context(engine.batch(*next(batches))) for _ in range(microbatches)]

            def closure(edited: list[cp.Batch] = edited) -> Tensor:
                total = torch.zeros(())
                for number, batch in enumerate(edited):
                    with accelerator.no_sync(model) if number + 1 < microbatches else nullcontext():
                        loss = engine.plan.loss(model(batch.inputs), batch.targets) / microbatches
                        accelerator.backward(loss)
                    total += loss.detach()
                return total

            losses.append(engine.step(closure).item())
    assert_same(recipe.result(engine, losses), recipe.plain(microbatches))


@pytest.mark.slow
def test_two_batches_of_a_step_count_by_what_the_mean_divides_by() -> None:
    """Half each, but for the rounding of the sums of their targets' mass; the plain loop halves."""
    steps, loader = make(2)
    trained = recipe.result(steps.engine, train(steps, loader, 2))
    assert_close(trained, recipe.plain(2), atol=1e-6)
    assert trained.losses == pytest.approx(recipe.plain(2).losses, abs=1e-6)


@pytest.mark.slow
def test_gradients_that_were_scaled_are_clipped_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate has a scaler on GPUs alone. Scaling by a power of two changes no bit, so that this run is the same."""
    accelerator, bare = Accelerator(cpu=True), recipe.model()
    engine = cp.Engine(recipe.plan(), model=bare, rank=0)
    model = accelerator.prepare(bare)  # without autocast
    monkeypatch.setattr(accelerator, "scaler", torch.amp.GradScaler("cpu"))
    monkeypatch.setattr(accelerator, "native_amp", True)
    monkeypatch.setattr(accelerator.state, "_mixed_precision", "fp16")
    engine.optimizer = accelerator.prepare(recipe.optimizer(bare))
    losses = [step.item() for step in map(Steps(engine, accelerator, model).step, recipe.groups())]
    assert accelerator.scaler.get_scale() == 2.0**16
    assert_same(recipe.result(engine, losses), recipe.plain())


@pytest.mark.slow
@pytest.mark.parametrize("microbatches", [1, 2])
def test_sam(microbatches: int) -> None:
    steps, loader = make(microbatches, sam=True)
    trained = recipe.result(steps.engine, train(steps, loader, microbatches))
    assert_close(trained, recipe.reference(microbatches, sam=True), atol=1e-6)
    assert (trained.weights["1.weight"] - recipe.plain(microbatches).weights["1.weight"]).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("done", [1, 9])
def test_a_run_goes_on_from_its_checkpoint_bit_for_bit(microbatches: int, done: int, tmp_path: Path) -> None:
    whole, loader = make(microbatches)
    wanted = recipe.result(whole.engine, train(whole, loader, microbatches))

    first, loader = make(microbatches)
    losses = []
    for group in first.groups(loader, microbatches):
        losses.append(first.step(group).item())
        if len(losses) == done:
            break
    first.accelerator.save_state(str(tmp_path))

    again, loader = make(microbatches)
    again.accelerator.load_state(str(tmp_path))
    assert again.engine.batches == done * microbatches
    rest = again.accelerator.skip_first_batches(loader, again.engine.batches)
    losses += train(again, rest, microbatches)
    assert_same(recipe.result(again.engine, losses), wanted)


class TestCheckpoints:
    def test_no_pickle_of_ours_is_written(self, tmp_path: Path) -> None:
        steps, loader = make()
        steps.step(next(iter(steps.groups(loader, 1))))
        steps.accelerator.save_state(str(tmp_path))
        assert not list(tmp_path.glob("custom_checkpoint*"))
        found = load_file(tmp_path / "counterpoint.safetensors")
        assert {name: tuple(value.shape) for name, value in found.items()} == {
            name: tuple(value.shape) for name, value in steps.engine.state_dict().items()
        }
        with safe_open(tmp_path / "counterpoint.safetensors", "pt") as file:
            assert file.metadata() == {"fingerprint": steps.engine.plan.fingerprint}

    @pytest.mark.parametrize(("each_node", "writes"), [(False, False), (True, True)])
    def test_one_process_writes_of_all_or_of_each_node(self, each_node: bool, writes: bool, tmp_path: Path) -> None:
        """Here as the first process of the second node."""
        saved: list[Any] = []
        accelerator = SimpleNamespace(
            num_processes=1,
            process_index=0,
            gradient_accumulation_steps=1,
            distributed_type=DistributedType.NO,
            scaler=None,
            is_main_process=False,
            is_local_main_process=True,
            project_configuration=SimpleNamespace(save_on_each_node=each_node),
            register_save_state_pre_hook=saved.append,
            register_load_state_pre_hook=lambda hook: None,
        )
        TestRefused().build(accelerator)
        saved[0]([], [], str(tmp_path))
        assert (tmp_path / "counterpoint.safetensors").exists() is writes

    def test_one_without_our_file_is_refused(self, tmp_path: Path) -> None:
        steps, _ = make()
        steps.accelerator.save_state(str(tmp_path))
        (tmp_path / "counterpoint.safetensors").unlink()
        with pytest.raises(cp.CheckpointError, match=r"counterpoint.safetensors is not there or not whole"):
            steps.accelerator.load_state(str(tmp_path))

    def test_one_of_another_plan_is_refused(self, tmp_path: Path) -> None:
        steps, _ = make()
        steps.accelerator.save_state(str(tmp_path))
        other, _ = make(sam=True)
        with pytest.raises(cp.CheckpointError, match="is of the plan"):
            other.accelerator.load_state(str(tmp_path))


class TestRefused:
    def build(self, accelerator: Any, rank: int = 0, methods: tuple[Any, ...] = ("ema",)) -> Steps:
        plan = cp.compose([*methods], loss=nn.CrossEntropyLoss(), task="multiclass", num_classes=4, inputs="features")
        model = nn.Linear(3, 4)
        engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), rank=rank)
        return Steps(engine, accelerator, model)

    def test_processes_that_do_not_know_of_each_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        accelerator = Accelerator(cpu=True)
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(cp.RunError, match=r"2 processes were started, and Accelerate knows of 1"):
            self.build(accelerator)

    @pytest.mark.kind("7e")
    def test_a_launcher_that_starts_one_process_of_several(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """With --cpu, Accelerate's launcher sets an address for several processes, and starts one."""
        parser = launch_command_parser()
        for count in (1, 2):
            args = parser.parse_args(["--cpu", "--num_processes", str(count), "script.py"])
            args, *_ = _validate_launch_command(args)
            _, environment = prepare_simple_launcher_cmd_env(args)
            with monkeypatch.context() as patch:
                for name, value in environment.items():
                    patch.setenv(name, value)
                if count == 1:
                    self.build(Accelerator(cpu=True))
                    continue
                with pytest.raises(cp.RunError, match=r"several processes and started one(.|\n)*torchrun"):
                    self.build(Accelerator(cpu=True))
                patch.setenv("WORLD_SIZE", "1")  # as torchrun does where it starts one
                self.build(Accelerator(cpu=True))

    def test_a_rank_that_is_not_this_process(self) -> None:
        with pytest.raises(cp.RunError, match="draws as rank 1, and this is process 0"):
            self.build(Accelerator(cpu=True), rank=1)

    def test_a_second_division_of_the_loss(self) -> None:
        with pytest.raises(cp.RunError, match=r"gradient_accumulation_steps=4\) divides every loss"):
            self.build(Accelerator(cpu=True, gradient_accumulation_steps=4))

    @pytest.mark.parametrize("split", [DistributedType.FSDP, DistributedType.DEEPSPEED])
    def test_a_model_that_is_split(self, split: DistributedType) -> None:
        accelerator = SimpleNamespace(
            num_processes=1, process_index=0, gradient_accumulation_steps=1, distributed_type=split, scaler=None
        )
        with pytest.raises(cp.RunError, match=f"{split.value} splits the model"):
            self.build(accelerator)

    def test_sam_in_fp16(self) -> None:
        accelerator = SimpleNamespace(
            num_processes=1,
            process_index=0,
            gradient_accumulation_steps=1,
            distributed_type=DistributedType.NO,
            scaler=object(),
        )
        with pytest.raises(cp.RunError, match="sam makes its passes twice"):
            self.build(accelerator, methods=("mixup", "sam"))


def test_batches_of_any_structure_and_a_forward_of_ones_own() -> None:
    """Two views and a name, of which the model takes both views and the plan edits one."""
    accelerator, bare = Accelerator(cpu=True), nn.Bilinear(3, 3, 4)
    plan = cp.compose(
        ["mixup"], loss=nn.CrossEntropyLoss(), task="multiclass", num_classes=4, inputs="features", seed=3
    )
    engine = cp.Engine(plan, model=bare, rank=0)
    model, engine.optimizer = accelerator.prepare(bare, torch.optim.SGD(bare.parameters(), lr=0.1))

    def forward(batch: dict[str, Any]) -> Tensor:
        seen.append(batch)
        outputs: Tensor = model(batch["one"], batch["other"])
        return outputs

    seen: list[dict[str, Any]] = []
    steps = AcceleratedSteps(engine, accelerator, model, forward=forward, fields=Fields(("one",), "label"))
    batch = {"one": torch.rand(6, 3), "other": torch.rand(6, 3), "label": torch.arange(6) % 4, "name": "first"}
    loss = steps.step([batch])
    x, y = plan(batch["one"], batch["label"], step=0)
    assert torch.equal(seen[0]["one"], x)
    assert torch.equal(seen[0]["label"], y)
    assert seen[0]["other"] is batch["other"]
    assert seen[0]["name"] == "first"
    assert loss.isfinite()
    both = AcceleratedSteps(engine, accelerator, model, fields=Fields(("one", "other"), "label"))
    assert both.step([batch, batch]).isfinite()
    assert engine.batches == 3


def test_each_pass_is_over_its_batch() -> None:
    """The hidden layer is mixed by the draws of the batch at hand, by which its targets were mixed."""
    accelerator, bare = Accelerator(cpu=True), recipe.model()
    plan = cp.compose(
        [{"name": "manifold_mixup", "module": "1"}],
        loss=nn.CrossEntropyLoss(),
        task="multiclass",
        num_classes=4,
        inputs="normalized",
    )
    engine = cp.Engine(plan, model=bare, rank=0)
    model, engine.optimizer = accelerator.prepare(bare, torch.optim.SGD(bare.parameters(), lr=0.0))
    pair = recipe.batches()[:2]
    found = Steps(engine, accelerator, model).step(pair)
    losses = []
    for step, (images, labels) in enumerate(pair):
        mixing = plan.draws(step, cp.BatchSpec(len(images), recipe.SHAPE, 4))["manifold_mixup"]
        hidden, lam = bare[1](images.flatten(1)), mixing.lam.float()
        outputs = bare[3](bare[2](lam * hidden + (1 - lam) * hidden[mixing.perm]))
        for targets, share in ((labels, lam), (labels[mixing.perm], 1 - lam)):
            losses.append(share * nn.functional.cross_entropy(outputs, targets) / 2)
    torch.testing.assert_close(found, torch.stack(losses).sum(), rtol=1e-5, atol=1e-6)


SCRIPT = """
import sys, torch, counterpoint as cp
from accelerate import Accelerator
from safetensors.torch import save_file
from counterpoint.integrations.accelerate import AcceleratedSteps
from tests.integrations.accelerate.test_steps import uneven

accelerator = Accelerator(cpu=True)
steps = uneven(accelerator)
rank, losses = accelerator.process_index, []
for number in range(4):
    groups = [steps.data[2 * (2 * number + part) + rank] for part in range(2)]
    losses.append(steps.steps.step(groups))
loss = accelerator.reduce(torch.stack(losses), "mean")
accelerator.save_state(sys.argv[1])
steps.engine.model.register_buffer("losses", loss)
save_file(dict(steps.engine.model.state_dict()), f"{sys.argv[1]}/rank{rank}.safetensors")
"""


def uneven(accelerator: Accelerator) -> SimpleNamespace:
    """A run without draws, on batches of which some positions are ignored and classes have weights."""
    plan = cp.compose(
        ["ema", {"name": "sam", "rho": 0.1}, {"name": "gradient_clipping", "threshold": 0.2}],
        loss=nn.CrossEntropyLoss(weight=torch.tensor([0.5, 1.0, 2.0, 4.0])),
        task="multiclass",
        num_classes=4,
        inputs="normalized",
    )
    bare = recipe.model()
    engine = cp.Engine(plan, model=bare, rank=accelerator.process_index)
    model, engine.optimizer = accelerator.prepare(bare, recipe.optimizer(bare))
    data = [
        (images, torch.where(torch.arange(8) < number % 5, -100, labels))
        for number, (images, labels) in enumerate(recipe.batches())
    ]
    return SimpleNamespace(steps=Steps(engine, accelerator, model), engine=engine, data=data)


@pytest.mark.slow
def test_two_processes_train_what_one_would(tmp_path: Path) -> None:
    """Each takes half of the batches of every step; only the order of the sums differs."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script, tmp_path]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    done = subprocess.run(launch, capture_output=True, text=True, timeout=180, env=environment)
    assert done.returncode == 0, done.stderr

    one = uneven(Accelerator(cpu=True))
    losses = [one.steps.step(one.data[4 * number : 4 * number + 4]) for number in range(4)]
    ranks = [load_file(tmp_path / f"rank{rank}.safetensors") for rank in range(2)]
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0])
    torch.testing.assert_close(ranks[0].pop("losses"), torch.stack(losses), rtol=1e-5, atol=1e-6)
    for name, value in one.engine.model.state_dict().items():
        torch.testing.assert_close(ranks[0][name], value, rtol=1e-5, atol=1e-6)
    saved = load_file(tmp_path / "counterpoint.safetensors")
    for name, value in one.engine.state_dict().items():
        if name.startswith("ema.weights"):
            torch.testing.assert_close(saved[name], value, rtol=1e-5, atol=1e-6)
