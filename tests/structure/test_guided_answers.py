"""Answers that are held to a form, through dispatcher, engine and child, on a simulated model that errs."""

from __future__ import annotations

import json

import pytest

from exo_rkllm.api.response_format import ResponseFormat
from tests.structure.conftest import Talks

pytest.importorskip("llguidance")

CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "people": {"type": "integer", "minimum": 1},
        "tags": {"type": "array", "items": {"enum": ["sea", "hills"]}, "minItems": 1},
    },
    "required": ["city", "people", "tags"],
    "additionalProperties": False,
}
OSLO = json.dumps({"city": "Oslo", "people": 709037, "tags": ["sea", "hills"]})


async def test_obedient_answer_comes_as_it_was_said_and_in_one_run(talks: Talks) -> None:
    async with talks() as talk:
        answer = await talk.ask(ResponseFormat("schema", CITY), OSLO)
        assert answer.text == OSLO
        assert answer.finish.reason == "stop"
        assert len(talk.prompts) == 1


async def test_model_that_errs_goes_on_from_what_was_valid(talks: Talks) -> None:
    async with talks(error_rate=0.2, seed=3) as talk:
        for _ in range(10):
            answer = await talk.ask(ResponseFormat("schema", CITY), OSLO)
            value = json.loads(answer.text)
            assert set(value) == {"city", "people", "tags"}
        assert len(talk.prompts) > 10
