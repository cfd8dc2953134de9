"""What the demo's model says: about itself, and with everything that the page can show."""

from __future__ import annotations

QUESTION = "What are you, and where do you run?"
ANSWER = """\
I am a **simulated model**: nothing thinks here, and every word of mine stands in `tools/demo_words.py`. All around me \
is real, and the same as on a board:

1. Your question came through the OpenAI API, waited for its turn and was rendered with a chat template.
2. A child process handed it to a library. On a board that is Rockchip's `librkllmrt.so`; here it is a stand-in with \
the same structs and callbacks.
3. Each token came back by a callback and went to your screen at once.

| the vendor's figures for a 1.5B model | on an RK3588 |
|---|---|
| first token, after a prompt of 128 tokens | 0.38 s |
| decode | 16.7 tokens/s |
| memory | 1.7 GB |

While you read this the three cores work, the clock is up and the chip gets warmer. Watch it on the status page or in \
`exo-rkllm top`.
"""
OTHER_ANSWER = """\
I am a simulated model and cannot know that: *{asked}*

What I can show is how an answer arrives. Ask me for **code**, a **table** or a **formula**, or stop me in the middle.
"""
CODE = """\
This asks the daemon from Python, with nothing but the standard library:

```python
import json
import urllib.request

body = {"model": "qwen2.5-1.5b", "messages": [{"role": "user", "content": "hello"}]}
url = "http://127.0.0.1:52415/v1/chat/completions"
request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
print(json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"])
```
"""
TABLE = """\
| SoC | NPU cores | memory bus |
|---|---|---|
| RK3588 | 3 | 64 bits |
| RK3576 | 2 | 32 bits |

Decoding reads the whole model for each token, so the memory decides the speed, not the cores.
"""
FORMULA = """\
Each token reads all weights once, so the memory's bandwidth $B$ bounds the speed $v$ of a model of $S$ bytes:

$$v \\le \\frac{B}{S}$$

With 1.7 GB, and 30 GB/s that a board really reaches, these are about 17 tokens a second.
"""
RULES = ((QUESTION, ANSWER), ("code", CODE), ("table", TABLE), ("formula", FORMULA))
