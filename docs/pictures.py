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
from counterpoint.algorithms import (
    EMA,
    SAM,
    SWA,
    CutMix,
    CutOut,
    GradientClipping,
    LabelSmoothing,
    ManifoldMixup,
    MixUp,
    Normalize,
    OneOf,
    SelectiveBackprop,
)
from counterpoint.algorithms.blurpool import replace_strided
from counterpoint.algorithms.ema import decay_at
from counterpoint.algorithms.trivial_augment import OPERATIONS, SPACES, magnitudes

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


def normalize() -> None:
    """Draw how often each value occurs in digits as bytes, and when they are normalised."""
    pixels = torch.from_numpy(load_digits().images / 16)
    method = Normalize(mean=[pixels.mean().item()], std=[pixels.std().item()])
    figure = Figure(figsize=(6.4, 2.4), layout="constrained")
    images = (pixels * 255).round().to(torch.uint8)[:, None]
    normalised = CF.normalize(images, method.mean, method.std)
    for axes, values, title in zip(figure.subplots(1, 2), (images, normalised), ("bytes", "normalised"), strict=True):
        levels, counts = values.double().unique(return_counts=True)
        axes.bar(levels, counts / counts.sum(), width=0.6 * float(levels[1] - levels[0]), color=BLUE)
        axes.axvline(values.double().mean(), color=ORANGE, label="mean")
        axes.set(title=title, xlabel="value", ylabel="share of the pixels")
        axes.legend(frameon=False)
    save(figure, "normalize")


def trivial_augment() -> None:
    """Draw one digit under every operation, at two thirds of its strongest."""
    digit = torch.nn.functional.interpolate(digits()[0][:1], size=(32, 32), mode="bicubic").clamp(0, 1)
    digit = 0.1 + 0.7 * digit  # so that contrast and brightness can be seen
    figure = Figure(figsize=(6.4, 3), layout="constrained")
    strength, sign = torch.full((1,), 2 / 3, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for axes, (name, operation) in zip(figure.subplots(2, 7).flat, OPERATIONS.items(), strict=True):
        magnitude = magnitudes(name, strength, sign, SPACES["wide"])
        show(axes, operation(digit, magnitude)[0])
        axes.set_title(name, fontsize=7.5)
    save(figure, "trivial_augment")


def blurpool() -> None:
    """Draw max pooling of a signal and of its shift, with and without the blur."""
    signal = torch.tensor([0.0, 0, 1, 1, 0, 0, 1, 1]).repeat(3)
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    plain, blurred = torch.nn.MaxPool2d((1, 2)), torch.nn.Sequential(torch.nn.MaxPool2d((1, 2)))
    replace_strided(blurred, padding="reflect")
    for axes, pool, title in zip(
        figure.subplots(1, 2, sharey=True), (plain, blurred), ("max pooling", "with a blur"), strict=True
    ):
        for shift, colour, label in ((0, GREY, "a signal"), (1, BLUE, "the same, shifted by 1")):
            pooled = pool(signal.roll(shift).view(1, 1, 1, -1)).flatten()
            axes.step(range(len(pooled)), pooled, color=colour, where="mid", label=label, lw=1.5)
        axes.set(title=f"{title}, stride 2", xlabel="position", ylim=(-0.1, 1.5), yticks=[0, 1])
        axes.legend(frameon=False, ncols=2, fontsize=7)
    save(figure, "blurpool")


def manifold_mixup() -> None:
    """Draw hidden representations of digits in two units, before and after mixing."""
    run = Run(lr=0.5)
    with torch.random.fork_rng():
        torch.manual_seed(17)
        hidden = torch.nn.Sequential(torch.nn.Linear(64, 2), torch.nn.Tanh())
    rows = run.rest[(run.targets[run.rest] < 2).nonzero().flatten()[:24]]
    points, targets = hidden(run.inputs[rows]).detach(), run.targets[rows].float()[:, None]
    draws = ManifoldMixup(module="1").draw(cp.BatchSpec(len(rows), (64,), 2), cp.Rng(3, "picture"))
    mixed, shares = CF.mixup(points, targets, draws.lam, draws.perm)
    figure = Figure(figsize=(6.4, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    colours = mpl.colors.LinearSegmentedColormap.from_list("share", [BLUE, "#e2e8f0", ORANGE])
    left.scatter(*points.T, c=targets.flatten(), cmap=colours, vmin=0, vmax=1, s=22)
    for start, end in zip(points.tolist(), mixed.tolist(), strict=True):
        right.plot(*zip(start, end, strict=True), color="#cbd5e0", lw=0.8, zorder=0)
    right.scatter(*mixed.T, c=shares.flatten(), cmap=colours, vmin=0, vmax=1, s=22)
    left.set(title="output of the layer, 0s and 1s", xlabel="unit 1", ylabel="unit 2")
    right.set(title=f"mixed, lam = {float(draws.lam):.2f}", xlabel="unit 1")
    save(figure, "manifold_mixup")


def selective_backprop() -> None:
    """Draw how often a sample is kept by the percentile of its loss, and the losses of one batch."""
    figure = Figure(figsize=(6.4, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    size, trials = 64, 4000
    for keep, colour in ((0.5, BLUE), (0.25, ORANGE)):
        method, counts = SelectiveBackprop(keep=keep), torch.zeros(size)
        for trial in range(trials):
            keys = method.draw(cp.BatchSpec(size, (64,), 10), cp.Rng(17, "picture", trial))
            counts[CF.select_by_loss(torch.arange(size), keys, round(keep * size), method.sharpness)] += 1
        left.plot((torch.arange(size) + 0.5) / size, counts / trials, color=colour, lw=1.2, label=f"keep: {keep}")
    left.set(xlabel="percentile of the loss", ylabel="chance to be kept", ylim=(0, 1.05))
    left.legend(frameon=False)
    run = Run(lr=0.5)
    for _ in range(50):
        run.step()
    rows, method = run.rest[:size], SelectiveBackprop()
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(run.model(run.inputs[rows]), run.targets[rows], reduction="none")
    losses = losses.sort().values
    keys = method.draw(cp.BatchSpec(size, (64,), 10), cp.Rng(17, "picture"))
    kept = CF.select_by_loss(losses, keys, size // 2, method.sharpness)
    right.scatter(range(size), losses, color="#cbd5e0", s=10, label="left out")
    right.scatter(kept, losses[kept], color=BLUE, s=10, label="kept")
    right.set(xlabel="sample, by its loss", ylabel="loss", yscale="log")
    right.legend(frameon=False)
    save(figure, "selective_backprop")


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
    normalize()
    trivial_augment()
    blurpool()
    manifold_mixup()
    selective_backprop()
    for path in sorted(PICTURES.glob("*.png")):
        print(f"{path.relative_to(Path.cwd())}: {path.stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    main()
