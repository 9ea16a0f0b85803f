"""The names and signatures that others rely on, written down. A change here is a change for every user.

The grammar of configs and the exit codes of the command line are tested in ``tests/cli``.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic
import pytest
import torch

import counterpoint as cp
import counterpoint.algorithms
import counterpoint.functional as CF
from counterpoint.core import Algorithm
from counterpoint.integrations.accelerate import AcceleratedSteps
from counterpoint.integrations.fields import Fields
from counterpoint.plugins import ALGORITHMS

NAMES = [
    "Algorithm",
    "ArgumentError",
    "Axis",
    "BATCH_SIZE",
    "BYTES",
    "Batch",
    "BatchSpec",
    "BrokenPluginError",
    "CONTINUOUS",
    "CheckpointError",
    "Claim",
    "Component",
    "CompositionError",
    "ConfigError",
    "ContractError",
    "CounterpointError",
    "DENSE",
    "DataError",
    "Declaration",
    "DeclarationError",
    "DuplicateNameError",
    "Duration",
    "EVALUATION_WEIGHTS",
    "Edit",
    "Engine",
    "EngineRequiredError",
    "Event",
    "FEATURES",
    "Fault",
    "Field",
    "Form",
    "IMAGE",
    "IMAGES",
    "INDEX",
    "Kind",
    "Law",
    "LossSpec",
    "MIXABLE",
    "MIXING",
    "MULTI_HOT",
    "MethodError",
    "NORMALIZED",
    "NonFiniteLossError",
    "OPTIMIZER_STEP",
    "Outcome",
    "OutputKind",
    "Plan",
    "PluginError",
    "REAL",
    "RepeatedStepWarning",
    "Rng",
    "RunDirectoryError",
    "RunError",
    "SMOOTHING",
    "Scope",
    "Slot",
    "TOKENS",
    "Task",
    "Trainer",
    "UNIT",
    "UnknownNameError",
    "after",
    "around",
    "before",
    "compose",
    "replace",
    "transform",
]

ALGORITHM_NAMES = {
    "BlurPool": "blurpool",
    "CutMix": "cutmix",
    "CutOut": "cutout",
    "EMA": "ema",
    "GradientClipping": "gradient_clipping",
    "LabelSmoothing": "label_smoothing",
    "ManifoldMixup": "manifold_mixup",
    "MixUp": "mixup",
    "Normalize": "normalize",
    "OneOf": "one_of",
    "SAM": "sam",
    "SWA": "swa",
    "SelectiveBackprop": "selective_backprop",
    "TrivialAugment": "trivial_augment",
}

FUNCTIONS: dict[str, str] = {
    "blur2d": "(inputs, kernel, stride=(1, 1), *, padding='replicate')",
    "blur_kernel": "(size)",
    "cutmix": "(inputs, targets, boxes, perm)",
    "cutout": "(inputs, boxes, *, fill=0.0)",
    "dense_targets": "(target, num_classes, *, ignore_index=-100, dtype=torch.float32)",
    "mixup": "(inputs, targets, lam, perm)",
    "normalize": "(inputs, mean, std, *, dtype=None, channels_last=False)",
    "select_by_loss": "(losses, keys, keep, beta)",
    "smooth_labels": "(targets, smoothing)",
}

COMPOSE = (
    "(algorithms, *, loss=None, loss_accepts=None, task=None, num_classes=None, inputs=image, batch_size=None, "
    "steps_per_epoch=None, max_duration=None, seed=0, strict_order=False, compile=False"
)

METHODS: dict[Callable[..., Any], str] = {
    cp.Plan.__call__: "(self, inputs, targets, step, *, rank=None, donate=False, repeat=False)",
    cp.Plan.loss: "(self, outputs, targets)",
    cp.Plan.to_json: "(self)",
    cp.Engine.__init__: "(self, plan, *, model, optimizer=None, rank=None, update=None, predict=None, scaler=None)",
    cp.Engine.step: "(self, closure, *, ran=None)",
    cp.Engine.update: "(self, closure, *, ran=None)",
    cp.Engine.on: "(self, index)",
    cp.Engine.fit: "(self)",
    cp.Engine.epoch: "(self)",
    cp.Engine.evaluation: "(self)",
    cp.Engine.forward: "(self)",
    cp.Engine.loss: "(self)",
    cp.Engine.backward: "(self)",
    cp.Engine.batch: "(self, inputs, targets, *, donate=False)",
    cp.Engine.state_dict: "(self, *, whole=False)",
    Fields.read: "(self, batch)",
    Fields.write: "(self, batch, inputs, targets)",
    Fields.edited: "(self, engine, batch, *, donate=False)",
    AcceleratedSteps.__init__: (
        "(self, engine, accelerator, model, *, forward=None, fields=Fields(inputs=(0,), targets=1), "
        "allow_changes=False)"
    ),
    AcceleratedSteps.groups: "(self, loader, count)",
    AcceleratedSteps.step: "(self, batches, *, donate=False)",
    cp.Algorithm.draw: "(self, batch, rng)",
    cp.Algorithm.init: "(self, model)",
    cp.Trainer.__init__: (
        "(self, config, *, model=None, train_data=None, eval_data=None, batch_size=None, spec=None, model_inputs=None)"
    ),
}

LOOPS = {
    ("counterpoint.integrations.lightning", "CounterpointCallback"): (
        "(self, plan, *, criterion=None, fields=Fields(inputs=(0,), targets=1), save_average=False, "
        "allow_changes=False)"
    ),
}
"""What other loops are given; each imports its loop, which takes seconds."""

SETTINGS = {"start": "0ba", "end": None, "every": 1, "p": 1.0, "after": (), "before": (), "id": None}

GROUPS = {"counterpoint.algorithms", "counterpoint.losses", "counterpoint.models", "counterpoint.datasets"}

ERRORS: dict[type[Exception], tuple[type[Exception], ...]] = {
    cp.ArgumentError: (cp.CounterpointError, TypeError, ValueError),
    cp.DeclarationError: (cp.CounterpointError, TypeError),
    cp.CompositionError: (cp.CounterpointError, ValueError),
    cp.ConfigError: (cp.CounterpointError, ValueError),
    cp.DataError: (cp.CounterpointError, ValueError),
    cp.ContractError: (cp.CounterpointError, RuntimeError),
    cp.MethodError: (cp.CounterpointError, RuntimeError),
    cp.EngineRequiredError: (cp.CounterpointError, RuntimeError),
    cp.PluginError: (cp.CounterpointError, LookupError),
    cp.UnknownNameError: (cp.PluginError,),
    cp.DuplicateNameError: (cp.PluginError,),
    cp.BrokenPluginError: (cp.PluginError,),
    cp.RunError: (cp.CounterpointError, RuntimeError),
    cp.RunDirectoryError: (cp.RunError,),
    cp.CheckpointError: (cp.RunError,),
    cp.NonFiniteLossError: (cp.RunError,),
}


def signature(function: Callable[..., Any]) -> str:
    """Write a signature without its annotations."""
    parameters = [
        parameter.replace(annotation=parameter.empty) for parameter in inspect.signature(function).parameters.values()
    ]
    text = str(inspect.Signature(parameters))
    return re.sub(r"Kind\(name='(\w+)'.*?meaning='.*?'\)", r"\1", text)


class TestNames:
    def test_all_is_exact_and_sorted(self) -> None:
        assert sorted(cp.__all__) == sorted(NAMES)
        assert len(set(cp.__all__)) == len(cp.__all__)

    @pytest.mark.parametrize("name", NAMES)
    def test_each_is_there_and_documented(self, name: str) -> None:
        value = getattr(cp, name)
        assert not inspect.ismodule(value)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value)

    def test_dir_lists_them(self) -> None:
        assert set(NAMES) <= set(dir(cp))

    def test_star_import_brings_them(self) -> None:
        space: dict[str, Any] = {}
        exec("from counterpoint import *", space)
        assert set(space) - {"__builtins__"} == set(NAMES)

    @pytest.mark.parametrize("room", ["counterpoint.algorithms", "counterpoint.core", "counterpoint.losses"])
    def test_rooms_have_what_they_list(self, room: str) -> None:
        module = importlib.import_module(room)
        assert set(dir(module)) == set(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)

    def test_another_name_is_an_attribute_error(self) -> None:
        with pytest.raises(AttributeError, match="no attribute 'Mixup'"):
            cp.Mixup  # noqa: B018 - looking it up is the test

    def test_the_version_is_that_of_the_package(self) -> None:
        assert cp.__version__ == importlib.metadata.version("counterpoint")

    @pytest.mark.parametrize(("error", "bases"), ERRORS.items(), ids=lambda value: getattr(value, "__name__", ""))
    def test_errors_are_one_tree(self, error: type[Exception], bases: tuple[type[Exception], ...]) -> None:
        assert error.__bases__ == bases

    def test_every_error_is_in_the_tree(self) -> None:
        errors = {getattr(cp, name) for name in NAMES if name.endswith("Error")}
        assert errors - {cp.CounterpointError} == set(ERRORS)


class TestSignatures:
    def test_compose(self) -> None:
        assert signature(cp.compose).startswith(COMPOSE)
        further = list(inspect.signature(cp.compose).parameters.values())[COMPOSE.count(",") :]
        assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in further)
        assert all(parameter.default is not parameter.empty for parameter in further)

    @pytest.mark.parametrize(
        ("function", "wanted"), METHODS.items(), ids=lambda value: getattr(value, "__qualname__", "")
    )
    def test_methods(self, function: Callable[..., Any], wanted: str) -> None:
        assert signature(function) == wanted

    @pytest.mark.parametrize(("place", "wanted"), LOOPS.items(), ids=lambda value: value[1])
    def test_loops(self, place: tuple[str, str], wanted: str) -> None:
        module, name = importlib.import_module(place[0]), place[1]
        assert name in module.__all__
        assert signature(vars(module)[name].__init__) == wanted

    @pytest.mark.parametrize(("name", "wanted"), FUNCTIONS.items(), ids=FUNCTIONS)
    def test_functions(self, name: str, wanted: str) -> None:
        assert signature(getattr(CF, name)) == wanted

    def test_functional_holds_what_it_lists(self) -> None:
        assert set(FUNCTIONS) <= set(CF.__all__)
        assert sorted(CF.__all__) == sorted(name for name, value in vars(CF).items() if inspect.isfunction(value))


class TestAlgorithms:
    def test_those_that_are_promised(self) -> None:
        for public, name in ALGORITHM_NAMES.items():
            assert getattr(counterpoint.algorithms, public).name == name

    def test_every_registered_one_is_public_and_the_other_way_round(self) -> None:
        registered = [entry for entry in ALGORITHMS.entries() if entry.package == "counterpoint"]
        classes = {ALGORITHMS.load(entry.name) for entry in registered}
        public = {getattr(counterpoint.algorithms, name) for name in counterpoint.algorithms.__all__}
        assert public == classes
        assert {entry.name for entry in registered} == {algorithm.name for algorithm in public}

    @pytest.mark.parametrize("name", counterpoint.algorithms.__all__)
    def test_each_takes_the_common_settings(self, name: str) -> None:
        algorithm: type[Algorithm[Any]] = getattr(counterpoint.algorithms, name)
        assert set(SETTINGS) <= set(algorithm.model_fields)
        for setting in SETTINGS.keys() - inspect.get_annotations(algorithm).keys():
            default = algorithm.model_fields[setting].default
            assert (str(default) if isinstance(default, cp.Duration) else default) == SETTINGS[setting]

    @pytest.mark.parametrize("name", counterpoint.algorithms.__all__)
    def test_each_setting_is_described(self, name: str) -> None:
        for setting, field in getattr(counterpoint.algorithms, name).model_fields.items():
            assert field.description, setting


class TestEntryPoints:
    def test_groups(self) -> None:
        points = importlib.metadata.distribution("counterpoint").entry_points
        assert {point.group for point in points} - {"console_scripts"} == GROUPS
        (command,) = points.select(group="console_scripts")
        assert (command.name, command.value) == ("counterpoint", "counterpoint.cli:main")

    def test_names(self) -> None:
        points = importlib.metadata.distribution("counterpoint").entry_points
        names = {group: {point.name for point in points.select(group=group)} for group in GROUPS}
        assert names["counterpoint.algorithms"] >= set(ALGORITHM_NAMES.values())
        assert names["counterpoint.losses"] >= {"bce", "cross_entropy", "focal", "kl", "l1", "mse", "nll"}
        assert names["counterpoint.models"] >= {"mlp", "resnet18", "resnet50", "small_cnn"}
        assert names["counterpoint.datasets"] >= {"digits", "image_folder"}

    def test_what_is_installed_is_what_the_project_says(self) -> None:
        """An editable installation made before an entry point was added would hide it."""
        tomllib = importlib.import_module("tomllib")
        project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text("utf-8"))["project"]
        for group, wanted in project["entry-points"].items():
            points = importlib.metadata.distribution("counterpoint").entry_points.select(group=group)
            assert {point.name: point.value for point in points} == wanted


class TestAsWritten:
    """The example that the design gives, line by line."""

    def test_a_plan(self) -> None:
        from counterpoint.algorithms import LabelSmoothing, MixUp

        plan = cp.compose(
            [LabelSmoothing(smoothing=0.1), MixUp(alpha=0.2), "cutout"],
            loss=torch.nn.CrossEntropyLoss(),
            loss_accepts=None,
            task="multiclass",
            num_classes=10,
            inputs="image",
            batch_size=None,
            steps_per_epoch=None,
            max_duration=None,
            seed=17,
            strict_order=False,
            compile=False,
        )
        generator = torch.Generator().manual_seed(0)
        x, labels = torch.randn(4, 3, 8, 8, generator=generator), torch.arange(4)
        x, y = plan(x, labels, step=0)
        assert (x.shape, y.shape, y.dtype) == ((4, 3, 8, 8), (4, 10), torch.float32)
        logits = torch.randn(4, 10, generator=generator, requires_grad=True)
        loss = plan.loss(logits, y)
        loss.backward()
        assert loss.ndim == 0
        assert logits.grad is not None
        assert plan.order == ("dense_targets", "label_smoothing", "cutout", "mixup")
        assert isinstance(plan.explain(), str)
        assert json.loads(plan.to_json())["fingerprint"] == plan.fingerprint

    def test_items_are_instances_names_or_mappings(self) -> None:
        from counterpoint.algorithms import MixUp

        stated: dict[str, Any] = {"task": "multiclass", "num_classes": 3}
        plans = [
            cp.compose([item], **stated)
            for item in (MixUp(alpha=0.2), {"name": "mixup", "alpha": 0.2}, {"name": "mixup"}, "mixup")
        ]
        assert len({plan.fingerprint for plan in plans}) == 1

    def test_a_plan_without_a_loss(self) -> None:
        plan = cp.compose(["mixup"], loss=None, task="multiclass", num_classes=3)
        with pytest.raises(cp.CounterpointError, match="loss="):
            plan.loss(torch.zeros(2, 3), torch.zeros(2, 3))

    def test_a_refusal(self) -> None:
        with pytest.raises(cp.CompositionError) as caught:
            cp.compose(["mixup", "cutmix"], task="multiclass", num_classes=3)
        (fault,) = caught.value.faults
        assert isinstance(fault, cp.Fault)
        assert (fault.code, fault.algorithms) == ("two-mixers", ("mixup", "cutmix"))
        assert fault.message
        assert fault.fix

    def test_a_setting_out_of_range(self) -> None:
        from counterpoint.algorithms import MixUp

        with pytest.raises(pydantic.ValidationError):
            MixUp(alpha=-1)
        with pytest.raises(cp.CompositionError) as caught:
            cp.compose([{"name": "mixup", "alpha": -1}], task="multiclass", num_classes=3)
        assert [fault.code for fault in caught.value.faults] == ["bad-setting"]


def run_python(code: str, folder: Path) -> dict[str, Any]:
    """Run code in a fresh interpreter in an empty folder; return what it prints as JSON."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(folder), "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


