"""Answers against JSON Schemas, and the schemas that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from exo_rkllm.schema.json_schema import Checker
from exo_rkllm.schema.specs import FieldError

TREE: dict[str, Any] = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["name"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
FIT: list[tuple[Any, Any]] = [
    ({}, {"anything": 1}),
    (True, 1),
    ({"type": "integer"}, 3),
    ({"type": "integer"}, 3.0),
    ({"type": ["string", "null"]}, None),
    ({"enum": ["a", 1]}, 1),
    ({"const": {"a": [1]}}, {"a": [1]}),
    ({"minLength": 2, "maxLength": 3}, "ab"),
    ({"minimum": 1, "maximum": 2, "multipleOf": 0.5}, 1.5),
    ({"prefixItems": [{"type": "string"}], "items": {"type": "integer"}}, ["a", 1, 2]),
    ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, 1),
    ({"oneOf": [{"minimum": 5}, {"maximum": 3}]}, 7),
    ({"allOf": [{"minimum": 5}, {"maximum": 9}]}, 7),
    ({"not": {"type": "string"}}, 1),
    ({"uniqueItems": True}, [1, True, "1"]),
    ({"minProperties": 1, "maxProperties": 1}, {"a": 1}),
    ({"type": "string", "format": "date", "title": "x"}, "no date at all"),
    (TREE, {"name": "a", "children": [{"name": "b", "children": []}]}),
    ({"minLength": 5}, 3),
    ({"required": ["a"]}, []),
]
VIOLATE: list[tuple[Any, Any, str]] = [
    (False, 1, "the answer is not allowed"),
    ({"type": "integer"}, True, "not of type integer"),
    ({"type": "number"}, "1", "not of type number"),
    ({"type": ["string", "null"]}, 1, "not of type string or null"),
    ({"enum": [1]}, True, "none of the values"),
    ({"const": {"a": 1}}, {"a": True}, "not the value required"),
    ({"minLength": 2}, "a", "shorter than 2"),
    ({"maxItems": 1}, [1, 2], "more elements than 1"),
    ({"exclusiveMinimum": 1}, 1, "not above 1"),
    ({"multipleOf": 2}, 3, "not a multiple of 2"),
    ({"prefixItems": [{"type": "string"}], "items": {"type": "integer"}}, ["a", "b"], "the answer[1]"),
    ({"prefixItems": [{"type": "string"}]}, [1], "the answer[0]"),
    ({"anyOf": [{"type": "string"}]}, 1, "fits none of the alternatives"),
    ({"oneOf": [{"minimum": 1}, {"minimum": 2}]}, 3, "fits 2 of the alternatives"),
    ({"allOf": [{"minimum": 5}]}, 1, "at least 5"),
    ({"not": {}}, 1, "must not be"),
    ({"uniqueItems": True}, [{"a": 1}, {"a": 1}], "same thing twice"),
    ({"minProperties": 2}, {"a": 1}, "fewer keys"),
    ({"properties": {"a": {"type": "string"}}}, {"a": 1}, "the answer.a"),
    (TREE, {"name": "a", "children": [{"nam": "b"}]}, "children[0]"),
    (TREE, {"name": "a", "more": 1}, "the answer.more is not allowed"),
]
REFUSED: list[tuple[Any, str]] = [
    ({"pattern": "(a+)+$"}, "uses 'pattern'"),
    ({"properties": {"a": {"if": {}}}}, "uses 'if'"),
    ([], "must be a schema"),
    ({"type": "text"}, "must be one of object"),
    ({"type": []}, "must be one of object"),
    ({"enum": 1}, "must be a list"),
    ({"required": [1]}, "must be a string"),
    ({"minimum": "1"}, "must be a number"),
    ({"multipleOf": 0}, "must be a number"),
    ({"anyOf": []}, "list of schemas"),
    ({"properties": []}, "object of schemas"),
    ({"$ref": "https://example.org/x"}, "only references inside"),
    ({"$ref": "#/nowhere"}, "which is not in it"),
    ({"$ref": 1}, "must be a string"),
    ({"enum": [{"type": 5}], "$ref": "#/enum"}, "must be a schema"),
]


@pytest.mark.parametrize(("schema", "value"), FIT, ids=lambda one: ascii(one)[:40])
def test_valid_value_passes(schema: Any, value: Any) -> None:
    assert Checker(schema).violation(value) == ""


@pytest.mark.parametrize(("schema", "value", "says"), VIOLATE, ids=lambda one: ascii(one)[:40])
def test_violation_is_explained(schema: Any, value: Any, says: str) -> None:
    assert says in Checker(schema).violation(value)


@pytest.mark.parametrize(("schema", "says"), REFUSED, ids=lambda one: ascii(one)[:40])
def test_unsupported_schema_is_refused(schema: Any, says: str) -> None:
    with pytest.raises(FieldError, match=says):
        Checker(schema)


def test_recursive_schema_terminates() -> None:
    endless = {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}
    assert Checker(endless).violation(1)
    assert "nested too deeply" in Checker({"$ref": "#"}).violation(1)
    deep: Any = {}
    for _ in range(60):
        deep = {"items": deep}
    with pytest.raises(FieldError, match="levels deep"):
        Checker(deep)
