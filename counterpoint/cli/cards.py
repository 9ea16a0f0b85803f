"""The page of a registered name: a built-in method's card, or else one made from its class."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from inspect import cleandoc
from typing import TYPE_CHECKING, Any

import typer

from counterpoint.core.errors import UnknownNameError, nearest
from counterpoint.plugins import ALGORITHMS, DATASETS, LOSSES, MODELS, Entry, entries

if TYPE_CHECKING:
    from counterpoint.core.declare.algorithm import Algorithm
    from counterpoint.core.declare.effects import Declaration, HookEffect
    from counterpoint.core.declare.kinds import Claim

__all__ = ["card", "describe", "example_components", "show_card"]

_REGISTRIES = {registry.group: registry for registry in (ALGORITHMS, LOSSES, MODELS, DATASETS)}


def show_card(name: str) -> None:
    """Print what is known of everything registered under a name: rich text on a terminal, else plain Markdown.

    Raises ``UnknownNameError`` if nothing is.
    """
    known = entries()
    found = {entry.group: entry for entry in known if entry.name == name}
    if not found:
        names = {entry.name for entry in known}
        raise UnknownNameError(f"nothing is registered under the name {name!r}{nearest(name, names)}")
    for entry in found.values():
        _print(card(entry.name) if _has_card(entry) else describe(entry))


def _has_card(entry: Entry) -> bool:
    from counterpoint.algorithms.cards import card_names

    return entry.group == ALGORITHMS.group and entry.package == "counterpoint" and entry.name in card_names()


def card(name: str, pairs: Iterable[str] | None = None) -> str:
    """Return the card of a built-in method as Markdown, its marked places filled from the code.

    ``pairs`` are the lines on how it fits other methods; by default, the verdict on each of them.
    """
    from counterpoint.algorithms.cards import COMPOSABILITY, HYPERPARAMETERS, example_settings, read_card
    from counterpoint.cli.composability import alone, beside

    component = {"name": name, **example_settings(name)}
    if pairs is None:
        pairs = ("", *beside(component, example_components().values()))
    verdicts = "\n".join([*alone(component), *pairs])
    text = read_card(name).replace(HYPERPARAMETERS, "\n".join(_settings(ALGORITHMS.load(name))))
    return COMPOSABILITY.sub(lambda mark: verdicts, text)


def example_components() -> dict[str, dict[str, Any]]:
    """Return for each built-in method with a card the mapping that its card takes as an example."""
    from counterpoint.algorithms.cards import example_settings

    built_in = [entry.name for entry in ALGORITHMS.entries() if _has_card(entry)]
    return {name: {"name": name, **example_settings(name)} for name in built_in}


def _print(markdown: str) -> None:
    if not sys.stdout.isatty():
        typer.echo(markdown.rstrip())
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(markdown))


def describe(entry: Entry) -> str:
    """Return, as Markdown, a description of the class behind a name, which is imported."""
    registry = _REGISTRIES[entry.group]
    loaded: Any = registry.load(entry.name)
    lines = [
        f"# {entry.name}",
        "",
        f"Registered as {registry.noun} by {entry.package} {entry.version} (`{entry.value}`).",
        "",
        _summary(loaded),
        "",
        "## Hyperparameters",
        "",
        *_settings(loaded),
    ]
    if entry.group == ALGORITHMS.group:
        lines += ["", *_declarations(loaded)]
    return "\n".join(lines) + "\n"


def _summary(loaded: Any) -> str:
    """Return a class's docstring without its doctests."""
    return cleandoc(loaded.__doc__ or "It has no description.").partition("\n>>>")[0].rstrip()


def _settings(component: Any) -> Iterator[str]:
    from counterpoint.core.check.settings import settings_of
    from counterpoint.core.declare.algorithm import Algorithm

    settings = settings_of(component)
    common = [name for name in Algorithm.model_fields if name in settings and issubclass(component, Algorithm)]
    yield "| name | default | allowed | meaning |"
    yield "| --- | --- | --- | --- |"
    for name in [*(name for name in settings if name not in common), *common]:
        held = settings[name]
        default = "must be set" if held.default is None else f"`{held.default}`"
        cells = [cell.replace("|", r"\|") for cell in (f"`{name}`", default, held.allowed, held.description)]
        yield f"| {' | '.join(cells)} |"


def _declarations(algorithm: type[Algorithm[Any]]) -> Iterator[str]:
    from counterpoint.core.declare.kinds import names

    declared: Declaration = algorithm.declaration
    yield "## What it declares"
    yield ""
    for transform in declared.transforms:
        edits = "; ".join(f"{part.value} of kind {names(edit.needs)}" for part, edit in transform.edits.items())
        yield f"- `{transform.method}` edits the batch: {edits}.{_claims(transform.claims)}"
    for hook in declared.hooks:
        touched = {"reads": hook.reads, "edits": hook.writes, "restores": hook.restores}
        words = "; ".join(f"{verb} {', '.join(sorted(parts))}" for verb, parts in touched.items() if parts)
        yield f"- `{hook.method}` runs {_when(hook)}: {words}.{_claims(hook.claims)}"
    if not (declared.transforms or declared.hooks):
        yield "- What the methods that it chooses from declare."
    if algorithm.tasks is not None:
        yield f"- It has a meaning for these tasks: {', '.join(sorted(algorithm.tasks))}."
    if algorithm.min_batch > 1:
        yield f"- A batch has at least {algorithm.min_batch} examples."


def _when(hook: HookEffect) -> str:
    return f"{'in place of' if hook.phase == 'replace' else hook.phase.value} {hook.event.value}"


def _claims(claims: Sequence[Claim]) -> str:
    words = [f"{claim.slot.name} ({'shared' if claim.shared else 'alone'})" for claim in claims]
    return f" It claims {', '.join(words)}." if words else ""
