"""Validate the arguments of ``compose``, and report every wrong one as a fault."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any

import pydantic
from pydantic import BeforeValidator, ConfigDict, PlainValidator, ValidationInfo

from counterpoint.core.arguments import MOST, flag, shown, whole_number
from counterpoint.core.check.fixes.terms import Terms
from counterpoint.core.declare.algorithm import Algorithm
from counterpoint.core.declare.durations import Duration
from counterpoint.core.declare.effects import Contract
from counterpoint.core.declare.kinds import IMAGE, INPUT_KINDS, TASKS, Field, Kind, Task
from counterpoint.core.errors import ArgumentError, close_to, nearest
from counterpoint.core.faults import Fault
from counterpoint.core.plan.facts import Facts
from counterpoint.core.plan.schedule import Clock
from counterpoint.core.remedies import Decide, State

__all__ = ["Statements", "stated"]

_DIGITS = re.compile(r"[0-9]{1,18}")


def _count(low: int, *, optional: bool = False) -> PlainValidator:
    def check(value: object, info: ValidationInfo) -> int | None:
        return None if value is None and optional else whole_number(str(info.field_name), value, low=low)

    return PlainValidator(check)


def _flag(value: object, info: ValidationInfo) -> bool:
    return flag(str(info.field_name), value)


def _listed(value: object) -> tuple[object, ...]:
    """Return the items of a list of methods; a single method, or text, is no list."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return tuple(value)
    alone = value if isinstance(value, str | Mapping) else None
    example = repr([dict(alone) if isinstance(alone, Mapping) else alone]) if alone else "['mixup']"
    if isinstance(value, Algorithm):
        example = f"[{type(value).__name__}(...)]"
    raise ArgumentError(f"algorithms is {shown(value)}; it is a list of methods: write {example}")


def _contract(value: object) -> Contract:
    known = [contract.value for contract in Contract]
    if not isinstance(value, str) or value not in known:
        near = nearest(value if isinstance(value, str) else "", known)
        raise ArgumentError(f"contract is {shown(value)}{near}")
    return Contract(value)


def _terms(value: object) -> Terms:
    if not isinstance(value, Terms):
        raise ArgumentError(f"terms is {shown(value)}; it is Terms.PYTHON or Terms.YAML")
    return value


def _kinds(value: object) -> tuple[object, ...] | None:
    """Return the kinds of a set of them; text is the name of one, not a set."""
    if value is None:
        return None
    if isinstance(value, str | Kind):
        raise ArgumentError(f"model_inputs is {shown(str(value))}; it is a set of kinds: write {{{str(value)!r}}}")
    if not isinstance(value, Collection) or not value or not all(isinstance(kind, str | Kind) for kind in value):
        raise ArgumentError(f"model_inputs is {shown(value)}; it is a set of kinds of inputs, such as {{'image'}}")
    return tuple(value)


def _duration(value: object) -> Duration | None:
    if value is None:
        return None
    length = Duration.parse(value)
    if length.unit == "dur":
        raise ValueError(f"{str(length)!r} is a share of the run: state epochs, as '10ep', or batches, as '500ba'")
    return length


class Statements(pydantic.BaseModel):
    """The arguments of ``compose``, apart from the loss. Integers are whatever has ``__index__``, except a bool."""

    # Releases of pydantic before 2.10 warn of every field that begins with model_.
    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True, protected_namespaces=())

    algorithms: Annotated[tuple[Any, ...], BeforeValidator(_listed)] = ()
    task: Any = None
    inputs: Any = IMAGE
    num_classes: Annotated[int | None, _count(1, optional=True)] = None
    batch_size: Annotated[int | None, _count(1, optional=True)] = None
    steps_per_epoch: Annotated[int | None, _count(1, optional=True)] = None
    max_duration: Annotated[Duration | None, PlainValidator(_duration)] = None
    seed: Annotated[int, _count(0)] = 0
    strict_order: Annotated[bool, PlainValidator(_flag)] = False
    compile: Annotated[bool, PlainValidator(_flag)] = False
    model_inputs: Annotated[tuple[Any, ...] | None, PlainValidator(_kinds)] = None
    microbatches: Annotated[int, _count(1)] = 1
    contract: Annotated[Contract, PlainValidator(_contract)] = Contract.FIRST_STEPS
    terms: Annotated[Terms, PlainValidator(_terms)] = Terms.PYTHON

    def facts(self, faults: list[Fault]) -> Facts:
        """Return what is stated of the data and the run; what is unknown or contradictory becomes a fault."""
        faults += _contradictions(self)
        kinds = [_inputs(kind, faults) for kind in self.model_inputs or ()]
        return Facts(
            _task(self.task, faults),
            _inputs(self.inputs, faults),
            self.num_classes,
            self.batch_size,
            _clock(self, faults),
            self.seed,
            frozenset(kinds) if kinds else None,
            self.microbatches,
        )


EXAMPLES: dict[str, Any] = {"num_classes": 10, "batch_size": 32, "steps_per_epoch": 100, "microbatches": 1, "seed": 0}
EXAMPLES |= {"strict_order": False, "compile": False, "contract": "first_steps", "max_duration": "10ep"}
"""What a fix writes for an argument; of the others the message says it."""


