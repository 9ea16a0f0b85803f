"""Whatever is wrong with what the user wrote: exit code 2, one message that names it, no traceback, nothing written."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import HEAD, Result, Run

SCRIPT = Path(sys.executable).with_name("counterpoint")
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

# A name for each file that is no config, its bytes, and what the message says.
FILES = {
    "empty": (b"", ["run.yaml", "the file is empty"]),
    "only a comment": (b"# nothing\n", ["run.yaml", "the file is empty"]),
    "not YAML": (b"task: [multiclass\nmodel: }", ["run.yaml", "line 2", "not YAML"]),
    "a tab": (b"data:\n\tname: digits\n", ["run.yaml", "line 2", "not YAML"]),
    "two documents": (b"seed: 1\n---\nseed: 2\n", ["run.yaml", "line 2", "not YAML"]),
    "binary": (bytes(range(256)), ["run.yaml", "not a text file in UTF-8", "byte 128"]),
    "a list at the top": (b"- mixup\n", ["run.yaml", "not a list at its top"]),
    "a word at the top": (b"mixup\n", ["run.yaml", "not a single value at its top"]),
    "duplicate key": (f"{HEAD}model: small_cnn\n".encode(), ["run.yaml", "line 6", "duplicate key model", "keep one"]),
    "duplicate setting": (
        b"data: {name: digits, batch_size: 1, batch_size: 2}\n",
        ["line 1", "duplicate key batch_size"],
    ),
    "a Python tag": (
        f"{HEAD}seed: !!python/object/apply:os.system ['touch owned']\n".encode(),
        ["run.yaml", "line 6", "python/object/apply:os.system", "tags are not allowed"],
    ),
    "an alias bomb": (BOMB.encode(), ["run.yaml", "aliases multiply"]),
    "a recursive alias": (b"data: &a {name: *a}\n", ["run.yaml", "line 1", "recursive"]),
    "nested too deeply": (b"data: " + b"[" * 2000 + b"]" * 2000, ["run.yaml", "nested too deeply"]),
    "a mark for a missing value": (f"{HEAD}seed: ???\n".encode(), ["run.yaml", "seed", "???", "write the value"]),
}

# Lines added to a config that is right without them, and what the message says.
LINES = {
    "unknown key": ("seeed: 3", ["seeed = 3", "there is no such key", "did you mean 'seed'?"]),
    "key that is no word": ("3: 4", ["3: there is no such key", "known: accumulate"]),
    "misspelt algorithm": ("algorithms: [mixpu]", ['algorithms.0 = "mixpu"', "no algorithm", "did you mean 'mixup'?"]),
    "misspelt setting": (
        "algorithms: [{name: mixup, alhpa: 1}]",
        ["algorithms.0.alhpa = 1", "no such setting", "did you mean 'alpha'?"],
    ),
    "negative alpha": (
        "algorithms: [{name: mixup, alpha: -1}]",
        ["algorithms.0.alpha = -1", "a number, at least 0 (default: 0.2)"],
    ),
    "alpha not a number": ("algorithms: [{name: mixup, alpha: .nan}]", ["algorithms.0.alpha = .nan", "at least 0"]),
    "infinite alpha": ("algorithms: [{name: mixup, alpha: .inf}]", ["algorithms.0.alpha = .inf", "at least 0"]),
    "alpha in words": ("algorithms: [{name: mixup, alpha: '0.2'}]", ['algorithms.0.alpha = "0.2"', "a number"]),
    "alpha true": ("algorithms: [{name: mixup, alpha: true}]", ["algorithms.0.alpha = true", "a number"]),
    "length of 2": ("algorithms: [{name: cutout, length: 2}]", ["algorithms.0.length = 2", "above 0, at most 1"]),
    "smoothing of 1.5": (
        "algorithms: [{name: label_smoothing, smoothing: 1.5}]",
        ["algorithms.0.smoothing = 1.5", "at least 0, at most 1"],
    ),
    "p of 1.2": ("algorithms: [{name: mixup, p: 1.2}]", ["algorithms.0.p = 1.2", "at least 0, at most 1"]),
    "duration of an algorithm": (
        "algorithms: [{name: mixup, end: 1 fortnight}]",
        ['algorithms.0.end = "1 fortnight"', "'10ep'", "'500ba'", "'0.9dur'"],
    ),
    "null in the list": ("algorithms: [mixup, null]", ["algorithms.1 = null", "write a name"]),
    "mapping without a name": ("algorithms: [{alpha: 1}]", ["algorithms.0", "has no `name`"]),
    "algorithms not a list": ("algorithms: mixup", ['algorithms = "mixup"', "a list"]),
    "dotted path of an algorithm": (
        "algorithms: [os.path.join]",
        ['"os.path.join"', "no algorithm", "never Python objects"],
    ),
    "dotted path of a loss": (
        "loss: torch.nn.MSELoss",
        ['loss = "torch.nn.MSELoss"', "no loss", "never Python objects"],
    ),
    "interpolation": ("seed: ${oc.env:HOME}", ["seed", "${oc.env:HOME}", "interpolation", "is off"]),
    "interpolation in a key": ("${task}: 1", ["${task}", "interpolation", "is off"]),
    "broken interpolation": ("seed: ${oc.env", ["seed", "interpolation", "is off"]),
    "negative learning rate": ("optimizer: {name: sgd, lr: -0.1}", ["optimizer.lr = -0.1", "a number, above 0"]),
    "unknown optimizer": ("optimizer: sdg", ['optimizer = "sdg"', "no optimizer", "did you mean 'sgd'?"]),
    "unknown precision": ("precision: fp8", ['precision = "fp8"', "fp32, bf16, fp16"]),
    "unknown setting of a loss": (
        "loss: {name: cross_entropy, smoothing: 0.1}",
        ["loss.smoothing = 0.1", "no such setting"],
    ),
    "a package that is not installed": (
        "plugins: [no-such-pkg]",
        ["plugins", "no-such-pkg", "pip install no-such-pkg"],
    ),
    "a branch that is misspelt": (
        "algorithms: [{name: one_of, algorithms: [mixup, {name: cutmix, alhpa: 1}]}]",
        ["algorithms.0.algorithms.1.alhpa = 1", "no such setting", "did you mean 'alpha'?"],
    ),
    "two mixers": (
        "algorithms: [mixup, cutmix]",
        ["[two-mixers]", "mixup", "cutmix", "{name: one_of, algorithms: [mixup, cutmix]}"],
    ),
    "smoothing in list and loss": (
        "algorithms: [label_smoothing]\nloss: {name: cross_entropy, label_smoothing: 0.1}",
        ["[double-smoothing]", "label_smoothing", "loss"],
    ),
}

# Overrides of a config that is right without them, and what the message says.
OVERRIDES = {
    "batch size 0": ("data.batch_size=0", ["data.batch_size = 0", "a whole number, at least 1"]),
    "duration": ("max_duration=1 fortnight", ['max_duration = "1 fortnight"', "no duration", "'10ep'"]),
    "duration of no length": ("max_duration=0ep", ['max_duration = "0ep"', "write one above 0"]),
    "duration of itself": ("max_duration=0.5dur", ['max_duration = "0.5dur"', "write it as '10ep'"]),
    "misspelt key": ("optimizr.lr=0.05", ["optimizr", "'optimizr.lr=0.05'", "did you mean 'optimizer'?"]),
    "misspelt setting": ("optimizer.lrr=0.05", ["optimizer.lrr = 0.05", "did you mean 'lr'?"]),
    "misspelt setting of a bare name": (
        "algorithms.0.lenght=0.25",
        ["algorithms.0.lenght = 0.25", "did you mean 'length'?"],
    ),
    "no equals sign": ("optimizer.lr", ["'optimizer.lr'", "`=` is missing", "`optimizer.lr=VALUE`"]),
    "no value": ("optimizer.lr=", ["'optimizer.lr='", "the value is missing", "null"]),
    "no key": ("=3", ["'=3'", "no key"]),
    "no such position": ("algorithms.3.length=0.25", ["algorithms.3", "positions 0 to 0"]),
    "a position in words": ("algorithms.cutout.length=0.25", ["'cutout' is no position"]),
    "a setting of a number": ("data.batch_size.most=3", ["data.batch_size", "128", "has no settings"]),
    "a value that is not YAML": ("seed=[1", ["'seed=[1'", "not YAML"]),
    "interpolation": ("seed=${task}", ["'seed=${task}'", "interpolation", "is off"]),
    "a Python tag": ("seed=!!python/name:os.system", ["tags are not allowed"]),
    "dotted path": ("model=torchvision.models.resnet18", ["no model", "known: mlp, resnet18", "never Python objects"]),
}


def tree(folder: Path) -> list[tuple[str, int, int]]:
    return sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*"))


def check_refusal(result: Result, said: list[str]) -> None:
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("error: run.yaml: ")
    assert "Traceback" not in result.err
    assert len(re.findall(r"^error: ", result.err, re.MULTILINE)) == 1
    for words in said:
        assert words in result.err


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_config(case: str, folder: Path, run: Run) -> None:
    content, said = FILES[case]
    (folder / "run.yaml").write_bytes(content)
    before = tree(folder)
    check_refusal(run("train", "run.yaml"), said)
    assert tree(folder) == before


@pytest.mark.parametrize("command", ["train", "check"])
def test_no_file(command: str, folder: Path, run: Run) -> None:
    check_refusal(run(command, "run.yaml"), ["there is no such file"])
    (folder / "run.yaml").mkdir()
    before = tree(folder)
    check_refusal(run(command, "run.yaml"), ["cannot be read", "directory"])
    assert tree(folder) == before


@pytest.mark.slow
@pytest.mark.parametrize("case", LINES)
def test_a_config_with_a_fault(case: str, folder: Path, run: Run) -> None:
    line, said = LINES[case]
    (folder / "run.yaml").write_text(f"{HEAD}{line}\n")
    before = tree(folder)
    check_refusal(run("train", "run.yaml"), said)
    assert tree(folder) == before


@pytest.mark.parametrize("case", OVERRIDES)
def test_an_override_with_a_fault(case: str, folder: Path, run: Run) -> None:
    override, said = OVERRIDES[case]
    (folder / "run.yaml").write_text(f"{HEAD}algorithms: [cutout]\n")
    before = tree(folder)
    result = run("train", "run.yaml", override)
    check_refusal(result, [*said, "override"])
    assert tree(folder) == before


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "check"])
def test_every_fault_is_told_at_once(command: str, folder: Path, run: Run) -> None:
    (folder / "run.yaml").write_text(
        f"{HEAD}loss: {{name: cross_entropy, label_smoothing: 0.1}}\n"
        "algorithms:\n- {name: cutout, length: 2, fil: 0}\n- mixup\n- cutmix\n- mixpu\n"
        "- {name: label_smoothing, after: cutout}\n"
    )
    result = run(command, "run.yaml")
    check_refusal(result, ["5 faults", "algorithms.0.length", "algorithms.0.fil", "algorithms.3"])
    assert re.findall(r"^  \[(.*?)\]", result.err, re.MULTILINE) == [
        "bad-setting",
        "bad-setting",
        "unknown-algorithm",
        "two-mixers",
        "double-smoothing",
    ]


def test_what_the_model_lacks_is_told_beside_what_does_not_compose(folder: Path, run: Run) -> None:
    middle = "{name: manifold_mixup, module: middle, end: 1ba}"
    (folder / "run.yaml").write_text(
        f"{HEAD}loss: nll\nalgorithms: [blurpool, {{name: one_of, algorithms: [mixup]}}, cutmix, {middle}]\n"
    )
    result = run("check", "run.yaml", "algorithms.3.start=1ba", "algorithms.3.end=2ba")
    assert set(re.findall(r"^  \[(.*?)\]", result.err, re.MULTILINE)) == {
        "two-mixers",
        "nothing-to-replace",
        "no-such-module",
        "loss-outputs",
    }


@pytest.mark.parametrize("place", ["run.yaml/run", "/proc/counterpoint/run"])
def test_a_run_dir_that_cannot_be_written(place: str, folder: Path, run: Run) -> None:
    (folder / "run.yaml").write_text(HEAD)
    before = tree(folder)
    check_refusal(run("train", "run.yaml", f"run_dir={place}"), ["run_dir", place.partition("/run")[0]])
    assert tree(folder) == before


def test_no_run_dir(folder: Path, run: Run) -> None:
    (folder / "run.yaml").write_text(HEAD)
    check_refusal(run("train", "run.yaml", "run_dir=null"), ["run_dir: is missing", "`run_dir: runs/1`"])


def test_both_resume_and_overwrite(folder: Path, run: Run) -> None:
    (folder / "run.yaml").write_text(HEAD)
    result = run("train", "run.yaml", "--resume", "--overwrite")
    assert (result.code, result.out) == (2, "")
    assert "give one of them" in " ".join(result.err.split())


@pytest.fixture
def images(folder: Path) -> Path:
    """Two classes of two images each, for training and for evaluation, and a config that reads them."""
    pixels = random.Random(0).randbytes(8 * 8 * 3)
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (folder / "images" / part / name).mkdir(parents=True)
            for number in (1, 2):
                image = Image.frombytes("RGB", (8, 8), pixels)
                image.save(folder / "images" / part / name / f"{number}.png")
    config = HEAD.replace(
        "{name: digits, batch_size: 128}", "{name: image_folder, root: images, size: 8, batch_size: 2}"
    )
    (folder / "run.yaml").write_text(config)
    return folder / "images"


def test_a_broken_image(images: Path, folder: Path, run: Run) -> None:
    path = images / "train" / "dog" / "2.png"
    path.write_bytes(path.read_bytes()[:-20])
    before = tree(folder)
    check_refusal(run("train", "run.yaml"), ["data.root", "images/train/dog/2.png", "replace or remove"])
    assert tree(folder) == before


def test_an_empty_class(images: Path, folder: Path, run: Run) -> None:
    for path in (images / "val" / "cat").iterdir():
        path.unlink()
    before = tree(folder)
    check_refusal(run("train", "run.yaml"), ["data.evaluation", "'cat'", "add images"])
    assert tree(folder) == before


def test_no_class(images: Path, folder: Path, run: Run) -> None:
    (folder / "empty" / "train").mkdir(parents=True)
    (folder / "empty" / "val").mkdir()
    before = tree(folder)
    check_refusal(run("train", "run.yaml", "data.root=empty"), ["data.train", "'empty/train'", "holds no class"])
    check_refusal(run("train", "run.yaml", "data.root=nowhere"), ["data.train", "'nowhere/train'", "does not exist"])
    assert tree(folder) == before


@pytest.mark.kind("29")
@pytest.mark.parametrize("command", ["train", "check"])
def test_a_class_folder_alone(command: str, images: Path, folder: Path, run: Run) -> None:
    for part in ("train", "val"):
        (images / part / "dog").rename(folder / part)
    before = tree(folder)
    check_refusal(run(command, "run.yaml"), ["single class, 'cat'", "always 0", "two classes at least"])
    assert tree(folder) == before


@pytest.mark.slow
@pytest.mark.kind("15")
@pytest.mark.parametrize("command", ["train", "check"])
def test_what_is_left_out_is_said(command: str, images: Path, folder: Path, run: Run) -> None:
    for name in ("notes.txt", ".hidden.png"):
        (images / "train" / "cat" / name).write_text("x")
    (images / "val" / "dog" / "2.png").write_text("no image")
    result = run(command, "run.yaml", "data.broken=skip")
    assert result.code == 0
    for words in (
        "data.train: left out 2 entries: 1 hidden, 1 of no format that Pillow reads (.txt)",
        "data.root: skipped 1 broken: images/val/dog/2.png: not an image that Pillow can read",
    ):
        assert words in result.out


@pytest.mark.slow
@pytest.mark.parametrize("case", ["misspelt algorithm", "two mixers"])
def test_as_a_process(case: str, folder: Path) -> None:
    line, said = LINES[case]
    (folder / "run.yaml").write_text(f"{HEAD}{line}\n")
    before = tree(folder)
    done = subprocess.run([SCRIPT, "train", "run.yaml"], capture_output=True, text=True, check=False)
    check_refusal(Result(done.returncode, done.stdout, done.stderr), said)
    assert tree(folder) == before
