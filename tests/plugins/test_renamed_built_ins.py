"""The checker knows methods by what they declare: under other names, everything stays the same.

Every built-in is registered a second time by another package, as a subclass under a name of the same length, so that
texts wrap alike. The new names sort in the opposite order, so that nothing can hang on the alphabet.
"""

from __future__ import annotations

import json
from itertools import permutations
from string import ascii_lowercase
from typing import Any

import pytest
import torch

import counterpoint as cp
from counterpoint.plugins import ALGORITHMS

GROUP = "counterpoint.algorithms"
BUILT_IN = {entry.name: entry.value for entry in ALGORITHMS.entries() if entry.package == "counterpoint"}
RENAMED = {
    name: letter + "q" * (len(name) - 2) + letter
    for name, letter in zip(sorted(BUILT_IN), reversed(ascii_lowercase.replace("q", "")), strict=False)
}


def renaming_module() -> str:
    """Return the source of a module with a subclass of every built-in under its other name."""
    lines = []
    for name, value in BUILT_IN.items():
        module, _, base = value.partition(":")
        lines += [f"from {module} import {base}", f"class {base}Renamed({base}, name={RENAMED[name]!r}): ..."]
    return "\n".join(lines)


SMOOTHING, MIXUP, CUTOUT = {"name": "label_smoothing", "smoothing": 0.1}, "mixup", "cutout"
CHOICE = {"name": "one_of", "algorithms": ["mixup", {"name": "cutmix", "alpha": 0.5}], "weights": [1, 2]}
CE = torch.nn.CrossEntropyLoss()


def case(*algorithms: object, **facts: object) -> tuple[list[object], dict[str, object]]:
    return list(algorithms), {"loss": CE, "task": "multiclass", "num_classes": 4, **facts}


PLANS = [
    *(case(name) for name in ("mixup", "cutmix", "cutout", "label_smoothing", "ema")),
    *(case(*order) for order in permutations([SMOOTHING, MIXUP, CUTOUT])),
    *(case(*order) for order in permutations([SMOOTHING, "cutmix", CUTOUT])),
    case("ema", CHOICE, CUTOUT, SMOOTHING),
    case({"name": "mixup", "p": 0.5}, {"name": "label_smoothing", "every": 3}),
    case({"name": "mixup", "end": "10ba"}, {"name": "cutmix", "start": "10ba"}, CUTOUT),
    case(CUTOUT, {"name": "mixup", "before": "cutout"}),
    case({"name": "cutout", "fill": 1.0, "id": "white"}, {"name": "cutout", "id": "grey"}),
    case("mixup", "label_smoothing", task="multilabel", loss=torch.nn.BCEWithLogitsLoss()),
    case("cutmix", task="regression", loss=torch.nn.MSELoss(), num_classes=None),
    case("mixup", task="regression", loss=torch.nn.MSELoss(), num_classes=None),
    case("mixup", "label_smoothing", loss=None),
]
FAULTS = [
    case("mixup", "cutmix"),
    case("mixup", "cutmix", "cutout", "cutout", SMOOTHING, loss=torch.nn.CrossEntropyLoss(label_smoothing=0.1)),
    case("label_smoothing", {"name": "label_smoothing", "id": "again"}),
    case("mixup", CHOICE),
    case("ema", {"name": "ema", "id": "slower"}),
    case("mixup", loss=lambda outputs, targets: outputs.sum()),
    case("mixup", loss=lambda outputs, targets: outputs.sum(), loss_accepts={"index"}),
    case({"name": "mixup", "after": "cutout"}, {"name": "cutout", "after": "mixup"}),
    case({"name": "mixup", "after": "nobody"}),
    case({"name": "mixup", "after": "mixup"}),
    case({"name": "label_smoothing", "before": "ema"}, "ema"),
    case({"name": "one_of", "algorithms": ["mixup", "ema"]}),
    case("cutout", "mixup", inputs="tokens"),
    case("mixup", num_classes=None),
    case("label_smoothing", task="regression", loss=torch.nn.MSELoss(), num_classes=None),
    case({"name": "mixup", "start": "1ep"}, {"name": "cutout", "end": "0.5dur"}),
    case({"name": "mixup", "start": "9ba", "end": "3ba"}),
    case({"name": "mixup", "alpha": -1.0}, {"name": "cutout", "lenght": 0.5}),
    case({"name": "cutout", "fill": 1.0, "id": "white"}, {"name": "cutout", "id": "grey"}, strict_order=True),
    case("mixup", 3, task="multiclas"),
]


