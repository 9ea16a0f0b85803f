from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

import counterpoint as cp
from counterpoint import BrokenPluginError, DuplicateNameError, PluginError, UnknownNameError
from counterpoint.plugins import ALGORITHMS, DATASETS, LOSSES, MODELS, Entry, Registry, check, entries

GROUP = "counterpoint.algorithms"
SETTINGS = "from pydantic import BaseModel\nclass Thing(BaseModel):\n    def build(self):\n        return 1\n"
METHOD = """
from counterpoint import Algorithm
from counterpoint import transform
from counterpoint import Law
from counterpoint import CONTINUOUS

class Grey(Algorithm, name="grey"):
    @transform(inputs=CONTINUOUS, law=Law.RECOLOR)
    def apply(self, batch, draws):
        return batch
"""


def run_python(code: str, site: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(site), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_built_in_names_come_through_the_entry_points() -> None:
    assert {"mixup", "cutmix", "cutout", "label_smoothing", "ema", "one_of"} <= set(ALGORITHMS.names())
    assert {"cross_entropy", "bce", "mse"} <= set(LOSSES.names())
    assert {"small_cnn", "mlp", "resnet18", "resnet50"} <= set(MODELS.names())
    assert {"digits", "image_folder"} <= set(DATASETS.names())
    assert {entry.package for entry in entries() if entry.value.startswith("counterpoint.")} == {"counterpoint"}


@pytest.mark.parametrize("entry", [e for e in entries() if e.package == "counterpoint"], ids=lambda e: e.value)
def test_every_built_in_is_sound(entry: Entry) -> None:
    assert check(entry) is None


def test_listing_imports_nothing(install) -> None:
    site = install("loud", {GROUP: {"loud": "loud:Loud"}}, {"loud": "raise SystemExit('imported')"})
    code = """
import sys
from counterpoint.plugins import ALGORITHMS, entries
print(*[f"{e.group} {e.name} {e.package} {e.version} {e.value}" for e in entries() if e.name == "loud"])
assert "loud" in ALGORITHMS.names() and "mixup" in ALGORITHMS.names()
heavy = {"torch", "numpy", "pydantic", "stevedore", "loud", "counterpoint.algorithms"} & set(sys.modules)
assert not heavy, heavy
"""
    done = run_python(code, site)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{GROUP} loud loud 1.0 loud:Loud"


def test_loading_imports_the_named_module_alone(install) -> None:
    install(
        "pair",
        {"counterpoint.models": {"left": "left_module:Thing", "right": "right_module:Thing"}},
        {"left_module": SETTINGS, "right_module": SETTINGS},
    )
    assert MODELS.load("left").__module__ == "left_module"
    assert "right_module" not in sys.modules


def test_a_package_installed_later_is_found(install) -> None:
    assert "late" not in MODELS.names()
    install("late", {"counterpoint.models": {"late": "late_module:Thing"}}, {"late_module": SETTINGS})
    assert "late" in MODELS.names()
    assert MODELS.load("late")().build() == 1


def test_a_package_installed_between_two_compositions_is_found(install) -> None:
    with pytest.raises(cp.CompositionError, match="no algorithm is registered under the name 'grey'"):
        cp.compose(["cutout", "grey"], task="multiclass")
    install("grey-images", {GROUP: {"grey": "grey_images:Grey"}}, {"grey_images": METHOD})
    assert set(cp.compose(["cutout", "grey"], task="multiclass").order) == {"cutout", "grey"}


def test_the_installed_packages_are_read_once_for_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    read, groups = importlib.metadata.entry_points, []
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: groups.append(group) or read(group=group))
    choice = {"name": "one_of", "algorithms": ["mixup", "cutmix"]}
    cp.compose(["cutout", "label_smoothing", choice, "ema"], task="multiclass", num_classes=10)
    assert groups == [GROUP]
    cp.compose([ALGORITHMS.loader()("ema")()], task="multiclass")
    assert groups == [GROUP, GROUP]  # read for the loader, and not for an instance


