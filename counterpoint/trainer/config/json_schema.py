"""The JSON Schema of a whole config, with the settings of everything installed."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from counterpoint.core.check.settings import MARK, WithPlainDefaults
from counterpoint.core.errors import PluginError
from counterpoint.trainer.config.components import ROLES
from counterpoint.trainer.config.run_config import RunConfig

__all__ = ["config_schema"]

_MODE: JsonSchemaMode = "validation"


def config_schema() -> tuple[dict[str, Any], tuple[PluginError, ...]]:
    """Return the JSON Schema (draft 2020-12) of a config, and the errors of registered things that cannot be used.

    Everything registered is imported. What cannot be used is left out of the schema.

    >>> schema, broken = config_schema()
    >>> schema["properties"]["optimizer"]["$ref"], "mixup" in schema["$defs"]["algorithms"]["anyOf"][0]["enum"]
    ('#/$defs/optimizer', True)
    """
    loaded, broken = _load()
    models: list[type[BaseModel]] = [RunConfig, *dict.fromkeys(loaded.values())]
    places, document = models_json_schema([(model, _MODE) for model in models], schema_generator=WithPlainDefaults)
    definitions: dict[str, Any] = document["$defs"]
    keys = {model: places[model, _MODE]["$ref"].rpartition("/")[2] for model in models}
    run = definitions.pop(keys[RunConfig])
    choices: dict[str, Any] = {role: {"anyOf": [{"enum": []}]} for role in ROLES}
    for (role, name), model in loaded.items():
        component = definitions[keys[model]]
        if "required" not in component:
            choices[role]["anyOf"][0]["enum"].append(name)
        choices[role]["anyOf"].append(_named(component, name))
    references = json.dumps([choices, definitions])
    shared = {key: held for key, held in definitions.items() if json.dumps(f"#/$defs/{key}") in references}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_first_paragraph(run),
        "title": "The config of a training run",
        "$defs": {**shared, **choices},
    }
    return _with_choices(schema), broken


def _load() -> tuple[dict[tuple[str, str], type[BaseModel]], tuple[PluginError, ...]]:
    """Load every component by role and name."""
    loaded: dict[tuple[str, str], type[BaseModel]] = {}
    broken = []
    for role, registry in ROLES.items():
        for name in registry.names():
            try:
                loaded[role, name] = registry.load(name)
            except PluginError as error:
                broken.append(error)
    return loaded, tuple(broken)


def _named(component: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the schema of a mapping with ``name`` and settings."""
    return {
        **_first_paragraph(component),
        "properties": {"name": {"const": name}, **component["properties"]},
        "required": ["name", *component.get("required", ())],
    }


def _first_paragraph(schema: dict[str, Any]) -> dict[str, Any]:
    """Keep of a docstring what an editor has room for."""
    description = schema.get("description", "").partition("\n\n")[0]
    return {**schema, "description": " ".join(description.split())}


def _with_choices(schema: Any) -> Any:
    """Put a reference to the choice of a role in the place of every mark."""
    if isinstance(schema, list):
        return [_with_choices(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: _with_choices(value) for key, value in schema.items() if key != MARK}
    return {"$ref": f"#/$defs/{schema[MARK]}", **inner} if MARK in schema else inner
