"""OpenAI's embeddings."""

from __future__ import annotations

from aiohttp import web

from exo_rkllm.api import common_fields
from exo_rkllm.api.endpoint import Call, Endpoint
from exo_rkllm.api.openai import prompts_of
from exo_rkllm.api.vectors import embed
from exo_rkllm.schema.specs import Either, FieldSpec, List, ObjectSpec, Text, Whole

EMBEDDING = ObjectSpec(
    "EmbeddingRequest",
    (
        common_fields.MODEL,
        FieldSpec(
            "input",
            Either(
                (
                    Text(least=1),
                    List(Text(least=1), least=1, most=2048),
                    List(Whole(0), least=1, most=1 << 20),
                    List(List(Whole(0), least=1, most=1 << 20), least=1, most=2048),
                ),
                "a string, token ids, or a list of one of them",
            ),
            "The texts; a vector each.",
            required=True,
        ),
        FieldSpec("encoding_format", Text(("float", "base64")), "How vectors are written."),
        FieldSpec("dimensions", Whole(1, 1 << 20), "Length of the vectors; only the model's own."),
        FieldSpec("user", Text(most=1000), "Yours; it is not read."),
    ),
)


async def embeddings(call: Call) -> web.StreamResponse:
    values = call.values
    entry = common_fields.entry_of(call, values["model"])
    vectors = await embed(call, entry, prompts_of(values["input"]), values.get("dimensions"))
    written = vectors.base64() if values.get("encoding_format") == "base64" else vectors.lists()
    return web.json_response(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(written)
            ],
            "model": entry.id,
            "usage": {"prompt_tokens": vectors.tokens, "total_tokens": vectors.tokens},
        }
    )


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("POST", "/v1/embeddings", embeddings, "Vectors of texts, of length one.", body=EMBEDDING),
)
