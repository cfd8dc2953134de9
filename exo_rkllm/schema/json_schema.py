"""JSON Schema, as far as answers of models are checked by it: the keywords that structured output uses.

A keyword that is not known here is refused with the question, since a check that skips it would lie. `pattern` is
among those: a caller's regular expression could hold the daemon for hours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from typing import Any

from exo_rkllm.schema.specs import FieldError

WHERE = "response_format"
DEEPEST = 40
MOST_STEPS = 100_000
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
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")


class Checker:
    """The schema is gone through once, when it is made: whatever is wrong with it is said before a model runs."""

    def __init__(self, schema: Any) -> None:
        self._root = schema
        self._seen: set[int] = set()
        self._steps = 0
        self._walk(schema, WHERE, 0)

    def violation(self, value: Any) -> str:
        """Why the value is not valid, in half a sentence; empty where it is."""
        self._steps = 0
        return _violation(self, self._root, value, "the answer", 0)

    def step(self) -> bool:
        """Alternatives that refer to themselves would take exponential time."""
        self._steps += 1
        return self._steps < MOST_STEPS

    def resolve(self, ref: str) -> Any:
        """Local references only."""
        if ref != "#" and not ref.startswith("#/"):
            raise FieldError(WHERE, f"The schema refers to {ref[:80]!a}, and only references inside it are followed.")
        found = self._root
        for part in ref.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or key not in found:
                raise FieldError(WHERE, f"The schema refers to {ref[:80]!a}, which is not in it.")
            found = found[key]
        return found

    def _walk(self, schema: Any, where: str, depth: int) -> None:
        if depth > DEEPEST:
            raise FieldError(WHERE, f"The schema is nested more than {DEEPEST} levels deep.")
        if isinstance(schema, bool) or id(schema) in self._seen:
            return
        if not isinstance(schema, dict):
            raise FieldError(WHERE, f"{where} must be a schema, which is an object or a boolean.")
        self._seen.add(id(schema))
        for key, held in schema.items():
            if key in ("properties", "$defs", "definitions"):
                self._walk_all(held, f"{where}.{key}", depth)
            elif key in ("items", "additionalProperties", "not"):
                self._walk(held, f"{where}.{key}", depth + 1)
            elif key in LISTS:
                if not isinstance(held, list) or not held:
                    raise FieldError(WHERE, f"{where}.{key} must be a list of schemas.")
                for one in held:
                    self._walk(one, f"{where}.{key}", depth + 1)
            else:
                self._walk_plain(key, held, where, depth)

    def _walk_all(self, schemas: Any, where: str, depth: int) -> None:
        if not isinstance(schemas, dict):
            raise FieldError(WHERE, f"{where} must be an object of schemas.")
        for name, one in schemas.items():
            self._walk(one, f"{where}.{ascii(name)[1:-1][:60]}", depth + 1)

    def _walk_plain(self, key: str, held: Any, where: str, depth: int) -> None:
        if key == "$ref":
            if not isinstance(held, str):
                raise FieldError(WHERE, f"{where}.$ref must be a string.")
            self._walk(self.resolve(held), f"{where}.$ref", depth + 1)  # it may lead to a place that is no schema
        elif key == "type":
            names = held if isinstance(held, list) else [held]
            if not names or not all(isinstance(name, str) and name in TYPES for name in names):
                raise FieldError(WHERE, f"{where}.type must be one of {', '.join(TYPES)}, or a list of them.")
        elif key == "enum":
            if not isinstance(held, list):
                raise FieldError(WHERE, f"{where}.enum must be a list.")
        elif key == "required":
            if not isinstance(held, list) or not all(isinstance(name, str) for name in held):
                raise FieldError(WHERE, f"{where}.required must be a list of names.")
        elif key in COUNTS or key in BOUNDS:
            if not TYPES["number"](held) or (key == "multipleOf" and held <= 0):
                raise FieldError(WHERE, f"{where}.{key} must be a number.")
        elif key not in ANNOTATIONS and key not in ("const", "uniqueItems"):
            raise FieldError(
                WHERE, f"The schema uses {ascii(key)[:60]}, which answers can't be checked by here.", "Leave it out."
            )


def _same(left: Any, right: Any) -> bool:
    """JSON's equality: true is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(held, right[key]) for key, held in left.items())
    return bool(left == right)


def _violation(checker: Checker, schema: Any, value: Any, where: str, depth: int) -> str:
    if depth > 2 * DEEPEST or not checker.step():
        return f"{where} is nested too deeply to be checked"
    if isinstance(schema, bool):
        return "" if schema else f"{where} is not allowed"
    for key, held in schema.items():
        rule = RULES.get(key)
        if rule is not None and (why := rule(checker, held, value, where, depth, schema)):
            return why
    return ""


def _type(_: Checker, held: Any, value: Any, where: str, depth: int, schema: Any) -> str:
    names = held if isinstance(held, list) else [held]
    return "" if any(TYPES[name](value) for name in names) else f"{where} is not of type {' or '.join(names)}"


def _enum(_: Checker, held: Any, value: Any, where: str, depth: int, schema: Any) -> str:
    return "" if any(_same(value, one) for one in held) else f"{where} is none of the values allowed"


def _const(_: Checker, held: Any, value: Any, where: str, depth: int, schema: Any) -> str:
    return "" if _same(value, held) else f"{where} is not the value required"


