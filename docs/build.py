"""Bring the documentation up to date with the code: ``python docs/build.py`` rewrites what is stale.

Paths of pages may follow, to rewrite no others. Four things are made, and tests/docs checks that none is stale:

- docs/methods/NAME.md, the card of a method, whose source is counterpoint/algorithms/cards/NAME.md;
- in any page, what stands between ``<!-- made: NAME -->`` and ``<!-- end -->``;
- in any page, a ``text`` block right after a ``python`` block, which is what that block prints. The Python blocks of a
  page share one namespace and run in an empty folder;
- in any page, a ``text`` block right after a ``yaml`` block, which is what ``counterpoint check`` says of that config.
  The page's first YAML block holds what all of its configs have, where they do not say otherwise.

A ``toml`` block right after a ``python`` block is the project file of a package whose one module that block is, named
like the package. It is installed while the page is made.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import re
import sys
import tempfile
import tomllib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml
from pydantic import BaseModel

from counterpoint.algorithms.cards import card_names
from counterpoint.cli import main as command
from counterpoint.cli.cards import card, example_components
from counterpoint.cli.composability import matrix, reasons
from counterpoint.core.check.settings import settings_of
from counterpoint.core.declare.algorithm import Algorithm
from counterpoint.core.declare.effects import Declaration, Edit, HookEffect, TransformEffect
from counterpoint.core.declare.kinds import names
from counterpoint.core.errors import nearest
from counterpoint.core.faults import CODES
from counterpoint.losses.resolve import known_losses
from counterpoint.plugins import ALGORITHMS, DATASETS, LOSSES, MODELS, Registry
from counterpoint.trainer.config.run_config import RunConfig
from counterpoint.trainer.optim import OPTIMIZERS, SCHEDULERS

ROOT = Path(__file__).resolve().parent.parent
METHODS = ROOT / "docs" / "methods"
_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_PRINTED = re.compile(r"\n+```text\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_WARNINGS = (r"`isinstance\(treespec, LeafSpec\)` is deprecated", "The '.*_dataloader' does not have many workers")
"""What Lightning warns of in every run on this machine."""
_PAIRS = "- Other methods: the row `{0}` of [the matrix](../matrix.md); `counterpoint show {0}` prints each verdict."
_MADE = re.compile(r"(?P<open><!-- made: (?P<name>.+?) -->\n).*?(?P<close><!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """Return every page that is written by hand."""
    return [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.parent != METHODS)]


def built_in() -> list[str]:
    """Return the names of the methods that have a card."""
    return [name for name in card_names() if name in ALGORITHMS.names()]


def refreshed(text: str, where: str) -> str:
    """Return a page with everything in it that is made, made anew."""
    return run_examples(_MADE.sub(_made, text), where)


def rendered(name: str) -> str:
    """Return the page of a method's card."""
    source = f"counterpoint/algorithms/cards/{name}.md"
    note = f"<!-- Made by docs/build.py from {source}: edit that file, and run it again. -->\n\n"
    return run_examples(note + card(name, [_PAIRS.format(name)]), source)


def _made(match: re.Match[str]) -> str:
    name = match["name"]
    if name not in MAKERS:
        raise ValueError(f"nothing is made under the name {name!r}{nearest(name, MAKERS)}")
    return f"{match['open']}{MAKERS[name]()}\n{match['close']}"


logging.getLogger("counterpoint").addHandler(logging.NullHandler())  # a page holds what is printed, not what is logged


def run_examples(text: str, where: str) -> str:
    """Run the Python blocks of a page in order, check its configs, and return the page with what they print.

    Raises ``ValueError`` for a Python block that prints something where no ``text`` block follows it, or the reverse,
    and for a config followed by one in which there is no fault.
    """
    module = ModuleType("page")
    parts, done, shared = [], 0, base(text)
    with workplace(text, module):
        for block in _FENCE.finditer(text):
            shown = _PRINTED.match(text, block.end())
            line = text[: block.start()].count("\n") + 2
            if block["language"] == "python":
                printed = _run("\n" * (line - 1) + block["code"], f"{where}", module)
            elif block["language"] == "yaml" and shown:
                printed = check({**shared, **yaml.safe_load(block["code"])})
            else:
                continue
            if bool(printed) is not bool(shown):
                raise ValueError(
                    f"{where}:{line}: the block prints {printed!r}, and a text block after it must show it"
                )
            if shown:
                parts += [text[done : shown.start("text")], printed]
                done = shown.end("text")
    return "".join([*parts, text[done:]])


