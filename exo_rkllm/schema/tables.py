"""Dataclasses as tables: each field of the class is a row, with the kind of its value and what it does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from exo_rkllm.schema.specs import FieldSpec, List, ObjectSpec, ValueSpec

T = TypeVar("T")
SPEC = "spec"


def row(
    kind: ValueSpec,
    about: str,
    default: Any = None,
    *,
    example: Any = None,
    required: bool = False,
    factory: Any = None,
    **more: Any,
) -> Any:
    """A field of a dataclass that is a table. `more` is kept in the field's metadata for the table's own use."""
    spec = FieldSpec("", kind, about, required=required, example=example)
    metadata = {SPEC: spec, **more}
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    if required:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def specs_of(table: type) -> tuple[FieldSpec, ...]:
    """The rows of a dataclass, in its order, with their names and defaults."""
    found = []
    for field in dataclasses.fields(table):
        if SPEC in field.metadata:
            default = None if field.default is dataclasses.MISSING else field.default
            found.append(dataclasses.replace(field.metadata[SPEC], name=field.name, default=default))
    return tuple(found)


def object_of(table: type) -> ObjectSpec:
    """A table of TOML: unknown keys are refused."""
    return ObjectSpec(table.__name__, specs_of(table), strict=True, what="a table")


def build(table: type[T], values: Mapping[str, Any], **more: Any) -> T:
    """A frozen value of checked ones: lists become tuples."""
    kinds = {spec.name: spec.kind for spec in specs_of(table)}
    frozen = {name: tuple(value) if isinstance(kinds[name], List) else value for name, value in values.items()}
    return table(**frozen, **more)
