"""Chat templates, run in the helper process: one comes with a downloaded model, so it is a stranger's program."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

from exo_rkllm.backends.base import Message, Tool
from exo_rkllm.chat.template_source import TemplateSource
from exo_rkllm.errors import TemplateError
from exo_rkllm.helper.parent import Helper, HelperLost, HelperTooSlow

# A usual prompt takes less than a millisecond (python -m bench render).
RENDER_SECONDS = 1.0
HINT = "Give the model another template: exo-rkllm show {model} --template shows this one."
# A template that had to be stopped is refused for so long: meanwhile those of other models need not wait for it.
REFUSED_SECONDS = 20.0


class RenderTemplate(Protocol):
    """Runs a template over a conversation; raises TemplateError with what is wrong with either."""

    async def __call__(
        self,
        model: str,
        source: TemplateSource,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        thinking: bool | None,  # noqa: FBT001 - the arguments of a job have no names
        /,
    ) -> str: ...


class Renderer:
    """Renders for every model of a process, in one helper process that starts with the first template."""

    def __init__(self) -> None:
        self.helper = Helper("exo_rkllm.chat.rendering:render_template", ("jinja2", "markupsafe"))
        self._stopped: dict[TemplateSource, tuple[float, str]] = {}  # until when, and why

    async def render(
        self,
        model: str,
        source: TemplateSource,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        thinking: bool | None,  # noqa: FBT001 - as `RenderTemplate`
    ) -> str:
        text = await self._call(model, source, list(map(plain, messages)), list(map(tool_value, tools)), thinking)
        if not text:
            raise TemplateError(
                f"The chat template of {model} makes nothing of this conversation.", HINT.format(model=model)
            )
        return text

    async def compile(self, model: str, source: TemplateSource) -> None:
        """Keeps the template ready for its first conversation. Raises TemplateError where it is no template."""
        await self._call(model, source, None, [], None)

    def close(self) -> None:
        self.helper.close()

    async def _call(self, model: str, source: TemplateSource, *rest: Any) -> str:
        until, reason = self._stopped.get(source, (0.0, ""))
        if time.monotonic() < until:
            raise TemplateError(reason, HINT.format(model=model))
        try:
            return await self.helper.call(model, source.text, source.special, *rest, seconds=RENDER_SECONDS)
        except HelperLost as error:
            reason = f"The chat template of {model} was stopped: it {error}."
            if isinstance(error, HelperTooSlow):
                self._stopped[source] = time.monotonic() + REFUSED_SECONDS, reason
            raise TemplateError(reason, HINT.format(model=model)) from None


def plain(message: Message) -> dict[str, Any]:
    """A message as `rendering.PlainMessage`."""
    value: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        value["reasoning_content"] = value["thought"] = message.reasoning  # the second is MiniCPM3's word
    if message.tool_calls:
        value["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        value["tool_call_id"] = message.tool_call_id
    if message.name:
        value["name"] = message.name
    return value


def tool_value(tool: Tool) -> dict[str, Any]:
    """A tool as Hugging Face's templates and OpenAI's API write it."""
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}
