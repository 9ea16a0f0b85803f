"""A resume under other code, other versions or other data is refused, and says what is another."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import counterpoint as cp
from counterpoint import CheckpointError, ContractError
from counterpoint.trainer.data.dataset import DataModule, DataSpec
from counterpoint.trainer.runs import provenance as module
from counterpoint.trainer.runs.checkpoint import latest_checkpoint
from counterpoint.trainer.runs.data_record import data_changes, data_record, fingerprint
from counterpoint.trainer.runs.provenance import code_changes, provenance
from tests.plugins.conftest import write_distribution
from tests.trainer.support import blobs, config, lines, weights, write_images

KINDS = {
    "algorithms": (
        "counterpoint.algorithms",
        "import counterpoint as cp\n"
        "class Wave(cp.Algorithm[None], name='wave'):\n"
        "    @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE)\n"
        "    def apply(self, batch, draws):\n"
        "        return batch.with_inputs(batch.inputs * helper.SCALE)\n",
    ),
    "loss": (
        "counterpoint.losses",
        "from counterpoint.losses import CrossEntropy\nclass Wave(CrossEntropy):\n    pass\n",
    ),
    "model": ("counterpoint.models", "from counterpoint.trainer.models import MLP\nclass Wave(MLP):\n    pass\n"),
    "data": ("counterpoint.datasets", "from counterpoint.trainer.data import Digits\nclass Wave(Digits):\n    pass\n"),
}
"""For each role the group of its entry points, and a plugin's class."""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Return a function that installs a package of several modules for a role."""
    site = tmp_path / "site"

    def install(role: str) -> Path:
        group, text = KINDS[role]
        write_distribution(site, "wave-plugin", {group: {"wave": "wave_plugin.deep.wave:Wave"}}, {})
        folder = site / "wave_plugin" / "deep"
        folder.mkdir(parents=True)
        (folder / "wave.py").write_text(f"from wave_plugin import helper\n{text}")
        (folder / "__init__.py").write_text("")
        (folder.parent / "__init__.py").write_text("")
        (folder.parent / "helper.py").write_text("SCALE = 1.0\n")
        monkeypatch.syspath_prepend(site)
        return site

    yield install
    for name in [name for name in sys.modules if name.partition(".")[0] == "wave_plugin"]:
        del sys.modules[name]


def _config(folder: Path, role: str) -> dict[str, Any]:
    used: Any = {"algorithms": ["wave"], "data": {"name": "wave", "batch_size": 128}}.get(role, "wave")
    return config(folder, max_duration="2ba", **{role: used})


def _files(site: Path) -> dict[str, Callable[[], object]]:
    package, info = site / "wave_plugin", site / "wave_plugin-1.0.dist-info" / "METADATA"
    wave = package / "deep" / "wave.py"
    return {
        "source in .*deep/wave.py": lambda: wave.write_text(wave.read_text() + "\n"),
        "source in .*helper.py": lambda: (package / "helper.py").write_text("SCALE = 2.0\n"),
        "source in .*new.py": lambda: (package / "new.py").write_text(""),
        "was version 1.0, is 1.1": lambda: info.write_text(info.read_text().replace("Version: 1.0", "Version: 1.1")),
    }


@pytest.mark.slow
@pytest.mark.kind("3")
@pytest.mark.parametrize("role", KINDS)
def test_a_plugin_that_has_changed_is_not_resumed(
    tmp_path: Path, plugin: Callable[[str], Path], role: str, capsys: pytest.CaptureFixture[str]
) -> None:
    site, folder = plugin(role), tmp_path / "run"
    cp.Trainer(_config(folder, role)).fit()
    assert cp.Trainer(_config(folder, role)).fit(resume=True).steps == 2
    for said, change in _files(site).items():
        change()
        with pytest.raises(CheckpointError, match=rf"(?s)differs.*wave_plugin.*{said}.*--allow-changes"):
            cp.Trainer(_config(folder, role)).fit(resume=True)
    (folder / "model.safetensors").unlink()
    capsys.readouterr()
    cp.Trainer(_config(folder, role)).fit(resume=True, allow_changes=True)
    assert "goes on otherwise than it began:\n  wave_plugin: was version 1.0, is 1.1" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.kind("3")
