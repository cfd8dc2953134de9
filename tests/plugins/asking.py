"""A question as a client of the API asks it: a template is rendered for it, unlike for a bare prompt."""

from __future__ import annotations

import json

from tests.daemon.running import Daemon
from tests.daemon.test_faces import call, port_of


def asked(daemon: Daemon, model: str, text: str) -> tuple[int, str]:
    """The status, and the answer or the error's words."""
    question = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 1000}
    status, body = call(port_of(daemon), "/v1/chat/completions", question)
    return status, str(json.loads(body)["choices"][0]["message"]["content"]) if status == 200 else body


def chat(daemon: Daemon, model: str, text: str) -> str:
    status, answer = asked(daemon, model, text)
    assert status == 200, answer
    return answer
