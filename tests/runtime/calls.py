"""A call through every exported function of a generation, by way of the session where it has one.

Standard library only: an arm64 interpreter under qemu-user runs it, too.
"""

from __future__ import annotations

import ctypes
import json
from array import array
from contextlib import closing
from pathlib import Path
from typing import Any

from exo_rkllm.runtime.blackbox import BlackBox
from exo_rkllm.runtime.session import EmbedInput, Library, LoadParams, PromptInput, RunSpec, Session, TokenInput

TOOLS = json.dumps([{"type": "function", "function": {"name": "now", "description": "The time", "parameters": {}}}])
WIDTH = 64
# The model's own figures for the encoder's keys and values: layers, KV heads, head size.
ENCODER = 24 * 2 * 64


def zeros(count: int) -> memoryview:
    return memoryview(array("f", bytes(4 * count)))


class Counted:
    """Stands before the library's functions and writes down which were called, and what came of it."""

    def __init__(self, library: Library) -> None:
        self.called: dict[str, list[int]] = {}
        for name in library.generation.functions:
            library.functions[name] = self._counted(name, library.functions[name])  # type: ignore[index]  # a dict

    def _counted(self, name: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            answer = function(*arguments)
            self.called.setdefault(name, []).append(answer if isinstance(answer, int) else 0)
            return answer

        return call


def everything(library: Library, model: Path, cache: Path, lora: Path, box: BlackBox) -> dict[str, list[int]]:
    """What each function answered, in the order of its calls."""
    counted = Counted(library)
    defaults: Any = library.functions["rkllm_createDefaultParam"]()
    assert (defaults.max_context_len, defaults.top_k, round(defaults.top_p, 3)) == (512, 40, 0.9)
    params = LoadParams(str(model), use_cross_attn=library.supports("cross_attention"))
    with closing(Session.open(library, params, box)) as session:
        use(session, cache, lora)
    return counted.called


def use(session: Session, cache: Path, lora: Path) -> None:
    library = session.library
    said: list[bytes] = []

    def on_token(text: bytes, _token: int, _waiting: bool) -> None:
        said.append(text)

    if library.supports("set_chat_template"):
        session.set_chat_template("", "", "")
    if library.supports("function_tools"):
        session.set_function_tools("You may call tools.", TOOLS, "tool_response")
    if library.supports("cross_attention"):
        session.set_cross_attn(zeros(3 * ENCODER), zeros(3 * ENCODER), zeros(3), [0, 1, 2])
    session.load_lora("style", str(lora))
    session.run(PromptInput("Hello"), on_token, RunSpec(lora="style", save_prompt_cache=str(cache)))
    assert b"".join(said) == b"You said: Hello"
    assert not session.is_running()
    session.load_prompt_cache(str(cache))
    session.run(TokenInput([1, 2, 3]), on_token)
    session.run(EmbedInput(zeros(2 * WIDTH), 2), on_token)
    session.release_prompt_cache()
    session.run_async(PromptInput("Hello"), on_token).wait(10)
    if library.supports("kv_cache_size"):
        assert len(session.kv_size()) == 1
    if library.supports("clear_kv"):
        session.clear_kv()
    # Not from inside a run, where abort is asked for by the session only: the bare function.
    session._handle.call("rkllm_abort")


def null_handles(library: Library) -> dict[str, int]:
    """What each function that takes a handle answers for NULL: -1, and no crash (reference 1.6)."""
    answers: dict[str, int] = {}
    for name, (_, arguments) in library.generation.functions.items():
        if name not in {"rkllm_createDefaultParam", "rkllm_init"}:
            rest = [0 if kind is ctypes.c_int else None for kind in arguments[1:]]
            answers[name] = library.functions[name](None, *rest)
    return answers
