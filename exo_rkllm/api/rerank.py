"""Reranking: how well documents answer a query, in the words of Cohere and Jina (rerank) and of vLLM (score).

A reranker is asked whether a document fits, and the score is the likelihood of its yes against its no, read from the
logits behind the last token of the prompt. Nothing is generated.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Sequence

from aiohttp import web

from exo_rkllm.api.common_fields import MODEL, USER, body, required
from exo_rkllm.api.context import Call, Endpoint
from exo_rkllm.api.encoding import json_response
from exo_rkllm.api.streaming import complete_answer
from exo_rkllm.backends.base import Array, GenerationRequest
from exo_rkllm.catalogue.card import telling_names
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.catalogue.model_tokenizers import ModelTokenizers
from exo_rkllm.catalogue.retrieval import RerankSettings, rerank_of
from exo_rkllm.errors import CardError, NotSupported
from exo_rkllm.schema.specs import Either, FieldError, FieldSpec, List, Switch, Text, Whole

MOST = 1000


async def rerank(call: Call) -> web.StreamResponse:
    values = call.values
    entry = call.entry(values["model"])
    texts = [one if isinstance(one, str) else one["text"] for one in values["documents"]]
    scores, tokens = await judge(call, entry, [(values["query"], text) for text in texts])
    order = sorted(range(len(texts)), key=lambda index: -scores[index])
    documents = values.get("return_documents", True)
    results = [
        {
            "index": index,
            "relevance_score": scores[index],
            **({"document": {"text": texts[index]}} if documents else {}),
        }
        for index in order[: values.get("top_n", len(texts))]
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_response(
        {"id": f"rerank-{secrets.token_hex(16)}", "model": entry.id, "results": results, "usage": usage}
    )


async def score(call: Call) -> web.StreamResponse:
    values = call.values
    entry = call.entry(values["model"])
    left, right = ([value] if isinstance(value, str) else value for value in (values["text_1"], values["text_2"]))
    if len(left) not in (1, len(right)):
        raise FieldError(
            "text_1",
            f"text_1 has {len(left)} texts and text_2 {len(right)}.",
            "Give one text for all of text_2, or as many.",
        )
    pairs = list(zip(left * len(right) if len(left) == 1 else left, right, strict=True))
    scores, tokens = await judge(call, entry, pairs)
    return json_response(
        {
            "id": f"score-{secrets.token_hex(16)}",
            "object": "list",
            "created": int(time.time()),
            "model": entry.id,
            "data": [{"index": index, "object": "score", "score": value} for index, value in enumerate(scores)],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


async def judge(call: Call, entry: Entry, pairs: Sequence[tuple[str, str]]) -> tuple[list[float], int]:
    """A score from 0 to 1 for each query with a document, and the tokens of all prompts.

    Raises NotSupported for a model that is no reranker, CardError where its card is incomplete.
    """
    settings = rerank_of(entry.card.rerank, telling_names(entry.card))
    if settings is None:
        raise NotSupported(
            f"{entry.id} is no reranker.",
            "Use one, such as Qwen3-Reranker, or write [rerank] with template, yes and no into its card.",
        )
    yes, no = await token_ids(call.context.tokenizers, entry, settings)
    scores, tokens = [], 0
    for query, document in pairs:
        prompt = settings.template.replace("{query}", query).replace("{document}", document)
        answer = await complete_answer(call, GenerationRequest(model=entry.id, prompt=prompt, output="logits", rows=1))
        if not answer.arrays:
            raise NotSupported(f"{entry.id} gave no logits.", "Install runtime 1.2.0 or newer.")
        scores.append(likelihood(entry, answer.arrays[-1], yes, no))
        tokens += answer.finish.usage.prompt
    return scores, tokens


async def token_ids(tokenizers: ModelTokenizers, entry: Entry, settings: RerankSettings) -> tuple[int, int]:
    """The ids of the two answers; a text is looked up in the model's tokenizer and must be one token."""
    ids = []
    for name, value in (("yes", settings.yes), ("no", settings.no)):
        found = [[value]] if isinstance(value, int) else await tokenizers.encode(entry, [value])
        if found is None or len(found[0]) != 1:
            raise CardError(
                f"[rerank] {name} of {entry.id} is {value!r}, which is no single token of its tokenizer.",
                f"Write the token's id: {name} = 9693",
            )
        ids.append(found[0][0])
    return ids[0], ids[1]


def likelihood(entry: Entry, last: Array, yes: int, no: int) -> float:
    """Of yes against no, from the last row of the logits."""
    if max(yes, no) >= last.width:
        raise CardError(
            f"[rerank] of {entry.id} names the token {max(yes, no)}, and its vocabulary has {last.width}.",
            "Correct yes and no in the model's model.toml",
        )
    row = last.data.cast("B").cast("f")[-last.width :]
    return 1 / (1 + math.exp(min(700.0, row[no] - row[yes])))


DOCUMENT = body("RerankDocument", required("text", Text(), "Text of the document."))
TEXTS = Either((Text(), List(Text(), least=1, most=MOST)), "a string or a list of strings")
RERANK = body(
    "RerankRequest",
    MODEL,
    required("query", Text(least=1), "What the documents are to answer."),
    required(
        "documents",
        List(Either((Text(), DOCUMENT), "a string or an object with text"), least=1, most=MOST),
        f"Up to {MOST} documents.",
    ),
    FieldSpec("top_n", Whole(1), "How many of them are returned, the best first; all by default."),
    FieldSpec("return_documents", Switch(), "Whether to return the documents' texts; true by default."),
    USER,
)
SCORE = body(
    "ScoreRequest",
    MODEL,
    required("text_1", TEXTS, "One query, or as many as there are documents."),
    required("text_2", TEXTS, f"The documents, up to {MOST}."),
    USER,
)
ENDPOINTS: tuple[Endpoint, ...] = (
    *(
        Endpoint("POST", path, rerank, "Sorts documents by how well they answer a query.", body=RERANK)
        for path in ("/v1/rerank", "/v2/rerank", "/rerank")
    ),
    *(
        Endpoint("POST", path, score, "Tells how well documents answer queries.", body=SCORE)
        for path in ("/v1/score", "/score")
    ),
)
