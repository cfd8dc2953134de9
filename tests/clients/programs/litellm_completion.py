"""litellm with its defaults."""

import os
import sys
from importlib.metadata import version

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm

answer = litellm.completion(
    model="openai/qwen3-4b",
    api_base=f"{sys.argv[1]}/v1",
    api_key="any",
    messages=[{"role": "user", "content": "hi"}],
    temperature=0.2,
    seed=1,
    max_tokens=64,
)
assert answer.choices[0].message.content == "Hello there.", answer
print(version("litellm"))
