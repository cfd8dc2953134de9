"""Random schemas against a model that errs with every twentieth token: what is answered is valid.

60 schemas by default; TESTS_LONG=1 makes 2,000. A library of its own judges the answers.
"""

from __future__ import annotations

import json
import os
from collections import Counter

import pytest

from exo_rkllm.api.response_format import ResponseFormat
from exo_rkllm.errors import AnswerInvalid, ExoRkllmError
from tests.structure.conftest import Talks
from tests.structure.schemas import SchemaMaker

pytest.importorskip("llguidance")
jsonschema = pytest.importorskip("jsonschema")

SCHEMAS = 2000 if os.environ.get("TESTS_LONG") else 60
# Honest errors: forms that the grammar does not know and the check at the end does, and schemas that are refused.
MOST_ERRORS = 0.03


def test_every_random_schema_is_valid_and_so_is_its_value() -> None:
    for seed in range(200):
        schema, value = SchemaMaker(seed).document()
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.Draft202012Validator(schema).validate(value)


async def test_answers_validate_whatever_the_schema(talks: Talks) -> None:
    fates = Counter[str]()
    async with talks(error_rate=0.05) as talk:
        for seed in range(SCHEMAS):
            schema, value = SchemaMaker(seed).document()
            try:
                shape = ResponseFormat("schema", schema)
                answer = await talk.ask(shape, json.dumps(value, ensure_ascii=False), max_tokens=2000)
                text = shape.check(answer.text, answer.calls)
            except AnswerInvalid as error:
                fates["invalid"] += 1
                print("invalid", seed, error, schema, value)  # noqa: T201
                continue
            except ExoRkllmError as error:
                fates["refused"] += 1
                print("refused", seed, error, schema)  # noqa: T201
                continue
            jsonschema.Draft202012Validator(schema).validate(json.loads(text))
            fates["valid"] += 1
            fates["as it was meant"] += json.loads(text) == value
        fates["runs"] = len(talk.prompts)
    print(fates)  # noqa: T201
    assert fates["valid"] + fates["invalid"] + fates["refused"] == SCHEMAS
    assert fates["invalid"] + fates["refused"] <= MOST_ERRORS * SCHEMAS, fates
    assert fates["runs"] > fates["valid"], "the model erred, and was repaired"
