"""pydantic-ai: an agent with an output type, which is a forced tool."""

import sys
from importlib.metadata import version

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Person(BaseModel):
    name: str
    age: int


provider = OpenAIProvider(base_url=f"{sys.argv[1]}/v1", api_key="any")
agent = Agent(OpenAIChatModel("ada", provider=provider), output_type=Person)
made = agent.run_sync("Ada Lovelace died at 36.").output
assert made == Person(name="Ada", age=36), made
print(version("pydantic-ai-slim"))