def stated(given: Mapping[str, Any]) -> tuple[Statements, list[Fault]]:
    """Validate the arguments of ``compose``; each wrong one is a fault, and is taken as not given.

    >>> statements, faults = stated({"num_classes": "3", "seed": -1})
    >>> [fault.code for fault in faults], statements.num_classes
    (['bad-argument', 'bad-argument'], None)
    """
    try:
        return Statements(**given), []
    except pydantic.ValidationError as error:
        details = {str(detail["loc"][0]): detail for detail in error.errors(include_url=False)}
    right = Statements(**{key: value for key, value in given.items() if key not in details})
    faults = []
    for key, detail in details.items():
        message = str(detail["ctx"]["error"]) if "ctx" in detail else f"{key} is {shown(given[key])}; {detail['msg']}"
        if key == "max_duration":
            fix = f"state {right.terms.text(key, EXAMPLES[key])}"
            faults.append(Fault("duration-unknown", f"max_duration: {message}", fix, remedies=_instead(key)))
        else:
            faults.append(_wrong(key, message, right.terms, given[key]))
    return right, faults


def _wrong(key: str, message: str, terms: Terms, value: object) -> Fault:
    """Return the fault of an argument that is of the wrong type or out of range."""
    example = _meant(value, key)
    if example is None:
        return Fault("bad-argument", message, f"give {key} what it takes")
    words = terms.word(example) if isinstance(example, bool) else str(example)
    fix = terms.text(key, example) if isinstance(example, str) else terms.setting(key, words)
    return Fault("bad-argument", message, f"state {fix}", remedies=(State({key: example}),))


def _meant(value: object, key: str) -> Any:
    """Return the right value that a wrong one is nearest to, else an example; ``None`` where there is none."""
    example, low = EXAMPLES.get(key), 0 if key == "seed" else 1
    if not isinstance(example, int) or isinstance(example, bool):
        return example
    if (isinstance(value, float) and value.is_integer()) or (isinstance(value, str) and _DIGITS.fullmatch(value)):
        number = int(value)
        return number if low <= number <= MOST else example
    return example


def _instead(key: str) -> tuple[State, ...]:
    return (State({key: EXAMPLES[key]}),)


def _contradictions(given: Statements) -> Iterator[Fault]:
    """Find arguments that are right alone and mean nothing together."""
    size, parts = given.batch_size, given.microbatches
    if size is not None and parts > size:
        key = "accumulate" if given.terms is Terms.YAML else "microbatches"
        message = f"{key} is {parts}, and a device batch of {size} cannot be split into more than {size} parts"
        fix = f"set {given.terms.setting(key, str(size))}, or less"
        yield Fault("bad-argument", message, fix, remedies=(State({"microbatches": size}),))
    if given.compile and given.contract is Contract.ALWAYS:
        message = "contract='always' checks every step of every batch, so that compile=True would compile none"
        yield Fault("bad-argument", message, "leave compile out", remedies=(State({"compile": False}),))


def _task(given: object, faults: list[Fault]) -> Task:
    if isinstance(given, Task):
        return given
    if isinstance(given, str) and given in TASKS:
        return TASKS[given]
    said = "the task is not stated" if given is None else f"there is no task {shown(given)}{_near(given, TASKS)}"
    likely: dict[str, None] = dict.fromkeys([*_close(given, TASKS), *TASKS])
    choice = Decide(f"decide which it is: tasks are {', '.join(TASKS)}")
    faults.append(Fault("task-unstated", said, ways=(*((State({"task": name}),) for name in likely), (choice,))))
    return TASKS["multiclass"]


OTHER_WORDS = {"text": "tokens", "ids": "tokens", "pixels": "image", "uint8": "bytes", "vectors": "features"}
"""Words for inputs that others use, with the kinds that they mean."""


def _inputs(given: object, faults: list[Fault]) -> Kind:
    known = {kind.name: kind for kind in INPUT_KINDS}
    if isinstance(given, Kind) and given.field is Field.INPUTS:
        return given
    if isinstance(given, str) and given in known:
        return known[given]
    meant = [OTHER_WORDS[given]] if isinstance(given, str) and given in OTHER_WORDS else _close(given, known)
    ways = tuple((State({"inputs": name}),) for name in dict.fromkeys([*meant, *known]))
    said = f"'{given}', a kind of {given.field.value}" if isinstance(given, Kind) else shown(given)
    faults.append(Fault("inputs-unknown", f"there are no inputs of kind {said}{_near(given, known)}", ways=ways))
    return known[meant[0]] if meant else IMAGE


def _near(given: object, known: Mapping[str, Any]) -> str:
    return nearest(given if isinstance(given, str) else "", known)


def _close(given: object, known: Mapping[str, Any]) -> list[str]:
    return close_to(given, known) if isinstance(given, str) else []


def _clock(given: Statements, faults: list[Fault]) -> Clock:
    if given.max_duration is None:
        return Clock(given.steps_per_epoch)
    total = given.max_duration.batches(steps_per_epoch=given.steps_per_epoch, total=None)
    if total == 0:
        message = f"max_duration is {str(given.max_duration)!r}, which is less than one batch"
        faults.append(_wrong("max_duration", message, given.terms, None))
        total = None
    epochs = given.max_duration.unit == "ep" and given.steps_per_epoch is None
    return Clock(given.steps_per_epoch, total, "steps_per_epoch" if epochs else "max_duration")
