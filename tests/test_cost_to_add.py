"""What it costs to add a thing to Counterpoint: one file or one entry, and one line.

Each test edits a copy of the sources, as a commit would, and uses what it added in another process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[1]
CONFIG = """
task: multiclass
data: {name: digits, batch_size: 64}
model: mlp
max_duration: 3ba
eval_every: 3ba
checkpoint_every: 3ba
run_dir: run
"""
START = """
import sys
from pathlib import Path

sys.path.insert(0, "docs")
import torch
import build
import counterpoint as cp
from counterpoint.cli import main
from counterpoint.trainer.config.json_schema import config_schema

assert Path(cp.__file__).is_relative_to(Path.cwd())
schema, broken = config_schema()
assert not broken, broken

def named(role):
    return {name for choice in schema["$defs"][role]["anyOf"] for name in choice.get("enum", [])}

def trained(*overrides):
    assert main(["train", "run.yaml", *overrides]) == 0
"""


class Checkout:
    """A copy of the sources, with a count of the new files and of the lines that are added to others."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: list[str] = []
        self.lines: list[tuple[str, int]] = []
        shutil.copytree(ROOT / "counterpoint", root / "counterpoint", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "docs", root / "docs", ignore=shutil.ignore_patterns("__pycache__", "pictures"))
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, root / name)
        (root / "run.yaml").write_text(CONFIG, encoding="utf-8")

    def file(self, path: str, text: str) -> None:
        """Add a file."""
        assert not (self.root / path).exists()
        (self.root / path).write_text(dedent(text).lstrip("\n"), encoding="utf-8")
        self.files.append(path)

    def insert(self, path: str, after: str, text: str) -> None:
        """Add lines to a file after the one line that begins with ``after``."""
        lines = (self.root / path).read_text(encoding="utf-8").splitlines()
        (place,) = [number for number, line in enumerate(lines, start=1) if line.startswith(after)]
        added = text.strip("\n").splitlines()
        (self.root / path).write_text("\n".join([*lines[:place], *added, *lines[place:]]) + "\n", encoding="utf-8")
        self.lines.append((path, len(added)))

    def replace(self, path: str, old: str, new: str) -> None:
        """Change one place of a file."""
        text = (self.root / path).read_text(encoding="utf-8")
        assert text.count(old) == 1
        (self.root / path).write_text(text.replace(old, new), encoding="utf-8")

    def entry_point(self, group: str, line: str) -> None:
        """Add an entry point to the project file."""
        self.insert("pyproject.toml", f'[project.entry-points."counterpoint.{group}"]', line)

    def run(self, code: str) -> str:
        """Install the metadata of the copy and run code in it; return what it printed."""
        project = tomllib.loads((self.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        info = self.root / "counterpoint-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: counterpoint\nVersion: {project['version']}\n")
        groups = [
            "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in points.items())])
            for group, points in project["entry-points"].items()
        ]
        (info / "entry_points.txt").write_text("\n".join(groups) + "\n")
        done = subprocess.run(
            [sys.executable, "-c", START + dedent(code)],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root)},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


pytestmark = pytest.mark.slow


def test_a_method_is_one_file_one_entry_point_and_its_card(checkout: Checkout) -> None:
    checkout.file(
        "counterpoint/algorithms/dim.py",
        '''
        """Darker images."""

        from pydantic import Field

        from counterpoint.core.declare.algorithm import Algorithm
        from counterpoint.core.declare.batch import Batch
        from counterpoint.core.declare.decorators import transform
        from counterpoint.core.declare.effects import Law
        from counterpoint.core.declare.kinds import CONTINUOUS


        class Dim(Algorithm[None]):
            """Multiply images by a factor."""

            factor: float = Field(default=0.5, gt=0, le=1, description="what pixels are multiplied by")

            @transform(inputs=CONTINUOUS, law=Law.RECOLOR)
            def apply(self, batch: Batch, draws: None) -> Batch:
                return batch.with_inputs(batch.inputs * self.factor)
        ''',
    )
    checkout.file(
        "counterpoint/algorithms/cards/dim.md",
        """
        # Dim

        ## Hyperparameters

        <!-- hyperparameters -->

        ## Composability

        <!-- composability -->
        """,
    )
    checkout.entry_point("algorithms", 'dim = "counterpoint.algorithms.dim:Dim"')
    assert (len(checkout.files), checkout.lines) == (2, [("pyproject.toml", 1)])
    printed = checkout.run(
        """
        plan = cp.compose(["mixup", {"name": "dim", "factor": 0.25}], loss=torch.nn.CrossEntropyLoss(), num_classes=3,
                          task="multiclass", seed=1, contract="always")
        assert plan.order == ("dense_targets", "dim", "mixup"), plan.order
        x, y = plan(torch.ones(4, 1, 2, 2), torch.tensor([0, 1, 2, 0]), step=0)
        assert torch.allclose(x, torch.tensor(0.25)) and y.shape == (4, 3)
        assert "dim" in named("algorithms")
        assert "| `factor` | `0.5` |" in build.rendered("dim")
        assert "the row `dim` of [the matrix]" in build.rendered("dim")
        pages = {name: build.METHODS / f"{name}.md" for name in build.built_in() if name != "dim"}
        assert len(pages) > 10
        assert [name for name, page in pages.items() if page.read_text() != build.rendered(name)] == []
        assert "[`dim`](methods/dim.md)" in build.MAKERS["methods"]()
        assert " dim " in build.MAKERS["matrix"]()
        assert "| `cutout`, `dim` |" in build.MAKERS["reasons"]()
        trained("algorithms=[dim, mixup]")
        main(["list"]); main(["show", "dim"])
        """
    )
    assert "algorithms  dim" in printed
    assert "| `cutout` | fits: `dim` first" in printed


