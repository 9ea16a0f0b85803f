"""Every error that Counterpoint raises on purpose.

::

    CounterpointError
    ├── ArgumentError         an argument is not what the function takes  (also a TypeError and a ValueError)
    ├── DeclarationError      a class declares its effects wrongly        (also a TypeError)
    ├── CompositionError      a list of methods does not fit              (also a ValueError)
    ├── ConfigError           what the user wrote in a config is wrong    (also a ValueError)
    ├── DataError             a batch or a data set is not what was said  (also a ValueError)
    ├── ContractError         a step did what it had not declared         (also a RuntimeError)
    ├── MethodError           the code of a method raised an error        (also a RuntimeError)
    ├── EngineRequiredError   a plan with hooks was called without an engine  (also a RuntimeError)
    ├── PluginError           a registered name cannot be used            (also a LookupError)
    │   ├── UnknownNameError
    │   ├── DuplicateNameError
    │   └── BrokenPluginError
    └── RunError              a training run cannot start or go on        (also a RuntimeError)
        ├── RunDirectoryError
        ├── CheckpointError
        └── NonFiniteLossError

    UserWarning
    └── RepeatedStepWarning   a plan edits batches of the same step again

The command line turns ``CompositionError``, ``ConfigError``, ``PluginError``, ``RunDirectoryError`` and a
``DataError`` found before training into exit code 2, and every other ``CounterpointError`` into exit code 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from counterpoint.core.faults import Fault

__all__ = [
    "ArgumentError",
    "BrokenPluginError",
    "CheckpointError",
    "CompositionError",
    "ConfigError",
    "ContractError",
    "CounterpointError",
    "DataError",
    "DeclarationError",
    "DuplicateNameError",
    "EngineRequiredError",
    "MethodError",
    "NonFiniteLossError",
    "PluginError",
    "RepeatedStepWarning",
    "RunDirectoryError",
    "RunError",
    "UnknownNameError",
    "close_to",
    "nearest",
]


CLOSE = 0.75
"""How similar two words must be for one to be a typo of the other: 'rand_augment' is no 'trivial_augment'."""


def close_to(word: str, known: Iterable[str]) -> list[str]:
    """Return up to three known words that the given one may be a typo of, the closest first.

    >>> close_to("sdg", ["sgd", "adam"]), close_to("rand_augment", ["trivial_augment"])
    (['sgd'], [])
    """
    words = sorted(known)
    swapped = [other for other in words if sorted(other) == sorted(word) and other != word]
    return list(dict.fromkeys([*swapped, *get_close_matches(word, words, n=3, cutoff=CLOSE)]))[:3]


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a suggestion of known words for the given one.

    >>> nearest("mixpu", ["mixup", "cutmix"])
    "; did you mean 'mixup'?"
    >>> nearest("zzz", ["mixup", "cutmix"])
    '; known: cutmix, mixup'
    """
    words = sorted(known)
    if close := close_to(word, words):
        return f"; did you mean {' or '.join(repr(name) for name in close)}?"
    return f"; known: {', '.join(words)}" if words else "; none is known"


class CounterpointError(Exception):
    """The root of every error that Counterpoint raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception calls the class with its args, which are not the arguments of every error.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[CounterpointError], args: tuple[object, ...], state: dict[str, Any]) -> CounterpointError:
    """Return an error from another process, or a copy of one, as it was."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class ArgumentError(CounterpointError, TypeError, ValueError):
    """An argument of a function is not one that it takes."""


class DeclarationError(CounterpointError, TypeError):
    """A class declares its effects wrongly: the wrong line, why it is wrong, the right line."""

    def __init__(self, wrong: str, why: str, right: str) -> None:
        super().__init__(f"wrong:  {wrong}\nwhy:    {why}\nright:  {right}")


class CompositionError(CounterpointError, ValueError):
    """A list of methods does not fit together; ``faults`` holds every reason at once."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        super().__init__("\n".join([f"{count} in the composition:", *map(str, self.faults)]))


class ConfigError(CounterpointError, ValueError):
    """What the user wrote in a config or on the command line is wrong; ``faults`` lists wrong settings one by one."""

    def __init__(self, message: str, faults: Iterable[Fault] = ()) -> None:
        self.faults = tuple(faults)
        super().__init__(message)


class DataError(CounterpointError, ValueError):
    """A batch or a data set is not what the user said it is."""


class ContractError(CounterpointError, RuntimeError):
    """A step did what its algorithm had not declared."""


class MethodError(CounterpointError, RuntimeError):
    """The code of a method raised an error, which is the ``__cause__``; the message names the method and the step."""


class EngineRequiredError(CounterpointError, RuntimeError):
    """A plan with hooks was called as if it only edited batches."""


class PluginError(CounterpointError, LookupError):
    """A registered name cannot be used."""


class UnknownNameError(PluginError):
    """Nothing is registered under this name."""


class DuplicateNameError(PluginError):
    """Two packages registered one name."""


class BrokenPluginError(PluginError):
    """The module or object behind a registered name cannot be loaded."""


class RunError(CounterpointError, RuntimeError):
    """A training run cannot start or go on."""


class RunDirectoryError(RunError):
    """The run directory cannot be written, or already holds a run."""


class CheckpointError(RunError):
    """No whole checkpoint can be read or written."""


class NonFiniteLossError(RunError):
    """The loss became NaN or infinite."""


class RepeatedStepWarning(UserWarning):
    """A plan was called twice for the same step, with the same draws."""