def base(text: str) -> dict[str, Any]:
    """Return what all configs of a page have where they do not say otherwise: its first YAML block."""
    first = next((block for block in _FENCE.finditer(text) if block["language"] == "yaml"), None)
    return {} if first is None else dict(yaml.safe_load(first["code"]))


def check(config: Mapping[str, Any]) -> str:
    """Return what ``counterpoint check`` says is wrong with a config, nothing if it exits with 0.

    Raises ``ValueError`` for any other exit code than 0 and 2.
    """
    Path("run.yaml").write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        code = command(["check", "run.yaml"])
    if code not in (0, 2) or bool(code) is not bool(said.getvalue()):
        raise ValueError(f"counterpoint check: exit code {code}, and it said {said.getvalue()!r}")
    return said.getvalue()


@contextlib.contextmanager
def workplace(text: str, module: ModuleType) -> Iterator[None]:
    """Let a page's code find its module and packages, write to an empty folder, and leave torch's generator alone."""
    packages = list(_packages(text))
    sys.modules[module.__name__] = module
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            tempfile.TemporaryDirectory() as site,
            contextlib.chdir(folder),
            torch.random.fork_rng(devices=[]),
        ):
            for code, project in packages:
                _install(Path(site), code, project)
            path = [*sys.path]
            sys.path.insert(0, site)
            try:
                yield
            finally:
                sys.path[:] = path
    finally:
        for name in (module.__name__, *(project["name"] for _, project in packages)):
            sys.modules.pop(name, None)