def test_a_loss_is_one_file_and_one_entry_point(checkout: Checkout) -> None:
    checkout.file(
        "counterpoint/losses/brier.py",
        '''
        """The Brier score."""

        from pydantic import Field
        from torch import Tensor, nn

        from counterpoint.core.declare.kinds import DENSE
        from counterpoint.losses.checks import checked_reduction
        from counterpoint.losses.classes import mass, reduced, require_dense
        from counterpoint.losses.known import POSITIONS, KnownLoss
        from counterpoint.losses.outputs import LOGITS
        from counterpoint.losses.settings import ReducedLossSettings


        def brier(outputs: Tensor, targets: Tensor, *, scale: float = 1.0, reduction: str = "mean") -> Tensor:
            """Compute the squared distance of the probabilities from dense targets."""
            require_dense(outputs, targets, None, "Brier score")
            losses = scale * (outputs.softmax(1) - targets).square().sum(1)
            return reduced(losses, targets, checked_reduction(reduction))


        class BrierLoss(nn.Module):
            """The squared distance of the probabilities from dense targets."""

            def __init__(self, scale: float = 1.0, *, reduction: str = "mean") -> None:
                super().__init__()
                self.scale, self.reduction, self.ignore_index = scale, reduction, -100

            def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
                """Return the loss."""
                return brier(outputs, targets, scale=self.scale, reduction=self.reduction)


        KNOWN = (
            KnownLoss(
                BrierLoss,
                brier,
                accepts=frozenset({DENSE}),
                outputs=LOGITS,
                settings=("scale",),
                functions=(brier,),
                formula="`Σ (p − y)²`",
                mixed="no: taken at the mixed target",
                refused="class indices",
            ),
        )


        class Brier(ReducedLossSettings):
            """The Brier score from logits, on class probabilities."""

            module = BrierLoss
            scale: float = Field(default=1.0, gt=0, description="a factor")
        ''',
    )
    checkout.entry_point("losses", 'brier = "counterpoint.losses.brier:Brier"')
    assert (len(checkout.files), checkout.lines) == (1, [("pyproject.toml", 1)])
    printed = checkout.run(
        """
        from functools import partial
        from counterpoint.losses import resolve_loss
        from counterpoint.losses.brier import BrierLoss, brier

        facts = {"task": "multiclass", "num_classes": 2}
        outputs, y = torch.zeros(2, 2), torch.tensor([0, 1])
        for loss in (BrierLoss(2.0), {"name": "brier", "scale": 2.0}, partial(brier, scale=2.0)):
            plan = cp.compose([], loss=loss, **facts)
            assert plan.order == ("dense_targets",), plan.order
            assert plan.loss(outputs, plan(torch.ones(2, 1, 2, 2), y, step=0)[1]) == 2 * 0.5
        spec = resolve_loss(BrierLoss(2.0))
        assert spec.denominator(torch.eye(2)) == 4 and spec.each(outputs, torch.eye(2)).shape == (2,)
        plans = [cp.compose([], loss=BrierLoss(scale), **facts).fingerprint for scale in (1.0, 1.0, 2.0)]
        assert plans[0] == plans[1] != plans[2]
        assert "brier" in named("loss")
        assert "| `BrierLoss` | `brier` | `dense` | `Σ (p − y)²` |" in build.MAKERS["known losses"]()
        assert "| `scale` | `1.0` | a number, above 0 | a factor |" in build.MAKERS["losses"]()
        trained("loss={name: brier, scale: 3.0}", "algorithms=[mixup]")
        main(["list"]); main(["show", "brier"])
        """
    )
    assert "losses      brier" in printed
    assert "| `scale` |" in printed


