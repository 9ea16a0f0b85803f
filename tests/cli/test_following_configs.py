"""Faulty configs become right ones, with one fix in each round, in as many rounds as they had mistakes at most."""

from __future__ import annotations

import math
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from counterpoint.cli.run import check_config
from counterpoint.core.check.settings import settings_of
from counterpoint.core.errors import ConfigError
from counterpoint.core.faults import Fault
from counterpoint.core.remedies import Decide, Write, decides
from counterpoint.trainer.config.components import ROLES
from counterpoint.trainer.config.fixes import change_config
from counterpoint.trainer.config.run_config import RunConfig

Path_ = tuple[int | str, ...]
Mistake = tuple[str, Path_, Any]

RIGHT: dict[str, Any] = {
    "seed": 3,
    "task": "multiclass",
    "data": {"name": "digits", "batch_size": 64},
    "model": {"name": "mlp"},
    "loss": {"name": "cross_entropy"},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "scheduler": {"name": "cosine"},
    "max_duration": "2ep",
    "algorithms": [
        {"name": "cutout", "length": 0.5},
        {"name": "one_of", "algorithms": [{"name": "mixup", "alpha": 0.3}, {"name": "cutmix"}]},
        {"name": "label_smoothing", "smoothing": 0.1},
        {"name": "ema"},
    ],
}
COMPONENTS: tuple[Path_, ...] = (
    *((role,) for role in ROLES if role != "algorithms"),
    *(("algorithms", place) for place in range(4)),
    *(("algorithms", 1, "algorithms", place) for place in range(2)),
)
BY_A_PERSON = ("plugins", "run_dir", "trackers", "compile")
WRONG = (-1, 0, 1.5, 10**12, "3", "x", "0.5", True, None, [], {}, [1, 2], math.nan, "0ep", "2ep", "1e400")


def at(tree: Any, path: Path_) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def places() -> list[Path_]:
    """Return the place of every key of a config, and of every setting of its components."""
    found: list[Path_] = [(key,) for key in RunConfig.model_fields if key not in BY_A_PERSON]
    for path in COMPONENTS:
        names = ROLES[str(path[0])]
        found += [(*path, key) for key in settings_of(names.load(at(RIGHT, path)["name"]))]
    return found


PLACES = places()
WRITTEN = [
    *((key,) for key in RIGHT),
    *((*path, key) for path in COMPONENTS for key in at(RIGHT, path)),
]
MISTAKES = st.one_of(
    st.tuples(st.just("value"), st.sampled_from(PLACES), st.sampled_from(WRONG)),
    st.tuples(st.just("typo"), st.sampled_from(WRITTEN), st.integers(0, 20)),
    st.tuples(st.just("key"), st.sampled_from([(), *COMPONENTS]), st.sampled_from(["zzz", "seeed", "alhpa", "3"])),
    st.tuples(st.just("missing"), st.sampled_from(WRITTEN), st.none()),
    st.tuples(st.just("name"), st.sampled_from(COMPONENTS), st.sampled_from(["nothing", "", "{}x", "x{}"])),
)


def made(mistake: Mistake, tree: dict[str, Any]) -> None:
    """Make a mistake in a config, where an earlier one has left its place there."""
    kind, path, what = mistake
    try:
        held = at(tree, path[:-1]) if kind in ("value", "typo", "missing") else at(tree, path)
        if kind == "value":
            held[path[-1]] = what
        elif kind == "typo":
            word = str(path[-1])
            cut = what % len(word)
            held[word[:cut] + word[cut : cut + 1] + word[cut:]] = held.pop(word)
        elif kind == "missing":
            del held[path[-1]]
        else:
            held[what if kind == "key" else "name"] = 1 if kind == "key" else what.format(held["name"])
    except (LookupError, TypeError, AttributeError):  # an earlier mistake removed this place
        return


def faults_of(tree: dict[str, Any], folder: Path) -> tuple[Fault, ...]:
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(tree))
    try:
        check_config(str(file), (), as_json=False, pairs=False, draw=None)
    except ConfigError as error:
        return error.faults
    return ()


def followed(tree: dict[str, Any], rounds: int) -> list[Fault]:
    """Follow the first fix again and again; return the faults that are left for a person to decide."""
    with TemporaryDirectory() as folder:
        while faults := faults_of(tree, Path(folder)):
            for fault in faults:
                assert fault.fix, fault
                assert fault.ways, fault
            fault = next((fault for fault in faults if fault.remedies), None)
            if fault is None:
                assert all(decides(fault.ways[0]) for fault in faults)
                return list(faults)
            assert rounds > 0, f"more rounds than mistakes: {fault}"
            tree, rounds = change_config(tree, fault.remedies), rounds - 1
    return []


def test_the_config_without_mistakes_is_right() -> None:
    assert followed(RIGHT, 0) == []


@pytest.mark.slow
@pytest.mark.kind("8")
@pytest.mark.kind("28")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(MISTAKES, min_size=1, max_size=4, unique_by=lambda mistake: mistake[1]))
@example([("missing", ("task",), None), ("value", ("optimizer", "lr"), -1), ("typo", ("max_duration",), 2)])
@example([("name", ("optimizer",), "x{}"), ("value", ("optimizer", "momentum"), 2)])
def test_following_fixes_leads_to_a_right_config(mistakes: list[Mistake]) -> None:
    tree = deepcopy(RIGHT)
    for mistake in mistakes:
        made(mistake, tree)
    left = followed(tree, len(mistakes))
    assert all(isinstance(fault.ways[0][-1], Decide) for fault in left)


def test_values_near_to_what_was_written() -> None:
    wrong = {"seed": "3", "accumulate": 0, "precision": "bf61", "strict_order": "yes"}
    right = {"seed": 3, "accumulate": 1, "precision": "bf16", "strict_order": True}
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse({**RIGHT, **wrong})
    ways = [fault.remedies for fault in caught.value.faults]
    assert {remedy for way in ways for remedy in way} == {Write((key,), value) for key, value in right.items()}
    assert {remedy.path: remedy.value for way in ways for remedy in way if isinstance(remedy, Write)} == {
        (key,): value for key, value in right.items()
    }


@pytest.mark.kind("8")
@pytest.mark.parametrize(
    "wrong",
    [
        {"optimizer": {"name": "sgd", "lr": 1e30, "weight_decay": 1e30}},
        {"accumulate": 1000},
        {"workers": 10**6},
        {"max_duration": "0.0001ep"},
        {"task": "segmentation"},
        {"data": None},
        {"model": None},
    ],
)
def test_what_does_not_fit_the_data_or_the_machine_is_fixed_in_one_round(wrong: dict[str, Any]) -> None:
    assert followed({**RIGHT, **wrong}, 1) == []
