"""Token counts, and texts as token ids and back: by the model's own tokenizer, counts without one as an estimate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web

from exo_rkllm.api.common_fields import body
from exo_rkllm.api.context import Call, Endpoint
from exo_rkllm.api.encoding import json_response
from exo_rkllm.api.openai import translate
from exo_rkllm.api.openai.tables import CHAT, TOKEN_IDS
from exo_rkllm.api.response_format import ResponseFormat
from exo_rkllm.backends.base import Capabilities, GenerationRequest, Tokenizer, Usage
from exo_rkllm.catalogue.store import Entry
from exo_rkllm.chat.prompt import render
from exo_rkllm.errors import NotSupported
from exo_rkllm.schema.specs import FieldError, FieldSpec, List, Switch, Text


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Tokens of a prompt; `guessed` where its model has no tokenizer here."""

    tokens: int
    guessed: bool = False

    @property
    def note(self) -> Mapping[str, bool]:
        """An addition of ours to an answer, as in `usage`."""
        return {"input_tokens_estimated": True} if self.guessed else {}


def count_tokens(entry: Entry, request: GenerationRequest) -> TokenCount:
    """How long the prompt of a request is, rendered as for a run."""
    prompt = render(request, entry, Capabilities()).request.prompt or ""
    tokenizer = entry.tokenizer()
    if tokenizer is None:
        return TokenCount(Usage.guess(prompt, 0).prompt, guessed=True)
    return TokenCount(len(tokenizer.encode(prompt)))


async def tokenize(call: Call) -> web.StreamResponse:
    values = call.values
    entry = _entry(call)
    if "messages" in values:
        request = translate.chat_request(entry, values, ResponseFormat("text"))
        text = render(request, entry, Capabilities()).request.prompt or ""
    else:
        text = values.get("prompt", values.get("content"))
        if text is None:
            raise FieldError("prompt", "prompt is missing.", "Give a text as prompt or content, or messages.")
    tokenizer = _tokenizer(entry)
    tokens = tokenizer.encode(text)
    pieces = values.get("return_token_strs") or values.get("with_pieces")
    return json_response(
        {
            "count": len(tokens),
            "max_model_len": entry.context or None,
            "tokens": tokens,
            **({"token_strs": [tokenizer.decode([token]) for token in tokens]} if pieces else {}),
        }
    )


async def detokenize(call: Call) -> web.StreamResponse:
    text = _tokenizer(_entry(call)).decode(call.values["tokens"])
    return json_response({"prompt": text, "content": text})


def _entry(call: Call) -> Entry:
    """The model that is named, or the only one there is: llama.cpp's clients name none."""
    if name := call.values.get("model"):
        return call.entry(name)
    entries = call.context.catalogue.list()
    if len(entries) != 1:
        raise FieldError("model", "model is missing.", "Name of the model, as GET /v1/models lists it.")
    return entries[0]


def _tokenizer(entry: Entry) -> Tokenizer:
    tokenizer = entry.tokenizer()
    if tokenizer is None:
        raise NotSupported(
            f"{entry.id} has no tokenizer here: tokenizer.json is not in its folder, or tokenizers is not installed.",
            "Put tokenizer.json of the base model into its folder, and: pip install tokenizers",
        )
    return tokenizer


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
    )
)