STATE = """
import json, logging, os, random, signal, sys, threading, warnings
def state():
    return [
        [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        str(random.getstate()), dict(os.environ), os.getcwd(), str(warnings.filters), threading.active_count(),
        str(logging.root.handlers), logging.root.level, str(sys.excepthook), str(sys.meta_path), sys.path,
    ]
"""


class TestImporting:
    def test_has_no_side_effects_and_loads_nothing_else(self, tmp_path: Path) -> None:
        code = STATE + (
            "before, loaded = state(), set(sys.modules)\n"
            "import counterpoint\n"
            "assert state() == before\n"
            "print(json.dumps(sorted(set(sys.modules) - loaded)))"
        )
        loaded = set(run_python(code, tmp_path))
        ours = {name for name in loaded if name.split(".")[0] == "counterpoint"}
        assert ours == {"counterpoint", "counterpoint.lazy"}
        assert {name.split(".")[0] for name in loaded - ours} <= set(sys.stdlib_module_names)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("module", ["counterpoint.algorithms", "counterpoint.plugins", "counterpoint.cli"])
    def test_rooms_load_no_torch_before_they_are_used(self, module: str, tmp_path: Path) -> None:
        code = f"import json, sys, {module}\nprint(json.dumps(sorted(sys.modules)))"
        loaded = set(run_python(code, tmp_path))
        assert loaded.isdisjoint({"torch", "numpy", "counterpoint.algorithms.mixup"})

    @pytest.mark.slow
    def test_composing_loads_what_is_listed_and_no_more(self, tmp_path: Path) -> None:
        code = STATE + (
            "import torch, numpy\n"
            "before = state()\n"
            "import counterpoint as cp\n"
            "cp.compose(['mixup'], loss='cross_entropy', task='multiclass', num_classes=3)\n"
            "import counterpoint.core\n"
            "assert state()[:2] == before[:2]\n"
            "print(json.dumps(sorted(sys.modules)))"
        )
        loaded = set(run_python(code, tmp_path))
        assert "counterpoint.algorithms.mixup" in loaded
        assert loaded.isdisjoint({"counterpoint.algorithms.cutmix", "counterpoint.algorithms.ema"})
        assert loaded.isdisjoint({"counterpoint.trainer", "counterpoint.cli"})
        assert {name.split(".")[0] for name in loaded}.isdisjoint(
            {"accelerate", "omegaconf", "rich", "sklearn", "torchmetrics", "typer", "PIL"}
        )
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.slow
    def test_composing_loads_nothing_that_only_a_run_or_a_config_needs(self, tmp_path: Path) -> None:
        code = (
            "import json, sys, torch\n"
            "from pydantic import BaseModel, Field\n"
            "before = set(sys.modules)\n"
            "import counterpoint as cp\n"
            "names = ['mixup', 'cutout', 'label_smoothing', 'ema']\n"
            "cp.compose(names, loss=torch.nn.CrossEntropyLoss(), task='multiclass', num_classes=10)\n"
            "print(json.dumps(sorted(set(sys.modules) - before)))"
        )
        loaded = set(run_python(code, tmp_path))
        runs = {"counterpoint.core.run.batch", "counterpoint.core.run.training", "counterpoint.core.plan.explanation"}
        assert loaded.isdisjoint(runs)
        foreign = {name.split(".")[0] for name in loaded} - set(sys.stdlib_module_names)
        assert foreign <= {"counterpoint", "pydantic", "stevedore"}
