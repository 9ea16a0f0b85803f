"""One grammar for every part of a config: a name, or a mapping with ``name`` and its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from counterpoint.core.check.settings import MARK
from counterpoint.core.declare.algorithm import Algorithm, build
from counterpoint.core.errors import ConfigError, CounterpointError, PluginError, UnknownNameError, nearest
from counterpoint.core.run.failures import describe_error
from counterpoint.plugins import ALGORITHMS, DATASETS, LOSSES, MODELS
from counterpoint.plugins.guard import guarded
from counterpoint.trainer.optim import OPTIMIZERS, SCHEDULERS

__all__ = [
    "BROKEN_PLUGIN",
    "DEFAULTS",
    "NO_COMPONENT",
    "ROLES",
    "UNKNOWN_NAME",
    "ComponentOf",
    "Names",
    "Table",
    "build_component",
]

UNKNOWN_NAME, BROKEN_PLUGIN, NO_COMPONENT = "unknown_name", "broken_plugin", "no_component"
"""The types of the pydantic errors for a name that is not registered, one that cannot be used, and no name at all."""


class Names(Protocol):
    """Names, and the classes of settings behind them."""

    def names(self) -> Iterable[str]:
        """Return every name, sorted."""

    def load(self, name: str) -> Any:
        """Return the class behind a name; raises ``PluginError`` if it cannot be used."""


@dataclass(frozen=True)
class Table:
    """Names of things that no plugin can add to.

    >>> Table("optimizer", OPTIMIZERS).names()
    ('adamw', 'sgd')
    """

    noun: str
    classes: Mapping[str, type[BaseModel]]

    def names(self) -> tuple[str, ...]:
        """Return every name, sorted."""
        return tuple(sorted(self.classes))

    def load(self, name: str) -> type[BaseModel]:
        """Return the class behind a name; raises ``UnknownNameError`` with the nearest names."""
        if name not in self.classes:
            raise UnknownNameError(f"no {self.noun} has the name {name!r}{nearest(name, self.classes)}")
        return self.classes[name]


ROLES: Mapping[str, Names] = {
    "algorithms": ALGORITHMS,
    "data": DATASETS,
    "loss": LOSSES,
    "model": MODELS,
    "optimizer": Table("optimizer", OPTIMIZERS),
    "scheduler": Table("scheduler", SCHEDULERS),
}
"""What the components under each key of a config are looked up in."""
DEFAULTS: Mapping[str, str] = {"loss": "cross_entropy", "optimizer": "sgd", "scheduler": "constant"}
"""The components of a config that does not name its own."""


@dataclass(frozen=True)
class ComponentOf:
    """Annotates a field that holds the settings of one component of a role.

    The field takes a name, a mapping with ``name`` and settings, or an instance made in Python, and is dumped as a
    mapping with every setting. Nothing but a registered name is ever looked up or imported.
    """

    role: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Parse by ``parse``, dump by ``dump``."""
        return core_schema.with_info_plain_validator_function(
            self.parse, serialization=core_schema.plain_serializer_function_ser_schema(self.dump)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Leave a mark where ``config_schema`` puts the choice of every registered component."""
        return {MARK: self.role}

    def parse(self, value: object, info: ValidationInfo) -> BaseModel:
        """Make the component; raises pydantic's errors at their exact places."""
        if isinstance(value, BaseModel):
            return value
        name, settings = _split(value)
        if self.role == "algorithms":
            return build({"name": name, **settings}, self.load)
        loaded: type[BaseModel] = self.load(name)
        return loaded.model_validate(settings)

    def dump(self, component: BaseModel) -> dict[str, Any]:
        """Return the mapping that makes an equal component."""
        name = component.name if isinstance(component, Algorithm) else _name_of(self.role, type(component))
        return {"name": name, **component.model_dump(mode="json")}

    def load(self, name: str) -> Any:
        """Return the class behind a name, with every reason against it as an error that pydantic gives a place."""
        try:
            return ROLES[self.role].load(name)
        except UnknownNameError as error:
            path = "; a config names registered things alone, and never Python objects" if "." in name else ""
            raise PydanticCustomError(UNKNOWN_NAME, "{reason}", {"reason": f"{error}{path}"}) from error
        except PluginError as error:
            raise PydanticCustomError(BROKEN_PLUGIN, "{reason}", {"reason": str(error)}) from error


def build_component(role: str, component: BaseModel, *arguments: object) -> Any:
    """Make the real thing from the settings of a component.

    What its code prints goes to stderr. Raises ``ConfigError`` that names the component, its package, and the line for
    an error of that code; errors that Counterpoint raises on purpose pass.
    """
    try:
        with guarded():
            return component.build(*arguments)  # type: ignore[attr-defined]
    except (CounterpointError, KeyboardInterrupt):
        raise
    except BaseException as error:
        name, package = _name_of(role, type(component)), type(component).__module__.partition(".")[0]
        raise ConfigError(
            f"{role}: {name!r} of the package {package} cannot be built: {describe_error(error)}; change its settings, "
            f"or upgrade or fix {package}"
        ) from error


@cache
def _name_of(role: str, component: type[BaseModel]) -> str:
    """Return the name of a class: the one it is registered under, else its own.

    Kept, as finding it reads the metadata of every installed package.
    """
    names = ROLES[role]
    for name in names.names():
        if _loads(names.load, name) is component:
            return name
    return component.__name__


def _split(value: object) -> tuple[str, dict[str, Any]]:
    settings = dict(value) if isinstance(value, Mapping) else {"name": value}
    name = settings.pop("name", None)
    if isinstance(name, str):
        return name, settings
    if isinstance(value, Mapping) and "name" not in value:
        raise PydanticCustomError(NO_COMPONENT, "the mapping has no `name`")
    raise PydanticCustomError(NO_COMPONENT, "is neither a name nor a mapping with `name` and settings")


def _loads(load: Callable[[str], Any], name: str) -> Any:
    try:
        return load(name)
    except PluginError:  # what cannot be loaded is not what is looked for
        return None
