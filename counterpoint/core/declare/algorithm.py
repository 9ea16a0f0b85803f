"""The base class of every training method."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Set
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, TypeVar

import pydantic
from pydantic import (
    BaseModel,
    ConfigDict,
    PlainSerializer,
    PlainValidator,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    WithJsonSchema,
)
from torch import nn

from counterpoint.core.arguments import written
from counterpoint.core.declare.batch import BatchSpec
from counterpoint.core.declare.decorators import collect
from counterpoint.core.declare.durations import Duration
from counterpoint.core.declare.effects import Declaration
from counterpoint.core.declare.randomness import Rng
from counterpoint.core.errors import DeclarationError
from counterpoint.core.faults import Fault

__all__ = ["Algorithm", "Component", "Names", "build"]

DrawsT = TypeVar("DrawsT")
_T = TypeVar("_T")
_DEEPEST = 8
"""How deep methods may lie in each other."""
_WORD = r"[a-z][a-z0-9_]*"


def _tuple_of_names(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Names = Annotated[
    tuple[str, ...],
    pydantic.BeforeValidator(_tuple_of_names),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


if TYPE_CHECKING:

    class _Drawing(BaseModel, Generic[DrawsT]): ...
else:

    class _Drawing(BaseModel):
        """Makes ``Algorithm[Draws]`` the class ``Algorithm``: the type of the draws is only for type checkers.

        Without this, pydantic would build a model for every parameter, as it still does for generic subclasses.
        """

        def __class_getitem__(cls, draws):
            return super().__class_getitem__(draws) if cls.__pydantic_generic_metadata__["parameters"] else cls


class Algorithm(_Drawing[DrawsT]):
    """One training method: its hyperparameters as fields, its effects as decorated methods.

    A subclass states its registered name, ``class MixUp(Algorithm[Mixing], name="mixup")`` (without it, the class's
    name in snake_case); ``shared=True`` gives every rank the same draws, also in subclasses. Both may also be set in
    the body of the class, such as ``shared = True``. ``tasks`` are the tasks for which the method has a meaning
    (``None``: all), ``min_batch`` the smallest batch it can work on. Instances are frozen and have no state: ``init``
    returns what a method keeps between steps.

    Every algorithm takes ``start`` and ``end`` (durations, end exclusive), ``every`` (acts on each n-th batch from
    ``start``) and ``p`` (a coin for each batch). It also takes ``after`` and ``before`` (ids of others), and ``id``
    (its name in the plan and for others). A setting that is unknown or out of range raises pydantic's
    ``ValidationError``; a class that declares its effects wrongly raises ``DeclarationError`` when it is created.

    >>> from counterpoint.algorithms import MixUp
    >>> MixUp(alpha=0.4, end="0.9dur").identity
    'mixup'
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    name: ClassVar[str]
    shared: ClassVar[bool]
    tasks: ClassVar[frozenset[str] | None] = None
    min_batch: ClassVar[int] = 1
    declaration: ClassVar[Declaration]

    start: Duration = pydantic.Field(
        default=Duration(0.0, "ba"),
        description="first batch on which it acts",
        json_schema_extra={"default": "0ba"},
    )
    end: Duration | None = pydantic.Field(default=None, description="first batch on which it acts no more")
    every: int = pydantic.Field(default=1, ge=1, lt=2**63, description="acts on each n-th batch, counted from start")
    p: float = pydantic.Field(default=1.0, ge=0, le=1, description="probability of acting on a batch")
    after: Names = pydantic.Field(default=(), description="ids of methods that must come earlier")
    before: Names = pydantic.Field(default=(), description="ids of methods that must come later")
    id: str | None = pydantic.Field(default=None, pattern=f"^{_WORD}$", description="its name within this composition")

    def __init_subclass__(cls, *, name: str | None = None, shared: bool | None = None, **kwargs: Any) -> None:
        """Take the class keywords; they are read once pydantic has built the class."""
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(cls, *, name: str | None = None, shared: bool | None = None, **kwargs: Any) -> None:
        """Check the class's declaration when it is created."""
        super().__pydantic_init_subclass__(**kwargs)
        if cls.__pydantic_generic_metadata__["origin"] is not None:
            return
        snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
        cls.name = _stated(cls, "name", name, snake, str, '"my_method"')
        cls.shared = _stated(cls, "shared", shared, getattr(super(cls, cls), "shared", False), bool, "True")
        if not re.fullmatch(_WORD, cls.name):
            raise DeclarationError(
                f"class {cls.__name__}(Algorithm, name={cls.name!r})", "names are snake_case", 'name="my_method"'
            )
        cls.declaration = collect(cls)
        if not (cls.declaration.transforms or cls.declaration.hooks or _is_choice(cls)):
            raise DeclarationError(
                f"class {cls.__name__}(Algorithm)",
                "it declares no transform and no hook, so it would do nothing",
                "decorate a method with @transform(...) or with a hook such as @after(Event.STEP, ...)",
            )

    @pydantic.model_serializer(mode="wrap")
    def _in_one_order(self, dump: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Write sets in sorted order, to make the settings the same in each process."""
        data: dict[str, Any] = dump(self)
        if info.mode == "json":
            data |= {key: sorted(data[key], key=repr) for key, value in self if isinstance(value, Set) and key in data}
        return data

    @property
    def identity(self) -> str:
        """The name by which the plan and other methods call this one: its ``id``, else its registered name."""
        return self.id or self.name

    def draw(self, batch: BatchSpec, rng: Rng) -> DrawsT | None:
        """Return this step's random numbers, as tensors on the CPU; every transform and hook receives them."""
        return None

    def init(self, model: nn.Module) -> object | None:
        """Return the state of the method between steps: a small dataclass of tensors, and mappings of them."""
        return None

    def declared(self) -> Declaration:
        """Return what this instance declares: its class's declaration, made more exact by its settings."""
        return self.declaration

    def misfits(self, model: nn.Module) -> Iterable[Fault]:
        """Return the reasons why the method cannot work on this model, which is still unchanged; none if it can."""
        return ()

    def alternatives(self) -> tuple[tuple[Algorithm[Any], float], ...]:
        """Return methods with their weights, one to be chosen for each batch; none for a plain method."""
        return ()

    def settings(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, as plain data."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def component(self) -> dict[str, Any]:
        """Return the mapping that names this algorithm in a config."""
        return {"name": self.name, **self.settings()}


def _stated(cls: type[Algorithm[Any]], key: str, keyword: _T | None, default: _T, kind: type[_T], example: str) -> _T:
    """Return what a class states by a keyword or in its body, else the default; raises ``DeclarationError``."""
    right = f"class {cls.__name__}(Algorithm, {key}={example})"
    if key in cls.model_fields:
        raise DeclarationError(f"{key}: ... in the body of class {cls.__name__}", f"{key} is no setting", right)
    given = [value for value in (keyword, vars(cls).get(key)) if value is not None]
    for value in given:
        if not isinstance(value, kind) or value != given[0]:
            why = f"{key} is a {kind.__name__}, and stated once"
            raise DeclarationError(f"{key}={written(value)} of class {cls.__name__}", why, right)
    return given[0] if given else default


def _is_choice(cls: type[Algorithm[Any]]) -> bool:
    return cls.alternatives is not Algorithm.alternatives


def build(
    given: object, resolve: Callable[[str], type[Algorithm[Any]]] | None, within: tuple[object, ...] = ()
) -> Algorithm[Any]:
    """Make an algorithm from an instance, a name, or a mapping with ``name`` and settings.

    ``within`` are the mappings that hold it. Raises what ``resolve`` raises for an unknown name, ``ValidationError``
    for wrong settings, and ``ValueError`` for anything that is none of the three, or that holds itself.
    """
    if isinstance(given, Algorithm):
        return given
    if len(within) >= _DEEPEST or any(given is outer for outer in within):
        raise ValueError(f"a method holds itself, or methods lie in each other more than {_DEEPEST} deep")
    settings = dict(given) if isinstance(given, Mapping) else {"name": given}
    name = settings.pop("name", None)
    if not isinstance(name, str):
        said = f"a mapping of {written(list(settings))}" if isinstance(given, Mapping) else written(given)
        raise ValueError(f"{said} is no algorithm: give a name, a mapping with 'name' and settings, or an instance")
    if resolve is None:
        raise ValueError(f"the name {name!r} cannot be looked up here: give an instance, or write the whole in compose")
    return resolve(name).model_validate(settings, context={"resolve": resolve, "within": (*within, given)})


def _component(value: object, info: ValidationInfo) -> Algorithm[Any]:
    context = info.context or {}
    return build(value, context.get("resolve"), context.get("within", ()))


Component = Annotated[
    Algorithm[Any],
    PlainValidator(_component),
    PlainSerializer(lambda algorithm: algorithm.component()),
    WithJsonSchema({"x-component": "algorithms"}),
]
"""A field of an algorithm that holds another one, written as an instance, a name or a mapping."""
