from __future__ import annotations

import json
from importlib.metadata import entry_points, version
from pathlib import Path

import jsonschema
import pytest

from counterpoint.algorithms.cards import card_names
from counterpoint.cli.cards import describe
from counterpoint.plugins import ALGORITHMS, DATASETS, LOSSES, MODELS, Registry
from counterpoint.trainer.config.yaml import read_config
from tests.cli.conftest import HEAD, Run

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
METHODS = "algorithms: [{name: label_smoothing, smoothing: 0.1}, mixup, cutout, ema]\n"


def test_version(run: Run) -> None:
    assert run("--version").out == f"{version('counterpoint')}\n"


def test_no_command_shows_the_help(run: Run) -> None:
    result = run()
    assert result.code == 2
    for command in ("train", "check", "list", "show", "schema"):
        assert command in result.out + result.err


@pytest.mark.parametrize(
    "arguments", [["trian"], ["train"], ["check", "x.yaml", "--fromat", "json"], ["list", "mixup"]]
)
def test_usage_errors(arguments: list[str], run: Run) -> None:
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert "Usage: counterpoint" in result.err


def test_check_shows_the_plan(folder: Path, run: Run) -> None:
    (folder / "run.yaml").write_text(HEAD + METHODS)
    result = run("check", "run.yaml", "seed=3")
    assert (result.code, result.err) == (0, "")
    for words in ("10 classes", "seed 3", "+ dense_targets (inserted)", "cutout before mixup", "around ema"):
        assert words in result.out
    assert [path.name for path in folder.iterdir()] == ["run.yaml"]


def test_check_as_json(folder: Path, run: Run) -> None:
    (folder / "run.yaml").write_text(HEAD + METHODS)
    plan = json.loads(run("check", "run.yaml", "--format", "json").out)
    assert [step["name"] for step in plan["steps"]] == ["dense_targets", "label_smoothing", "cutout", "mixup"]
    assert plan["facts"]["num_classes"] == 10


@pytest.mark.slow
def test_check_says_what_microbatches_change(folder: Path, run: Run) -> None:
    """For the methods by the plan, and for the model after it."""
    text = (HEAD + METHODS).replace("model: mlp", "model: small_cnn")
    (folder / "run.yaml").write_text(text)
    told = "accumulate: batch norm (3 layers) of the model sees each of 2 microbatches separately"
    out = run("check", "run.yaml", "accumulate=2").out
    assert "each device batch is edited whole, then split into 2" in out
    assert told in out
    assert told in json.loads(run("check", "run.yaml", "accumulate=2", "--format", "json").out)["notes"][0]
    assert "microbatches" not in run("check", "run.yaml").out


def test_check_gives_the_reason_for_every_pair(folder: Path, run: Run) -> None:
    (folder / "run.yaml").write_text(HEAD + METHODS)
    result = run("check", "run.yaml", "--pairs")
    assert (result.code, result.err) == (0, "")
    assert "cutout before mixup: single-before-across" in result.out.replace("moved, ", "")
    assert "label_smoothing before cutout: moved, commuting" in result.out or "cutout: commuting" in result.out


@pytest.mark.slow
def test_check_prints_the_draws_of_a_step(folder: Path, run: Run) -> None:
    (folder / "run.yaml").write_text(HEAD + METHODS)
    shown = [run("check", "run.yaml", "data.batch_size=3", "--draw", str(step)).out for step in (5, 5, 6)]
    draws = [[line for line in text.splitlines() if line.startswith("step ")] for text in shown]
    assert [line.partition(":")[0] for line in draws[0]] == ["step 5, mixup", "step 5, cutout"]
    assert draws[0] == draws[1]
    told = json.loads(run("check", "run.yaml", "data.batch_size=3", "--draw", "5", "--format", "json").out)["draws"]
    assert sorted(told["mixup"]["perm"]) == [0, 1, 2]
    assert f"step 5, mixup: {told['mixup']}" == draws[0][0]
    assert draws[2] != draws[0]


