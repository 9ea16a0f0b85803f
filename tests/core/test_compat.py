"""Private parts of torch are in one file; they are still there, and do what this file says."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint import checkpoint_wrapper
from torch.distributed.fsdp import _common_utils as fsdp

from counterpoint.core import compat
from counterpoint.core.declare import targets
from counterpoint.core.declare.kinds import MULTI_HOT

ROOT = Path(compat.__file__).parents[2]
PACKAGE = ROOT / "counterpoint"
OTHERS = {"_asdict", "_exit", "_fields", "_replace", "_typeshed", "_ways"}
"""Names that are not torch's: of named tuples, of ``os``, of typing, and one that a class uses of its own objects."""
TABLES = {name for name in vars(nn.Module()) if name.startswith("_")}


def private_names(path: Path) -> Iterator[str]:
    """Give the private names that a file imports, and those of other objects that it uses, also as text."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and re.match(r"_[a-z]\w*(?<!_)$", node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}):
                yield node.attr
        elif isinstance(node, ast.ImportFrom):
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from (part for part in parts if re.match(r"_[A-Za-z]", part))
        elif isinstance(node, ast.Constant) and node.value in TABLES:
            yield node.value


def files() -> list[Path]:
    found = [path for path in PACKAGE.rglob("*.py") if path.name != "compat.py"]
    return [path for path in found if "integrations" not in path.parts or path.parent.name == "integrations"]


def test_no_other_file_touches_private_parts() -> None:
    found = {(path.name, name) for path in files() for name in private_names(path) if name not in OTHERS}
    assert len(files()) > 100
    assert found == set()


def test_this_test_would_see_them(tmp_path: Path) -> None:
    path = tmp_path / "code.py"
    path.write_text('from torch._dynamo import exc\nimport torch\ntorch._sin(1)\nvars(m)["_buffers"]\nself._own.x\n')
    assert sorted(private_names(path)) == ["_buffers", "_dynamo", "_sin"]


def test_it_was_tried_on_the_pinned_release() -> None:
    assert re.search(r"^torch==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1] == compat.TRIED  # type: ignore[index]


def test_an_assertion_on_a_device_raises_with_its_message() -> None:
    compat.assert_on_device(torch.tensor(True), "all is well")
    with pytest.raises(RuntimeError, match="a target is wrong"):
        compat.assert_on_device(torch.tensor(False), "a target is wrong")


@pytest.mark.parametrize(
    "check",
    [
        lambda indices: targets.check_classes(indices, 3, -100),
        lambda indices: targets.check_counted(indices, -100, "bce", MULTI_HOT),
    ],
    ids=["classes", "counted"],
)
@pytest.mark.parametrize("wrong", [False, True])
def test_targets_of_another_device_are_checked_there(
    check: Callable[[Tensor], None], wrong: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere(Tensor):
        """Says that it lies on an accelerator."""

        device = torch.device("cuda")  # type: ignore[assignment]

    seen: list[tuple[bool, str]] = []
    monkeypatch.setattr(targets, "assert_on_device", lambda condition, why: seen.append((bool(condition), why)))
    indices = torch.tensor([0, 2, 1])
    if wrong:
        indices[1] = 3 if "classes" in str(check.__code__.co_names) else -100
    check(indices.as_subclass(Elsewhere))
    ((held, why),) = seen
    assert held is not wrong
    assert "classes are 0 to 2" in why or "marks an ignored position" in why


def compiled(number: int, own: Callable[[Any], Any]) -> Callable[[Tensor], Tensor]:
    def function(value: Tensor, *, by: int = 2) -> Tensor:
        return value * by + number

    result: Callable[[Tensor], Tensor] = torch.compile(own(function), backend="eager", fullgraph=True, dynamic=False)
    return result


@pytest.mark.slow
def test_functions_with_codes_of_their_own_compile_beyond_the_limit() -> None:
    for number in range(12):
        assert compiled(number, compat.with_own_code)(torch.tensor(3)).item() == 6 + number


@pytest.mark.slow
def test_functions_of_one_code_reach_the_limit() -> None:
    """Where this fails, ``with_own_code`` is no longer needed."""
    functions = [compiled(number, lambda function: function) for number in range(12)]
    with pytest.raises(Exception, match="fullgraph"):
        [function(torch.tensor(3)) for function in functions]


def test_tables_hold_what_a_module_holds() -> None:
    norm = nn.BatchNorm1d(2, affine=False)
    assert compat.tensor_tables(norm) == [{"weight": None, "bias": None}, dict(norm.named_buffers())]
    assert compat.tensor_tables(norm, parameters=False) == [dict(norm.named_buffers())]
    layer = nn.Linear(2, 2, bias=False)
    held = compat.tensor_tables(layer)[0]
    assert held == {"weight": layer.weight, "bias": None}
    held["bias"] = nn.Parameter(torch.ones(2))
    assert layer.bias is held["bias"]
    both = nn.Module()
    both.first = both.second = layer
    both.register_module("third", None)
    assert list(compat.child_places(both)) == [("first", layer), ("second", layer), ("third", None)]


@pytest.mark.parametrize(
    ("base", "layers", "others"),
    [
        (compat.BatchNorm, [nn.BatchNorm1d(2), nn.SyncBatchNorm(2), nn.LazyBatchNorm2d()], [nn.GroupNorm(1, 2)]),
        (compat.Dropout, [nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout()], [nn.Identity()]),
        (compat.Loss, [nn.MSELoss(), nn.CrossEntropyLoss(), nn.GaussianNLLLoss()], [nn.Softmax(1)]),
    ],
    ids=["batch norm", "dropout", "loss"],
)
def test_the_bases_of_layers_tell_them_from_others(
    base: type[nn.Module], layers: list[nn.Module], others: list[nn.Module]
) -> None:
    assert all(isinstance(layer, base) for layer in layers)
    assert not any(isinstance(layer, base) for layer in others)


def test_wrappers_hold_modules_under_the_known_names() -> None:
    wrapped = checkpoint_wrapper.checkpoint_wrapper(nn.Linear(1, 1))
    compiled_module = torch.compile(nn.Linear(1, 1), backend="eager")
    parallel = nn.DataParallel(nn.Linear(1, 1))
    names = {name for module in (wrapped, compiled_module, parallel) for name, _ in module.named_children()}
    assert {*names, fsdp.FSDP_WRAPPED_MODULE} == compat.WRAPPERS
