"""Vectors and scores as retrieval programs ask for them: pooling, prefixes, shorter vectors, reranking."""

from __future__ import annotations

import array
import json
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.api.embedding import pooled
from exo_rkllm.api.rerank import likelihood, token_ids
from exo_rkllm.backends.base import Array
from exo_rkllm.catalogue import card as cards
from exo_rkllm.catalogue.card import Card
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.catalogue.model_tokenizers import ModelTokenizers
from exo_rkllm.catalogue.retrieval import EmbeddingSettings, RerankSettings, embedding_of, rerank_of
from exo_rkllm.errors import CardError
from tests.api.test_serving import post
from tests.api.world import World, world
from tests.words import write_tokenizer

RETRIEVAL = {
    "plain": 'engine = "scripted"\ncontext = 4096\n',
    "qwen3-embedding-0.6b": 'engine = "scripted"\ncontext = 4096\n',
    "mine": 'engine = "scripted"\ncontext = 4096\n[embedding]\npooling = "mean"\ndocument_prefix = "doc "\n',
}


@pytest.fixture
async def library() -> AsyncIterator[World]:
    async with world(cards=RETRIEVAL) as running:
        yield running


async def vector(server: World, **body: Any) -> list[float]:
    status, said, _ = await post(server, "/v1/embeddings", body)
    assert status == 200, said
    found: list[float] = said["data"][0]["embedding"]
    return found


# ── embeddings ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("pooling", "expected"), [("", [7, 8]), ("last", [7, 8]), ("cls", [1, 2]), ("mean", [4, 5])])
def test_rows_are_pooled_as_the_model_means_it(pooling: Any, expected: list[float]) -> None:
    first, last = ([1.0, 2.0, 4.0, 5.0], 2), ([7.0, 8.0], 1)
    arrays = [
        Array("hidden", rows, 2, memoryview(array.array("f", values)).cast("B")) for values, rows in (first, last)
    ]
    assert pooled(arrays, pooling).tolist() == expected


async def test_shorter_vector_is_the_beginning_made_one_long(library: World) -> None:
    whole = await vector(library, model="plain", input="a b")
    short = await vector(library, model="plain", input="a b", dimensions=3)
    length = math.sqrt(sum(value * value for value in whole[:3]))
    assert short == pytest.approx([value / length for value in whole[:3]], abs=1e-6)
    status, said, _ = await post(library, "/v1/embeddings", {"model": "plain", "input": "a", "dimensions": 9})
    assert status == 400 and "dimensions is 9, and the vectors of plain have 8" in said["error"]["message"]


@pytest.mark.parametrize(
    ("model", "purpose", "prompt"),
    [
        ("plain", "query", "a"),
        ("mine", "search_document", "doc a"),
        ("mine", "passage", "doc a"),
        ("mine", "query", "a"),
        ("qwen3-embedding-0.6b", None, "a<|endoftext|>"),
        (
            "qwen3-embedding-0.6b",
            "search_query",
            "Instruct: Find texts that answer the question\nQuery: a<|endoftext|>",
        ),
    ],
)
async def test_texts_are_read_with_what_the_model_wants_around_them(
    library: World, model: str, purpose: str | None, prompt: str
) -> None:
    await vector(library, model=model, input="a", input_type=purpose)
    request = library.ledger.requests[-1]
    assert request.prompt == prompt
    assert request.rows == (0 if model == "mine" else 1), "a row that is not wanted need not be copied"


def test_card_stands_before_its_family() -> None:
    card = cards.parse('id = "bge-m3"\nengine = "dummy"\n[embedding]\nsuffix = "."\n')
    assert embedding_of(card.embedding, ("", "bge-m3")) == EmbeddingSettings("cls", ".")
    assert embedding_of(EmbeddingSettings("mean"), ("gte-large",)).pooling == "mean"
    assert embedding_of(EmbeddingSettings(), ("gte-Qwen2-1.5B",)).pooling == "last"
    assert embedding_of(EmbeddingSettings(), ("qwen3-4b",)) == EmbeddingSettings()
    assert cards.parse(cards.dump(card)) == card


# ── reranking ────────────────────────────────────────────────────────────────────────────────────


def test_reranker_is_known_by_its_card_or_its_family() -> None:
    own = RerankSettings("{query} {document}", "yes", 3)
    assert rerank_of(own, ("qwen3-4b",)) == own
    assert rerank_of(RerankSettings(), ("qwen3-4b",)) is None
    known = rerank_of(RerankSettings(yes=1), ("", "Qwen/Qwen3-Reranker-0.6B"))
    assert known is not None and (known.yes, known.no) == (1, 2152) and "{document}" in known.template
    card = cards.parse('id = "r"\nengine = "dummy"\n[rerank]\ntemplate = "{query}{document}"\nyes = "yes"\nno = 3\n')
    assert cards.parse(cards.dump(card)) == card and card.rerank == RerankSettings("{query}{document}", "yes", 3)


async def test_answers_of_a_reranker_are_single_tokens(tmp_path: Path) -> None:
    entry = Entry(tmp_path, Card("judge"))
    with closing(ModelTokenizers()) as tokenizers:
        assert await token_ids(tokenizers, entry, RerankSettings("", 5, 6)) == (5, 6)
        with pytest.raises(CardError, match="yes of judge is 'yes', which is no single token"):
            await token_ids(tokenizers, entry, RerankSettings("", "yes", 6))
        write_tokenizer(tmp_path, "yes", "no")
        assert await token_ids(tokenizers, entry, RerankSettings("", "yes", "no")) == (0, 1)
        with pytest.raises(CardError, match="no of judge is 'not at all'"):
            await token_ids(tokenizers, entry, RerankSettings("", "yes", "not at all"))


def test_score_is_the_likelihood_of_yes_against_no() -> None:
    entry = Entry(Path("nowhere"), Card("judge"))
    rows = Array("logits", 2, 3, memoryview(array.array("f", [9, 9, 9, 1.0, 3.0, 0.0])).cast("B"))
    assert likelihood(entry, rows, 1, 0) == pytest.approx(1 / (1 + math.exp(-2)))
    assert likelihood(entry, rows, 0, 1) == pytest.approx(1 / (1 + math.exp(2)))
    with pytest.raises(CardError, match="names the token 3, and its vocabulary has 3"):
        likelihood(entry, rows, 1, 3)


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/v1/rerank", {"query": "q", "documents": ["a"]}, "plain is no reranker"),
        ("/v1/score", {"text_1": "q", "text_2": "a"}, "plain is no reranker"),
        ("/v1/score", {"text_1": ["q", "r"], "text_2": ["a", "b", "c"]}, "text_1 has 2 texts and text_2 3"),
        ("/v1/rerank", {"query": "q", "documents": []}, "documents must not be empty"),
    ],
)
async def test_rerank_says_what_it_cannot_do(library: World, path: str, body: Mapping[str, Any], says: str) -> None:
    status, said, _ = await post(library, path, {"model": "plain", **body})
    assert status == 400 and says in json.dumps(said)
