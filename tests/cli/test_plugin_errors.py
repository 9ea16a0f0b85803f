"""The code of others: its errors are named, and it neither writes to standard output nor ends a command unnoticed."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import HEAD, Run
from tests.cli.test_bad_input import SCRIPT, tree
from tests.trainer.support import write_images

pytestmark = pytest.mark.kind("26")

Install = Callable[[str, str], Path]

PARTS = """
import os, torch
from torch import nn
import counterpoint as cp
from counterpoint.trainer import DataSpec
from counterpoint.trainer import ComponentConfig, DataModule, DatasetConfig

class Failure(Exception): pass

class Loss(ComponentConfig):
    def build(self):
        {loss}
        return nn.CrossEntropyLoss()

class Net(nn.Linear):
    def forward(self, inputs):
        {forward}
        return super().forward(inputs.flatten(1))

class Model(ComponentConfig):
    def build(self, spec):
        {model}
        return Net(4, 3)

class Items(torch.utils.data.Dataset):
    def __len__(self): return 32
    def __getitem__(self, index):
        {item}
        return torch.full((4,), float(index)), index % 3

class Data(DatasetConfig):
    def build(self):
        {data}
        return DataModule(Items(), Items(), DataSpec("multiclass", "features", (4,), 3))

class Method(cp.Algorithm[None], name="outside"):
    @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE)
    def apply(self, batch, draws):
        {apply}
        return batch.with_inputs(batch.inputs * 2)
"""
CONFIG = """\
task: multiclass
data: {name: outside, batch_size: 8}
model: outside
loss: outside
algorithms: [outside]
max_duration: 4ba
checkpoint_every: 1ba
run_dir: run
"""


@pytest.fixture
def install(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a package ``outside`` that registers one of each group, from the text of its module."""

    def make(code: str, name: str = "outside") -> Path:
        site = tmp_path_factory.mktemp("site")
        module = f"{name}_{site.name}"
        (site / f"{module}.py").write_text(code)
        info = site / f"{name}-2.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.5\n")
        groups = {"algorithms": "Method", "losses": "Loss", "models": "Model", "datasets": "Data"}
        points = "".join(f"[counterpoint.{group}]\n{name} = {module}:{held}\n" for group, held in groups.items())
        (info / "entry_points.txt").write_text(points)
        monkeypatch.syspath_prepend(site)
        return site

    return make


def parts(**code: str) -> str:
    names = ("loss", "forward", "model", "item", "data", "apply")
    return PARTS.format(**{name: code.get(name, "pass") for name in names})


def line_of(site: Path, words: str) -> str:
    (module,) = site.glob("*.py")
    lines = module.read_text().splitlines()
    return f"{module}, line {1 + next(number for number, line in enumerate(lines) if words in line)}"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["check", "train"])
@pytest.mark.parametrize("role", ["loss", "model", "data"])
@pytest.mark.parametrize("fails", ["raise Failure('no driver')", "raise SystemExit('no driver')", "os._exit(0)"])
def test_a_build_that_fails(role: str, fails: str, command: str, install: Install, folder: Path, run: Run) -> None:
    site = install(parts(**{role: f"print('noise'); {fails}"}))
    (folder / "run.yaml").write_text(CONFIG)
    result = run(command, "run.yaml")
    assert (result.code, result.out) == (2, "")
    said = "os._exit(0)" if "_exit" in fails else "no driver"
    for words in (f"run.yaml: 1 fault in the config:\n  [bad-config] {role}: 'outside'", said, line_of(site, fails)):
        assert words in result.err
    assert tree(folder) == [entry for entry in tree(folder) if "run.yaml" in entry[0]]