def test_an_algorithm_from_a_plugin_loads(install) -> None:
    install("grey-images", {GROUP: {"grey": "grey_images:Grey"}}, {"grey_images": METHOD})
    assert ALGORITHMS.load("grey").name == "grey"


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(
        UnknownNameError, match=r"no algorithm is registered under the name 'mixpu'; did you mean 'mixup'"
    ):
        ALGORITHMS.load("mixpu")
    with pytest.raises(UnknownNameError, match=r"known: .*bce.*cross_entropy.*mse"):
        LOSSES.load("zzzzzz")
    with pytest.raises(UnknownNameError, match="none is known"):
        Registry("counterpoint.nothing", "nothing").load("x")


@pytest.mark.parametrize("name", ["os:system", "counterpoint.algorithms.mixup:MixUp", "subprocess.run", ""])
def test_a_dotted_path_is_never_imported(name: str) -> None:
    with pytest.raises(UnknownNameError):
        ALGORITHMS.load(name)


def test_two_packages_with_one_name(install) -> None:
    for package in ("first-thing", "second-thing"):
        module = package.replace("-", "_")
        install(package, {"counterpoint.models": {"twin": f"{module}:Thing"}}, {module: SETTINGS})
    with pytest.raises(
        DuplicateNameError, match=r"'twin' is registered twice, by first-thing 1.0 .* and second-thing 1.0"
    ):
        MODELS.load("twin")
    assert [e.package for e in MODELS.entries() if e.name == "twin"] == ["first-thing", "second-thing"]
    assert MODELS.names().count("twin") == 1
    assert "first_thing" not in sys.modules
    assert MODELS.load("mlp").__name__ == "MLP"


def test_a_plugin_with_the_name_of_a_built_in_never_takes_its_place(install) -> None:
    install("thief", {GROUP: {"mixup": "thief:Grey"}}, {"thief": METHOD})
    with pytest.raises(DuplicateNameError, match=r"by counterpoint .* and thief 1\.0"):
        ALGORITHMS.load("mixup")


def test_a_package_seen_twice_on_the_path_is_one_package(install) -> None:
    for folder in ("here", "there"):
        install(
            "echo", {"counterpoint.models": {"echo": "echo_module:Thing"}}, {"echo_module": SETTINGS}, folder=folder
        )
    assert [e.name for e in MODELS.entries()].count("echo") == 1
    assert MODELS.load("echo")().build() == 1


BREAKAGES = {
    "import": ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
    "syntax": ("def broken(:", "SyntaxError"),
    "raise": ("raise ValueError('no licence')", "ValueError: no licence"),
    "assert": ("assert 1 == 2, 'one is not two'", "AssertionError: one is not two"),
    "exit": ("import sys\nsys.exit(3)", "SystemExit: 3"),
    "base": ("class Odd(BaseException): ...\nraise Odd('odd')", "Odd: odd"),
    "missing": ("x = 1", "AttributeError: .*has no attribute 'Thing'"),
    "warning": ("import warnings\nwarnings.warn('old', UserWarning)\nThing = 1", "UserWarning: old"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BREAKAGES)
def test_a_broken_plugin_harms_nobody_else(install, kind: str) -> None:
    source, reason = BREAKAGES[kind]
    install("broken-one", {GROUP: {"broken": f"broken_{kind}:Thing"}}, {f"broken_{kind}": source})
    entry = Entry(GROUP, "broken", "broken-one", "1.0", f"broken_{kind}:Thing")
    assert entry in entries()
    with pytest.raises(BrokenPluginError, match=reason) as caught:
        ALGORITHMS.load("broken")
    assert "'broken' of broken-one 1.0" in str(caught.value)
    assert caught.value.__cause__ is not None
    error = check(entry)
    assert isinstance(error, BrokenPluginError)
    assert LOSSES.load("mse").__name__ == "MeanSquaredError"


def test_an_interrupt_while_a_plugin_is_imported_stops_the_program(install) -> None:
    install("slow-import", {GROUP: {"slow": "slow_import:Thing"}}, {"slow_import": "raise KeyboardInterrupt"})
    with pytest.raises(KeyboardInterrupt):
        ALGORITHMS.load("slow")


def test_a_malformed_entry_point(install) -> None:
    install("malformed", {GROUP: {"odd": "not a module"}}, {})
    with pytest.raises(BrokenPluginError, match="'module:object'"):
        ALGORITHMS.load("odd")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("Thing = 3", "it is 3, no subclass of counterpoint.Algorithm"),
        ("class Thing: ...", "no subclass of counterpoint.Algorithm"),
        (METHOD + "Thing = Grey()", "no subclass of counterpoint.Algorithm"),
        (METHOD + "Thing = Grey", r"the class calls itself 'grey'; write class Grey\(Algorithm, name='wrong'\)"),
    ],
)
def test_an_algorithm_of_another_type_or_name(install, source: str, reason: str) -> None:
    install("mistaken", {GROUP: {"wrong": "mistaken:Thing"}}, {"mistaken": source})
    with pytest.raises(BrokenPluginError, match=reason):
        ALGORITHMS.load("wrong")


