"""Dataclasses as tables: each field of the class is a row, with the kind of its value and what it does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from exo_rkllm.schema.specs import INT64, FieldSpec, List, ObjectSpec, Switch, Text, ValueSpec, Whole

T = TypeVar("T")
SPEC = "spec"
# By the annotation of a field that says nothing else; integers count something.
KINDS: Mapping[str, ValueSpec] = {
    "str": Text(), "int": Whole(0, INT64), "bool": Switch(), "tuple[str, ...]": List(Text()),
}  # fmt: skip


def row(
    kind: ValueSpec,
    about: str = "",
    default: Any = None,
    example: Any = None,
    *,
    factory: Any = None,
    secret: bool = False,
    **more: Any,
) -> Any:
    """A field of a table. A `secret` is not in its repr; `more` is kept in its metadata for the table's own use."""
    metadata = {SPEC: FieldSpec("", kind, about, example=example), **more}
    if factory is not None:
        return dataclasses.field(default_factory=factory, repr=not secret, metadata=metadata)
    return dataclasses.field(default=default, repr=not secret, metadata=metadata)


def specs_of(table: type) -> tuple[FieldSpec, ...]:
    """The rows of a dataclass, in its order; a field without a row of its own has the kind that its type tells."""
    return tuple(_spec_of(field) for field in dataclasses.fields(table))


def _spec_of(field: dataclasses.Field[Any]) -> FieldSpec:
    spec = field.metadata[SPEC] if SPEC in field.metadata else FieldSpec("", KINDS[str(field.type)], "")
    required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    default = None if field.default is dataclasses.MISSING else field.default
    return dataclasses.replace(spec, name=field.name, required=required, default=default)


def object_of(table: type) -> ObjectSpec:
    """A table of TOML: unknown keys are refused."""
    return ObjectSpec(table.__name__, specs_of(table), strict=True, what="a table", table=table)


def build(table: type[T], values: Mapping[str, Any], **more: Any) -> T:
    """A frozen value of checked ones: lists become tuples, and inner tables values of their classes."""
    kinds = {spec.name: spec.kind for spec in specs_of(table)}
    return table(**{name: _frozen(kinds[name], value) for name, value in values.items()}, **more)


def _frozen(kind: ValueSpec, value: Any) -> Any:
    if isinstance(kind, ObjectSpec) and kind.table is not None:
        return build(kind.table, value)
    return tuple(value) if isinstance(kind, List) else value