@pytest.mark.parametrize(
    ("file", "refused"), [("algorithms/mixup.py", True), ("core/declare/randomness.py", True), ("cli/app.py", False)]
)
def test_a_checkout_that_has_changed_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, refused: bool
) -> None:
    """An editable checkout of Counterpoint itself changes without a version; what no run needs may change."""
    keys = config(tmp_path / "run", max_duration="2ba", algorithms=["mixup"])
    cp.Trainer(keys).fit()
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"" if path.as_posix().endswith(file) else read(path))
    if refused:
        with pytest.raises(CheckpointError, match=rf"counterpoint {cp.__version__}: other source in {file}\n"):
            cp.Trainer(keys).fit(resume=True)
    else:
        assert cp.Trainer(keys).fit(resume=True).steps == 2


@pytest.mark.slow
@pytest.mark.kind("3")
@pytest.mark.parametrize("name", module.LIBRARIES)
def test_other_libraries_are_not_resumed_under(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    keys = config(tmp_path / "run", max_duration="2ba")
    cp.Trainer(keys).fit()
    known = module.version_of
    monkeypatch.setattr(module, "version_of", lambda package: "0.0.1" if package == name else known(package))
    with pytest.raises(CheckpointError, match=rf"  {name}: was .*, is 0\.0\.1\n"):
        cp.Trainer(keys).fit(resume=True)


@pytest.mark.kind("3")
def test_code_is_written_into_plan_config_checkpoint_and_weights(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    trainer = cp.Trainer(
        config(folder, max_duration="2ba", algorithms=[{"name": "one_of", "algorithms": ["mixup", "cutmix"]}])
    )
    trainer.fit()
    components = json.loads((folder / "plan.json").read_text())["code"]["components"]
    parts = {"algorithms.one_of", "algorithms.one_of.mixup", "algorithms.one_of.cutmix"}
    assert components.keys() == {"loss", "model", "data", "optimizer", "scheduler"} | parts
    for key, held in components.items():
        assert held["distribution"] == "counterpoint", key
        assert held["version"] == cp.__version__, key
        assert len(held["source"]) == 16, key
    assert components["algorithms.one_of.mixup"]["name"] == "counterpoint.algorithms.mixup:MixUp"
    assert components["algorithms.one_of.mixup"]["source"] != components["algorithms.one_of.cutmix"]["source"]
    text = (folder / "config.resolved.yaml").read_text()
    assert yaml.safe_load(text) == trainer.config.resolved()
    for key, held in components.items():
        assert f"# {key}: {held['name']} of counterpoint {cp.__version__}, source {held['source']}\n" in text
    checkpoint, _ = latest_checkpoint(folder / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.data["code"]["components"] == components
    assert checkpoint.data["code"]["packages"]["counterpoint"]["files"].keys() >= {
        "core/declare/randomness.py",
        "algorithms/mixup.py",
    }
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["counterpoint"])["code"] == components


@pytest.mark.kind("3")
def test_ones_own_model_and_data_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer deep inside a model counts as much as the model."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            outputs: torch.Tensor = self.inner(inputs)
            return outputs

    def trainer(model: nn.Module) -> cp.Trainer:
        keys = config(tmp_path / "run", data=None, model=None, max_duration="2ba")
        return cp.Trainer(keys, model=model, train_data=blobs(), eval_data=blobs())

    first = trainer(nn.Sequential(Own()))
    first.fit()
    found = provenance(first.config, first.plan, first.data, first.model)["components"]
    assert {"model", "data.train", "data.evaluation"} <= found.keys()
    assert "data" not in found
    assert trainer(nn.Sequential(Own())).fit(resume=True).steps == 2
    with pytest.raises(
        CheckpointError, match=r"model: the checkpoint is of another model: was torch.*Sequential, is .*Own"
    ):
        trainer(Own()).fit(resume=True)
    source_of = module.source_of
    monkeypatch.setattr(module, "source_of", lambda kind: b"other" if kind is Own else source_of(kind))
    with pytest.raises(CheckpointError, match=r"model: torch\.nn\.modules\.container:Sequential has another source"):
        trainer(nn.Sequential(Own())).fit(resume=True)


@pytest.mark.kind("3")
def test_what_has_no_source_is_compared_by_its_version() -> None:
    made = type("Made", (), {"__module__": "nowhere"})
    assert module._source([made]) is None
    held = {"components": {"model": {"name": "nowhere:Made", "distribution": None, "version": None, "source": None}}}
    empty: dict[str, Any] = {"packages": {}, "libraries": {}}
    assert "no source" in module.summary({**held, **empty})[0]
    was = {**empty, "components": {"model": {**held["components"]["model"], "distribution": "made", "version": "1"}}}
    now = {**empty, "components": {"model": {**held["components"]["model"], "distribution": "made", "version": "2"}}}
    assert code_changes(was, now) == ["  model: nowhere:Made was of made 1, is of made 2"]
    assert code_changes(was, was) == []


@pytest.mark.kind("3")
def test_modules_in_an_archive_have_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for number in (1, 2):
        archive = tmp_path / f"archive{number}.zip"
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("zipped_wave.py", f"class Wave:\n    number = {number}\n")
        monkeypatch.syspath_prepend(archive)
        sys.modules.pop("zipped_wave", None)
        import zipped_wave

        found.add(module._source([zipped_wave.Wave]))
    sys.modules.pop("zipped_wave", None)
    assert len(found) == 2
    assert None not in found


@pytest.mark.kind("3")
def test_a_module_counts_with_those_beside_it_that_it_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside_a.py").write_text("from beside_b import of_b\nimport torch\n")
    (tmp_path / "beside_b.py").write_text("import beside_c\ndef of_b(): pass\n")
    (tmp_path / "beside_c.py").write_text("")
    (tmp_path / "beside_d.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    import beside_a  # noqa: F401

    assert module._files("beside_a").keys() == {"beside_a.py", "beside_b.py", "beside_c.py"}
    assert module._files("not_imported") == {}
    for name in ("beside_a", "beside_b", "beside_c"):
        del sys.modules[name]


FLIPS = {"targets": False}


class Careless(cp.Algorithm[None], name="careless_later"):
    @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch.with_targets(batch.targets.flip(0)) if FLIPS["targets"] else batch


@pytest.mark.slow
@pytest.mark.kind("3")
def test_the_contract_is_checked_in_the_first_steps_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from counterpoint.trainer.loop.loop import Loop

    def interrupted(loop: Loop) -> None:
        after_step(loop)
        if loop.step == 4:
            raise ZeroDivisionError

    after_step = Loop._after_step
    keys = config(tmp_path / "run", max_duration="6ba", checkpoint_every="1ba", algorithms=[Careless()])
    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_after_step", interrupted)
        with pytest.raises(ZeroDivisionError):
            cp.Trainer(keys).fit()
    monkeypatch.setitem(FLIPS, "targets", True)
    with pytest.raises(ContractError, match="careless_later, at step 4: it edits targets and does not declare it"):
        cp.Trainer(keys).fit(resume=True)


def _image(path: Path, shade: int, size: int = 8) -> None:
    Image.fromarray(np.full((size, size, 3), shade, dtype=np.uint8)).save(path)


MOVES: dict[str, tuple[Callable[[Path], object], str]] = {
    "moved": (
        lambda root: (root / "train/class0/0.jpg").rename(root / "train/class1/9.jpg"),
        "class 'class0' had 4 examples, and has 3",
    ),
    "swapped": (
        lambda root: [
            (root / "train/class0/0.jpg").rename(root / "x.jpg"),
            (root / "train/class1/0.jpg").rename(root / "train/class0/0.jpg"),
            (root / "x.jpg").rename(root / "train/class1/0.jpg"),
            _image(root / "train/class0/1.png", 7),
        ],
        "data.train: other examples than before, of the same number",
    ),
    "renamed": (
        lambda root: (root / "val/class0/0.jpg").rename(root / "val/class0/9.jpg"),
        "data.evaluation: other examples",
    ),
    "of another size": (lambda root: _image(root / "train/class1/1.png", 3, 30), "data.train: other examples"),
    "added": (lambda root: _image(root / "train/class1/9.png", 3), "data.train: had 8 examples, and has 9"),
    "of other classes": (
        lambda root: [(root / part / "class1").rename(root / part / "dog") for part in ("train", "val")],
        "the classes were 'class0', 'class1', and are 'class0', 'dog'",
    ),
}


@pytest.mark.slow
@pytest.mark.kind("23")
@pytest.mark.parametrize("name", MOVES)
def test_images_that_have_changed_are_not_resumed_on(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An epoch has as many batches as before."""
    root, (move, said) = tmp_path / "images", MOVES[name]
    write_images(root)
    data = {"name": "image_folder", "root": str(root), "size": 8, "batch_size": 4}
    keys = config(tmp_path / "run", data=data, max_duration="2ba")
    cp.Trainer(keys).fit()
    assert cp.Trainer(keys).fit(resume=True).steps == 2
    move(root)
    with pytest.raises(CheckpointError, match=rf"(?s){said}.*--allow-changes"):
        cp.Trainer(keys).fit(resume=True)
    (tmp_path / "run" / "model.safetensors").unlink()
    capsys.readouterr()
    assert cp.Trainer(keys).fit(resume=True, allow_changes=True).steps == 2
    assert said in capsys.readouterr().out.replace("\n", " ")


class Listed(Dataset[Any]):
    """A data set of one's own, with what it holds in lists and tensors."""

    def __init__(self, inputs: Any, targets: Any) -> None:
        self.inputs, self.targets = inputs, targets
        self.reads = [0]

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
        self.reads[0] += 1
        return torch.as_tensor(self.inputs[index]), self.targets[index]


class Stating(Listed):
    """A data set that says what it is."""

    stated = "a"

    def fingerprint(self) -> str:
        return self.stated


HOLDERS: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "tensors": TensorDataset,
    "own, of tensors": Listed,
    "own, of lists": lambda x, y: Listed(x.tolist(), y.tolist()),
    "own, of arrays": lambda x, y: Listed(x.numpy(), y.numpy()),
    "list": lambda x, y: [(one, int(other)) for one, other in zip(x, y, strict=True)],
    "subset": lambda x, y: Subset(TensorDataset(x, y), range(len(x))),
    "chain": lambda x, y: ConcatDataset([TensorDataset(x[:3], y[:3]), TensorDataset(x[3:], y[3:])]),
}


@pytest.mark.slow
@pytest.mark.kind("23")
@pytest.mark.parametrize("holder", HOLDERS)
@given(row=st.integers(0, 11), column=st.integers(0, 3))
def test_one_value_of_ones_own_data_changes_its_fingerprint(holder: str, row: int, column: int) -> None:
    inputs, targets = blobs(12).tensors
    make = HOLDERS[holder]
    whole = fingerprint(make(inputs.clone(), targets.clone()))
    assert whole is not None
    assert fingerprint(make(inputs.clone(), targets.clone())) == whole
    others = inputs.clone()
    others[row, column] += 1
    labels = targets.clone()
    labels[row] += 1
    found = {fingerprint(make(others, targets)), fingerprint(make(inputs, labels)), whole}
    assert len(found) == 3


@pytest.mark.slow
@pytest.mark.kind("23")
def test_ones_own_data_is_compared(tmp_path: Path) -> None:
    inputs, targets = blobs(64).tensors

    def trainer(data: Any) -> cp.Trainer:
        keys = config(tmp_path / "run", data=None, model=None, max_duration="2ba")
        torch.manual_seed(0)
        return cp.Trainer(keys, model=nn.Linear(4, 3), train_data=data, eval_data=blobs(8))

    data = Stating(inputs, targets)
    trainer(data).fit()
    assert data.reads[0] > 1  # what changes as a data set is used is no part of it
    assert trainer(data).fit(resume=True).steps == 2
    data.stated = "b"
    with pytest.raises(CheckpointError, match=r"data\.train: other examples than before, of the same number"):
        trainer(data).fit(resume=True)
    swapped = targets.clone()
    swapped[0] = 1
    with pytest.raises(
        CheckpointError, match=r"class '0' had 22 examples, and has 21\n  .*class '1' had 21 .* has 22\n"
    ):
        trainer(Stating(inputs, swapped)).fit(resume=True)


@pytest.mark.kind("23")
def test_counts_of_classes_are_those_of_the_data() -> None:
    inputs, targets = torch.zeros(7, 2), torch.tensor([2, 0, 2, 2, 0, 2, 1])
    named = DataSpec("multiclass", "features", (2,), 3, ("cat", "dog", "fox"))
    whole = TensorDataset(inputs, targets)
    parts: list[tuple[Any, dict[str, int] | None]] = [
        (whole, {"cat": 2, "dog": 1, "fox": 4}),
        (Subset(whole, [0, 1, 6]), {"cat": 1, "dog": 1, "fox": 1}),
        (ConcatDataset([Subset(whole, [0]), whole]), {"cat": 2, "dog": 1, "fox": 5}),
        (Listed(inputs.tolist(), targets.tolist()), {"cat": 2, "dog": 1, "fox": 4}),
        (TensorDataset(inputs, targets.float()), None),
        (DataLoader(whole, batch_size=2), {"cat": 2, "dog": 1, "fox": 4}),
        (TensorDataset(inputs, inputs), None),
    ]
    for data, counts in parts:
        record = data_record(DataModule(data, whole, named))
        assert record["train"]["counts"] == counts
        assert record["train"]["examples"] == len(data.dataset if isinstance(data, DataLoader) else data)
        assert record["evaluation"]["counts"] == {"cat": 2, "dog": 1, "fox": 4}
        assert data_changes(record, json.loads(json.dumps(record))) == []


@pytest.mark.kind("23")
def test_a_stream_is_not_compared() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            yield from ()

    spec = DataSpec("multiclass", "features", (2,), 3)
    record = data_record(DataModule(DataLoader(Stream()), blobs(4), spec))
    assert record["train"] == {"examples": None, "counts": None, "fingerprint": None}
    assert data_changes(record, record) == []


@pytest.mark.slow
@pytest.mark.kind("18")
def test_class_names_go_with_the_run(tmp_path: Path) -> None:
    """Into the plan, the checkpoint, the metrics and the exported weights; the accuracies are worked out here."""
    root, folder = tmp_path / "images", tmp_path / "run"
    write_images(root, classes=3, count=6)
    for part in ("train", "val"):
        for number, name in enumerate(("ant", "bee", "cat")):
            (root / part / f"class{number}").rename(root / part / name)
    (root / "val" / "bee" / "0.jpg").unlink()
    data = {"name": "image_folder", "root": str(root), "size": 8, "batch_size": 4, "augment": "none"}
    trainer = cp.Trainer(config(folder, data=data, max_duration="5ba", eval_every="3ba"))
    trainer.fit()
    assert json.loads((folder / "plan.json").read_text())["data"]["classes"] == ["ant", "bee", "cat"]
    checkpoint, _ = latest_checkpoint(folder / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.data["data"]["classes"] == ["ant", "bee", "cat"]
    assert checkpoint.data["data"]["evaluation"]["counts"] == {"ant": 6, "bee": 5, "cat": 6}
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["counterpoint"])["classes"] == ["ant", "bee", "cat"]
    measured = [line for line in lines(folder) if "evaluation_loss" in line]
    assert [line["step"] for line in measured] == [3, 5]
    trainer.model.load_state_dict(weights(folder))
    right = {"ant": [], "bee": [], "cat": []}
    with torch.no_grad():
        for index in range(len(trainer.data.evaluation)):
            image, label = trainer.data.evaluation[index]
            prepared, _ = trainer.plan.prepare(image[None], torch.tensor([label]))
            right[("ant", "bee", "cat")[int(label)]].append(int(trainer.model.eval()(prepared).argmax()) == label)
    prefix = "evaluation_accuracy/"
    found = {key.removeprefix(prefix): value for key, value in measured[-1].items() if key.startswith(prefix)}
    assert found == pytest.approx({name: sum(those) / len(those) for name, those in right.items()})
    together = sum(found[name] * len(those) for name, those in right.items()) / 17
    assert measured[-1]["evaluation_accuracy"] == pytest.approx(together)


@pytest.mark.kind("18")
def test_classes_without_names_have_no_accuracy_of_their_own(tmp_path: Path) -> None:
    keys = config(tmp_path / "run", data=None, model=None, max_duration="2ba")
    torch.manual_seed(0)
    cp.Trainer(keys, model=nn.Linear(4, 3), train_data=blobs(), eval_data=blobs()).fit()
    assert not [key for line in lines(tmp_path / "run") for key in line if "/" in key]
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["data"]["classes"] == []
