"""The documentation: what is made from the code is fresh, the examples run, and links lead somewhere."""

from __future__ import annotations

import logging
import re
import tomllib
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from counterpoint.algorithms.cards import card_names, read_card
from counterpoint.core.faults import CODES
from counterpoint.plugins import ALGORITHMS

ROOT = Path(__file__).resolve().parents[2]
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
LARGEST_PICTURE = 60_000
STALE = "is stale: run `python docs/build.py`"


def load_build() -> ModuleType:
    spec = spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BUILD = load_build()
DOCUMENTS: dict[str, tuple[Path, Callable[[], str]]] = {
    str(path.relative_to(ROOT)): (path, make) for path, make in BUILD.documents()
}
PAGES = {name: path for name, (path, _) in DOCUMENTS.items()}


def text_of(name: str) -> str:
    return PAGES[name].read_text(encoding="utf-8")


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def headings(text: str, level: int = 2) -> list[str]:
    plain = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(rf"^{'#' * level} (.+)$", plain, re.MULTILINE)


def anchors(text: str) -> set[str]:
    found = [heading for level in (1, 2, 3) for heading in headings(text, level)]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.slow
@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_page_holds_what_its_examples_print_and_what_the_code_says(name: str) -> None:
    path, make = DOCUMENTS[name]
    assert path.exists(), f"{name} {STALE}"
    assert path.read_text(encoding="utf-8") == make(), f"{name} {STALE}"


def test_a_stale_output_is_noticed() -> None:
    page = "```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n"
    assert BUILD.run_examples(page, "page") == page.replace("3", "2")
    for wrong in ("```python\nprint(1)\n```\n", "```python\nx = 1\n```\n\n```text\n1\n```\n"):
        with pytest.raises(ValueError, match="a text block after it must show it"):
            BUILD.run_examples(wrong, "page")


@pytest.mark.parametrize("handled", [False, True])
def test_a_page_holds_what_is_printed_and_not_what_is_logged(handled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a handler, as where docs/build.py runs alone, Python writes warnings to stderr."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler()] if handled else [])
    code = "import logging\nlogging.getLogger('counterpoint.trainer').warning('logged')\nprint('printed')\n"
    page = f"```python\n{code}```\n\n```text\nprinted\n```\n"
    assert BUILD.run_examples(page, "page") == page


def test_an_unknown_thing_to_make_is_named() -> None:
    with pytest.raises(ValueError, match="did you mean 'codes'"):
        BUILD.refreshed("<!-- made: code -->\n<!-- end -->\n", "page")


def test_every_built_in_method_has_a_card() -> None:
    assert set(card_names()) == {entry.name for entry in ALGORITHMS.entries() if entry.package == "counterpoint"}


@pytest.mark.parametrize("name", card_names())
def test_all_cards_have_the_same_headings(name: str) -> None:
    assert headings(read_card(name)) == HEADINGS
    assert headings(text_of(f"docs/methods/{name}.md")) == HEADINGS


@pytest.mark.parametrize("name", card_names())
def test_a_card_has_its_table_its_verdicts_a_paper_and_a_picture(name: str) -> None:
    page = text_of(f"docs/methods/{name}.md")
    fields = set(ALGORITHMS.load(name).model_fields)
    settings = page.split("\n## Hyperparameters\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", settings, re.MULTILINE)) == fields
    verdicts = page.split("\n## Composability\n")[1].split("\n## ")[0]
    assert f"the row `{name}` of [the matrix](../matrix.md)" in verdicts
    assert "\n|" not in verdicts
    assert re.search(rf"^ *\d+ {name} ", text_of("docs/matrix.md"), re.MULTILINE)
    assert "arxiv.org" in page or "doi.org" in page
    assert f"](pictures/{name}.png)" in page
    assert "<!-- hyperparameters" not in page
    assert "<!-- composability" not in page