@pytest.mark.slow
def test_the_matrix_holds_every_pair(run: Run) -> None:
    result = run("list", "--matrix")
    assert (result.code, result.err) == (0, "")
    head, *rest = result.out.splitlines()
    rows = {line.split()[1]: line.split()[2:] for line in rest[: rest.index("")]}
    assert tuple(rows) == tuple(card_names())
    assert {len(signs) for signs in rows.values()} == {len(rows)} == {len(head.split())}
    signs = {(one, other): rows[one][place] for one in rows for place, other in enumerate(rows)}
    assert signs["mixup", "cutmix"] == "x"
    assert signs["cutout", "mixup"] == "<"
    assert signs["label_smoothing", "mixup"] == "="
    assert signs["ema", "mixup"] == "."
    mirrored = {"<": ">", ">": "<"}
    assert all(signs[other, one] == mirrored.get(sign, sign) for (one, other), sign in signs.items())
    assert max(map(len, result.out.splitlines())) <= 80


def test_check_gives_faults_as_json(folder: Path, run: Run) -> None:
    (folder / "run.yaml").write_text(f"{HEAD}algorithms: [{{name: mixup, alpha: -1}}, mixup, cutmix]\n")
    result = run("check", "run.yaml", "--format", "json")
    told = json.loads(result.out)
    assert result.code == 2
    assert told["file"] == "run.yaml"
    assert [fault["code"] for fault in told["faults"]] == ["bad-setting", "two-mixers"]
    assert told["faults"][0]["message"] == "algorithms.0.alpha = -1: is not allowed"
    assert told["faults"][1]["algorithms"] == ["mixup", "cutmix"]
    assert {"kind": "choose", "algorithms": ["mixup", "cutmix"], "choice": "one_of"} in told["faults"][1]["remedies"]
    for fault in told["faults"]:
        assert fault["message"] in result.err
        assert fault["fix"] in result.err


def test_a_wish_is_at_fault_only_where_it_names_nobody_in_the_list(folder: Path, run: Run) -> None:
    wishes = "{name: mixup, alpha: -1}, {name: cutout, before: mixup}, {name: ema, after: emu}"
    (folder / "run.yaml").write_text(f"{HEAD}algorithms: [{wishes}]\n")
    told = json.loads(run("check", "run.yaml", "--format", "json").out)
    assert [(fault["code"], fault["algorithms"]) for fault in told["faults"]] == [
        ("bad-setting", ["mixup"]),
        ("unknown-reference", ["ema", "emu"]),
    ]


def test_check_gives_a_file_that_is_no_config_as_json(folder: Path, run: Run) -> None:
    told = json.loads(run("check", "run.yaml", "--format", "json").out)
    assert [(fault["code"], fault["message"]) for fault in told["faults"]] == [("bad-config", "there is no such file")]


@pytest.mark.slow
def test_train_writes_the_run_and_goes_on(folder: Path, run: Run) -> None:
    (folder / "run.yaml").write_text(HEAD + METHODS)
    assert run("train", "run.yaml", "optimizer.lr=0.05").code == 0
    resolved = read_config(folder / "run" / "config.resolved.yaml")
    assert resolved["optimizer"]["lr"] == 0.05
    assert (folder / "run" / "model.safetensors").is_file()
    again = run("train", "run.yaml")
    assert again.code == 2
    for words in ("error: run.yaml: run_dir: 'run'", "--resume", "--overwrite"):
        assert words in again.err
    assert run("train", "run.yaml", "optimizer.lr=0.05", "--resume").code == 0
    assert run("train", "run.yaml", "--overwrite").code == 0


def test_a_run_that_fails(folder: Path, run: Run) -> None:
    (folder / "run.yaml").write_text(HEAD)
    result = run("train", "run.yaml", "optimizer.lr=1.0e+30", "max_duration=8ba")
    assert result.code == 1
    assert "Traceback" not in result.err
    assert result.err.startswith("error: ")
    assert "loss" in result.err


def test_list_names_everything_once(run: Run) -> None:
    head, *rows = (line.split() for line in run("list").out.splitlines())
    assert head == ["kind", "name", "package", "version"]
    points = [point for group in (ALGORITHMS, LOSSES, MODELS, DATASETS) for point in entry_points(group=group.group)]
    registered = [(point.group.split(".")[1], point.name, point.dist.name, point.dist.version) for point in points]
    assert sorted(map(tuple, rows)) == sorted(registered)
    assert len(rows) >= 15


