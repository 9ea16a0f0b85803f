"""Run the checks of a change: ``nox`` runs those of each save, ``nox -s NAME`` one of them, ``nox -l`` lists them all.

Sessions run in the active environment, which needs the extras ``test`` and ``dev``; nothing is installed. The hooks of
``.pre-commit-config.yaml`` and ``.ci/run`` call the same sessions.
"""

from __future__ import annotations

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["ruff", "format", "mypy", "imports", "fast"]


@nox.session
def ruff(session: nox.Session) -> None:
    """Lint the code."""
    session.run("ruff", "check", ".")


@nox.session(name="format")
def layout(session: nox.Session) -> None:
    """Check the layout of the code; ``ruff format .`` changes it."""
    session.run("ruff", "format", "--check", ".")


@nox.session
def mypy(session: nox.Session) -> None:
    """Check the types."""
    session.run("mypy", "--strict")


@nox.session
def imports(session: nox.Session) -> None:
    """Check which part of the package imports which."""
    session.run("lint-imports")


@nox.session
def fast(session: nox.Session) -> None:
    """Run the tests of each save, until the first failure; arguments after ``--`` go to pytest."""
    session.run("pytest", "-m", "not slow", "-x", "-q", "--durations=5", "--durations-min=0.5", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests but the long ones on two cores, as the README does; arguments after ``--`` go to pytest."""
    session.run("pytest", "-n", "2", *session.posargs)


@nox.session
def long(session: nox.Session) -> None:
    """Run the long tests, which take minutes each; arguments after ``--`` go to pytest."""
    session.run("pytest", "-m", "long", "-n", "2", "--dist", "worksteal", "-rP", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Renew the pages of ``docs/`` that are made from the code."""
    session.run("python", "docs/build.py")


@nox.session
def ci(session: nox.Session) -> None:
    """Run everything in a new environment, as CI does."""
    session.run(".ci/run", external=True)
