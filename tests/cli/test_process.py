"""What only shows in a process of its own, or in how one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from counterpoint.cli import listing, main
from tests.cli.conftest import HEAD

SCRIPT = Path(sys.executable).with_name("counterpoint")
HEAVY = ("torch", "numpy", "accelerate", "PIL", "safetensors", "sklearn", "stevedore", "torchmetrics")
LOADED = """\
import contextlib, io, sys
from counterpoint.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    main(sys.argv[2:])
print(*[name for name in sys.argv[1].split() if name in sys.modules])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (["--help"], set()),
        (["train", "--help"], set()),
        (["--version"], set()),
        (["list"], set()),
        (["show", "mixpu"], set()),
        (["show", "cross_entropy"], {"torch", "numpy", "stevedore"}),
        (["show", "mixup"], {"torch", "numpy", "stevedore"}),
        (["schema"], {"torch", "numpy", "stevedore", "PIL"}),
        (["check", "no-such-file.yaml"], {"torch", "numpy"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_imports_only_what_it_uses(arguments: list[str], needed: set[str]) -> None:
    command = [sys.executable, "-c", LOADED, " ".join(HEAVY), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= needed


def _swallow() -> list[str]:
    """Do as code in C does that puts an error of its own in the place of whatever is raised."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    except SystemExit as error:
        raise ValueError("Error calling function") from error
    return []


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGTERM), 143),
        (lambda: os.kill(os.getpid(), signal.SIGINT), 130),
        (_swallow, 143),
    ],
    ids=["SIGTERM", "SIGINT", "SIGTERM in C"],
)
def test_a_signal_ends_a_command(
    act: Callable[[], object], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(listing, "listed", act)
    assert main(["list"]) == code
    assert capsys.readouterr().err == ""
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_an_error_that_nobody_expected_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[str]:
        raise ZeroDivisionError

    monkeypatch.setattr(listing, "listed", fail)
    with pytest.raises(ZeroDivisionError):
        main(["list"])


@pytest.mark.slow
def test_sigterm_ends_a_run_with_a_checkpoint(tmp_path: Path) -> None:
    """The signal goes to all of its processes, as a cluster manager sends it."""
    (tmp_path / "run.yaml").write_text(HEAD)
    command = [SCRIPT, "train", "run.yaml", "max_duration=10000ep", "checkpoint_every=1000ep", "workers=2"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, start_new_session=True, **pipes) as process:
        metrics, end = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 120
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < end:
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        out, errors = process.communicate(timeout=60)  # the pipes are closed when its loaders have ended, too
    assert process.returncode == 143, errors
    assert errors == ""
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    step = int(checkpoint.name.removeprefix("step-"))
    assert f"SIGTERM: stopped after step {step}; go on by --resume" in out
    assert not (tmp_path / "run" / "model.safetensors").exists()
