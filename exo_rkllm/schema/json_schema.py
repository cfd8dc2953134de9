"""JSON Schema, as far as answers of models are checked by it: the keywords that structured output uses.

A keyword that is not known here is refused with the request, since a check that skips it would lie. `pattern` is
among those: a caller's regular expression could hold the daemon for hours. It is left to those who can hold an answer
to it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from exo_rkllm.schema.specs import Anything, Either, FieldError, List, Number, Text, ValueSpec, shown, wrong

WHERE = "response_format"
DEEPEST = 40
MOST_SCHEMAS = 2000
MOST_ALTERNATIVES = 1000
LONGEST_REF = 200
# Some 40 ms, for which an answer's end holds up all others.
MOST_STEPS = 30_000
# A step is a schema that is applied, or so many members of an operand that are looked at.
MEMBERS_A_STEP = 8
# They say something about a schema and nothing about a value; `format` is one of them by the standard's default.
ANNOTATIONS = frozenset(
    ("$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples", "format",
     "deprecated", "readOnly", "writeOnly", "strict")
)  # fmt: skip
TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: (isinstance(value, int) and not isinstance(value, bool))
    or (isinstance(value, float) and value.is_integer()),
}  # fmt: skip
COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
TYPE = Text(tuple(TYPES))
# What a keyword holds where it holds no schemas.
OPERANDS: Mapping[str, ValueSpec] = {
    "$ref": Text(most=LONGEST_REF),
    "type": Either((TYPE, List(TYPE, least=1)), f"{TYPE.what}, or a list of them"),
    "enum": List(Anything(), most=MOST_ALTERNATIVES),
    "required": List(Text(), most=MOST_ALTERNATIVES),
    **dict.fromkeys(("const", "uniqueItems"), Anything()),
    **dict.fromkeys((*COUNTS, *BOUNDS), Number()),
    **dict.fromkeys(ANNOTATIONS, Anything()),
}


class Checker:
    """Checks values by one schema. What is wrong with the schema itself raises a FieldError when it is made, before a
    model runs. `held` are keywords that the answer is held to otherwise."""

    def __init__(self, schema: Any, held: frozenset[str] = frozenset()) -> None:
        self._root = schema
        self._held = held
        self._visits: set[int] = set()
        self._steps = 0
        self._walk(schema, WHERE, 0)

    def violation(self, value: Any) -> str:
        """Why the value is not valid, in half a sentence; empty where it is."""
        self._steps = 0
        return self.check(self._root, value, "the answer", 0)

    def check(self, schema: Any, value: Any, where: str, depth: int) -> str:
        """The same for a part of both. Steps are counted: alternatives that refer to themselves grow exponentially."""
        self._steps += 1
        if depth > 2 * DEEPEST or self._steps >= MOST_STEPS:
            return f"{where} is nested too deeply to be checked, or has too many parts for it"
        if isinstance(schema, bool):
            return "" if schema else f"{where} is not allowed"
        place = AnswerPlace(self, schema, where, depth)
        for keyword, operand in schema.items():
            if isinstance(operand, list | dict):
                self._steps += len(operand) // MEMBERS_A_STEP
            kind, rule = RULES.get(keyword, ("", None))
            if rule and (not kind or TYPES[kind](value)) and (why := rule(operand, value, place)):
                return why
        return ""

    def resolve(self, ref: str) -> Any:
        """The part of the schema that a local reference means."""
        if ref != "#" and not ref.startswith("#/"):
            raise FieldError(WHERE, f"The schema refers to {ref[:80]!a}, and only references inside it are followed.")
        part = self._root
        for step in ref.split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(part, dict) or key not in part:
                raise FieldError(WHERE, f"The schema refers to {ref[:80]!a}, which is not in it.")
            part = part[key]
        return part

    def _walk(self, schema: Any, where: str, depth: int) -> None:
        if depth > DEEPEST:
            raise FieldError(WHERE, f"The schema is nested more than {DEEPEST} levels deep.")
        if isinstance(schema, bool) or id(schema) in self._visits:
            return
        if not isinstance(schema, dict):
            raise wrong(where, "a schema, which is an object or a boolean", schema)
        self._visits.add(id(schema))
        if len(self._visits) > MOST_SCHEMAS:
            raise FieldError(WHERE, f"The schema holds more than {MOST_SCHEMAS} schemas.", "Ask for less at once.")
        for keyword, operand in schema.items():
            place = f"{where}.{keyword}"
            if keyword in OPERANDS:
                OPERANDS[keyword].check(operand, place)
            for name, inner in self._inner(keyword, operand, place):
                self._walk(inner, f"{place}{name}", depth + 1)
            if keyword == "multipleOf" and operand <= 0:
                raise wrong(place, "a number above 0", operand)

    def _inner(self, keyword: str, operand: Any, where: str) -> Iterable[tuple[str, Any]]:
        """The schemas in a keyword's operand."""
        if keyword in ("properties", "$defs", "definitions"):
            if not isinstance(operand, dict):
                raise wrong(where, "an object of schemas", operand)
            return _members(operand)
        if keyword in ("anyOf", "oneOf", "allOf", "prefixItems"):
            if not isinstance(operand, list) or not operand:
                raise wrong(where, "a list of schemas", operand)
            return [("", inner) for inner in operand]
        if keyword in ("items", "additionalProperties", "not"):
            return [("", operand)]
        if keyword == "$ref":
            return [("", self.resolve(operand))]  # it may lead to a place that is no schema
        if keyword in self._held:
            return _members(operand) if isinstance(operand, dict) else []
        if keyword not in OPERANDS:
            raise FieldError(
                WHERE,
                f"The schema uses {ascii(keyword)[:60]}, which answers can't be checked by here.",
                "Leave it out.",
            )
        return []


