"""What values may be, as rows: one row gives the check, the complaint that names the field, and the JSON Schema.

Request bodies, configuration sections, model cards and engine options are tables of these rows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

from exo_rkllm.errors import UsageError

Schema: TypeAlias = dict[str, Any]
N = TypeVar("N", int, float)
LONGEST_SHOWN = 60
INT32, INT64 = 2**31 - 1, 2**63 - 1


class FieldError(UsageError):
    """A field is missing, unknown, of the wrong type or beyond its limits; `field` is its path (`a.b[0]`)."""

    code = "invalid_value"

    def __init__(self, field: str, sentence: str, hint: str = "") -> None:
        super().__init__(sentence, hint)
        self.field = field

    @property
    def clause(self) -> str:
        """The sentence as it stands after a place and a colon."""
        return self.sentence[0].lower() + self.sentence[1:] if self.sentence.startswith("There") else self.sentence

    @classmethod
    def rebuilt(cls, sentence: str, hint: str) -> FieldError:
        return cls("", sentence, hint)


class ValueSpec(Protocol):
    """What one value may be. `what` says it in words, as complaints and manuals do."""

    @property
    def what(self) -> str: ...

    def check(self, value: Any, where: str) -> Any:
        """The value in our own type; raises a FieldError that names `where`."""
        ...

    def schema(self) -> Schema: ...


def shown(value: Any) -> str:
    """A value as a complaint repeats it: short, on one line, in the words of JSON and TOML."""
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


def _schema(kind: str, **keywords: Any) -> Schema:
    """Without the keywords that say nothing."""
    return {"type": kind, **{name: value for name, value in keywords.items() if value}}


def suggestion(word: str, words: Collection[str]) -> str:
    """A hint with the one of `words` that is nearest, empty where none is near."""
    from difflib import get_close_matches  # here, since only a mistake needs it: importing it costs every start

    near = get_close_matches(word[:100], sorted(words), n=1, cutoff=0.5)
    return f"Did you mean {near[0]}?" if near else ""


def nearest(word: str, words: Collection[str]) -> str:
    """The same, with all that there are where none is near."""
    return suggestion(word, words) or f"There are: {', '.join(sorted(words)) or 'none'}."


@dataclass(frozen=True, slots=True)
class Text:
    """A string, of the allowed `values` where there are any, of `least` to `most` characters (0: no limit)."""

    values: tuple[str, ...] = ()
    least: int = 0
    most: int = 0

    @property
    def what(self) -> str:
        return f"one of {', '.join(self.values)}" if self.values else "a string"

    def check(self, value: Any, where: str) -> str:
        if not isinstance(value, str):
            raise wrong(where, "a string", value)
        if self.values and value not in self.values:
            raise wrong(where, self.what, value, suggestion(value, self.values))
        if len(value) < self.least:
            raise wrong(where, "a string that is not empty", value)
        if self.most and len(value) > self.most:
            raise FieldError(where, f"{where} has {len(value)} characters, {self.most} are allowed.")
        return value

    def schema(self) -> Schema:
        return _schema("string", enum=list(self.values), minLength=self.least, maxLength=self.most)


@dataclass(frozen=True, slots=True)
class Whole:
    """An integer; 2.0 is one, since JSON has one kind of number."""

    low: int = -INT32 - 1
    high: int = INT32
    what: ClassVar[str] = "a whole number"

    def check(self, value: Any, where: str) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong(where, self.what, value)
        return in_range(value, self.low, self.high, where)

    def schema(self) -> Schema:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number."""

    low: float = -math.inf
    high: float = math.inf
    what: ClassVar[str] = "a number"

    def check(self, value: Any, where: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
            raise wrong(where, self.what, value)
        return float(in_range(value, self.low, self.high, where))

    def schema(self) -> Schema:
        limits = {"minimum": self.low, "maximum": self.high}
        return {"type": "number", **{name: limit for name, limit in limits.items() if math.isfinite(limit)}}


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def in_range(value: N, low: float, high: float, where: str) -> N:
    """The value, or the complaint with its limits, unless the upper one is only the type's own."""
    if low <= value <= high:
        return value
    if value < low and high in (INT32, INT64, math.inf):
        raise wrong(where, f"{low:.15g} or more", value)
    raise wrong(where, f"from {low:.15g} to {high:.15g}", value)


@dataclass(frozen=True, slots=True)
class Switch:
    """True or false."""

    what: ClassVar[str] = "true or false"

    def check(self, value: Any, where: str) -> bool:
        if not isinstance(value, bool):
            raise wrong(where, self.what, value)
        return value

    def schema(self) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Anything:
    """Any JSON."""

    what: ClassVar[str] = "any value"

    def check(self, value: Any, where: str) -> Any:
        return value

    def schema(self) -> Schema:
        return {}


@dataclass(frozen=True, slots=True)
class Free:
    """An object whose keys are the caller's own."""

    values: ValueSpec = Anything()
    most: int = 0
    what: ClassVar[str] = "an object"

    def check(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise wrong(where, self.what, value)
        if self.most and len(value) > self.most:
            raise FieldError(where, f"{where} has {len(value)} keys, {self.most} are allowed.")
        return {key: self.values.check(member, f"{where}.{shown(key)[1:-1]}") for key, member in value.items()}

    def schema(self) -> Schema:
        return {**_schema("object", maxProperties=self.most), "additionalProperties": self.values.schema()}


@dataclass(frozen=True, slots=True)
class List:
    """A list of `least` to `most` elements (0: no limit) of one kind."""

    of: ValueSpec
    least: int = 0
    most: int = 0

    @property
    def what(self) -> str:
        return "a list of strings" if isinstance(self.of, Text) else "a list"

    def check(self, value: Any, where: str) -> list[Any]:
        if not isinstance(value, list):
            raise wrong(where, self.what, value)
        if len(value) < self.least:
            raise FieldError(where, f"{where} must not be empty.")
        if self.most and len(value) > self.most:
            raise FieldError(where, f"{where} has {len(value)} elements, {self.most} are allowed.")
        return [self.of.check(one, f"{where}[{index}]") for index, one in enumerate(value)]

    def schema(self) -> Schema:
        return {**_schema("array", minItems=self.least, maxItems=self.most), "items": self.of.schema()}


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
    """A named value. `neutral` values are the only ones that can be honoured; `why` says so to whoever sends another.
    A `droppable` field may be left out of what is asked: other values are taken, and it is for the caller to say so.

    `default` holds where the field is absent and its table fills in what is missing; `example` is a value that differs
    from it, for manuals and complaints.
    """

    name: str
    kind: ValueSpec
    about: str
    required: bool = False
    neutral: tuple[Any, ...] | None = None
    why: str = ""
    droppable: bool = False
    default: Any = None
    example: Any = None

    def check(self, value: Any, where: str) -> Any:
        value = self.kind.check(value, where)
        if not self.droppable and (error := self.objection(value, where)) is not None:
            raise error
        return value

    def objection(self, value: Any, where: str) -> FieldError | None:
        """Why the value cannot be honoured; None where it can."""
        if self.neutral is None or value in self.neutral:
            return None
        allowed = " or ".join(shown(one) for one in self.neutral) or "absent"
        return FieldError(where, f"{where} is {shown(value)}, and {self.why}.", f"Leave it out, or make it {allowed}.")

    @property
    def consequence(self) -> str:
        """What becomes of values that are not neutral, as a sentence; empty where all are honoured."""
        verb = "have no effect" if self.droppable else "are refused"
        return f"Other values {verb}: {self.why}." if self.why else ""

    def schema(self) -> Schema:
        schema = self.kind.schema()
        if self.neutral is not None and not self.droppable:
            schema = {"enum": list(self.neutral)} if self.neutral else {}
        if not self.required:
            schema = {"anyOf": [schema, {"type": "null"}]} if self.neutral != () else {"type": "null"}
        return {
            **schema,
            "description": f"{self.about} {self.consequence}".rstrip(),
        }


@dataclass(frozen=True, slots=True)
class ObjectSpec:
    """An object with known fields: a request body, a table of TOML.

    Unknown keys are left alone, since clients send much that is their own, or refused where the object is `strict`.
    """

    name: str
    fields: tuple[FieldSpec, ...]
    strict: bool = False
    what: str = "an object"
    noun: str = "key"
    table: type | None = None  # the class that `tables.build` makes of it

    def field(self, name: str) -> FieldSpec | None:
        return next((field for field in self.fields if field.name == name), None)

    def check(self, value: Any, where: str) -> dict[str, Any]:
        """Known fields that are set; an explicit null is the same as absence, as the SDKs mean it."""
        if not isinstance(value, dict):
            raise wrong(where or "The body", self.what, value)
        if self.strict and (unknown := self.unknown(value)):
            place = _inside(where, shown(unknown[0])[1:-1])
            raise FieldError(place, f"There is no {self.noun} {place}.", nearest(unknown[0], names(self.fields)))
        checked: dict[str, Any] = {}
        for field in self.fields:
            member = value.get(field.name)
            if member is not None:
                checked[field.name] = field.check(member, _inside(where, field.name))
            elif field.required:
                place = _inside(where, field.name)
                raise FieldError(place, f"{place} is missing.", field.about or f"Add {place}.")
        return checked

    def unknown(self, value: Mapping[str, Any]) -> list[str]:
        known = names(self.fields)
        return [name for name, member in value.items() if name not in known and member is not None]

    def schema(self) -> Schema:
        properties = {field.name: field.schema() for field in self.fields}
        return {
            **_schema("object", required=[field.name for field in self.fields if field.required]),
            "properties": properties,
        }


def _inside(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def names(rows: Sequence[FieldSpec]) -> list[str]:
    return [row.name for row in rows]


@dataclass(frozen=True, slots=True)
class TaggedSpec:
    """Objects told apart by one of their fields."""

    tag: str
    tables: Mapping[str, ObjectSpec]
    default: str = ""

    what: ClassVar[str] = "an object"

    def check(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise wrong(where, self.what, value)
        tag = value.get(self.tag) or self.default
        place = f"{where}.{self.tag}"
        if not isinstance(tag, str) or tag not in self.tables:
            raise wrong(place, f"one of {', '.join(self.tables)}", tag)
        return {self.tag: tag, **self.tables[tag].check(value, where)}

    def schema(self) -> Schema:
        return {"anyOf": [self._tagged(tag, table) for tag, table in self.tables.items()]}

    def _tagged(self, tag: str, table: ObjectSpec) -> Schema:
        schema = table.schema()
        properties = {self.tag: {"enum": [tag]}, **schema["properties"]}
        required = [*([] if tag == self.default else [self.tag]), *schema.get("required", [])]
        return {**schema, "properties": properties, **({"required": required} if required else {})}
