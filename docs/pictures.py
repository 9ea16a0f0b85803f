"""Draw the pictures of the method cards: ``python docs/pictures.py`` writes docs/methods/pictures/*.png.

Digits come with scikit-learn, every edit is made by a plan with a fixed seed, and the curves of EMA are measured by
training with it. Needs matplotlib: ``pip install -c constraints.txt -e '.[docs]'``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from sklearn.datasets import load_digits
from torch import Tensor

import counterpoint as cp
import counterpoint.functional as CF
from counterpoint.algorithms import EMA, SAM, SWA, CutMix, CutOut, GradientClipping, LabelSmoothing, MixUp, OneOf
from counterpoint.algorithms.ema import decay_at

PICTURES = Path(__file__).parent / "methods" / "pictures"
BLUE, ORANGE, GREY = "#2b6cb0", "#dd6b20", "#718096"
DIGITS = (3, 0, 7, 4, 8, 5)
DPI = 100

mpl.use("Agg")
mpl.rcParams.update(
    {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9, "savefig.dpi": DPI}
)


def digits() -> tuple[Tensor, Tensor]:
    """Return one image of each of ``DIGITS``, (N, 1, 8, 8) between 0 and 1, and their classes."""
    data = load_digits()
    first = [int((data.target == digit).nonzero()[0][0]) for digit in DIGITS]
    return torch.from_numpy(data.images[first] / 16).float()[:, None], torch.tensor(DIGITS)


def plan_of(*algorithms: Any, seed: int = 0) -> cp.Plan:
    """Compose for digits."""
    loss = torch.nn.CrossEntropyLoss()
    return cp.compose(algorithms, loss=loss, task="multiclass", num_classes=10, inputs="unit", seed=seed)


def edit(plan: cp.Plan, inputs: Tensor, targets: Tensor, step: int) -> tuple[cp.Batch, dict[str, Any]]:
    """Return the edited batch of a step, and its draws."""
    engine = cp.Engine(plan, model=torch.nn.Identity())
    engine.batches = step
    with engine.batch(inputs, targets) as batch:
        return batch, engine.draws()


def show(axes: Axes, image: Tensor, title: str = "", edge: str = "#cbd5e0") -> None:
    """Draw one digit."""
    axes.imshow(image[0].numpy(), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[], title=title)
    for spine in axes.spines.values():
        spine.set(visible=True, color=edge)


def bars(axes: Axes, target: Tensor, *, limit: float = 1.2) -> None:
    """Draw one dense target."""
    colours = [BLUE if share > 0.5 else ORANGE if share >= 0.15 else "#a0aec0" for share in target.tolist()]
    axes.bar(range(10), target.numpy(), color=colours, width=0.75)
    for place, share in enumerate(target.tolist()):
        if share >= 0.1:
            axes.text(place, share + 0.03, f"{share:.2f}", ha="center", fontsize=7)
    axes.set(ylim=(0, limit), xlim=(-1.2, 9.8), yticks=[0, 1], xticks=range(10))
    axes.tick_params(labelsize=7, length=2)


def save(figure: Figure, name: str) -> None:
    """Write a picture; it holds no date and no version, so that the same drawing gives the same file."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURES / f"{name}.png", metadata={"Software": None})


def mixing(name: str, method: Any, words: str) -> None:
    """Draw samples, partners, results and targets of a method that mixes, for a step that shows it well."""
    inputs, targets = digits()
    plan = plan_of(method)
    step = next(step for step in range(100) if _is_clear(edit(plan, inputs, targets, step)[0].targets))
    batch, draws = edit(plan, inputs, targets, step)
    perm = draws[method.identity].perm
    chosen = [index for index in range(len(inputs)) if perm[index] != index][:4]
    figure = Figure(figsize=(6.4, 5), layout="constrained")
    grid = figure.subplots(4, 4, height_ratios=[1, 1, 1, 0.8])
    for column, index in enumerate(chosen):
        show(grid[0][column], inputs[index])
        show(grid[1][column], inputs[perm[index]])
        show(grid[2][column], batch.inputs[index], edge=BLUE)
        bars(grid[3][column], batch.targets[index])
        if isinstance(method, CutMix):
            left, top, right, bottom = draws[method.identity].boxes[0].tolist()
            box = (left - 0.5, top - 0.5), right - left, bottom - top
            for row in (1, 2):
                grid[row][column].add_patch(Rectangle(*box, fill=False, edgecolor=ORANGE, lw=2))
    for row, label in enumerate(("sample", "partner", words, "target")):
        grid[row][0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=10)
    save(figure, name)


def _is_clear(targets: Tensor) -> bool:
    """Whether every sample has a partner, of a share that can be seen."""
    return bool(((targets > 0.27) & (targets < 0.45)).sum() == len(targets))


