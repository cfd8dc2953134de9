"""How a model makes vectors of texts and judges documents: [embedding] and [rerank] of its card, and known
families that need neither."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from exo_rkllm.schema.specs import Either, Text, Whole
from exo_rkllm.schema.tables import row

Pooling: TypeAlias = Literal["", "last", "mean", "cls"]
TOKEN = Either((Whole(0), Text(least=1)), "a token's text or its id")


@dataclass(frozen=True, slots=True)
class EmbeddingSettings:
    """Which rows of the last layer become the vector, and what is written around a text before it is read.

    An empty pooling means: as the family does, else that of the last token.
    """

    pooling: Pooling = row(Text(("", "last", "mean", "cls")), default="")
    suffix: str = ""
    query_prefix: str = ""
    document_prefix: str = ""


@dataclass(frozen=True, slots=True)
class RerankSettings:
    """`template` holds {query} and {document}; the score is how much likelier `yes` is to follow it than `no`."""

    template: str = ""
    yes: int | str = row(TOKEN, default="")
    no: int | str = row(TOKEN, default="")


QWEN_QUERY = "Instruct: Find texts that answer the question\nQuery: "
EMBEDDINGS: tuple[tuple[str, EmbeddingSettings], ...] = (
    (r"qwen-?3[-_]?(?:vl[-_]?)?embedding", EmbeddingSettings("last", "<|endoftext|>", QWEN_QUERY)),
    (r"gte[-_]qwen", EmbeddingSettings("last", "<|endoftext|>", QWEN_QUERY)),
    (r"(?<![a-z])gte(?![a-z])|(?<![a-z])bge(?![a-z])", EmbeddingSettings("cls")),
)
QWEN_JUDGE = (
    "<|im_start|>system\nDecide whether the document fits the query in the sense of the instruction. Answer with yes "
    "or no only.<|im_end|>\n<|im_start|>user\n<Instruct>: Find texts that answer the question\n<Query>: {query}\n"
    "<Document>: {document}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
# The ids are those of Qwen 3's tokenizer.
RERANKERS: tuple[tuple[str, RerankSettings], ...] = (
    (r"qwen-?3[-_]?(?:vl[-_]?)?reranker", RerankSettings(QWEN_JUDGE, 9693, 2152)),
)


def embedding_of(card: EmbeddingSettings, names: Iterable[str]) -> EmbeddingSettings:
    """The card's table, completed from the family that the first telling name means."""
    known = next((row for name in names for mark, row in EMBEDDINGS if re.search(mark, name.lower())), None)
    if known is None:
        return card
    return EmbeddingSettings(
        card.pooling or known.pooling,
        card.suffix or known.suffix,
        card.query_prefix or known.query_prefix,
        card.document_prefix or known.document_prefix,
    )


def rerank_of(card: RerankSettings, names: Iterable[str]) -> RerankSettings | None:
    """The same for rerankers; None for a model that is none."""
    known = next((row for name in names for mark, row in RERANKERS if re.search(mark, name.lower())), None)
    if known is None:
        return card if card.template else None
    return RerankSettings(
        card.template or known.template,
        known.yes if card.yes == "" else card.yes,
        known.no if card.no == "" else card.no,
    )
