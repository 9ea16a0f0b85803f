"""The commands and their options. What a command needs is imported when it runs, so that ``--help`` is quick."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train with several methods at once: ordered, checked against each other, the data and the loss.",
)

Config = Annotated[str, typer.Argument(metavar="CONFIG", help="The YAML file of the run.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Keys to set, such as optimizer.lr=0.05.", show_default=False),
]


class Format(StrEnum):
    """How a result is written."""

    TEXT = "text"
    JSON = "json"


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(version("counterpoint"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def train(
    config: Config,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint, if there is one.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Throw away the run in run_dir.")] = False,
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="With --resume: go on although the config or the plan differs.")
    ] = False,
) -> None:
    """Train a model as a config says."""
    from counterpoint.cli.run import train_config

    if resume and overwrite:
        raise typer.BadParameter("--resume goes on with a run and --overwrite throws it away: give one of them")
    if allow_changes and not resume:
        raise typer.BadParameter("--allow-changes says how to go on with a run: give it with --resume")
    train_config(config, overrides or [], resume=resume, overwrite=overwrite, allow_changes=allow_changes)


@app.command()
def check(
    config: Config,
    overrides: Overrides = None,
    form: Annotated[Format, typer.Option("--format", help="How the plan or the faults are written.")] = Format.TEXT,
    pairs: Annotated[bool, typer.Option("--pairs", help="Show the rule and reason for every pair of steps.")] = False,
    data: Annotated[bool, typer.Option("--data", help="Read all of the data through, as train does first.")] = False,
    draw: Annotated[
        int | None, typer.Option("--draw", metavar="STEP", min=0, help="Show what is drawn for a batch.")
    ] = None,
) -> None:
    """Show the plan of a config, or every fault in it; nothing is written."""
    from counterpoint.cli.run import check_config

    check_config(config, overrides or [], as_json=form is Format.JSON, pairs=pairs, draw=draw, whole_data=data)


@app.command("list")
def list_registered(
    check: Annotated[bool, typer.Option("--check", help="Import each and show what is broken.")] = False,
    matrix: Annotated[bool, typer.Option("--matrix", help="Show how the built-in methods fit each other.")] = False,
) -> None:
    """List every method, loss, model and data set, with its package and version."""
    from counterpoint.cli.listing import checked, listed

    if matrix:
        from counterpoint.cli.cards import example_components
        from counterpoint.cli.composability import matrix as table

        typer.echo("\n".join(table(example_components())))
        return
    lines, broken = checked() if check else (listed(), 0)
    typer.echo("\n".join(lines))
    if broken:
        raise typer.Exit(1)


@app.command()
def show(name: Annotated[str, typer.Argument(metavar="NAME", help="A registered name.", show_default=False)]) -> None:
    """Show the card of a method, or what a loss, a model or a data set can be set to."""
    from counterpoint.cli.cards import show_card

    show_card(name)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a config, with the settings of everything installed, for editors."""
    from counterpoint.cli.schema import print_schema

    print_schema()