@pytest.mark.slow
@pytest.mark.parametrize("role", ["loss", "model", "data"])
def test_a_build_that_returns_something_else(role: str, install: Install, folder: Path, run: Run) -> None:
    install(parts(**{role: "return 3"}))
    (folder / "run.yaml").write_text(CONFIG)
    result = run("check", "run.yaml")
    assert result.code == 2
    assert f"{role}: " in result.err
    assert "3" in result.err or "int" in result.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "code", "named"),
    [
        ("apply", "if COUNT.append(0) or len(COUNT) == 3: raise Failure('lost')", "outside.apply failed at step 2: "),
        ("apply", "if COUNT.append(0) or len(COUNT) == 3: os._exit(0)", "the run failed after 2 steps; "),
        (
            "forward",
            "if self.training and (COUNT.append(0) or len(COUNT) == 3): raise Failure('lost')",
            "the run failed after 2 steps; ",
        ),
    ],
)
def test_code_that_fails_in_training(
    part: str, code: str, named: str, install: Install, folder: Path, run: Run
) -> None:
    site = install("COUNT = []\n" + parts(**{part: code}))
    (folder / "run.yaml").write_text(CONFIG)
    result = run("train", "run.yaml")
    assert result.code == 1
    assert result.err.startswith("error: ")
    assert "Traceback" not in result.err
    for words in (
        named,
        "os._exit(0)" if "_exit" in code else "Failure: lost",
        line_of(site, code),
        "the last checkpoint is run/checkpoints/step-00000002",
        "--resume",
    ):
        assert words in result.err
    assert run("train", "run.yaml", "--resume").code == 0  # the third call is behind


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_an_example_that_cannot_be_made(workers: int, install: Install, folder: Path, run: Run) -> None:
    code = "if index == 17: raise Failure('no such file')"
    site = install(parts(item=code))
    (folder / "run.yaml").write_text(CONFIG)
    result = run("train", "run.yaml", f"workers={workers}", "eval_every=1dur")
    assert result.code == 1
    for words in ("the training data: example 17 cannot be made: Failure: no such file", line_of(site, code)):
        assert words in result.err
    assert "Caught" not in result.err
    assert "steps; the" in result.err


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_breaks_later(workers: int, folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(folder / "images", count=4)
    broken = folder / "images" / "train" / "class1" / "3.png"
    broken.write_text("no image")
    monkeypatch.setattr("counterpoint.trainer.data.image_folder.refuse_broken", lambda paths, reading: None)
    data = "{name: image_folder, root: images, size: 8, batch_size: 2}"
    (folder / "run.yaml").write_text(HEAD.replace("{name: digits, batch_size: 128}", data))
    result = run("train", "run.yaml", "max_duration=1ep", "checkpoint_every=1ba", f"workers={workers}")
    assert result.code == 1
    for words in ("the training data: data.root: images/train/class1/3.png: not an image that Pillow", " steps; the"):
        assert words in result.err
    assert "Caught" not in result.err


@pytest.mark.slow
def test_examples_that_cannot_be_put_together(install: Install, folder: Path, run: Run) -> None:
    install(parts(item="if index == 5: return torch.zeros(5), 1"))
    (folder / "run.yaml").write_text(CONFIG)
    result = run("train", "run.yaml")
    assert result.code == 1
    assert "the training data: examples cannot be put together: " in result.err


NOISE = """
import os, subprocess, sys
print("printed")
sys.__stdout__.write("written")
os.write(1, b"on the descriptor")
subprocess.run(["echo", "by a child"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["schema"], ["check", "run.yaml", "--format", "json"]])
def test_a_package_that_prints_leaves_the_result_alone(arguments: list[str], install: Install, folder: Path) -> None:
    site = install(textwrap.dedent(NOISE) + parts())
    (folder / "run.yaml").write_text(CONFIG)
    done = subprocess.run(
        [SCRIPT, *arguments], capture_output=True, text=True, check=False, cwd=folder, env={"PYTHONPATH": str(site)}
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    for words in ("printed", "on the descriptor", "by a child"):
        assert words in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "code", ["import os\nos._exit(0)\n", "raise SystemExit(0)\n", "from os import _exit\n_exit(0)\n"]
)
def test_a_package_that_ends_the_process_at_import(code: str, install: Install, folder: Path) -> None:
    site = install(code)
    (folder / "run.yaml").write_text(f"{HEAD}algorithms: [outside]\n")
    command = [SCRIPT, "train", "run.yaml"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env={"PYTHONPATH": str(site)}
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "[broken-plugin] algorithms.0" in done.stderr
    assert "outside 2.5" in done.stderr


@pytest.mark.kind("29")
def test_check_reads_the_data_through_if_asked(folder: Path, run: Run) -> None:
    write_images(folder / "images", count=4)
    (folder / "images" / "val" / "class0" / "2.jpg").write_text("no image")
    data = "{name: image_folder, root: images, size: 8, batch_size: 2}"
    (folder / "run.yaml").write_text(HEAD.replace("{name: digits, batch_size: 128}", data))
    assert run("check", "run.yaml").code == 0
    result = run("check", "run.yaml", "--data")
    assert (result.code, result.out) == (2, "")
    assert "images/val/class0/2.jpg: not an image" in result.err
    told = json.loads(run("check", "run.yaml", "--data", "--format", "json").out)
    assert "2.jpg" in told["faults"][0]["message"] + told["faults"][0]["fix"]
    Image.new("RGB", (8, 8)).save(folder / "images" / "val" / "class0" / "2.jpg")
    assert run("check", "run.yaml", "--data").code == 0


def test_children_end_as_they_always_do() -> None:
    code = (
        "import os, sys\n"
        "from counterpoint.plugins.guard import exits_refused\n"
        "with exits_refused():\n"
        "    child = os.fork()\n"
        "    if child == 0: os._exit(7)\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "7\n"
