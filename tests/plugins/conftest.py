"""Packages that exist for one test: written to a folder of their own, as pip would have unpacked them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

Install = Callable[..., Path]


def write_distribution(
    site: Path,
    package: str,
    entry_points: Mapping[str, Mapping[str, str]],
    modules: Mapping[str, str],
) -> None:
    """Write a distribution's metadata and modules; ``entry_points`` maps group to name to value."""
    info = site / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [
        line
        for group, names in entry_points.items()
        for line in (f"[{group}]", *(f"{k} = {v}" for k, v in names.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for module, source in modules.items():
        (site / f"{module}.py").write_text(source)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Return a function that installs a distribution for this test alone, in the folder that it returns."""
    loaded_before = set(sys.modules)

    def put(
        package: str, entry_points: Mapping[str, Mapping[str, str]], modules: Mapping[str, str], folder: str = "site"
    ) -> Path:
        site = tmp_path / folder
        write_distribution(site, package, entry_points, modules)
        if str(site) not in sys.path:
            monkeypatch.syspath_prepend(site)
        return site

    yield put
    for name in set(sys.modules) - loaded_before:
        origin = getattr(sys.modules[name], "__file__", None)
        if origin and Path(origin).is_relative_to(tmp_path):
            del sys.modules[name]