@pytest.mark.slow
def test_list_check(run: Run) -> None:
    result = run("list", "--check")
    assert result.code == 0
    assert {line.split()[-1] for line in result.out.splitlines()[1:]} == {"ok"}


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that registers an algorithm that works and one whose module exits."""
    site = tmp_path / "site"
    info = site / "outside-2.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 2.5\n")
    (info / "entry_points.txt").write_text(
        "[counterpoint.algorithms]\nzoom = outside_zoom:Zoom\nbroken = outside_broken:Broken\n"
    )
    (site / "outside_broken.py").write_text("raise SystemExit('no such driver')\n")
    (site / "outside_zoom.py").write_text(
        "import counterpoint as cp\n"
        "from pydantic import Field\n"
        "class Zoom(cp.Algorithm[None], name='zoom'):\n"
        "    '''Zoom into each image.\n\n    >>> Zoom()\n    '''\n"
        "    factor: float = Field(default=2.0, ge=1, description='how far to zoom')\n"
        "    tasks = frozenset({'multiclass'})\n"
        "    @cp.transform(inputs=cp.IMAGES, law=cp.Law.DISPLACE)\n"
        "    def apply(self, batch, draws):\n"
        "        return batch\n"
    )
    monkeypatch.syspath_prepend(site)
    return site


@pytest.mark.slow
def test_a_broken_plugin_is_listed_and_harms_nobody(plugin: Path, run: Run) -> None:
    assert "broken" in run("list").out
    result = run("list", "--check")
    assert result.code == 1
    (broken,) = [line for line in result.out.splitlines() if not line.endswith("ok")][1:]
    for words in ("outside", "2.5", "SystemExit: no such driver"):
        assert words in broken
    schema = run("schema")
    assert schema.code == 0
    assert "left out: the algorithm 'broken' of outside 2.5" in schema.err
    assert {"zoom", "mixup"} <= set(json.loads(schema.out)["$defs"]["algorithms"]["anyOf"][0]["enum"])
    result = run("show", "broken")
    assert result.code == 2
    assert "Traceback" not in result.err


def test_a_broken_plugin_in_a_config(plugin: Path, folder: Path, run: Run) -> None:
    (folder / "run.yaml").write_text(f"{HEAD}algorithms: [mixup, broken]\n")
    result = run("check", "run.yaml")
    assert result.code == 2
    for words in ("[broken-plugin] algorithms.1", "outside 2.5", "no such driver"):
        assert words in result.err


@pytest.mark.slow
def test_two_packages_with_one_name(plugin: Path, run: Run) -> None:
    info = plugin / "rival-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rival\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[counterpoint.algorithms]\nzoom = rival_zoom:Zoom\n")
    rows = [line.split() for line in run("list").out.splitlines() if "zoom" in line]
    assert [row[2] for row in rows] == ["outside", "rival"]
    checked = run("list", "--check")
    assert checked.code == 1
    assert checked.out.count("the algorithm name 'zoom' is registered twice, by outside 2.5") == 2
    assert run("show", "zoom").code == 2


def test_show_tells_what_a_foreign_method_declares(plugin: Path, run: Run) -> None:
    result = run("show", "zoom")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        "# zoom",
        "",
        "Registered as algorithm by outside 2.5 (`outside_zoom:Zoom`).",
        "",
        "Zoom into each image.",
        "",
        "## Hyperparameters",
        "",
        "| name | default | allowed | meaning |",
        "| --- | --- | --- | --- |",
        "| `factor` | `2.0` | a number, at least 1 | how far to zoom |",
        '| `start` | `"0ba"` | such as 10ep, 500ba, 0.9dur | first batch on which it acts |',
        "| `end` | `null` | such as 10ep, 500ba, 0.9dur or null | first batch on which it acts no more |",
        "| `every` | `1` | a whole number, at least 1 | acts on each n-th batch, counted from start |",
        "| `p` | `1.0` | a number, at least 0, at most 1 | probability of acting on a batch |",
        "| `after` | `[]` | text or a list | ids of methods that must come earlier |",
        "| `before` | `[]` | text or a list | ids of methods that must come later |",
        "| `id` | `null` | text, of the form ^[a-z][a-z0-9_]*$ or null | its name within this composition |",
        "",
        "## What it declares",
        "",
        "- `apply` edits the batch: inputs of kind bytes, image, normalized, unit.",
        "- It has a meaning for these tasks: multiclass.",
    ]


def test_show_names_the_nearest(run: Run) -> None:
    result = run("show", "mixpu")
    assert (result.code, result.out) == (2, "")
    assert result.err == "error: nothing is registered under the name 'mixpu'; did you mean 'mixup'?\n"


HEADINGS = [
    "Tags",
    "TL;DR",
    "Attribution",
    "Hyperparameters",
    "Example effects",
    "Implementation details",
    "Suggested hyperparameters",
    "Considerations",
    "Composability",
    "Code",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", card_names())
def test_show_prints_the_card_of_a_built_in_method(name: str, run: Run) -> None:
    result = run("show", name)
    assert (result.code, result.err) == (0, "")
    assert [line[3:] for line in result.out.splitlines() if line.startswith("## ")] == HEADINGS
    assert "<!--" not in result.out
    for setting in ALGORITHMS.load(name).model_fields:
        assert f"| `{setting}` |" in result.out
    for other in card_names():
        assert f"| `{other}`" in result.out.partition("## Composability")[2]


@pytest.mark.slow
def test_show_is_rich_on_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    out = run("show", "mixup").out
    assert "MixUp" in out
    assert "# MixUp" not in out
    assert "| --- |" not in out


@pytest.mark.slow
@pytest.mark.parametrize("registry", [ALGORITHMS, LOSSES, MODELS, DATASETS], ids=lambda registry: registry.group)
def test_everything_built_in_can_be_described(registry: Registry[object]) -> None:
    for entry in registry.entries():
        text = describe(entry)
        assert text.startswith(f"# {entry.name}\n")
        assert ">>>" not in text


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    from counterpoint.trainer.config.json_schema import config_schema

    made, broken = config_schema()
    assert broken == ()
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_schema_takes_the_examples(path: Path, schema: jsonschema.Draft202012Validator) -> None:
    schema.validate(read_config(path))


GOOD = [
    "algorithms=[{name: one_of, algorithms: [mixup, {name: cutmix, alpha: 0.5}], weights: [1, 1]}]",
    "algorithms=[{name: ema, start: 1ep, p: 0.5, id: slow}]",
    "algorithms=[cutout, {name: mixup, after: cutout, before: [ema]}, ema]",
    "optimizer=adamw",
    "data={name: image_folder, root: images}",
    "loss={name: cross_entropy, weight: [1, 2.5]}",
]
BAD = [
    "algorithms=[{name: mixup, alhpa: 0.1}]",
    "algorithms=[{name: mixup, alpha: -1}]",
    "algorithms=[mixpu]",
    "algorithms=[{name: one_of, algorithms: [{name: mixup, alhpa: 0.1}]}]",
    "algorithms=[{name: one_of, algorithms: [null]}]",
    "algorithms=[one_of]",
    "algorithms=[{name: ema, start: 1 fortnight}]",
    "algorithms=[{name: ema, after: 3}]",
    "algorithms=[{name: ema, before: [null]}]",
    "algorithms=mixup",
    "optimizer={name: sgd, lrr: 0.1}",
    "optimizer={name: sgd, lr: 0}",
    "data=image_folder",
    "model={width: 3}",
    "seeed=1",
    "precision=fp8",
]


@pytest.mark.slow
@pytest.mark.parametrize("override", GOOD)
def test_the_schema_takes_what_the_config_takes(override: str, schema: jsonschema.Draft202012Validator) -> None:
    schema.validate(read_config(EXAMPLES[1], [override]))


@pytest.mark.parametrize("override", BAD)
def test_the_schema_finds_what_the_config_refuses(override: str, schema: jsonschema.Draft202012Validator) -> None:
    assert not schema.is_valid(read_config(EXAMPLES[1], [override]))
