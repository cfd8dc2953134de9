"""Complaints name the field, the limit and what was sent instead."""

from __future__ import annotations

from typing import Any

import pytest

from exo_rkllm.errors import from_code
from exo_rkllm.schema.specs import (
    Either,
    FieldError,
    FieldSpec,
    Free,
    List,
    Number,
    ObjectSpec,
    Switch,
    TaggedSpec,
    Text,
    ValueSpec,
    Whole,
    shown,
)

ROWS = ObjectSpec(
    "Row", (FieldSpec("size", Whole(1, 9), "How many.", required=True), FieldSpec("note", Text(most=3), "A note."))
)
SHAPES = TaggedSpec("kind", {"row": ROWS, "none": ObjectSpec("None", ())}, "none")


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        (Text(), 1, "x must be a string, not 1"),
        (Text(("one", "two")), "on", "one of one, two, not 'on'. Did you mean one?"),
        (Text(least=1), "", "not empty"),
        (Text(most=2), "abc", "has 3 characters, 2 are allowed"),
        (Whole(), True, "a whole number, not true"),
        (Whole(), 1.5, "a whole number, not 1.5"),
        (Whole(0, 9), 10, "from 0 to 9, not 10"),
        (Whole(), 10**400, "not a very large number"),
        (Number(0, 1), "0", "a number, not '0'"),
        (Number(0, 1), 10**400, "a number, not a very large number"),
        (Number(0, 1), -1, "from 0 to 1"),
        (Switch(), 0, "true or false, not 0"),
        (Free(), [], "an object, not a list of 0"),
        (Free(most=1), {"a": 1, "b": 2}, "has 2 keys"),
        (List(Text()), {}, "a list of strings, not an object"),
        (List(Text(), least=1), [], "must not be empty"),
        (List(Text(), most=1), ["a", "b"], "has 2 elements"),
        (List(Text()), ["a", 2], "x[1] must be a string"),
        (ROWS, None, "x must be an object, not null"),
        (ROWS, {}, "x.size is missing. How many."),
        (ROWS, {"size": 3, "note": "long"}, "x.note has 4"),
        (SHAPES, [], "x must be an object"),
        (SHAPES, {"kind": "other"}, "x.kind must be one of row, none"),
        (SHAPES, {"kind": "row"}, "x.size is missing"),
        (Either((Text(), List(ROWS)), "a string or rows"), 1, "x must be a string or rows, not 1"),
        (Either((Text(), List(ROWS)), "a string or rows"), [{"size": 0}], "x[0].size must be from 1 to 9"),
    ],
)
def test_wrong_value_is_explained(kind: ValueSpec, value: Any, says: str) -> None:
    with pytest.raises(FieldError) as caught:
        kind.check(value, "x")
    assert says in str(caught.value)


def test_null_is_absence_and_whole_floats_are_whole() -> None:
    assert ROWS.check({"size": 2.0, "note": None, "else": 1}, "") == {"size": 2}
    assert ROWS.unknown({"size": 1, "else": 1, "nothing": None}) == ["else"]
    assert SHAPES.check({}, "x") == {"kind": "none"}


def test_a_field_that_cannot_be_honoured_takes_its_neutral_value_only() -> None:
    one = FieldSpec("n", Whole(), "Answers.", neutral=(1,), why="there is one")
    assert one.check(1, "n") == 1
    with pytest.raises(FieldError, match="n is 2, and there is one"):
        one.check(2, "n")
    none = FieldSpec("audio", Free(), "Sound.", neutral=(), why="answers are text")
    with pytest.raises(FieldError, match="make it absent"):
        none.check({}, "audio")


def test_values_are_shown_short_and_on_one_line() -> None:
    assert shown("a\nb\u2028") == "'a\\nb\\u2028'"
    assert len(shown("x" * 1000)) == 60


def test_a_limit_that_only_the_type_has_is_not_shown() -> None:
    with pytest.raises(FieldError, match=r"x must be 1 or more, not 0\."):
        Whole(1).check(0, "x")
    with pytest.raises(FieldError, match=r"x must be from 1 to 2147483647, not 2147483648\."):
        Whole(1).check(2**31, "x")
    with pytest.raises(FieldError, match=r"x must be 0 or more, not -1\."):
        Number(0).check(-1, "x")
    assert Number(0).schema() == {"type": "number", "minimum": 0}


def test_strict_object_names_the_nearest_key() -> None:
    strict = ObjectSpec("Row", ROWS.fields, strict=True, what="a table")
    for value, says in (
        ({"size": 1, "noet": "x"}, "There is no key x.noet. Did you mean note?"),
        ({"size": 1, "zzz": "x"}, "There is no key x.zzz. There are: note, size."),
        (3, "x must be a table, not 3."),
    ):
        with pytest.raises(FieldError) as caught:
            strict.check(value, "x")
        assert str(caught.value) == says


def test_field_error_survives_a_process_boundary() -> None:
    error = from_code("invalid_value", "x must be 1.", "Make it 1.")
    assert isinstance(error, FieldError)
    assert (error.sentence, error.hint) == ("x must be 1.", "Make it 1.")
