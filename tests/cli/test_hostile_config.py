"""Any config: an answer in the user's terms, with the file and the key, and nothing is written."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from counterpoint import ConfigError
from counterpoint.cli import main
from counterpoint.plugins import ALGORITHMS, LOSSES, MODELS
from counterpoint.trainer.config.components import ROLES
from counterpoint.trainer.config.yaml import read_config
from counterpoint.trainer.config.yaml_document import dump_text, parse_text
from tests.cli.conftest import HEAD, Run

pytestmark = pytest.mark.kind("27")

BIG = [10**9, 10**12, 2**63, 10**40, 10**400, 1e30, 1e38, 1e39, 1e300, 1.8e308]
NUMBERS = [0, 1, -1, 2, 3, 0.5, 1e-320, 1e-300, -0.0, *BIG, *(-number for number in BIG), float("inf"), float("nan")]
TEXTS = ["", "x", "~", "~/x", "~nobody-here/x", "1ep", "１ep", "1e300ep", "0.5dur", "017", "1:30", "a\0b", "é" * 300]
TEXTS += [
    "/" + "x/" * 3000,
    "\x1b[31m",
    "a\nb",
    "mixup",
    "sgd",
    "digits",
    "9" * 5000,
    "{",
    "../..",
    "nan",
    "true",
    "null",
]
small = st.integers(-300, 300)  # a network of a random width could take all the memory there is
scalars = st.one_of(
    st.none(), st.booleans(), st.sampled_from(NUMBERS), st.sampled_from(TEXTS), small, st.floats(), st.text(max_size=8)
)


def _settings(role: str) -> Iterator[tuple[str, list[str]]]:
    for name in ROLES[role].names():
        if name != "image_folder":
            yield name, list(ROLES[role].load(name).model_fields)


COMPONENTS = {role: list(_settings(role)) for role in ROLES}
junk = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def components(role: str) -> st.SearchStrategy[Any]:
    def of(named: tuple[str, list[str]]) -> st.SearchStrategy[Any]:
        name, keys = named
        values = st.one_of(scalars, st.lists(scalars, min_size=1, max_size=3), junk)
        return st.dictionaries(st.sampled_from(keys), values, max_size=2).map(lambda held: {"name": name, **held})

    return st.sampled_from(COMPONENTS[role]).flatmap(of)


def configs() -> st.SearchStrategy[dict[str, Any]]:
    base = parse_text(HEAD, "head")
    keys = ["seed", "max_duration", "run_dir", "precision", "accumulate", "eval_every", "checkpoint_every", "workers"]
    keys += ["strict_order", "trackers", "plugins", "compile", "task", *ROLES]
    parts = {role: components(role) for role in ROLES if role != "algorithms"}
    parts["algorithms"] = st.lists(components("algorithms"), max_size=2)
    plain = st.dictionaries(st.sampled_from(keys) | st.text(max_size=5), junk, max_size=2)
    return st.fixed_dictionaries({}, optional=parts).flatmap(
        lambda part: plain.map(lambda more: {**base, **part, **more}) | st.just({**base, **part})
    )


def tree(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(config=configs())
def test_any_config_is_a_plan_or_a_message(config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("config")
    home = os.getcwd()
    os.chdir(folder)
    try:
        Path("run.yaml").write_text(dump_text(config), encoding="utf-8", errors="surrogatepass")
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["check", "run.yaml"])
        assert code in (0, 2), err.getvalue()
        assert tree(folder) == {str(folder / "run.yaml")}
        if code == 2:
            assert err.getvalue().startswith("error: run.yaml: ")
            assert len(err.getvalue()) < 20_000
            assert out.getvalue() == ""
    finally:
        os.chdir(home)


def plain_values() -> st.SearchStrategy[Any]:
    words = st.text(max_size=12) | st.sampled_from([text for text in TEXTS if len(text) < 4000])
    numbers = st.integers() | st.floats(allow_nan=False)
    return st.recursive(
        st.none() | st.booleans() | numbers | words,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
        max_leaves=12,
    )


@pytest.mark.slow
@given(value=st.dictionaries(st.text(max_size=6), plain_values(), max_size=4))
def test_what_is_dumped_is_read_as_the_same(value: dict[str, Any]) -> None:
    text = dump_text(value)
    assume("${" not in text and "???" not in text)
    assert parse_text(text, "here") == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("017", "017"),
        ("0o17", "0o17"),
        ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("2020-01-01", "2020-01-01"),
        ("1_000", 1000),
        ("0x1F", 31),
        ("-3", -3),
        ("+3", 3),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("'5'", "5"),
        ("5ep", "5ep"),
        ("１", "１"),
        ("yes", True),
        ("Off", False),
        ("Null", None),
        ("nan", "nan"),
        ("-.inf", float("-inf")),
    ],
)
def test_values_without_quotes(text: str, value: Any) -> None:
    read = parse_text(text, "here")
    assert (read, type(read)) == (value, type(value))


def test_merged_mappings() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], x: 3}\nd: {'<<': 1}"
    assert parse_text(text, "here")["c"] == {"x": 3, "y": 1, "z": 2}
    assert parse_text(text, "here")["d"] == {"<<": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: " + "9" * 5000, ["line 1", "seed", "a value of 5000 characters"]),
        ("a: !!str 5", ["line 1", "a", "tags are not allowed"]),
        ("? [a]\n: b", ["line 1", "a key that is no single value"]),
        ("a: *b", ["line 1", "undefined alias 'b'"]),
        ("a: {<<: 3}", ["line 1", "`<<` takes a mapping"]),
        ("a: {<<: [1]}", ["line 1", "`<<` takes a mapping"]),
        ("a:\n  b:\n    c: ${x}", ["line 3", "a.b.c", "interpolation"]),
        ("a: [" * 40, ["line 1", "nested too deeply"]),
        ("a: 1\n...\nb: 2", ["line 3", "not YAML"]),
        ("a: \x07", ["not YAML"]),
    ],
)
def test_documents_that_are_refused(text: str, said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_text(text, "run.yaml")
    for words in ["run.yaml: ", *said]:
        assert words in str(caught.value)


@pytest.mark.slow
def test_many_keys_are_no_alias_bomb_and_take_little_time(folder: Path, run: Run) -> None:
    (folder / "run.yaml").write_text(HEAD + "".join(f"key{number}: [1, 2]\n" for number in range(100_000)))
    start = time.process_time()
    result = run("check", "run.yaml")
    assert time.process_time() - start < 15
    assert result.code == 2
    assert "51 faults in the config" in result.err
    assert "[bad-setting] key0: there is no such key" in result.err
    assert "99950 faults more" in result.err


def test_aliases_are_counted_as_what_they_stand_for() -> None:
    thousand = f"a: &a [{', '.join('1' * 999)}]\n"  # and the list itself
    few = thousand + "".join(f"b{number}: *a\n" for number in range(10))
    assert sum(map(len, parse_text(few, "here").values())) == 11 * 999
    with pytest.raises(ConfigError, match="line 12: c: aliases multiply to more than 10000 values"):
        parse_text(few + "c: *a\n", "here")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("run_dir: ~nobody-here/x", ["run_dir", "home of a user"]),
        (f"run_dir: {'x' * 300}", ["run_dir", "too long"]),
        (f"run_dir: {'x/' * 2000}", ["run_dir", "too long"]),
        ('run_dir: "a\\0b"', ["run_dir", "NUL"]),
        ("seed: 1:30", ['seed = "1:30"', "a whole number"]),
        ("seed: 017", ['seed = "017"', "a whole number"]),
        ("eval_every: １ep", ["eval_every", "no duration"]),
        ("eval_every: 1e13ep", ["eval_every", "longer than any run", "1e12ep"]),
        ("optimizer: {name: sgd, lr: 1e300}", ["optimizer.lr = 1e+300", "at most 1e+30"]),
        ("optimizer: {name: adamw, weight_decay: 1e300}", ["optimizer.weight_decay = 1e+300", "at most 1e+30"]),
        ("algorithms: [{name: cutout, fill: 1e300}]", ["algorithms.0.fill = 1e+300", "at most 1e+30"]),
        ("algorithms: [{name: cutout, num_holes: 1000000000}]", ["algorithms.0.num_holes", "at most 10000"]),
        (
            "algorithms: [{name: one_of, algorithms: [mixup, cutmix], weights: [1e308, 1e308]}]",
            ["algorithms.0.weights.0 = 1e+308", "at most 1e+30"],
        ),
        ("algorithms: [{name: sam, rho: 1e39}]", ["algorithms.0.rho = 1e+39", "at most 1e+06"]),
        (f"algorithms: [{', '.join(['ema'] * 101)}]", ["algorithms", "at most 100 long"]),
        ("loss: {name: cross_entropy, ignore_index: 10000000000000000000}", ["loss.ignore_index", "below 9.2"]),
    ],
)
def test_values_beyond_reason(line: str, said: list[str], folder: Path, run: Run) -> None:
    key = line.partition(":")[0]
    kept = "\n".join(each for each in HEAD.splitlines() if not each.startswith(f"{key}:"))
    (folder / "run.yaml").write_text(f"{kept}\n{line}\n")
    result = run("train", "run.yaml")
    assert (result.code, result.out) == (2, "")
    for words in ["run.yaml", *said]:
        assert words in result.err
    assert tree(folder) == {str(folder / "run.yaml")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model={name: mlp, hidden: 1000000000}", ["model: ", "GiB", "make it smaller"]),
        ("model={name: mlp, hidden: 1000000000000}", ["model.hidden", "at most 1e+09"]),
        ("model={name: mlp, layers: 100000}", ["model.layers", "at most 1000"]),
        ("optimizer={name: sgd, lr: 1e30, weight_decay: 1e30}", ["optimizer: ", "too large together"]),
        ("optimizer={name: adamw, lr: 1e30, weight_decay: 1e30}", ["optimizer: ", "too large together"]),
        ("accumulate=129", ["accumulate is 129", "more than 128 parts", "`accumulate: 128`"]),
        ("workers=100000", ["workers: 100000 processes", "cores"]),
        ("seed=1\nworkers: 3", ["override", "several lines"]),
        ("model=mlp\n---\nmlp", ["override", "a single document"]),
        ("run_dir=a\nb", ["override", "several lines"]),
    ],
)
def test_what_only_shows_with_the_data(override: str, said: list[str], folder: Path, run: Run) -> None:
    (folder / "run.yaml").write_text(HEAD)
    for command in ("check", "train"):
        result = run(command, "run.yaml", override)
        assert (result.code, result.out) == (2, ""), result.err
        for words in ["run.yaml", *said]:
            assert words in result.err
    assert tree(folder) == {str(folder / "run.yaml")}


def test_a_home_is_the_users(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder / "home"))
    (folder / "run.yaml").write_text(HEAD)
    assert run("train", "run.yaml", "run_dir=~/runs/1").code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["home", "run.yaml"]
    assert (folder / "home" / "runs" / "1" / "model.safetensors").is_file()
    assert read_config(folder / "home" / "runs" / "1" / "config.resolved.yaml")["run_dir"] == f"{folder}/home/runs/1"


@pytest.mark.slow
@pytest.mark.kind("29")
@pytest.mark.parametrize("command", ["check", "train"])
def test_a_batch_larger_than_the_data_is_said(command: str, folder: Path, run: Run) -> None:
    (folder / "run.yaml").write_text(HEAD)
    result = run(command, "run.yaml", "data.batch_size=1438")
    assert result.code == 0
    assert "data.batch_size: 1438 is more than the data has; each batch holds 1437 examples" in result.out
    assert "is more than the data has" not in run("check", "run.yaml", "data.batch_size=1437").out


@pytest.mark.slow
@pytest.mark.parametrize("registry", [ALGORITHMS, LOSSES, MODELS], ids=lambda registry: registry.noun)
def test_every_number_has_bounds(registry: Any) -> None:
    """On both sides, in the schema: of the built-in ones, a list's numbers included."""

    def unbounded(schema: Any, place: str) -> Iterator[str]:
        if isinstance(schema, list):
            for item in schema:
                yield from unbounded(item, place)
        elif isinstance(schema, dict):
            if schema.get("type") in ("number", "integer"):
                sides = [{"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}]
                if not all(side & schema.keys() for side in sides):
                    yield place
            for key, held in schema.items():
                yield from unbounded(held, f"{place}.{key}")

    for entry in registry.entries():
        if entry.package == "counterpoint":
            assert list(unbounded(registry.load(entry.name).model_json_schema(), entry.name)) == []


def test_json_faults_of_a_hostile_key(folder: Path, run: Run) -> None:
    (folder / "run.yaml").write_text(HEAD + '"\\e[31m\\n": 1\n')
    result = run("check", "run.yaml", "--format", "json")
    assert result.code == 2
    assert "\x1b" not in result.err
    assert json.loads(result.out)["faults"][0]["code"] == "bad-setting"