@pytest.fixture(autouse=True)
def renamed(install) -> None:
    points = {RENAMED[name]: f"renamed_built_ins:{value.partition(':')[2]}Renamed" for name, value in BUILT_IN.items()}
    install("renamed-built-ins", {GROUP: points}, {"renamed_built_ins": renaming_module()})


def other_names(item: Any) -> Any:
    """The item of a list with every name of a built-in replaced."""
    if isinstance(item, dict):
        return {key: other_names(value) for key, value in item.items()}
    if isinstance(item, list):
        return [other_names(value) for value in item]
    return RENAMED.get(item, item) if isinstance(item, str) else item


def named_back(text: str) -> str:
    for name, other in RENAMED.items():
        text = text.replace(other, name)
    return text


def described(algorithms: list[Any], facts: dict[str, Any]) -> dict[str, Any]:
    """Everything that a plan says of itself, under the built-in names and without its fingerprint."""
    plan = cp.compose(algorithms, **facts)
    data = json.loads(named_back(plan.to_json()).replace(plan.fingerprint, ""))
    data["algorithms"].sort(key=lambda algorithm: algorithm["id"])
    return {
        "order": [named_back(name) for name in plan.order],
        "text": named_back(plan.explain().replace(plan.fingerprint, "")).splitlines(),
        "data": data,
    }


def faults(error: cp.CompositionError) -> set[tuple[str, str, str, frozenset[str]]]:
    """Every fault, under the built-in names."""
    return {
        (fault.code, named_back(fault.message), named_back(fault.fix), frozenset(map(named_back, fault.algorithms)))
        for fault in error.faults
    }


def verdict(algorithms: list[Any], facts: dict[str, Any]) -> object:
    try:
        return described(algorithms, facts)
    except cp.CompositionError as error:
        return faults(error)


@pytest.mark.slow
def test_every_built_in_has_another_name() -> None:
    assert len(RENAMED) == len(BUILT_IN)
    assert {name: len(other) for name, other in RENAMED.items()} == {name: len(name) for name in BUILT_IN}
    assert sorted(RENAMED.values(), reverse=True) == [RENAMED[name] for name in sorted(BUILT_IN)]
    assert all(ALGORITHMS.load(other).name == other for other in RENAMED.values())
    assert all(issubclass(ALGORITHMS.load(RENAMED[name]), ALGORITHMS.load(name)) for name in BUILT_IN)


@pytest.mark.slow
@pytest.mark.parametrize("first", BUILT_IN)
def test_every_pair_fares_the_same(first: str) -> None:
    examples = {"one_of": CHOICE}
    for second in BUILT_IN:
        algorithms, facts = case(examples.get(first, first), examples.get(second, second), batch_size=8)
        facts |= {"steps_per_epoch": 5, "max_duration": "4ep"}
        assert verdict(other_names(algorithms), facts) == verdict(algorithms, facts), (first, second)


@pytest.mark.slow
@pytest.mark.parametrize(("algorithms", "facts"), PLANS)
def test_the_same_plans(algorithms: list[Any], facts: dict[str, Any]) -> None:
    assert described(other_names(algorithms), facts) == described(algorithms, facts)


@pytest.mark.slow
@pytest.mark.parametrize(("algorithms", "facts"), FAULTS)
def test_the_same_faults(algorithms: list[Any], facts: dict[str, Any]) -> None:
    with pytest.raises(cp.CompositionError) as built_in:
        cp.compose(algorithms, **facts)
    with pytest.raises(cp.CompositionError) as other:
        cp.compose(other_names(algorithms), **facts)
    assert faults(other.value) == faults(built_in.value)


def test_the_same_batches_where_the_ids_are_the_same() -> None:
    images, labels = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 4
    listed = [{"name": name, "id": name} for name in ("cutout", "label_smoothing", "mixup")]
    other = [{"name": RENAMED[item["name"]], "id": item["id"]} for item in listed]
    plans = [cp.compose(names, loss=CE, task="multiclass", num_classes=4, seed=5) for names in (listed, other)]
    for step in range(3):
        (inputs, targets), again = (plan(images, labels, step=step) for plan in plans)
        assert torch.equal(inputs, again[0])
        assert torch.equal(targets, again[1])
