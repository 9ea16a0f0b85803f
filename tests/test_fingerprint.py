"""The fingerprint of a plan is the same on every machine, in every process and Python version, and follows the plan."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pydantic
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.algorithms import EMA, MixUp
from counterpoint.core import Algorithm, Terms
from counterpoint.core.plan.digest import described, digest
from counterpoint.losses import BinaryFocalLoss, FocalLoss
from counterpoint.plugins import ALGORITHMS, LOSSES
from tests.fingerprints import PLANS, fingerprints
from tests.laws.case import CLASSES
from tests.laws.settings import accepted_by, samplers
from tests.laws.strategy import may_be_skipped

# Made once. A change here means that runs which were begun before it cannot be resumed without --allow-changes.
GOLDEN = {
    "nothing": "d6154c04d44d5f12",
    "blurpool": "7b5de210b2e6fccd",
    "cutmix": "1809e82970257556",
    "cutout": "724ea7a462967dab",
    "ema": "88b370a6287a8036",
    "gradient_clipping": "ff4f696ad34dc328",
    "label_smoothing": "336a143d2bd9cfd2",
    "manifold_mixup": "05d8fdcc072499be",
    "mixup": "0feac35bb403a38c",
    "normalize": "f0d7e6455bd0bda5",
    "one_of": "e9169722d32fd0c6",
    "sam": "e44b9c192064637c",
    "selective_backprop": "d4796e9a6c88572d",
    "swa": "7ad61b44c870a7ed",
    "trivial_augment": "9f473bcdaf40d00a",
    "many": "743ffd20c41d6dc8",
    "segmentation": "acee49bf9473814a",
    "multilabel": "3ad9c31732d5ac03",
    "regression": "5479c788e9538dcd",
}
PROCESSES: dict[str, dict[str, str]] = {
    "hash seed 1, plain C": {"PYTHONHASHSEED": "1", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "hash seed 4242, UTF-8": {"PYTHONHASHSEED": "4242", "LC_ALL": "C.UTF-8", "TZ": "Asia/Kathmandu"},
}


def test_every_registered_method_has_a_plan() -> None:
    built_in = {entry.name for entry in ALGORITHMS.entries() if entry.package == "counterpoint"}
    assert built_in <= PLANS.keys()
    for name in built_in:
        listed, facts = PLANS[name]
        assert [member.algorithm.name for member in cp.compose(listed, **facts).members] == [name]


def test_fingerprints_are_those_written_down() -> None:
    assert fingerprints() == GOLDEN, "print those of today by `python -m tests.fingerprints`"
    assert len({*GOLDEN.values()}) == len(GOLDEN)


@pytest.mark.slow
@pytest.mark.parametrize("process", PROCESSES)
def test_fingerprints_are_the_same_in_another_process(process: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fingerprints"],
        env={**os.environ, **PROCESSES[process]},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == GOLDEN


def test_settings_that_are_sets_are_written_in_one_order() -> None:
    class Tagged(Algorithm[None], name="tagged"):
        tags: frozenset[str] = frozenset()

        @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RECOLOR)
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            return batch

    words = [f"word{number}" for number in range(50)]
    tagged = Tagged(tags=frozenset(words))
    assert tagged.component()["tags"] == tagged.settings()["tags"] == sorted(words)
    assert tagged.model_dump()["tags"] == frozenset(words)
    written: list[Any] = cp.compose([tagged], task="multiclass", num_classes=3).to_data()["algorithms"]
    assert written[0]["settings"]["tags"] == sorted(words)


CLASS_FACTS: dict[str, Any] = {"task": "multiclass", "num_classes": 3}


def fingerprint(listed: Sequence[Any] = (), **facts: Any) -> str:
    return cp.compose(listed, **CLASS_FACTS | facts).fingerprint


class Scaled(nn.Module):
    """A loss of a user's own."""

    def __init__(self, factor: float = 1.0, center: float = 0.0, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.factor = factor
        self.register_buffer("center", torch.full((2,), center))
        self.inner = nn.MSELoss() if inner is None else inner

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum() * self.factor

    def method(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self(outputs, targets)


def scaled(outputs: Tensor, targets: Tensor, factor: float = 1.0) -> Tensor:
    return outputs.sum() * factor


def scaling(factor: float) -> Any:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum() * factor

    return loss


class Held:
    __slots__ = ("factor",)

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum() * self.factor


WEIGHTS = torch.tensor([1.0, 2.0, 4.0])
OWN_LOSSES: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "cross-entropy": (
        {},
        [
            nn.CrossEntropyLoss(),
            nn.CrossEntropyLoss(weight=WEIGHTS),
            nn.CrossEntropyLoss(weight=WEIGHTS + torch.tensor([0.0, 0.0, 1e-6])),
            nn.CrossEntropyLoss(weight=WEIGHTS.double()),
            nn.CrossEntropyLoss(reduction="sum"),
            nn.CrossEntropyLoss(label_smoothing=0.1),
            nn.CrossEntropyLoss(label_smoothing=0.2),
            nn.CrossEntropyLoss(ignore_index=2),
            nn.NLLLoss(),
            nn.NLLLoss(weight=WEIGHTS),
            nn.NLLLoss(reduction="sum"),
            FocalLoss(),
            FocalLoss(gamma=1.0),
            FocalLoss(weight=WEIGHTS),
            FocalLoss(reduction="sum"),
            FocalLoss(ignore_index=2),
            nn.KLDivLoss(reduction="batchmean"),
            nn.KLDivLoss(reduction="sum"),
        ],
    ),
    "labels": (
        {"task": "multilabel"},
        [
            nn.BCEWithLogitsLoss(),
            nn.BCEWithLogitsLoss(weight=WEIGHTS),
            nn.BCEWithLogitsLoss(pos_weight=WEIGHTS),
            nn.BCEWithLogitsLoss(reduction="sum"),
            nn.BCELoss(),
            nn.BCELoss(weight=WEIGHTS),
            BinaryFocalLoss(),
            BinaryFocalLoss(gamma=1.0),
            BinaryFocalLoss(alpha=0.25),
            BinaryFocalLoss(alpha=0.5),
        ],
    ),
    "one's own": (
        {"loss_accepts": {"index"}},
        [
            Scaled(),
            Scaled(factor=2.0),
            Scaled(center=1.0),
            Scaled(inner=nn.MSELoss(reduction="sum")),
            Scaled(inner=nn.L1Loss()),
            Scaled().method,
            Scaled(factor=2.0).method,
            scaled,
            functools.partial(scaled, factor=2.0),
            functools.partial(scaled, factor=3.0),
            scaling(1.0),
            scaling(2.0),
            Held(1.0),
            Held(2.0),
        ],
    ),
}


@pytest.mark.kind("22")
@pytest.mark.parametrize("group", OWN_LOSSES)
def test_losses_that_compute_something_else_have_fingerprints_of_their_own(group: str) -> None:
    facts, losses = OWN_LOSSES[group]
    found = [fingerprint(loss=loss, **facts) for loss in losses]
    assert len({*found}) == len(found)
    assert [fingerprint(loss=copy.deepcopy(loss), **facts) for loss in losses] == found


def others(name: str, cls: type[pydantic.BaseModel], base: dict[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """Yield every setting of a registered thing with legal values that are not the one it has."""
    dice = Random(17)
    for key, sampler, _ in samplers(name, cls):
        own, values = getattr(cls.model_validate(base), key), []
        for value in (sampler(dice) for _ in range(50)):
            with contextlib.suppress(pydantic.ValidationError):
                if getattr(cls.model_validate(base | {key: value}), key) != own:
                    values.append(value)
        yield key, values


def first_that_composes(values: list[Any], make: Callable[[Any], Any]) -> Any:
    for value in values:
        with contextlib.suppress(cp.CompositionError):
            return make(value)
    raise AssertionError(f"none of {values} composes")


@pytest.mark.slow
@pytest.mark.kind("22")
@pytest.mark.parametrize("name", sorted(LOSSES.names()))
def test_every_setting_of_a_registered_loss_is_seen(name: str) -> None:
    config = LOSSES.load(name)
    task = {"multi_hot": "multilabel", "continuous": "regression"}
    kind = next(iter(sorted(kind.name for kind in accepted_by(name) - {cp.DENSE})), "index")
    facts = {"task": task.get(kind, "multiclass"), "num_classes": CLASSES}
    whole = fingerprint(loss={"name": name}, **facts)
    for key, values in others(name, config, {}):
        found = first_that_composes(
            values, lambda value, key=key: fingerprint(loss={"name": name, key: value}, **facts)
        )
        assert found != whole, key


@pytest.mark.slow
@pytest.mark.kind("22")
@pytest.mark.parametrize("name", sorted(set(PLANS) & set(ALGORITHMS.names())))
def test_every_setting_of_a_method_is_seen(name: str) -> None:
    (given,), facts = PLANS[name]
    facts = facts | {"steps_per_epoch": 7, "max_duration": "13ep"}
    base = {key: value for key, value in given.items() if key != "name"} if isinstance(given, dict) else {}
    cls = ALGORITHMS.load(name)
    whole = fingerprint([{"name": name, **base}], **facts)
    settings = [] if name == "one_of" else list(others(name, cls, base))
    if may_be_skipped(cls):
        settings += [("start", ["2ba"]), ("end", ["99ba"]), ("every", [2]), ("p", [0.5])]

    def both(key: str, value: Any) -> tuple[str, str]:
        """Compare it under the facts that the setting has a meaning for, where those are others."""
        word = value if isinstance(value, str) else ""
        kind = {"ignore": {"task": "segmentation"}, **{kind: {"inputs": kind} for kind in ("unit", "normalized")}}.get(
            word, {}
        )
        listed = [{"name": name, **base, key: value}]
        return fingerprint(listed, **facts | kind), fingerprint([{"name": name, **base}], **facts | kind)

    for key, values in settings:
        found, plain = first_that_composes(values, functools.partial(both, key))
        assert found != plain, key
    assert fingerprint([{"name": name, **base, "id": "another"}], **facts) != whole  # draws are keyed by it


@pytest.mark.kind("22")
def test_branches_their_weights_and_their_settings_are_seen() -> None:
    def choice(*branches: Any, **settings: Any) -> str:
        return fingerprint([{"name": "one_of", "algorithms": [*branches], **settings}])

    found = [
        choice("mixup", "cutmix"),
        choice("cutmix", "mixup"),
        choice("mixup", "cutmix", weights=[1, 2]),
        choice({"name": "mixup", "alpha": 0.5}, "cutmix"),
        choice({"name": "mixup", "every": 2}, "cutmix"),
        choice({"name": "mixup", "id": "other"}, "cutmix"),
        choice("mixup"),
    ]
    assert len({*found}) == len(found)


@pytest.mark.kind("22")
def test_draws_that_ranks_share_are_seen() -> None:
    class Own(Algorithm[None], name="owned"):
        @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RECOLOR)
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            return batch

    class Shared(Own, name="owned", shared=True):
        """The same on every rank."""

    assert fingerprint([Own()]) != fingerprint([Shared()])


@pytest.mark.kind("22")
@pytest.mark.parametrize(
    "facts",
    [
        {"seed": 1},
        {"num_classes": 4},
        {"inputs": "unit"},
        {"batch_size": 8},
        {"steps_per_epoch": 9},
        {"max_duration": "9ba"},
        {"microbatches": 2},
        {"task": "segmentation"},
    ],
    ids=str,
)
def test_every_fact_is_seen(facts: dict[str, Any]) -> None:
    assert fingerprint(["mixup"], **facts) != fingerprint(["mixup"])


@pytest.mark.kind("22")
def test_what_changes_nothing_is_not_seen() -> None:
    loss = nn.CrossEntropyLoss(weight=WEIGHTS)
    listed = ["mixup", "label_smoothing", {"name": "ema", "start": "2ep"}]
    facts: dict[str, Any] = {"loss": loss, "steps_per_epoch": 5, "max_duration": "20ba"}
    whole = fingerprint(listed, **facts)
    named = {"name": "cross_entropy", "weight": [1.0, 2.0, 4.0]}
    function = functools.partial(nn.functional.cross_entropy, weight=WEIGHTS.clone())
    alike: list[tuple[list[Any], dict[str, Any]]] = [
        (listed[::-1], {}),
        ([MixUp(alpha=MixUp().alpha), "label_smoothing", EMA(start="10ba")], {}),
        (listed, {"loss": copy.deepcopy(loss).eval()}),
        (listed, {"loss": named}),
        (listed, {"loss": function}),
        (listed, {"max_duration": "4ep"}),
        (listed, {"contract": "off"}),
        (listed, {"strict_order": True}),
        (listed, {"terms": Terms.YAML}),
    ]
    for other, changes in alike:
        assert fingerprint(other, **facts | changes) == whole, (other, changes)


@pytest.mark.kind("22")
def test_the_code_of_a_plain_function_is_not_seen() -> None:
    """As the documentation says: a loss that needs telling apart is a module, or has arguments bound to it."""
    one, other = (eval("lambda outputs, targets: " + code, {"__name__": "own"}) for code in ("outputs", "targets"))
    assert fingerprint(loss=one, loss_accepts={"index"}) == fingerprint(loss=other, loss_accepts={"index"})


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, width=16)
    | st.text(max_size=2)
    | st.lists(st.integers(-2, 2), max_size=3).map(lambda numbers: torch.tensor(numbers, dtype=torch.float32))
    | st.lists(st.integers(-2, 2), max_size=3).map(np.array)
    | st.frozensets(st.integers(0, 5), max_size=3)
)
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
)