def test_a_kind_is_one_entry_and_one_line(checkout: Checkout) -> None:
    path = "counterpoint/core/declare/kinds.py"
    checkout.insert(path, "TOKENS = ", 'DEPTH = Kind("depth", Field.INPUTS, "distances in metres, (N, 1, H, W)")')
    checkout.replace(path, "INPUT_KINDS = (IMAGE, ", "INPUT_KINDS = (IMAGE, DEPTH, ")
    assert checkout.lines == [(path, 1)]
    checkout.run(
        """
        facts = {"task": "multiclass", "num_classes": 3, "inputs": "depth", "loss": torch.nn.CrossEntropyLoss()}
        plan = cp.compose(["label_smoothing"], **facts)
        x, y = plan(torch.ones(2, 1, 4, 4), torch.tensor([0, 2]), step=0)
        assert y.shape == (2, 3) and plan.facts.inputs.name == "depth"
        try:
            cp.compose(["mixup"], **facts)
        except cp.CompositionError as error:
            (fault,) = error.faults
            assert fault.code == "needs-unmet" and "depth" in fault.message, fault
        else:
            raise AssertionError("mixup was not refused")
        try:
            cp.compose([], **{**facts, "inputs": "depht"})
        except cp.CompositionError as error:
            assert "did you mean 'depth'" in str(error), error
        assert "`depth` (`needs-unmet`)" in build.rendered("mixup")
        assert "`depth`" in build.rendered("ema").split("- Inputs: ")[1].split("refused")[0]
        """
    )


def test_an_event_is_a_member_and_its_line_in_the_drawing(checkout: Checkout) -> None:
    path = "counterpoint/core/declare/events.py"
    checkout.insert(
        path, "        │   │   │   │   UPDATE", "        │   │   SAMPLING                    examples are made"
    )
    checkout.insert(path, '    UPDATE = "update"', '    SAMPLING = "sampling", "epoch"')
    assert checkout.lines == [(path, 1), (path, 1)]
    checkout.run(
        """
        calls = []

        class Note(cp.Algorithm[None], name="note"):
            \"\"\"Note when examples are made.\"\"\"

            @cp.after(cp.Event.SAMPLING, reads="parameters")
            def look(self, state: None, scope: cp.Scope) -> None:
                calls.append(scope.batches)

        plan = cp.compose([Note()], task="multiclass", num_classes=3)
        model = torch.nn.Linear(2, 3)
        engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
        with engine.fit(), engine.epoch():
            with engine.span(cp.Event.SAMPLING):
                pass
        assert calls == [0]
        assert not cp.Event("sampling").in_batch
        assert "each sampling" in plan.explain()
        assert "SAMPLING  " in cp.Event.__doc__
        try:
            @cp.after("samplin", reads="parameters")
            def look(self, state, scope): ...
        except cp.DeclarationError as error:
            assert "did you mean 'sampling'" in str(error), error
        else:
            raise AssertionError("samplin was taken")
        """
    )


def test_a_config_key_is_one_field(checkout: Checkout) -> None:
    path = "counterpoint/trainer/config/run_config.py"
    field = '    remark: str = Field(default="none", max_length=20, description="a remark on the run")'
    checkout.insert(path, "    strict_order: bool", field)
    assert checkout.lines == [(path, 1)]
    printed = checkout.run(
        """
        import contextlib, io
        from counterpoint.trainer.config.run_config import RunConfig

        assert schema["properties"]["remark"]["maxLength"] == 20
        assert '| `remark` | `"none"` |' in build.MAKERS["keys"]()
        assert main(["check", "run.yaml", "remark=hello"]) == 0
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            assert main(["check", "run.yaml", "remark=3"]) == 2
            assert main(["check", "run.yaml", "remrak=hello"]) == 2
        assert "remark = 3" in said.getvalue() and "did you mean 'remark'" in said.getvalue(), said.getvalue()
        given = {"task": "multiclass", "max_duration": "2ep", "remark": "hello"}
        assert RunConfig.parse(given).resolved()["remark"] == "hello"
        trained("remark=hello")
        print(*(path.read_text() for path in Path("run").rglob("*.yaml")))
        """
    )
    assert "remark: hello" in printed


