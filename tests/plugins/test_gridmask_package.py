"""The example package: it stands on the public surface alone, and goes in and out with pip."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

import counterpoint

PACKAGE = Path(__file__).parents[2] / "examples" / "plugin_gridmask"
OTHERS = {"__future__", "dataclasses", "math", "pydantic", "torch", "typing"}
CONFIG = """
seed: 17
task: multiclass
data: {name: digits, batch_size: 256}
model: mlp
loss: cross_entropy
optimizer: {name: sgd, lr: 0.1}
scheduler: constant
max_duration: 2ep
algorithms:
  - {name: label_smoothing, smoothing: 0.1}
  - {name: gridmask, d_min: 2, d_max: 5, ratio: 0.5}
  - {name: mixup, alpha: 0.2}
run_dir: run
"""


def imported_names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield each imported module with the name taken from it, empty where the module itself is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)


def test_it_imports_only_public_names() -> None:
    tree = ast.parse((PACKAGE / "counterpoint_gridmask.py").read_text())
    names = list(imported_names(tree))
    taken = {name for module, name in names if module == "counterpoint"}
    assert taken  # it does use the library
    assert taken <= set(counterpoint.__all__)
    assert {module.partition(".")[0] for module, _ in names if module != "counterpoint"} <= OTHERS


class Environment:
    """A virtual environment of its own that also sees the packages of the running one.

    pip uninstalls only what lies in the environment it runs in, so a real uninstall needs a real environment. A folder
    filled by ``pip install --target`` cannot be uninstalled from, and a venv with system packages would see those of
    the interpreter that made the running environment, not those of the running one.
    """

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        self.folder = folder
        self.python = folder / "venv" / "bin" / "python"
        (site,) = (folder / "venv").glob("lib/python*/site-packages")
        seen = [sysconfig.get_path(kind) for kind in ("purelib", "platlib")]
        lines = [f"import site; site.addsitedir({path!r})" for path in dict.fromkeys(seen)]
        (site / "zz_parent.pth").write_text("\n".join(lines) + "\n")

    def run(self, *arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the environment's Python in the folder and expect an exit code."""
        done = subprocess.run(
            [self.python, *arguments],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def pip(self, *arguments: str | Path) -> None:
        """Run pip in the environment."""
        self.run("-m", "pip", *arguments)

    def counterpoint(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the command line in the environment."""
        return self.run("-c", "import sys; from counterpoint.cli import main; sys.exit(main())", *arguments, code=code)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("environment"))


@pytest.mark.slow
def test_install_train_uninstall(environment: Environment) -> None:
    source = environment.folder / "source"
    shutil.copytree(PACKAGE, source)
    (environment.folder / "grid.yaml").write_text(CONFIG)
    assert "gridmask" not in environment.counterpoint("list").stdout
    refused = environment.counterpoint("train", "grid.yaml", code=2)
    assert "gridmask" in refused.stderr
    assert not (environment.folder / "run").exists()

    environment.pip("install", "--no-index", "--no-build-isolation", source)
    listed = environment.counterpoint("list", "--check").stdout.splitlines()
    (line,) = [line for line in listed if "gridmask" in line]
    assert line.split() == ["algorithms", "gridmask", "counterpoint-gridmask", "0.1.0", "ok"]
    trained = environment.counterpoint("train", "grid.yaml")
    assert "gridmask" in trained.stdout + trained.stderr
    assert (environment.folder / "run" / "model.safetensors").exists()
    assert len((environment.folder / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    assert '"gridmask"' in (environment.folder / "run" / "plan.json").read_text()

    environment.pip("uninstall", "--yes", "counterpoint-gridmask")
    listed = environment.counterpoint("list").stdout.splitlines()
    assert not any("gridmask" in line for line in listed)
    assert any("mixup" in line for line in listed)
