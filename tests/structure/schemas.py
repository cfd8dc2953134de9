"""Random JSON Schemas, each with a value that is valid under it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, TypeAlias

Pair: TypeAlias = tuple[Any, Any]

WORDS = ("red", "green", "Oslo", "a b", "größe", 'say "hi"', "back\\slash", "x" * 30, "", "東京", "line\nbreak", "1")
NAMES = ("name", "people", "size", "tags", "where", "a", "b", "größe", "with space", "x-1", "type", "items")
# A regular expression and texts that it matches.
PATTERNS = (
    ("^[a-z]{2,8}$", ("ab", "hello")),
    ("^[A-Z]{3}-[0-9]{2,4}$", ("ABC-12", "XYZ-2026")),
    ("^(yes|no|maybe)$", ("yes", "maybe")),
    ("[0-9]+", ("a1", "42")),
    ("^#([0-9a-f]{3}|[0-9a-f]{6})$", ("#fff", "#12ab34")),
)
FORMATS = (
    ("date", "2026-11-30"),
    ("date-time", "2026-11-30T12:00:00Z"),
    ("time", "12:00:00Z"),
    ("uuid", "123e4567-e89b-12d3-a456-426614174000"),
    ("email", "a@example.org"),
    ("ipv4", "10.0.0.7"),
    ("uri", "https://example.org/a"),
    ("hostname", "example.org"),
)


class SchemaMaker:
    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.definitions: dict[str, Any] = {}

    def document(self) -> Pair:
        """A whole schema, an object's as a rule, with its definitions."""
        schema, value = self.object(0) if self.chance.random() < 0.8 else self.any(0)
        if self.definitions:
            schema = {**schema, "$defs": self.definitions}
        return schema, value

    def any(self, depth: int) -> Pair:
        simple: list[Callable[[int], Pair]] = [
            *(self.string, self.string, self.pattern, self.format, self.integer, self.number, self.enum, self.const),
            *(self.boolean, self.null, self.types),
        ]
        nested = [self.object, self.object, self.array, self.array, self.tuple, self.any_of, self.one_of, self.all_of]
        nested += [self.reference, self.tree, self.unique, self.negative, self.free]
        return self.chance.choice(simple if depth > 2 or self.chance.random() < 0.55 else nested)(depth)

    # ── values without parts ─────────────────────────────────────────────────────────────────────

    def string(self, _depth: int) -> Pair:
        text = self.chance.choice(WORDS)
        schema: dict[str, Any] = {"type": "string"}
        if self.chance.random() < 0.3:
            schema["minLength"] = self.chance.randint(0, len(text))
        if self.chance.random() < 0.3:
            schema["maxLength"] = len(text) + self.chance.randint(0, 9)
        if self.chance.random() < 0.2:
            schema["description"] = "Some words."
        return schema, text

    def pattern(self, _depth: int) -> Pair:
        pattern, texts = self.chance.choice(PATTERNS)
        return {"type": "string", "pattern": pattern}, self.chance.choice(texts)

    def format(self, _depth: int) -> Pair:
        name, text = self.chance.choice(FORMATS)
        return {"type": "string", "format": name}, text

    def integer(self, _depth: int) -> Pair:
        value = self.chance.randint(-1000, 100_000)
        schema: dict[str, Any] = {"type": "integer"}
        if self.chance.random() < 0.4:
            schema["minimum"] = value - self.chance.randint(0, 50)
        if self.chance.random() < 0.4:
            schema[self.chance.choice(("maximum", "exclusiveMaximum"))] = value + self.chance.randint(1, 50)
        elif self.chance.random() < 0.2:
            schema, value = {"type": "integer", "multipleOf": 5, "minimum": 0}, abs(value) * 5
        return schema, value

    def number(self, _depth: int) -> Pair:
        value = round(self.chance.uniform(-100, 100), self.chance.randint(0, 4))
        schema: dict[str, Any] = {"type": "number"}
        if self.chance.random() < 0.4:
            schema[self.chance.choice(("minimum", "exclusiveMinimum"))] = value - 1.5
        if self.chance.random() < 0.4:
            schema["maximum"] = value + 2
        return schema, value

    def enum(self, _depth: int) -> Pair:
        values: list[Any] = self.chance.sample([*WORDS, 1, 2.5, None, True, 77], 4)
        return {"enum": values}, self.chance.choice(values)

    def const(self, _depth: int) -> Pair:
        value = self.chance.choice([*WORDS, 5, None, False, [1, 2], {"a": "b"}])
        return {"const": value}, value

    def boolean(self, _depth: int) -> Pair:
        return {"type": "boolean"}, self.chance.random() < 0.5

    def null(self, _depth: int) -> Pair:
        return {"type": "null"}, None

    def types(self, _depth: int) -> Pair:
        return {"type": ["string", "integer", "null"]}, self.chance.choice(["some", 12, None])

    def free(self, _depth: int) -> Pair:
        return {}, self.chance.choice(["some", 12, None, [1, "a"], {"a": {"b": []}}])

    # ── values with parts ────────────────────────────────────────────────────────────────────────

    def object(self, depth: int) -> Pair:
        names = self.chance.sample(NAMES, self.chance.randint(0, 5 if depth == 0 else 3))
        parts = {name: self.any(depth + 1) for name in names}
        required = [name for name in names if self.chance.random() < 0.7]
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {name: schema for name, (schema, _) in parts.items()},
            "required": required,
        }
        present = [name for name in names if name in required or self.chance.random() < 0.5]
        if self.chance.random() < 0.2:
            self.chance.shuffle(present)  # a model need not keep to the schema's order
        value = {name: parts[name][1] for name in present}
        kind = self.chance.random()
        if kind < 0.5:
            schema["additionalProperties"] = False
        elif kind < 0.6:
            schema["additionalProperties"], value["more"] = {"type": "integer"}, 3
        elif kind < 0.7:
            schema |= {"patternProperties": {"^x_[a-z]+$": {"type": "boolean"}}, "additionalProperties": False}
            value["x_on"] = True
        return schema, value

    def array(self, depth: int) -> Pair:
        schema, value = self.any(depth + 1)
        values = [value] * self.chance.randint(0, 3)
        array: dict[str, Any] = {"type": "array", "items": schema}
        if self.chance.random() < 0.3:
            array["minItems"] = self.chance.randint(0, len(values))
        if self.chance.random() < 0.3:
            array["maxItems"] = len(values) + self.chance.randint(0, 2)
        return array, values

    def tuple(self, depth: int) -> Pair:
        parts = [self.any(depth + 1) for _ in range(self.chance.randint(1, 3))]
        schema = {"type": "array", "prefixItems": [one for one, _ in parts], "items": False, "minItems": len(parts)}
        return schema, [value for _, value in parts]

    def unique(self, _depth: int) -> Pair:
        return {"type": "array", "items": {"type": "integer"}, "uniqueItems": True, "maxItems": 5}, [1, 22, 333]

    def negative(self, _depth: int) -> Pair:
        return {"type": "string", "not": {"const": "forbidden"}}, "allowed"

    def any_of(self, depth: int) -> Pair:
        parts = [self.any(depth + 1) for _ in range(self.chance.randint(1, 3))]
        return {"anyOf": [schema for schema, _ in parts]}, self.chance.choice(parts)[1]

    def one_of(self, _depth: int) -> Pair:
        ways = [{"type": "string", "maxLength": 20}, {"type": "integer"}, {"type": "boolean"}]
        return {"oneOf": ways}, self.chance.choice(["one", 1, True])

    def all_of(self, depth: int) -> Pair:
        first, second = self.any(depth + 1), self.any(depth + 1)
        schema = {
            "allOf": [
                {"type": "object", "properties": {"left": first[0]}, "required": ["left"]},
                {"type": "object", "properties": {"right": second[0]}},
            ]
        }
        return schema, {"left": first[1], "right": second[1]}

    def reference(self, depth: int) -> Pair:
        schema, value = self.any(depth + 1)
        name = f"d{len(self.definitions)}"
        self.definitions[name] = schema
        return {"$ref": f"#/$defs/{name}"}, value

    def tree(self, _depth: int) -> Pair:
        self.definitions["tree"] = {
            "type": "object",
            "properties": {"at": {"type": "integer"}, "in": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
            "required": ["at"],
            "additionalProperties": False,
        }
        return {"$ref": "#/$defs/tree"}, {"at": 1, "in": [{"at": 2}, {"at": 3, "in": []}]}
