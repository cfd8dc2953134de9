"""langchain-openai: structured output by a forced tool, and a stream."""

import sys
from importlib.metadata import version

from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


api = {"base_url": f"{sys.argv[1]}/v1", "api_key": "any", "temperature": 0.7, "seed": 1}
chat = ChatOpenAI(model="ada", **api)
made = chat.with_structured_output(Person, method="function_calling").invoke("Ada Lovelace died at 36.")
assert made == Person(name="Ada", age=36), made
text = "".join(str(chunk.content) for chunk in ChatOpenAI(model="qwen3-4b", **api).stream("hi"))
assert text == "Hello there.", text
print(version("langchain-openai"))
