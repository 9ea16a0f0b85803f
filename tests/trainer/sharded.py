"""Loops of one's own on several processes, with whole and with sharded models; run by the program in ``ranks``.

With one process, the same loops are the reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import counterpoint as cp
from counterpoint.core.run.training.shares import shares
from tests.trainer.alike import CLASSES, WEIGHT, PairMix, global_batches, small_model

RECIPES: dict[str, list[Any]] = {
    "sam": [PairMix(), "label_smoothing", "ema", {"name": "sam", "rho": 0.1}, "gradient_clipping"],
    "asam": [
        PairMix(),
        {"name": "sam", "rho": 0.5, "adaptive": True, "p": 0.5},
        {"name": "gradient_clipping", "by": "value", "threshold": 0.01},
        {"name": "swa", "start": "2ba"},
    ],
}
"""Methods that write parameters and gradients, of which the global norm and the average must span all shards."""


class Run:
    """A model trained by a plan on this process's parts of the global batches."""

    def __init__(
        self, recipe: Sequence[Any], rank: int, processes: int, *, sharded: bool, contract: str = "off"
    ) -> None:
        loss = nn.CrossEntropyLoss(weight=torch.tensor(WEIGHT))
        facts = {"task": "multiclass", "num_classes": CLASSES, "inputs": "features", "seed": 5}
        self.plan = cp.compose(recipe, loss=loss, **facts, contract=contract)
        self.model, self.rank, self.processes = small_model(), rank, processes
        self.engine = cp.Engine(self.plan, model=self.model)
        if sharded:
            shard(self.model, processes)
        self.engine.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.runs = self.model if sharded or processes == 1 else DistributedDataParallel(self.model)

    def step(self, inputs: Tensor, targets: Tensor) -> float:
        """Train on a global batch; return its loss."""
        own = slice(self.rank * 24 // self.processes, (self.rank + 1) * 24 // self.processes)
        with self.engine.batch(inputs[own], targets[own]) as batch:
            part = shares(self.plan, [batch.targets], processes=self.processes, add=summed)

            def closure() -> Tensor:
                outputs = self.runs(batch.inputs)
                loss = part.scaled(0, outputs, self.plan.loss(outputs, batch.targets))
                loss.backward()
                return loss.detach()

            loss = self.engine.step(closure)
        return float(summed(loss) / self.processes if self.processes > 1 else loss)

    def evaluate(self) -> list[float]:
        """The model's outputs with the weights for evaluation."""
        with self.engine.evaluation(), torch.no_grad():
            return list(self.runs(torch.linspace(-1, 1, 12).view(2, 6)).flatten().tolist())

    def weights(self) -> list[float]:
        """The model's own weights, whole."""
        return flat(value.full_tensor() if isinstance(value, DTensor) else value for value in self.parameters())

    def parameters(self) -> Iterator[Tensor]:
        """The model's parameters, shards where it is sharded."""
        for _, value in sorted(self.model.state_dict().items()):
            yield value

    def remembered(self) -> list[float]:
        """What the methods remember, whole."""
        return flat(value for _, value in sorted(self.engine.state_dict(whole=True).items()))


def shard(model: nn.Module, processes: int) -> None:
    """Spread the parameters of a model over all processes; those of its norm stay with the whole model."""
    mesh = init_device_mesh("cpu", (processes,))
    for module in model:  # type: ignore[attr-defined]
        if isinstance(module, nn.Linear):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def summed(value: Tensor) -> Tensor:
    """The sum of a number over all processes."""
    value = value.clone()
    dist.all_reduce(value)
    return value


def flat(values: Any) -> list[float]:
    return [number for value in values for number in value.double().flatten().tolist()]


def train(
    recipe: Sequence[Any], rank: int = 0, processes: int = 1, *, sharded: bool = False, contract: str = "off"
) -> dict[str, Any]:
    """Train for six steps, and evaluate in between, also twice with no step between."""
    run = Run(recipe, rank, processes, sharded=sharded, contract=contract)
    losses, outputs = [], []
    for number, (inputs, targets) in enumerate(global_batches(6)):
        losses.append(run.step(inputs, targets))
        if number in (0, 3, 5):
            outputs.append([run.evaluate(), run.evaluate()])
    return {"losses": losses, "outputs": outputs, "weights": run.weights(), "remembered": run.remembered()}


def whole_models(folder: Path, rank: int, processes: int) -> dict[str, Any]:
    """What DDP trains with each recipe."""
    return {name: train(recipe, rank, processes) for name, recipe in RECIPES.items()}


def sharded_models(folder: Path, rank: int, processes: int) -> dict[str, Any]:
    """What FSDP2 trains with each recipe."""
    return {name: train(recipe, rank, processes, sharded=True) for name, recipe in RECIPES.items()}


def shards_held(folder: Path, rank: int, processes: int) -> dict[str, Any]:
    """How much of the parameters, and of their average, each process holds."""
    run = Run(["ema"], rank, processes, sharded=True)
    run.step(*global_batches(1)[0])
    held = [value.to_local().numel() for value in run.parameters() if isinstance(value, DTensor)]
    average = [
        value.to_local().numel()
        for name, value in sorted(run.engine.state_dict().items())
        if isinstance(value, DTensor)
    ]
    return {"parameters": held, "average": average}


def states_saved(folder: Path, rank: int, processes: int) -> dict[str, Any]:
    """States saved in shards by torch's distributed checkpoints, and whole, go on as if nothing had happened."""
    batches = global_batches(4)
    run = Run(RECIPES["sam"], rank, processes, sharded=True)
    for batch in batches[:2]:
        run.step(*batch)
    dcp.save({"engine": run.engine.state_dict(), "model": run.model.state_dict()}, checkpoint_id=folder / "dcp")
    whole = run.engine.state_dict(whole=True)
    weights = {name: value.full_tensor() for name, value in run.model.state_dict().items()}
    momentum = deepcopy(run.engine.optimizer.state_dict())
    found = {}
    for name in ("sharded", "whole"):
        other = Run(RECIPES["sam"], rank, processes, sharded=True)
        own = {"engine": other.engine.state_dict(), "model": other.model.state_dict()}
        if name == "sharded":
            dcp.load(own, checkpoint_id=folder / "dcp")
            other.engine.load_state_dict(own["engine"])
        else:
            other.engine.load_state_dict(whole)
            for key, value in other.model.state_dict().items():
                value.to_local().copy_(own_part(weights[key], value))
        other.engine.optimizer.load_state_dict(deepcopy(momentum))
        found[name] = [[other.step(*batch) for batch in batches[2:]], other.remembered()]
    found["through"] = [[run.step(*batch) for batch in batches[2:]], run.remembered()]
    return found


def own_part(value: Tensor, like: Tensor) -> Tensor:
    """The shard of a whole tensor that this process holds of another like it."""
    from torch.distributed.tensor import distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(value, like.device_mesh, like.placements).to_local()


def contract_kept(folder: Path, rank: int, processes: int) -> dict[str, Any]:
    """A sharded model whose methods are held to what they declare, by checksums of its shards."""
    return train(RECIPES["sam"], rank, processes, sharded=True, contract="always")


def selected(folder: Path, rank: int, processes: int) -> dict[str, Any]:
    """A method that runs the model by itself, on some batches: no process waits for one that does not."""
    run = Run([{"name": "selective_backprop", "p": 0.5}], rank, processes, sharded=True)
    losses = [run.step(*batch) for batch in global_batches(6)]
    return {"losses": losses, "weights": run.weights()}


CHECKS = (whole_models, sharded_models, contract_kept, shards_held, states_saved, selected)