def test_a_model_is_one_file_and_one_entry_point(checkout: Checkout) -> None:
    checkout.file(
        "counterpoint/trainer/models/linear.py",
        '''
        """A linear model."""

        import math

        from pydantic import Field
        from torch import nn

        from counterpoint.trainer.component_config import ComponentConfig
        from counterpoint.trainer.data.dataset import DataSpec


        class Linear(ComponentConfig):
            """One linear layer on flattened inputs."""

            bias: bool = Field(default=True, description="whether it adds a bias")

            def build(self, spec: DataSpec) -> nn.Module:
                """Make the model."""
                return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(spec.input_shape), spec.outputs, self.bias))
        ''',
    )
    checkout.entry_point("models", 'linear = "counterpoint.trainer.models.linear:Linear"')
    assert (len(checkout.files), checkout.lines) == (1, [("pyproject.toml", 1)])
    printed = checkout.run(
        """
        assert "linear" in named("model")
        assert "**`linear`**: One linear layer" in build.MAKERS["models"]()
        trained("model={name: linear, bias: false}")
        main(["list"]); main(["show", "linear"])
        """
    )
    assert "models      linear" in printed
    assert "| `bias` | `true` | true or false |" in printed


def test_a_data_set_is_one_file_and_one_entry_point(checkout: Checkout) -> None:
    checkout.file(
        "counterpoint/trainer/data/noise.py",
        '''
        """Noise."""

        import torch
        from pydantic import Field
        from torch.utils.data import TensorDataset

        from counterpoint.trainer.data.dataset import DataModule, DatasetConfig, DataSpec


        class Noise(DatasetConfig):
            """Images of normal noise in two classes."""

            size: int = Field(default=64, ge=2, description="images of each part")

            def build(self) -> DataModule:
                """Make the data sets."""
                x = torch.randn(self.size, 1, 4, 4, generator=torch.Generator().manual_seed(0))
                examples = TensorDataset(x, torch.arange(self.size) % 2)
                return DataModule(examples, examples, DataSpec("multiclass", "normalized", (1, 4, 4), 2))
        ''',
    )
    checkout.entry_point("datasets", 'noise = "counterpoint.trainer.data.noise:Noise"')
    assert (len(checkout.files), checkout.lines) == (1, [("pyproject.toml", 1)])
    printed = checkout.run(
        """
        assert "noise" in named("data")
        assert "**`noise`**: Images of normal noise" in build.MAKERS["data"]()
        trained("data={name: noise, batch_size: 16}", "algorithms=[cutout, mixup]")
        main(["list"]); main(["show", "noise"])
        """
    )
    assert "datasets    noise" in printed
    assert "| `size` | `64` |" in printed


def test_an_optimizer_is_one_class_and_one_line(checkout: Checkout) -> None:
    path = "counterpoint/trainer/optim.py"
    new = '''
class RMSprop(OptimizerConfig):
    """Divide the gradient by the root of its averaged square, as ``torch.optim.RMSprop``."""

    lr: float = Field(default=0.01, gt=0, le=1e30, description="learning rate at its highest")

    def build(self, model: nn.Module) -> optim.Optimizer:
        """Make the optimizer."""
        return optim.RMSprop(trained_parameters(model), **self.model_dump())

'''
    checkout.replace(path, "\nOPTIMIZERS: ", f"{new}\nOPTIMIZERS: ")
    checkout.insert(path, '    "adamw": AdamW,', '    "rmsprop": RMSprop,')
    checkout.run(
        """
        assert "rmsprop" in named("optimizer")
        assert "**`rmsprop`**: Divide the gradient" in build.MAKERS["optimizers"]()
        assert "| `lr` | `0.01` |" in build.MAKERS["optimizers"]()
        trained("optimizer={name: rmsprop, lr: 0.001}", "algorithms=[gradient_clipping]")
        """
    )


def test_a_scheduler_is_one_class_and_one_line(checkout: Checkout) -> None:
    path = "counterpoint/trainer/optim.py"
    new = '''
class Linear(SchedulerConfig):
    """A straight line from 1 down to ``final``, after the warm-up."""

    final: float = Field(default=0.0, ge=0, le=1, description="factor at the end of the run")

    def factor(self, step: int, total: int) -> float:
        """Return the factor."""
        return 1 - (1 - self.final) * step / total

'''
    checkout.replace(path, "\nOPTIMIZERS: ", f"{new}\nOPTIMIZERS: ")
    checkout.insert(path, '    "cosine": Cosine,', '    "linear": Linear,')
    checkout.run(
        """
        assert "linear" in named("scheduler")
        assert "**`linear`**: A straight line" in build.MAKERS["schedulers"]()
        trained("scheduler={name: linear, final: 0.5, warmup: 1ba}")
        """
    )