def cutout() -> None:
    """Draw digits with holes."""
    inputs, targets = digits()
    edited, _ = plan_of(CutOut(length=0.5, fill=0.5))(inputs, targets, step=3)
    figure = Figure(figsize=(6.4, 2.7), layout="constrained")
    grid = figure.subplots(2, 5)
    for column in range(5):
        show(grid[0][column], inputs[column])
        show(grid[1][column], edited[column], edge=BLUE)
    for row, label in enumerate(("sample", "with a hole\n(fill=0.5)")):
        grid[row][0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=10)
    save(figure, "cutout")


def label_smoothing() -> None:
    """Draw targets before and after smoothing."""
    certain = CF.dense_targets(torch.tensor([3]), 10)
    blended = 0.7 * certain + 0.3 * CF.dense_targets(torch.tensor([8]), 10)
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    grid = figure.subplots(2, 3, sharex=True, sharey=True)
    for row, (label, target) in enumerate((("certain:\na 3", certain), ("blended:\n70 % 3, 30 % 8", blended))):
        for column, smoothing in enumerate((0.0, 0.1, 0.3)):
            axes = grid[row][column]
            bars(axes, LabelSmoothing(smoothing=smoothing).apply(_batch(target), None).targets[0])
            if row == 0:
                axes.set_title("before" if smoothing == 0 else f"smoothing = {smoothing}")
        grid[row][0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=12)
    save(figure, "label_smoothing")


def _batch(targets: Tensor) -> cp.Batch:
    return cp.Batch(torch.zeros(len(targets), 1), targets, cp.FEATURES, cp.DENSE, "multiclass", num_classes=10)


def one_of() -> None:
    """Draw who acts on each batch, and what becomes of one digit."""
    inputs, targets = digits()
    plan = plan_of(OneOf(algorithms=[MixUp(alpha=1.0), CutMix(alpha=1.0)]), seed=1)
    edits = [edit(plan, inputs, targets, step) for step in range(60)]
    names = [next(key for key in draws if key != "one_of").split(".")[1] for _, draws in edits]
    figure = Figure(figsize=(6.4, 3.3), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1.6])
    axes = above.subplots()
    for name, colour, height in (("mixup", BLUE, 0), ("cutmix", ORANGE, 1)):
        steps = [step for step, acting in enumerate(names) if acting == name]
        axes.scatter(steps, [height] * len(steps), color=colour, s=16, marker="s")
    axes.set(yticks=[0, 1], yticklabels=["mixup", "cutmix"], ylim=(-0.6, 1.6), xlabel="batch", xlim=(-1, 60))
    for step, axes in enumerate(below.subplots(1, 4)):
        colour = BLUE if names[step] == "mixup" else ORANGE
        show(axes, edits[step][0].inputs[0], f"batch {step}: {names[step]}", edge=colour)
    save(figure, "one_of")


