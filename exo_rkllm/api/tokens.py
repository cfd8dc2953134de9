"""Token counts, and texts as token ids and back: by the model's own tokenizer, counts without one as an estimate."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import web

from exo_rkllm.api.common_fields import body
from exo_rkllm.api.context import Call, Endpoint
from exo_rkllm.api.encoding import json_response
from exo_rkllm.api.openai import translate
from exo_rkllm.api.openai.tables import CHAT, TOKEN_IDS
from exo_rkllm.api.response_format import ResponseFormat
from exo_rkllm.backends.base import Capabilities, GenerationRequest, Usage
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.chat.chat_format import tokenizer_settings
from exo_rkllm.errors import NotSupported
from exo_rkllm.schema.specs import FieldError, FieldSpec, List, Switch, Text

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Tokens of a prompt; `guessed` where its model has no tokenizer here."""

    tokens: int
    guessed: bool = False

    @property
    def note(self) -> Mapping[str, bool]:
        """An addition of ours to an answer, as in `usage`."""
        return {"input_tokens_estimated": True} if self.guessed else {}


async def count_tokens(call: Call, entry: Entry, request: GenerationRequest) -> TokenCount:
    """How long the prompt of a request is, rendered as for a run; of images, what the model's encoder makes of them."""
    rendered = await _rendered(call, entry, request)
    prompt = rendered.prompt or ""
    counts = await call.context.tokenizers.count(entry, [prompt])
    text = Usage.guess(prompt, 0).prompt if counts is None else counts[0]
    if not rendered.images:
        return TokenCount(text, guessed=counts is None)
    if entry.vision is None:  # its engine sees by itself, and nobody else knows how
        return TokenCount(text, guessed=True)
    from exo_rkllm.backends.rkllm_vision import described

    shape, _ = described(entry.vision.file)
    return TokenCount(text + len(rendered.images) * shape.tokens, guessed=counts is None)


async def _rendered(call: Call, entry: Entry, request: GenerationRequest) -> GenerationRequest:
    spec = call.context.engine_spec
    sees = spec is not None and spec(entry).sees(entry) is not False
    return (await call.context.dispatcher.render(request, entry, Capabilities(images=sees))).request


async def tokenize(call: Call) -> web.StreamResponse:
    values = call.values
    entry = _entry(call)
    if "messages" in values:
        request = await call.compute(translate.chat_request, entry, values, ResponseFormat("text"))
        text = (await _rendered(call, entry, request)).prompt or ""
    else:
        text = values.get("prompt", values.get("content"))
        if text is None:
            raise FieldError("prompt", "prompt is missing.", "Give a text as prompt or content, or messages.")
    (tokens,) = known(entry, await call.context.tokenizers.encode(entry, [text]))
    pieces = values.get("return_token_strs") or values.get("with_pieces")
    texts = await call.context.tokenizers.decode(entry, [[token] for token in tokens]) if pieces else None
    return json_response(
        {
            "count": len(tokens),
            "max_model_len": entry.context or None,
            "tokens": tokens,
            **({"token_strs": texts} if texts is not None else {}),
        }
    )


async def detokenize(call: Call) -> web.StreamResponse:
    entry = _entry(call)
    (text,) = known(entry, await call.context.tokenizers.decode(entry, [call.values["tokens"]]))
    return json_response({"prompt": text, "content": text})


async def tokenizer_info(call: Call) -> web.StreamResponse:
    """What vLLM's clients render and count with, such as lm-evaluation-harness instead of a tokenizer of its own."""
    entry = _entry(call)
    known(entry, await call.context.tokenizers.count(entry, []))
    settings = await asyncio.to_thread(tokenizer_settings, entry.folder)
    template = {"chat_template": entry.chat_format().template.text}
    return json_response({"tokenizer_class": "PreTrainedTokenizerFast", **settings, **template})


def _entry(call: Call) -> Entry:
    """The model that is named, or the only one there is: llama.cpp's clients name none, and vLLM's."""
    if name := call.values.get("model") or call.request.query.get("model"):
        return call.entry(name)
    entries = call.context.catalogue.list()
    if len(entries) != 1:
        raise FieldError("model", "model is missing.", "Name of the model, as GET /v1/models lists it.")
    return entries[0]


def known(entry: Entry, result: list[T] | None) -> list[T]:
    """What a tokenizer gave; raises NotSupported where there is none."""
    if result is None:
        raise NotSupported(
            f"{entry.id} has no tokenizer here: tokenizer.json is not in its folder, or tokenizers is not installed.",
            "Put tokenizer.json of the base model into its folder, and: pip install tokenizers",
        )
    return result


MODEL = FieldSpec("model", Text(most=512), "Name of the model; may be left out where there is only one.")
TOKENIZE = body(
    "TokenizeRequest",
    MODEL,
    FieldSpec("prompt", Text(), "The text."),
    FieldSpec("content", Text(), "The same, in llama.cpp's words."),
    *(field for field in CHAT.fields if field.name in ("tools", "tool_choice", "chat_template_kwargs")),
    FieldSpec("messages", CHAT.fields[1].kind, "A conversation instead of a text."),
    FieldSpec("return_token_strs", Switch(), "Whether to return each token's text as well."),
    FieldSpec("with_pieces", Switch(), "The same, in llama.cpp's words."),
)
DETOKENIZE = body(
    "DetokenizeRequest",
    MODEL,
    FieldSpec("tokens", List(TOKEN_IDS.of, most=1 << 20), "The token ids.", required=True),
)
ENDPOINTS: tuple[Endpoint, ...] = tuple(
    row
    for path in ("", "/v1")
    for row in (
        Endpoint("POST", f"{path}/tokenize", tokenize, "Returns the token ids of a text.", body=TOKENIZE),
        Endpoint("POST", f"{path}/detokenize", detokenize, "Returns the text of token ids.", body=DETOKENIZE),
        Endpoint("GET", f"{path}/tokenizer_info", tokenizer_info, "Returns a tokenizer's settings (`?model=`)."),
    )
)