def _members(schemas: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(f".{shown(name)[1:-1]}", inner) for name, inner in schemas.items()]


@dataclass(frozen=True, slots=True)
class AnswerPlace:
    """Where in the answer a rule is applied, and the schema that it stands in."""

    checker: Checker
    schema: Mapping[str, Any]
    where: str
    depth: int

    def check(self, schema: Any, value: Any, name: str = "") -> str:
        return self.checker.check(schema, value, self.where + name, self.depth + 1)

    def first(self, parts: Iterable[tuple[Any, Any, str]]) -> str:
        """The first violation among schemas, values and their names."""
        return next(filter(None, (self.check(*part) for part in parts)), "")


def same(left: Any, right: Any) -> bool:
    """JSON's equality: true is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(member, right[key]) for key, member in left.items())
    return bool(left == right)


def hashable(value: Any) -> Any:
    """A value that equals those of other values which are the `same`."""
    if isinstance(value, list):
        return tuple(map(hashable, value))
    if isinstance(value, dict):
        return frozenset((name, hashable(member)) for name, member in value.items())
    return (bool, value) if isinstance(value, bool) else value


def _type(names: Any, value: Any, place: AnswerPlace) -> str:
    names = names if isinstance(names, list) else [names]
    fits = any(TYPES[name](value) for name in names)
    return "" if fits else f"{place.where} is not of type {' or '.join(names)}"


def _enum(values: Any, value: Any, place: AnswerPlace) -> str:
    return "" if any(same(value, one) for one in values) else f"{place.where} is none of the values allowed"


def _const(only: Any, value: Any, place: AnswerPlace) -> str:
    return "" if same(value, only) else f"{place.where} is not the value required"


def _required(names: Any, value: Any, place: AnswerPlace) -> str:
    missing = [name for name in names if name not in value]
    return f"{place.where} has no {missing[0]!a}" if missing else ""


def _properties(schemas: Any, value: Any, place: AnswerPlace) -> str:
    return place.first((schema, value[name], f".{name}") for name, schema in schemas.items() if name in value)


def _additional(schema: Any, value: Any, place: AnswerPlace) -> str:
    properties = place.schema.get("properties", {})
    if "patternProperties" in place.schema:
        return ""
    return place.first((schema, member, f".{name}") for name, member in value.items() if name not in properties)


def _prefix(schemas: Any, value: Any, place: AnswerPlace) -> str:
    pairs = enumerate(zip(schemas, value))  # noqa: B905 - either may be the longer one
    return place.first((schema, item, f"[{index}]") for index, (schema, item) in pairs)


def _items(schema: Any, value: Any, place: AnswerPlace) -> str:
    first = len(place.schema.get("prefixItems", ()))
    return place.first((schema, item, f"[{index}]") for index, item in enumerate(value[first:], first))


def _any(schemas: Any, value: Any, place: AnswerPlace) -> str:
    reasons = [place.check(schema, value) for schema in schemas]
    return "" if "" in reasons else f"{place.where} fits none of the alternatives ({reasons[0]})"


def _one(schemas: Any, value: Any, place: AnswerPlace) -> str:
    fitting = [place.check(schema, value) for schema in schemas].count("")
    return "" if fitting == 1 else f"{place.where} fits {fitting} of the alternatives, not one"


def _not(schema: Any, value: Any, place: AnswerPlace) -> str:
    return "" if place.check(schema, value) else f"{place.where} is what it must not be"


def _unique(unique: Any, value: Any, place: AnswerPlace) -> str:
    twice = unique and len({hashable(one) for one in value}) < len(value)
    return f"{place.where} holds the same thing twice" if twice else ""


def _count(holds: Callable[[int, float], bool], what: str) -> Rule:
    return lambda limit, value, place: "" if holds(len(value), limit) else f"{place.where} {what} {limit}"


def _bound(holds: Callable[[float, float], bool], what: str) -> Rule:
    return lambda limit, value, place: "" if holds(value, limit) else f"{place.where} is not {what} {limit}"


def _multiple(value: float, step: float) -> bool:
    quotient = value / step
    return abs(quotient - round(quotient)) < 1e-9


Rule: TypeAlias = Callable[[Any, Any, AnswerPlace], str]
# Keyword, the type of the values that it is about (empty: all), and the reason why a value breaks it.
RULES: Mapping[str, tuple[str, Rule | None]] = {
    "type": ("", _type),
    "enum": ("", _enum),
    "const": ("", _const),
    "required": ("object", _required),
    "properties": ("object", _properties),
    "additionalProperties": ("object", _additional),
    "prefixItems": ("array", _prefix),
    "items": ("array", _items),
    "allOf": ("", lambda schemas, value, place: place.first((schema, value, "") for schema in schemas)),
    "anyOf": ("", _any),
    "oneOf": ("", _one),
    "not": ("", _not),
    "$ref": ("", lambda ref, value, place: place.check(place.checker.resolve(ref), value)),
    "uniqueItems": ("array", _unique),
    "minLength": ("string", _count(operator.ge, "is shorter than")),
    "maxLength": ("string", _count(operator.le, "is longer than")),
    "minItems": ("array", _count(operator.ge, "has fewer elements than")),
    "maxItems": ("array", _count(operator.le, "has more elements than")),
    "minProperties": ("object", _count(operator.ge, "has fewer keys than")),
    "maxProperties": ("object", _count(operator.le, "has more keys than")),
    "minimum": ("number", _bound(operator.ge, "at least")),
    "maximum": ("number", _bound(operator.le, "at most")),
    "exclusiveMinimum": ("number", _bound(operator.gt, "above")),
    "exclusiveMaximum": ("number", _bound(operator.lt, "below")),
    "multipleOf": ("number", _bound(_multiple, "a multiple of")),
}
