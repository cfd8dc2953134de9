"""Request bodies as tables: one row a field gives the check, the complaint that names it, and the OpenAPI schema."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from exo_rkllm.api.faults import FieldError

Schema: TypeAlias = dict[str, Any]
LONGEST_SHOWN = 60


class ValueSpec(Protocol):
    def check(self, value: Any, where: str) -> Any:
        """The value, or a FieldError that names `where`."""
        ...

    def schema(self) -> Schema: ...


def shown(value: Any) -> str:
    """A value as a complaint repeats it: short, and on one line."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and value.bit_length() > 128:
        return "a very large number"
    text = ascii(value)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."


def wrong(where: str, what: str, value: Any, hint: str = "") -> FieldError:
    return FieldError(where, f"{where} must be {what}, not {shown(value)}.", hint)


@dataclass(frozen=True, slots=True)
class Text:
    """`values` are the only ones allowed, where there are any."""

    values: tuple[str, ...] = ()
    least: int = 0
    most: int = 0

    def check(self, value: Any, where: str) -> str:
        if not isinstance(value, str):
            raise wrong(where, "a string", value)
        if self.values and value not in self.values:
            near = difflib.get_close_matches(value[:100], self.values, 1)
            raise wrong(where, f"one of {', '.join(self.values)}", value, f"Did you mean {near[0]}?" if near else "")
        if len(value) < self.least:
            raise wrong(where, "a string that is not empty", value)
        if self.most and len(value) > self.most:
            raise FieldError(where, f"{where} has {len(value)} characters, {self.most} are allowed.")
        return value

    def schema(self) -> Schema:
        schema: Schema = {"type": "string"}
        if self.values:
            schema["enum"] = list(self.values)
        if self.least:
            schema["minLength"] = self.least
        if self.most:
            schema["maxLength"] = self.most
        return schema


@dataclass(frozen=True, slots=True)
class Whole:
    low: int = -(2**31)
    high: int = 2**31 - 1

    def check(self, value: Any, where: str) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # JSON has one kind of number, and JSON Schema counts 1.0 among the integers
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong(where, "a whole number", value)
        if not self.low <= value <= self.high:
            raise wrong(where, f"from {self.low} to {self.high}", value)
        return value

    def schema(self) -> Schema:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True, slots=True)
