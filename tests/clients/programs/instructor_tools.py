"""instructor in its default mode: a forced tool."""

import sys
from importlib.metadata import version

import instructor
import openai
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


client = instructor.from_openai(openai.OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="any"), mode=instructor.Mode.TOOLS)
question = [{"role": "user", "content": "Ada Lovelace died at 36."}]
made = client.chat.completions.create(model="ada", response_model=Person, messages=question)
assert (made.name, made.age) == ("Ada", 36), made
print(version("instructor"))