@pytest.mark.parametrize("name", card_names())
def test_a_picture_is_a_small_png(name: str) -> None:
    picture = (ROOT / "docs" / "methods" / "pictures" / f"{name}.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(picture) < LARGEST_PICTURE


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files_and_headings_that_are_there(name: str) -> None:
    path = PAGES[name]
    prose = re.sub(r"^```.*?^```$", "", text_of(name), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"https?://", target):
            continue
        place, _, anchor = target.partition("#")
        linked = (path.parent / place).resolve() if place else path
        assert linked.exists(), f"{name} links to {target}"
        if anchor and linked.suffix == ".md":
            assert anchor in anchors(linked.read_text(encoding="utf-8")), f"{name} links to {target}"


FAULTS = text_of("docs/faults.md")
SECTIONS: dict[str, str] = dict(re.findall(r"^## ([a-z-]+)\n(.*?)(?=^## |\Z)", FAULTS, re.MULTILINE | re.DOTALL))
ONLY_IN_PYTHON = {
    "task-unstated",
    "inputs-unknown",
    "bad-argument",
    "classes-unstated",
    "duration-unknown",
    "late-surgery",
    "loop-limit",
}
"""What no config can cause: each of these sections says so."""


def test_every_fault_has_a_section_and_no_other_thing_has() -> None:
    assert list(SECTIONS) == list(CODES)


@pytest.mark.slow
@pytest.mark.parametrize("code", [code for code in CODES if code not in ONLY_IN_PYTHON])
def test_a_config_causes_the_fault_alone_and_another_mends_it(code: str) -> None:
    cause, *mends = (yaml.safe_load(block) for block in fenced(SECTIONS[code], "yaml"))
    assert mends
    with BUILD.workplace(FAULTS, ModuleType("page")):
        said = BUILD.check({**BUILD.base(FAULTS), **cause})
        assert set(re.findall(r"^  \[(.+?)\]", said, re.MULTILINE)) == {code}
        assert [BUILD.check({**BUILD.base(FAULTS), **mend}) for mend in mends] == [""] * len(mends)


@pytest.mark.parametrize("code", sorted(ONLY_IN_PYTHON))
def test_a_call_causes_the_fault_and_another_mends_it(code: str) -> None:
    assert not fenced(SECTIONS[code], "yaml")
    assert "onfig" in SECTIONS[code].partition("```")[0]
    (printed,) = fenced(SECTIONS[code], "text")
    assert set(re.findall(r"^\[(.+?)\]", printed, re.MULTILINE)) == {code}
    assert re.search("^order:", printed, re.MULTILINE), f"{code} is not mended"


def test_a_config_that_is_right_is_not_shown_as_wrong() -> None:
    page = "```yaml\ntask: multiclass\ndata: digits\nmodel: mlp\nmax_duration: 2ep\n```\n\n```text\n[two-mixers]\n```\n"
    with pytest.raises(ValueError, match="a text block after it must show it"):
        BUILD.run_examples(page, "page")


def test_the_readme_starts_quickly() -> None:
    section = text_of("README.md").split("\n## Quick start\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```bash\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert blocks == [
        "pip install -c constraints.txt -e . && counterpoint train examples/digits.yaml\n",
        "pip install -c constraints.txt -e '.[test]' && pytest -n 2\n",
    ]
    first = re.findall(r"^```python\n(.*?)^```$", text_of("README.md"), re.MULTILINE | re.DOTALL)[0]
    assert len([line for line in first.splitlines() if line.strip()]) <= 10


def test_the_tree_in_the_readme_is_the_tree() -> None:
    tree = text_of("README.md").split("\n## Where things are\n")[1].split("```")[1]
    listed = [(len(line) - len(line.lstrip()), line.split()[0]) for line in tree.splitlines() if line.strip()]
    assert len(listed) > 8
    for indent, entry in listed:
        assert (ROOT / "counterpoint" / entry if indent else ROOT / entry).exists(), entry


def test_decisions_are_short_and_listed() -> None:
    index = text_of("docs/decisions/README.md")
    for path in (ROOT / "docs" / "decisions").glob("0*.md"):
        text = path.read_text(encoding="utf-8")
        assert f"]({path.name})" in index
        assert len(text.splitlines()) < 25, path.name
        assert "**Decision.**" in text


def test_each_dependency_earns_its_line() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[<>=\[ ]", requirement)[0] for requirement in project["dependencies"]}
    page = text_of("docs/decisions/0002-dependencies.md")
    assert set(re.findall(r"^\| ([\w.-]+) \|", page, re.MULTILINE)) - {"package", "---"} == names