@pytest.mark.parametrize("registry", [LOSSES, MODELS, DATASETS], ids=lambda registry: registry.noun)
@pytest.mark.parametrize("source", ["def Thing(): ...", "class Thing: ...", "from pydantic import BaseModel as Thing"])
def test_settings_of_another_type(install, registry: Registry[object], source: str) -> None:
    install("mistaken", {registry.group: {"wrong": "mistaken:Thing"}}, {"mistaken": source})
    with pytest.raises(BrokenPluginError, match="a pydantic model of its settings with a method 'build'"):
        registry.load("wrong")


def test_checking_a_duplicate_and_a_name_gone(install) -> None:
    for package in ("one-more", "yet-one-more"):
        module = package.replace("-", "_")
        install(package, {"counterpoint.models": {"twin": f"{module}:Thing"}}, {module: SETTINGS})
    errors = [check(entry) for entry in entries() if entry.name == "twin"]
    assert [type(error) for error in errors] == [DuplicateNameError, DuplicateNameError]
    gone = check(Entry("counterpoint.models", "gone", "nobody", "1", "x:y"))
    assert isinstance(gone, PluginError)


@pytest.mark.slow
def test_loading_writes_nothing_under_the_home_folder(install, tmp_path: Path) -> None:
    site = install("thing", {"counterpoint.models": {"thing": "thing_module:Thing"}}, {"thing_module": SETTINGS})
    home = tmp_path / "home"
    home.mkdir()
    code = "from counterpoint.plugins import MODELS; print(MODELS.load('thing')().build())"
    done = run_python(code, site, HOME=str(home), XDG_CACHE_HOME=str(home / "cache"))
    assert done.stdout.strip() == "1", done.stderr
    assert list(home.iterdir()) == []


@pytest.mark.kind("30")
def test_entries_are_sorted_by_name_whatever_the_order_of_installation(install) -> None:
    for package in ("zebra", "ant"):
        names = {f"{package}_{letter}": f"{package}_module:Thing" for letter in "cab"}
        install(package, {"counterpoint.models": names}, {f"{package}_module": SETTINGS})
    listed = [entry.name for entry in MODELS.entries()]
    assert listed == sorted(listed)
    assert {"ant_a", "ant_b", "ant_c", "zebra_a", "zebra_b", "zebra_c"} < set(listed)
    assert list(MODELS.names()) == sorted(set(listed))


@pytest.mark.kind("30")
@pytest.mark.parametrize(
    ("source", "reason"), [("raise OSError", "OSError"), ("raise OSError('a: b')", "OSError: a: b")]
)
def test_the_reason_of_a_broken_import_ends_without_a_colon(install, source: str, reason: str) -> None:
    install("mute", {"counterpoint.models": {"mute": "mute_module:Thing"}}, {"mute_module": source})
    with pytest.raises(BrokenPluginError, match=rf"cannot be loaded: {reason}; "):
        MODELS.load("mute")
