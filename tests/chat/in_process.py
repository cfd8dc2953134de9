"""Prompts rendered in the test's own process: what the helper process does, without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from exo_rkllm.backends.base import Capabilities, GenerationRequest, Message, Model, Tool
from exo_rkllm.chat import prompt, rendering
from exo_rkllm.chat.renderer import plain, tool_value
from exo_rkllm.chat.template_source import TemplateSource


def render_template(
    source: TemplateSource, messages: Sequence[Message], tools: Sequence[Tool], thinking: bool | None = None
) -> str:
    plain_tools: list[dict[str, Any]] = [tool_value(tool) for tool in tools]
    return rendering.render_template(
        "this model", source.text, source.special, list(map(plain, messages)), plain_tools, thinking
    )


def render(request: GenerationRequest, model: Model, capabilities: Capabilities) -> prompt.Prompt:
    """`prompt.render`, which waits for nothing but the template."""

    async def template(_model: str, *conversation: Any) -> str:
        return render_template(*conversation)

    try:
        prompt.render(request, model, capabilities, template).send(None)
    except StopIteration as end:
        made: prompt.Prompt = end.value
        return made
    raise AssertionError("the prompt waits for something")
