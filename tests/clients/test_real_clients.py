"""Client libraries themselves against the daemon: structured output by forced tools, chat, streams.

Each test is skipped where its library is not installed: they bring hundreds of packages that nothing else needs.
`pip install -e '.[clients]'` installs them all.
"""

from __future__ import annotations

import importlib
from typing import Any

import openai
import pydantic
import pytest

from tests.clients.conftest import Service

ASKED = "Ada Lovelace died at 36."


class Person(pydantic.BaseModel):
    name: str
    age: int


ADA = Person(name="Ada", age=36)


def library(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is optional here: pip install -e '.[clients]'")


@pytest.fixture
def api(service: Service) -> dict[str, Any]:
    return {"base_url": f"{service.url}/v1", "api_key": "any"}


def test_instructor_gets_structured_output_by_a_forced_tool(api: dict[str, Any]) -> None:
    instructor: Any = library("instructor")
    client = instructor.from_openai(openai.OpenAI(**api), mode=instructor.Mode.TOOLS)
    question = [{"role": "user", "content": ASKED}]
    made = client.chat.completions.create(model="ada", response_model=Person, messages=question)
    assert made.model_dump() == ADA.model_dump()


def test_langchain_gets_structured_output_by_a_forced_tool(api: dict[str, Any]) -> None:
    chat = library("langchain_openai").ChatOpenAI(model="ada", temperature=0.7, seed=1, **api)
    assert chat.with_structured_output(Person, method="function_calling").invoke(ASKED) == ADA
    plain = library("langchain_openai").ChatOpenAI(model="qwen3-4b", temperature=0.7, **api)
    assert "".join(str(chunk.content) for chunk in plain.stream("hi")) == "Hello there."


def test_litellm_answers_with_its_defaults(api: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    answer = library("litellm").completion(
        model="openai/qwen3-4b",
        api_base=api["base_url"],
        api_key="any",
        messages=[{"role": "user", "content": "hi"}],
        temperature=0.2,
        seed=1,
        max_tokens=64,
    )
    assert answer.choices[0].message.content == "Hello there."


def test_pydantic_ai_gets_structured_output_by_a_forced_tool(api: dict[str, Any]) -> None:
    library("pydantic_ai")
    models: Any = importlib.import_module("pydantic_ai.models.openai")
    providers: Any = importlib.import_module("pydantic_ai.providers.openai")
    agents: Any = importlib.import_module("pydantic_ai")
    model = models.OpenAIChatModel("ada", provider=providers.OpenAIProvider(**api))
    assert agents.Agent(model, output_type=Person).run_sync(ASKED).output == ADA


def test_openai_client_walks_over_the_habits(api: dict[str, Any]) -> None:
    client = openai.OpenAI(**api)
    assert "qwen3-4b" in [model.id for model in client.models.list()]
    answer = client.chat.completions.create(
        model="qwen3-4b",
        messages=[{"role": "user", "content": "hi"}],
        seed=1,
        temperature=0.3,
        logprobs=True,
        top_logprobs=5,
        logit_bias={"1": 1},
        reasoning_effort="low",
    )
    assert answer.choices[0].message.content == "Hello there."
    response = client.responses.create(model="qwen3-4b", input="hi", truncation="auto")
    listed = client.responses.input_items.list(response.id)
    assert [item.type for item in listed] == ["message"]
    assert client.responses.input_tokens.count(model="qwen3-4b", input="hi").input_tokens > 5