def same(one: object, other: object) -> bool:
    """Whether two trees hold the same values of the same types."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, frozenset) and isinstance(other, frozenset):
        return one == other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return type(one) is type(other) and repr(one) == repr(other)


@pytest.mark.slow
@pytest.mark.kind("22")
@given(trees, trees)
def test_values_are_described_alike_exactly_where_they_are_the_same(one: Any, other: Any) -> None:
    held, others = ({"value": value, "of": Held(value)} for value in (one, other))
    assert digest(described(held)) == digest(described(copy.deepcopy(held)))
    if not _sets_as_lists(one) and not _sets_as_lists(other):
        assert (digest(described(held)) == digest(described(others))) is same(one, other)


def _sets_as_lists(value: object) -> bool:
    """Whether a tree holds sets, which are written as sorted lists."""
    if isinstance(value, dict):
        return any(map(_sets_as_lists, value.values()))
    return isinstance(value, frozenset) or (isinstance(value, list) and any(map(_sets_as_lists, value)))


@pytest.mark.kind("22")
def test_values_of_any_kind_are_described() -> None:
    loop: list[Any] = []
    loop.append(loop)
    values: list[Any] = [
        loop,
        [[]],
        torch.zeros(2, device="meta"),
        torch.zeros(2).to_sparse(),
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros((), dtype=torch.bfloat16),
        torch.zeros(2, dtype=torch.bool),
        nn.LazyLinear(2),
        nn.Linear(2, 2, bias=False),
        torch.float32,
        {3: "a", (1, 2): "b"},
        b"bytes",
        1 + 2j,
        np.array([None, "a"], dtype=object),
        Scaled,
        len,
        [].append,
        object(),
    ]
    texts = [digest(described(value)) for value in values]
    assert len({*texts}) == len(texts)
