"""What each setting may be: defaults, ranges, strict types, and how they are written down."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pydantic
import pytest

import counterpoint as cp
from counterpoint.algorithms import EMA, CutMix, CutOut, LabelSmoothing, MixUp, Normalize, OneOf
from counterpoint.core import Algorithm
from counterpoint.plugins import ALGORITHMS
from tests.algorithms.batches import plan_for
from tests.algorithms.cases import CASES

NAN, INF = float("nan"), float("inf")

ALLOWED: list[tuple[type[Algorithm[Any]], str, list[Any]]] = [
    (MixUp, "alpha", [0, 0.2, 1, 5.0, 1e-6, 1e9]),
    (MixUp, "p", [0, 0.5, 1]),
    (MixUp, "every", [1, 7]),
    (MixUp, "start", ["0ba", "10ep", "0.5ep", "0.9dur", cp.Duration(3.0, "ba")]),
    (MixUp, "end", ["500ba", "1dur", None]),
    (MixUp, "id", ["mine", "mix_2", None]),
    (MixUp, "after", ["cutout", ("cutout", "ema"), ["cutout"], ()]),
    (CutMix, "alpha", [0, 1.0]),
    (CutMix, "per_sample", [True, False]),
    (CutOut, "length", [0.01, 0.5, 1]),
    (CutOut, "num_holes", [1, 16]),
    (CutOut, "fill", [0, -1.5, 300.0]),
    (CutOut, "space", ["bytes", "unit", "normalized", None]),
    (LabelSmoothing, "smoothing", [0, 0.1, 1]),
    (EMA, "half_life", [0.5, 100, 1e6]),
    (EMA, "decay", [0, 0.999, None]),
    (EMA, "warmup", [True, False]),
]

REFUSED: list[tuple[type[Algorithm[Any]], str, list[Any]]] = [
    (MixUp, "alpha", [-1, -1e-9, NAN, INF, "0.2", None, True]),
    (MixUp, "p", [-0.1, 1.2, NAN, "half"]),
    (MixUp, "every", [0, -1, 1.5, "2"]),
    (MixUp, "start", ["1 fortnight", "10", 10, "-1ep", "1.5ba", "2dur", "", None]),
    (MixUp, "end", ["nanep", "infba", "1e999ep", 5]),
    (MixUp, "id", ["Mine", "2mix", "mix-up", "one.two", "", 3]),
    (MixUp, "before", [3, [3], {"cutout": 1}]),
    (MixUp, "apha", [0.2]),
    (CutMix, "alpha", [-1, NAN, INF]),
    (CutMix, "per_sample", [1, "yes", None]),
    (CutOut, "length", [0, -0.5, 2, 1.0001, NAN]),
    (CutOut, "num_holes", [0, 1.0]),
    (CutOut, "fill", [NAN, INF, "mean"]),
    (CutOut, "space", ["image", "features", ""]),
    (LabelSmoothing, "smoothing", [-0.1, 1.5, NAN]),
    (EMA, "half_life", [0, -1, INF]),
    (EMA, "decay", [1, 1.5, -0.1, NAN]),
    (EMA, "warmup", [1, "no"]),
]


def each(table: list[tuple[type[Algorithm[Any]], str, list[Any]]]) -> list[Any]:
    return [
        pytest.param(algorithm, setting, value, id=f"{algorithm.name}-{setting}-{value!r}")
        for algorithm, setting, values in table
        for value in values
    ]


@pytest.mark.parametrize(("algorithm", "setting", "value"), each(ALLOWED))
def test_allowed(algorithm: type[Algorithm[Any]], setting: str, value: Any) -> None:
    given = getattr(algorithm(**{setting: value}), setting)
    if isinstance(value, str) and setting in ("start", "end"):
        assert str(given) == value
    elif setting in ("after", "before"):
        assert given == ((value,) if isinstance(value, str) else tuple(value))
    else:
        assert given == value


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "setting", "value"), each(REFUSED))
def test_refused_alike_in_python_and_in_a_mapping(algorithm: type[Algorithm[Any]], setting: str, value: Any) -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        algorithm(**{setting: value})
    assert caught.value.errors()[0]["loc"][0] == setting
    with pytest.raises(cp.CompositionError) as refused:
        plan_for([{"name": algorithm.name, setting: value}])
    (fault,) = {fault.code: fault for fault in refused.value.faults}.values()
    assert fault.code == "bad-setting"
    assert fault.algorithms == (algorithm.name,)
    assert setting in fault.message


def test_a_misspelt_setting_gets_the_nearest() -> None:
    with pytest.raises(cp.CompositionError) as caught:
        plan_for([{"name": "mixup", "apha": 0.2}])
    assert "'alpha'" in str(caught.value)


@pytest.mark.parametrize(
    ("space", "fill", "allowed"),
    [
        ("bytes", 0.0, True),
        ("bytes", 255.0, True),
        ("bytes", 0.5, False),
        ("bytes", 256.0, False),
        ("bytes", -1.0, False),
        ("unit", 0.0, True),
        ("unit", 1.0, True),
        ("unit", 1.01, False),
        ("unit", -0.01, False),
        ("normalized", -2.1, True),
    ],
)
def test_a_fill_lies_in_its_space(space: str, fill: float, allowed: bool) -> None:
    if allowed:
        assert CutOut.model_validate({"space": space, "fill": fill}).fill == fill
    else:
        with pytest.raises(pydantic.ValidationError, match="fill is"):
            CutOut.model_validate({"space": space, "fill": fill})


@pytest.mark.parametrize(
    ("cutout", "inputs", "fits"),
    [
        (CutOut(), "image", True),
        (CutOut(), "bytes", True),
        (CutOut(fill=114.0), "bytes", True),
        (CutOut(fill=0.5), "bytes", False),
        (CutOut(fill=-1.0), "bytes", False),
        (CutOut(fill=300.0), "bytes", False),
        (CutOut(fill=-1.0), "normalized", True),
        (CutOut(space="unit", fill=0.5), "unit", True),
        (CutOut(space="unit", fill=0.5), "normalized", False),
        (CutOut(space="unit", fill=0.5), "image", False),
        (CutOut(), "features", False),
        (MixUp(), "bytes", False),
        (MixUp(), "tokens", False),
        (MixUp(), "features", True),
        (CutMix(), "bytes", True),
        (CutMix(), "features", False),
    ],
    ids=str,
)
def test_inputs_that_a_method_cannot_take_are_refused(cutout: Algorithm[Any], inputs: str, fits: bool) -> None:
    stated = {"inputs": inputs, "model_inputs": {inputs}}
    if fits:
        assert plan_for([cutout], **stated).order[-1] == cutout.name
    else:
        with pytest.raises(cp.CompositionError) as caught:
            plan_for([cutout], **stated)
        assert [fault.code for fault in caught.value.faults] == ["needs-unmet"]


class TestOneOf:
    @pytest.mark.parametrize("weights", [[1], [1, 2, 3], [0, 0], [-1, 2], [NAN, 1], [INF, 1], ["1", 1], 3])
    def test_weights_that_make_no_sense(self, weights: Any) -> None:
        with pytest.raises(pydantic.ValidationError):
            OneOf(algorithms=[MixUp(), CutMix()], weights=weights)

    def test_no_branches(self) -> None:
        with pytest.raises(pydantic.ValidationError):
            OneOf(algorithms=[])

    @pytest.mark.parametrize("branch", [3, None, {"alpha": 1.0}, "mixup"])
    def test_branches_that_are_none(self, branch: Any) -> None:
        with pytest.raises(pydantic.ValidationError):
            OneOf(algorithms=[branch])

    @pytest.mark.parametrize("branch", ["mixup", {"name": "mixup"}, {"name": "mixup", "alpha": 0.2}, MixUp()])
    def test_branches_as_in_a_config(self, branch: Any) -> None:
        plan = plan_for([{"name": "one_of", "algorithms": [branch, "cutmix"], "weights": [1, 1]}])
        wanted = plan_for([OneOf(algorithms=[MixUp(), CutMix()], weights=[1.0, 1.0])])
        assert plan.fingerprint == wanted.fingerprint

    @pytest.mark.parametrize("branch", ["mixpu", {"name": "mixup", "alpha": -1}, {"name": "mixup", "apha": 1}])
    def test_a_wrong_branch_in_a_config_is_a_fault(self, branch: Any) -> None:
        with pytest.raises(cp.CompositionError) as caught:
            plan_for([{"name": "one_of", "algorithms": [branch]}])
        assert "mixup" in str(caught.value)

    def test_branches_of_one_name_need_ids(self) -> None:
        with pytest.raises(cp.CompositionError) as caught:
            plan_for([OneOf(algorithms=[MixUp(), MixUp(alpha=1.0)])])
        assert {fault.code for fault in caught.value.faults} == {"duplicate-id"}
        plan_for([OneOf(algorithms=[MixUp(), MixUp(alpha=1.0, id="strong")])])

    def test_a_choice_within_a_choice(self) -> None:
        inner = OneOf(algorithms=[MixUp(), CutMix()], id="mixers")
        plan = plan_for([OneOf(algorithms=[inner, CutOut()])])
        drawn = [plan.draws(step, cp.BatchSpec(4, (3, 8, 8), 4)) for step in range(40)]
        chosen = {tuple(name for name in step if step[name] is not None) for step in drawn}
        assert ("one_of", "one_of.cutout") in chosen
        assert ("one_of", "one_of.mixers", "one_of.mixers.mixup") in chosen


@pytest.mark.parametrize(
    "algorithm",
    [case.algorithm for cases in CASES.values() for case in cases],
    ids=lambda algorithm: f"{algorithm.name}",
)
class TestInstances:
    def test_are_frozen(self, algorithm: Algorithm[Any]) -> None:
        with pytest.raises(pydantic.ValidationError, match="frozen"):
            algorithm.p = 0.5  # type: ignore[misc]

    def test_come_back_from_the_mapping_that_names_them(self, algorithm: Algorithm[Any]) -> None:
        written = json.loads(json.dumps(algorithm.component()))
        name = written.pop("name")
        assert ALGORITHMS.load(name).model_validate(written, context={"resolve": ALGORITHMS.load}) == algorithm


COMMON = set(cp.Algorithm.model_fields)
REQUIRED = {
    "manifold_mixup": {"module": "0"},
    "normalize": {"mean": [0.5], "std": [0.25]},
    "one_of": {"algorithms": []},
}

# Of each method its settings: the default and, for a number, the range in the notation of mathematics.
SETTINGS: dict[str, dict[str, tuple[Any, str]]] = {
    "blurpool": {
        "filter_size": (3, "[2, 7]"),
        "padding": ("replicate", ""),
        "convolutions": (True, ""),
        "max_pools": (True, ""),
        "min_channels": (16, "[1, 1000000000]"),
    },
    "cutmix": {"alpha": (1.0, "[0.0, 1e12]"), "per_sample": (False, "")},
    "cutout": {
        "length": (0.5, "(0.0, 1.0]"),
        "num_holes": (1, "[1, 10000]"),
        "per_sample": (True, ""),
        "fill": (0.0, "[-1e30, 1e30]"),
        "space": (None, ""),
        "masks": ("keep", ""),
    },
    "ema": {"half_life": (100.0, "(0.0, 1e12]"), "decay": (None, "[0.0, 1.0)"), "warmup": (True, "")},
    "gradient_clipping": {"by": ("norm", ""), "threshold": (1.0, "(0.0, 1e30]")},
    "label_smoothing": {"smoothing": (0.1, "[0.0, 1.0]")},
    "manifold_mixup": {"alpha": (2.0, "[0.0, 1e12]")},
    "mixup": {"alpha": (0.2, "[0.0, 1e12]")},
    "normalize": {"dtype": (None, ""), "channels_last": (False, "")},
    "one_of": {"weights": (None, "")},
    "sam": {"rho": (0.05, "[0.0, 1e6]"), "adaptive": (False, "")},
    "selective_backprop": {"keep": (0.5, "(0.0, 1.0]"), "selection": ("sample", ""), "beta": (None, "[0.0, 1e6]")},
    "swa": {},
    "trivial_augment": {"space": ("wide", ""), "strengths": (31, "[2, 10000]")},
}


def edges(interval: str) -> Iterator[tuple[float, bool]]:
    """Give the ends of a range and the numbers next to them, each with whether it lies inside."""
    ends = [json.loads(end) for end in interval[1:-1].split(", ")]
    for end, inwards, closed in zip(
        ends, (math.inf, -math.inf), (interval[0] == "[", interval[-1] == "]"), strict=True
    ):
        whole = isinstance(end, int)
        yield end, closed
        yield (end + int(math.copysign(1, inwards)) if whole else math.nextafter(end, inwards)), True
        yield (end - int(math.copysign(1, inwards)) if whole else math.nextafter(end, -inwards)), False


@pytest.mark.kind("30")
@pytest.mark.parametrize("name", sorted(ALGORITHMS.names()))
def test_each_setting_has_its_default_and_its_range(name: str) -> None:
    algorithm = ALGORITHMS.load(name)
    required = REQUIRED.get(name, {})
    assert algorithm.model_fields.keys() - COMMON == SETTINGS[name].keys() | required.keys()
    for setting, (default, interval) in SETTINGS[name].items():
        assert algorithm.model_fields[setting].default == default, setting
        for number, inside in edges(interval) if interval else ():
            given = {**required, setting: number}
            if inside:
                assert getattr(algorithm.model_validate(given), setting) == number
            else:
                with pytest.raises(pydantic.ValidationError, match=setting):
                    algorithm.model_validate(given)


@pytest.mark.kind("30")
@pytest.mark.parametrize(
    ("mean", "std", "allowed"),
    [
        ([0.1, 0.2], [0.3, 0.4], True),
        ([0.1], [0.3, 0.4], True),
        ([0.1, 0.2], [0.3], True),
        ([0.1, 0.2], [0.3, 0.4, 0.5], False),
        ([0.1, 0.2, 0.3], [0.3, 0.4], False),
        ([], [0.3], False),
        ([0.1], [], False),
        ([-1e6, 1e6], [1e-6, 1e6], True),
        ([1.1e6], [1.0], False),
        ([-1.1e6], [1.0], False),
        ([0.5], [0.9e-6], False),
        ([0.5], [1.1e6], False),
    ],
)
def test_means_and_deviations_are_as_many_and_in_range(mean: list[float], std: list[float], allowed: bool) -> None:
    if allowed:
        assert (Normalize(mean=mean, std=std).mean, Normalize(mean=mean, std=std).std) == (tuple(mean), tuple(std))
    else:
        with pytest.raises(pydantic.ValidationError, match=r"mean|std"):
            Normalize(mean=mean, std=std)