class Number:
    low: float
    high: float

    def check(self, value: Any, where: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
            raise wrong(where, "a number", value)
        if not self.low <= value <= self.high:
            raise wrong(where, f"from {self.low:g} to {self.high:g}", value)
        return float(value)

    def schema(self) -> Schema:
        return {"type": "number", "minimum": self.low, "maximum": self.high}


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


@dataclass(frozen=True, slots=True)
class Switch:
    def check(self, value: Any, where: str) -> bool:
        if not isinstance(value, bool):
            raise wrong(where, "true or false", value)
        return value

    def schema(self) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Anything:
    """Any JSON."""

    def check(self, value: Any, where: str) -> Any:
        return value

    def schema(self) -> Schema:
        return {}


@dataclass(frozen=True, slots=True)
class Free:
    """An object whose keys are the caller's own."""

    values: ValueSpec = Anything()
    most: int = 0

    def check(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise wrong(where, "an object", value)
        if self.most and len(value) > self.most:
            raise FieldError(where, f"{where} has {len(value)} keys, {self.most} are allowed.")
        return {key: self.values.check(held, f"{where}.{shown(key)[1:-1]}") for key, held in value.items()}

    def schema(self) -> Schema:
        schema: Schema = {"type": "object", "additionalProperties": self.values.schema()}
        if self.most:
            schema["maxProperties"] = self.most
        return schema


@dataclass(frozen=True, slots=True)
class List:
    of: ValueSpec
    least: int = 0
    most: int = 0

    def check(self, value: Any, where: str) -> list[Any]:
        if not isinstance(value, list):
            raise wrong(where, "a list", value)
        if len(value) < self.least:
            raise FieldError(where, f"{where} must not be empty.")
        if self.most and len(value) > self.most:
            raise FieldError(where, f"{where} has {len(value)} elements, {self.most} are allowed.")
        return [self.of.check(one, f"{where}[{index}]") for index, one in enumerate(value)]

    def schema(self) -> Schema:
        schema: Schema = {"type": "array", "items": self.of.schema()}
        if self.least:
            schema["minItems"] = self.least
        if self.most:
            schema["maxItems"] = self.most
        return schema


@dataclass(frozen=True, slots=True)
class Either:
    """Kinds that differ in their JSON type: the first that takes the value has it."""

    kinds: tuple[ValueSpec, ...]
    what: str

    def check(self, value: Any, where: str) -> Any:
        deepest: FieldError | None = None
        for kind in self.kinds:
            try:
                return kind.check(value, where)
            except FieldError as error:
                if error.field != where and (deepest is None or len(error.field) > len(deepest.field)):
                    deepest = error  # the right type with something wrong inside says more than "neither"
        raise deepest or wrong(where, self.what, value)

    def schema(self) -> Schema:
        return {"anyOf": [kind.schema() for kind in self.kinds]}


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """`neutral` values are the only ones that can be honoured; `why` says so to whoever sends another."""

    name: str
    kind: ValueSpec
    about: str
    required: bool = False
    neutral: tuple[Any, ...] | None = None
    why: str = ""

    def check(self, value: Any, where: str) -> Any:
        value = self.kind.check(value, where)
        if self.neutral is not None and value not in self.neutral:
            allowed = " or ".join(shown(one) for one in self.neutral) or "absent"
            raise FieldError(
                where, f"{where} is {shown(value)}, and {self.why}.", f"Leave it out, or make it {allowed}."
            )
        return value

    def schema(self) -> Schema:
        schema = self.kind.schema()
        if self.neutral is not None:
            schema = {"enum": list(self.neutral)} if self.neutral else {}
        if not self.required:
            schema = {"anyOf": [schema, {"type": "null"}]} if self.neutral != () else {"type": "null"}
        return {**schema, "description": f"{self.about} Only for the record: {self.why}." if self.why else self.about}


@dataclass(frozen=True, slots=True)
class BodySpec:
    """An object with known fields. What else it holds is left alone, since clients send much that is their own."""

    name: str
    fields: tuple[FieldSpec, ...]

    def check(self, value: Any, where: str) -> dict[str, Any]:
        """Known fields that are set; an explicit null is the same as absence, as the SDKs mean it."""
        if not isinstance(value, dict):
            raise wrong(where or "The body", "an object", value)
        found: dict[str, Any] = {}
        for field in self.fields:
            place = f"{where}.{field.name}" if where else field.name
            held = value.get(field.name)
            if held is None:
                if field.required:
                    raise FieldError(place, f"{place} is missing.", field.about)
                continue
            found[field.name] = field.check(held, place)
        return found

    def unknown(self, value: Mapping[str, Any]) -> list[str]:
        names = {field.name for field in self.fields}
        return [name for name, held in value.items() if name not in names and held is not None]

    def schema(self) -> Schema:
        schema: Schema = {"type": "object", "properties": {field.name: field.schema() for field in self.fields}}
        if required := [field.name for field in self.fields if field.required]:
            schema["required"] = required
        return schema


@dataclass(frozen=True, slots=True)
class TaggedSpec:
    """Objects told apart by one of their fields."""

    tag: str
    tables: Mapping[str, BodySpec]
    default: str = ""

    def check(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise wrong(where, "an object", value)
        tag = value.get(self.tag) or self.default
        place = f"{where}.{self.tag}"
        if not isinstance(tag, str) or tag not in self.tables:
            raise wrong(place, f"one of {', '.join(self.tables)}", tag)
        return {self.tag: tag, **self.tables[tag].check(value, where)}

    def schema(self) -> Schema:
        return {"anyOf": [self._tagged(tag, table) for tag, table in self.tables.items()]}

    def _tagged(self, tag: str, table: BodySpec) -> Schema:
        schema = table.schema()
        properties = {self.tag: {"enum": [tag]}, **schema["properties"]}
        required = [*([] if tag == self.default else [self.tag]), *schema.get("required", [])]
        return {**schema, "properties": properties, **({"required": required} if required else {})}


def names(rows: Sequence[FieldSpec]) -> list[str]:
    return [row.name for row in rows]
