"""How a complete tool call crosses the seam: one piece of kind `tool_call`, its text a JSON object.

`{"id": "call_...", "name": "get_weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}`, where `arguments` is itself JSON
text, as OpenAI's API has it. A call is never cut over several pieces.
"""

from __future__ import annotations

import json
import secrets

from exo_rkllm.backends.base import JSON, Piece, ToolCall


def new_tool_call(name: str, arguments: JSON | str) -> ToolCall:
    """A new call with an id of its own; arguments that are text already are taken as the model wrote them."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return ToolCall("call_" + secrets.token_hex(12), name, text)


def tool_call_piece(call: ToolCall, token: int = -1) -> Piece:
    text = json.dumps({"id": call.id, "name": call.name, "arguments": call.arguments}, ensure_ascii=False)
    return Piece(text, token, "tool_call")


def read_tool_call(piece: Piece) -> ToolCall:
    """The call that a piece of kind `tool_call` carries."""
    values = json.loads(piece.text)
    return ToolCall(values["id"], values["name"], values["arguments"])
