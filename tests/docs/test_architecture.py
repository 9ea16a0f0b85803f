"""The picture of docs/architecture.md shows the walls that import-linter holds."""

from __future__ import annotations

import re
import tomllib
from itertools import pairwise, product
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PICTURED = {"counterpoint": "", "counterpoint.core": "core."}
"""The containers of contracts that the picture shows, with what the picture writes before their rooms."""


def arrows() -> set[tuple[str, str]]:
    """Return the arrows of the picture, from room to room."""
    (picture,) = re.findall(r"^```mermaid\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    found = set()
    for line in picture.splitlines():
        if "-->" in line:
            above, below = (re.split(r"\s*&\s*", side.strip()) for side in line.split("-->"))
            found |= set(product(above, below))
    return found


def test_the_arrows_are_the_layers_of_the_contracts() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    assert config["exclude_type_checking_imports"] is False
    wanted = set()
    for contract in config["contracts"]:
        for container in contract.get("containers", []):
            if container in PICTURED:
                layers = [re.split(r"\s*\|\s*", layer) for layer in contract["layers"]]
                for above, below in pairwise(layers):
                    names = ([PICTURED[container] + name for name in layer] for layer in (above, below))
                    wanted |= set(product(*names))
    assert arrows() == wanted


def test_the_page_is_short_and_every_file_of_it_is_there() -> None:
    assert len(PAGE.splitlines()) <= 120
    package = ROOT / "counterpoint"
    names = set(re.findall(r"`([a-z_/]+\.py)`", PAGE))
    for name in names:
        assert (ROOT / name).exists() or list(package.rglob(name)), name
    folders = set(re.findall(r"`((?:core|trainer)/[a-z_/]+)`", PAGE))
    assert folders
    assert all((package / folder).is_dir() for folder in folders)