def _required(_: Checker, held: Any, value: Any, where: str, depth: int, schema: Any) -> str:
    missing = [name for name in held if isinstance(value, dict) and name not in value]
    return f"{where} has no {missing[0]!a}" if missing else ""


def _properties(checker: Checker, held: Any, value: Any, where: str, depth: int, schema: Any) -> str:
    if not isinstance(value, dict):
        return ""
    found = (
        _violation(checker, one, value[name], f"{where}.{name}", depth + 1)
        for name, one in held.items()
        if name in value
    )
    return next(filter(None, found), "")


def _additional(checker: Checker, held: Any, value: Any, where: str, depth: int, schema: Any) -> str:
    known = schema.get("properties", {})
    if not isinstance(value, dict):
        return ""
    found = (
        _violation(checker, held, one, f"{where}.{name}", depth + 1) for name, one in value.items() if name not in known
    )
    return next(filter(None, found), "")


def _prefix(checker: Checker, held: Any, value: Any, where: str, depth: int, schema: Any) -> str:
    if not isinstance(value, list):
        return ""
    pairs = enumerate(zip(held, value))  # noqa: B905 - either may be the longer one
    found = (_violation(checker, one, item, f"{where}[{index}]", depth + 1) for index, (one, item) in pairs)
    return next(filter(None, found), "")


def _items(checker: Checker, held: Any, value: Any, where: str, depth: int, schema: Any) -> str:
    if not isinstance(value, list):
        return ""
    first = len(schema.get("prefixItems", ()))
    rest = enumerate(value[first:], first)
    found = (_violation(checker, held, item, f"{where}[{index}]", depth + 1) for index, item in rest)
    return next(filter(None, found), "")


def _all(checker: Checker, held: Any, value: Any, where: str, depth: int, schema: Any) -> str:
    return next(filter(None, (_violation(checker, one, value, where, depth + 1) for one in held)), "")


def _any(checker: Checker, held: Any, value: Any, where: str, depth: int, schema: Any) -> str:
    reasons = [_violation(checker, one, value, where, depth + 1) for one in held]
    return "" if "" in reasons else f"{where} fits none of the alternatives ({reasons[0]})"


def _one(checker: Checker, held: Any, value: Any, where: str, depth: int, schema: Any) -> str:
    reasons = [_violation(checker, one, value, where, depth + 1) for one in held]
    fitting = reasons.count("")
    return "" if fitting == 1 else f"{where} fits {fitting} of the alternatives, not one"


def _not(checker: Checker, held: Any, value: Any, where: str, depth: int, schema: Any) -> str:
    return f"{where} is what it must not be" if not _violation(checker, held, value, where, depth + 1) else ""


def _ref(checker: Checker, held: Any, value: Any, where: str, depth: int, schema: Any) -> str:
    return _violation(checker, checker.resolve(held), value, where, depth + 1)


def _unique(_: Checker, held: Any, value: Any, where: str, depth: int, schema: Any) -> str:
    if not held or not isinstance(value, list):
        return ""
    twice = any(_same(one, other) for index, one in enumerate(value) for other in value[:index])
    return f"{where} holds the same thing twice" if twice else ""


def _count(kind: type[Sized], holds: Callable[[int, float], bool], what: str) -> Rule:
    def rule(_: Checker, held: Any, value: Any, where: str, depth: int, schema: Any) -> str:
        return f"{where} {what} {held}" if isinstance(value, kind) and not holds(len(value), held) else ""

    return rule


def _bound(holds: Callable[[float, float], bool], what: str) -> Rule:
    def rule(_: Checker, held: Any, value: Any, where: str, depth: int, schema: Any) -> str:
        return f"{where} is not {what} {held}" if TYPES["number"](value) and not holds(value, held) else ""

    return rule


def _multiple(value: float, held: float) -> bool:
    quotient = value / held
    return abs(quotient - round(quotient)) < 1e-9


Rule = Callable[[Checker, Any, Any, str, int, Any], str]
RULES: Mapping[str, Rule] = {
    "type": _type,
    "enum": _enum,
    "const": _const,
    "required": _required,
    "properties": _properties,
    "additionalProperties": _additional,
    "prefixItems": _prefix,
    "items": _items,
    "allOf": _all,
    "anyOf": _any,
    "oneOf": _one,
    "not": _not,
    "$ref": _ref,
    "uniqueItems": _unique,
    "minLength": _count(str, lambda size, held: size >= held, "is shorter than"),
    "maxLength": _count(str, lambda size, held: size <= held, "is longer than"),
    "minItems": _count(list, lambda size, held: size >= held, "has fewer elements than"),
    "maxItems": _count(list, lambda size, held: size <= held, "has more elements than"),
    "minProperties": _count(dict, lambda size, held: size >= held, "has fewer keys than"),
    "maxProperties": _count(dict, lambda size, held: size <= held, "has more keys than"),
    "minimum": _bound(lambda value, held: value >= held, "at least"),
    "maximum": _bound(lambda value, held: value <= held, "at most"),
    "exclusiveMinimum": _bound(lambda value, held: value > held, "above"),
    "exclusiveMaximum": _bound(lambda value, held: value < held, "below"),
    "multipleOf": _bound(_multiple, "a multiple of"),
}