def ema() -> None:
    """Draw the decay of each update, and evaluation losses with own and averaged weights, measured in training."""
    figure = Figure(figsize=(6.4, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    method = EMA(half_life=50)
    updates = range(1, 2000)
    for warmup, colour, label in ((True, BLUE, "warmup: true"), (False, GREY, "warmup: false")):
        decays = [1 - decay_at(update, method.per_update, warmup=warmup) for update in updates]
        left.loglog(updates, decays, color=colour, label=label)
    left.set(xlabel="update", ylabel="1 - decay", title="share of the new weights (half_life: 50)")
    left.legend(frameon=False)
    steps, own, averaged = measured(method)
    right.plot(steps, own, color=GREY, lw=1, label="own weights")
    right.plot(steps, averaged, color=BLUE, label="average")
    right.set(xlabel="batch", ylabel="evaluation loss", yscale="log", title="digits, SGD with lr 0.5")
    right.legend(frameon=False)
    save(figure, "ema")


def measured(method: EMA | SWA) -> tuple[list[int], list[float], list[float]]:
    """Train a small network on digits; return steps, and the evaluation losses of own and averaged weights."""
    run = Run(method, lr=0.5)
    steps, own, averaged = [], [], []
    while run.engine.batches < 600:
        run.step()
        if run.engine.batches % 10 == 0:
            steps.append(run.engine.batches)
            own.append(run.loss_on(run.held))
            with run.engine.evaluation():
                averaged.append(run.loss_on(run.held))
    return steps, own, averaged


class Run:
    """Trains a small network on digits with a method, in batches of 16."""

    def __init__(self, *methods: Any, lr: float) -> None:
        data = load_digits()
        self.inputs, self.targets = torch.from_numpy(data.data / 16).float(), torch.from_numpy(data.target)
        order = cp.Rng(17, "order").permutation(len(self.inputs))
        self.held, self.rest = order[:360], order[360:]
        with torch.random.fork_rng():
            torch.manual_seed(17)
            self.model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        loss = torch.nn.CrossEntropyLoss()
        self.plan = cp.compose(methods, loss=loss, task="multiclass", num_classes=10, inputs="features")
        optimizer = torch.optim.SGD(self.model.parameters(), lr=lr)
        self.engine = cp.Engine(self.plan, model=self.model, optimizer=optimizer)

    def step(self) -> float:
        """Train on the next batch and return its loss."""
        rows = self.rest[cp.Rng(17, "batch", self.engine.batches).integers(0, len(self.rest), (16,))]
        with self.engine.batch(self.inputs[rows], self.targets[rows]) as batch:

            def closure() -> Tensor:
                value = self.plan.loss(self.model(batch.inputs), batch.targets)
                value.backward()
                return value.detach()

            return self.engine.step(closure).item()

    def loss_on(self, rows: Tensor) -> float:
        """Return the loss of the model as it is."""
        with torch.no_grad():
            return torch.nn.functional.cross_entropy(self.model(self.inputs[rows]), self.targets[rows]).item()


def swa() -> None:
    """Draw evaluation losses with own and averaged weights, measured in training."""
    figure = Figure(figsize=(6.4, 2.9), layout="constrained")
    axes = figure.subplots()
    steps, own, averaged = measured(SWA(start="300ba"))
    axes.plot(steps, own, color=GREY, lw=1, label="own weights")
    axes.plot(steps, averaged, color=BLUE, label="average from batch 300 on")
    axes.set(xlabel="batch", ylabel="evaluation loss", yscale="log", title="digits, SGD with lr 0.5")
    axes.legend(frameon=False)
    save(figure, "swa")


def sam() -> None:
    """Draw the training loss along the gradient, from where SGD and SAM end."""
    figure = Figure(figsize=(6.4, 2.9), layout="constrained")
    axes = figure.subplots()
    radii = torch.linspace(0, 1, 41)
    for methods, colour, label in (((), GREY, "SGD"), ((SAM(rho=0.3),), BLUE, "SAM, rho: 0.3")):
        run = Run(*methods, lr=0.5)
        for _ in range(600):
            run.step()
        axes.plot(radii, _along_the_gradient(run, radii), color=colour, label=label)
    axes.set(xlabel="distance from the weights", ylabel="training loss", ylim=(0, None), title="digits, 600 batches")
    axes.legend(frameon=False)
    save(figure, "sam")


def _along_the_gradient(run: Run, radii: Tensor) -> list[float]:
    loss = torch.nn.functional.cross_entropy(run.model(run.inputs[run.rest]), run.targets[run.rest])
    weights = list(run.model.parameters())
    moves = CF.sam_perturbation(weights, torch.autograd.grad(loss, weights), 1.0)
    start, losses = [weight.detach().clone() for weight in weights], []
    for radius in radii.tolist():
        with torch.no_grad():
            for weight, kept, move in zip(weights, start, moves, strict=True):
                weight.copy_(kept + radius * move)
        losses.append(run.loss_on(run.rest))
    return losses


class Norms(cp.Algorithm[None]):
    """Writes down the norm of each batch's gradient, before it is clipped."""

    @cp.before(cp.Event.UPDATE, reads="gradients")
    def note(self, state: None, scope: cp.Scope) -> None:
        """Take note of the norm."""
        gradients = [parameter.grad for parameter in scope.model.parameters() if parameter.grad is not None]
        NORMS.append(torch.nn.utils.get_total_norm(gradients).item())


NORMS: list[float] = []


def gradient_clipping() -> None:
    """Draw gradient norms before clipping, and the training loss with and without it."""
    figure = Figure(figsize=(6.4, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    plain, clipped = Run(lr=1.5), Run(Norms(before="gradient_clipping"), GradientClipping(threshold=1.0), lr=1.5)
    for run, colour, label in ((plain, GREY, "as it is"), (clipped, BLUE, "clipped")):
        losses = []
        for _ in range(150):
            run.step()
            losses.append(run.loss_on(run.rest))
        right.plot(range(150), losses, color=colour, lw=1, label=label)
    left.scatter(range(150), NORMS, color=BLUE, s=5)
    left.axhline(1.0, color=ORANGE, label="threshold: 1.0")
    left.set(xlabel="batch", ylabel="norm of the gradient", yscale="log", title="digits, SGD with lr 1.5")
    right.set(xlabel="batch", ylabel="training loss", yscale="log", title="all training data")
    left.legend(frameon=False)
    right.legend(frameon=False)
    save(figure, "gradient_clipping")


def main() -> None:
    """Draw every picture."""
    mixing("mixup", MixUp(alpha=1.0), "blend")
    mixing("cutmix", CutMix(alpha=1.0), "result")
    cutout()
    label_smoothing()
    one_of()
    ema()
    swa()
    sam()
    gradient_clipping()
    for path in sorted(PICTURES.glob("*.png")):
        print(f"{path.relative_to(Path.cwd())}: {path.stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    main()