def _packages(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the code and the project table of each package that a page brings."""
    blocks = list(_FENCE.finditer(text))
    for code, project in itertools.pairwise(blocks):
        if (code["language"], project["language"]) == ("python", "toml"):
            yield code["code"], tomllib.loads(project["code"])["project"]


def _install(site: Path, code: str, project: Mapping[str, Any]) -> None:
    """Put a package into a folder, as pip would have unpacked it."""
    info = site / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        line
        for group, names in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in names.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (site / f"{project['name']}.py").write_text(code)


def _run(code: str, where: str, module: ModuleType) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), warnings.catch_warnings():
        for message in _WARNINGS:
            warnings.filterwarnings("ignore", message)
        exec(compile(code, where, "exec"), vars(module))
    return "".join(f"{line.rstrip()}\n" for line in printed.getvalue().splitlines())


def _declarations() -> str:
    """Make the table of what each built-in method declares."""
    lines = ["| method | field | needs | acts over | varies along | form | fills | claims |", "|" + " --- |" * 8]
    for name in built_in():
        declared: Declaration = ALGORITHMS.load(name).declaration
        for effect in declared.transforms:
            lines += [_transform_row(name, effect, part.value, edit) for part, edit in effect.edits.items()]
        lines += [_hook_row(name, hook) for hook in declared.hooks]
        if not (declared.transforms or declared.hooks):
            lines.append(f"| `{name}` | those of its branches | | | | | | |")
    return "\n".join(lines)


def _transform_row(name: str, effect: TransformEffect, part: str, edit: Edit) -> str:
    acts, varies = (", ".join(sorted(axes)) or "–" for axes in (edit.acts, edit.varies))
    fills = "–" if edit.fills is None else "its `fill`"
    claims = ", ".join(claim.slot.name for claim in effect.claims) or "–"
    cells = (f"`{name}`", part, names(edit.needs), acts, varies, edit.form.name.lower(), fills, claims)
    return f"| {' | '.join(cells)} |"


def _hook_row(name: str, hook: HookEffect) -> str:
    verbs = (("reads", hook.reads), ("edits", hook.writes), ("restores", hook.restores))
    touched = "; ".join(f"{verb} {', '.join(sorted(parts))}" for verb, parts in verbs if parts)
    claims = ", ".join(claim.slot.name for claim in hook.claims) or "–"
    return f"| `{name}` | hook {hook.phase.value} {hook.event.value}: {touched} | | | | | | {claims} |"


def _methods() -> str:
    lines = ["| name | in one line |", "| --- | --- |"]
    for name in built_in():
        summary = _summary(ALGORITHMS.load(name))
        lines.append(f"| [`{name}`](methods/{name}.md) | {summary} |")
    return "\n".join(lines)


def _codes() -> str:
    return "\n".join(["| code | meaning |", "| --- | --- |", *(f"| [`{c}`](#{c}) | {CODES[c]} |" for c in CODES)])


def _settings(component: type[BaseModel]) -> str:
    lines = ["| key | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for setting in settings_of(component).values():
        default = "must be set" if setting.default is None else f"`{setting.default}`"
        lines.append(f"| `{setting.name}` | {default} | {setting.allowed} | {setting.description} |")
    return "\n".join(lines)


def _components(found: Mapping[str, type[BaseModel]]) -> str:
    return "\n\n".join(f"**`{name}`**: {_summary(found[name])}\n\n{_settings(found[name])}" for name in found)


def _known_losses() -> str:
    """Make the table of the losses that run in an exact form, with the name that each has in a config."""
    named = {}
    for name in _built_in(LOSSES):
        settings = LOSSES.load(name)
        built = type(settings().build())
        further = ", ".join(f"`{setting}`" for setting in known_losses()[settings.module].settings)
        named |= {settings.module: f"`{name}` with {further}", built: f"`{name}`"}
    lines = [
        "| loss | in a config | accepts | an element on mixed targets | linear in the targets | refused, and why |",
        "|" + " --- |" * 6,
    ]
    for module, known in known_losses().items():
        loss = f"`{'nn.' if module.__module__.startswith('torch.') else ''}{module.__name__}`"
        accepts = ", ".join(f"`{kind}`" for kind in sorted(map(str, known.accepts), reverse=True))
        cells = (loss, named.get(module, ""), accepts, known.formula, known.mixed, known.refused)
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(lines)


def _built_in(registry: Registry[Any]) -> list[str]:
    return [entry.name for entry in registry.entries() if entry.package == "counterpoint"]


def _summary(component: type) -> str:
    return (component.__doc__ or "").partition("\n")[0].replace("``", "`")


def _registered(registry: Registry[Any]) -> str:
    return _components({name: registry.load(name) for name in _built_in(registry)})


MAKERS: dict[str, Callable[[], str]] = {
    "declarations": _declarations,
    "codes": _codes,
    "methods": _methods,
    "matrix": lambda: "\n".join(["```", *matrix(example_components()), "```"]),
    "reasons": lambda: "\n".join(reasons(example_components())),
    "keys": lambda: _settings(RunConfig),
    "keys of every method": lambda: _settings(Algorithm),
    "data": lambda: _registered(DATASETS),
    "models": lambda: _registered(MODELS),
    "losses": lambda: _registered(LOSSES),
    "known losses": _known_losses,
    "optimizers": lambda: _components(OPTIMIZERS),
    "schedulers": lambda: _components(SCHEDULERS),
}
"""What can be made in a page, by name."""


def documents() -> Iterator[tuple[Path, Callable[[], str]]]:
    """Yield every page with a way to make what it should hold."""
    for path in pages():
        yield path, partial(_page, path)
    for name in built_in():
        yield METHODS / f"{name}.md", partial(rendered, name)


def _page(path: Path) -> str:
    return refreshed(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))


def main(chosen: Sequence[str]) -> None:
    """Rewrite every page that is stale, of all pages or of those whose paths are given."""
    paths = {Path(path).resolve() for path in chosen}
    for path, make in documents():
        if paths and path not in paths:
            continue
        text = make()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main(sys.argv[1:])
