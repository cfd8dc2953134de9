"""A model's card: what `model.toml` holds, as one frozen value, read strictly and written back."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from exo_rkllm.backends.base import JSON
from exo_rkllm.catalogue import names
from exo_rkllm.catalogue.retrieval import EmbeddingSettings, RerankSettings
from exo_rkllm.chat.chat_format import ChatSettings
from exo_rkllm.errors import CardError
from exo_rkllm.sampling import Sampling
from exo_rkllm.schema import toml
from exo_rkllm.schema.specs import FieldError, Free, wrong
from exo_rkllm.schema.tables import build, object_of, row
from exo_rkllm.vision.tags import TAGS

FILE = "model.toml"
LARGEST = 256 * 1024


@dataclass(frozen=True, slots=True)
class Weights:
    file: str
    size: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class VisionFile:
    """The encoder beside the weights. `tags` is a row of `vision.tags.TAGS`; the texts go before it where given."""

    file: str
    size: int = 0
    sha256: str = ""
    tags: str = ""
    start: str = ""
    end: str = ""
    content: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """What `model.toml` holds; the fields are its keys, and nested values its tables."""

    id: str
    name: str = ""
    alias_of: str = ""  # the id of the model that this entry is another name for, and nothing else
    engine: str = "rkllm"
    base_model: str = ""
    source: str = ""  # ORG/REPO@REVISION:FILE
    platform: str = ""
    quantization: str = ""
    runtime_floor: str = ""  # an older runtime refuses the file (reference 3.4)
    context: int = 0
    layers: int = 0
    hidden_size: int = 0
    kv_heads: int = 0
    memory: int = 0  # bytes that a load is expected to take
    reuse: bool = True
    weights: Weights | None = row(object_of(Weights))
    vision: VisionFile | None = row(object_of(VisionFile))
    sampling: Sampling = row(object_of(Sampling), factory=Sampling)
    chat: ChatSettings = row(object_of(ChatSettings), factory=ChatSettings)
    embedding: EmbeddingSettings = row(object_of(EmbeddingSettings), factory=EmbeddingSettings)
    rerank: RerankSettings = row(object_of(RerankSettings), factory=RerankSettings)
    options: Mapping[str, JSON] = row(Free(), factory=dict)  # the engine's own, checked there


def telling_names(card: Card) -> tuple[str, ...]:
    """The names that may tell a model's family, most telling first; an owner's own name for it may tell nothing."""
    return card.base_model, card.id, card.source, card.weights.file if card.weights else ""


CARD = object_of(Card)


def parse(text: str, where: str = FILE, suffixes: Mapping[str, str] = names.SUFFIXES) -> Card:
    """Raises a CardError with file, line and repair for an unknown key, a wrong type or an impossible value."""
    values = toml.parse(text, where, CardError, "Correct it, or remove the model and import it again.")
    try:
        read = CARD.check(values, "")
        _check_names(read)
        read.setdefault("engine", _engine_of(read, suffixes))
    except FieldError as error:
        raise CardError(toml.complaint(error, text, where), error.hint) from None
    return build(Card, read)


def _engine_of(read: Mapping[str, Any], suffixes: Mapping[str, str]) -> str:
    """The engine that the card names or the file's suffix implies; raises a FieldError where it needs a file."""
    weights = read.get("weights")
    by_suffix = suffixes.get(PurePath(weights["file"]).suffix.lower(), "rkllm") if weights else "rkllm"
    engine: str = read.get("engine", by_suffix)
    if engine == "rkllm" and not weights and "alias_of" not in read:
        raise FieldError("weights", "weights is missing.", 'Add: [weights] with file = "NAME.rkllm"')
    return engine


def _check_names(read: Mapping[str, Any]) -> None:
    """Raises a FieldError where a name in the card cannot be a file or an id, or a value is no TOML."""
    if not names.valid_id(read["id"]):
        raise wrong("id", "a model's id", read["id"], "Use letters, digits, '.', '_', '-'.")
    for table, key in (("weights", "file"), ("vision", "file"), ("chat", "template")):
        name = read.get(table, {}).get(key)
        if name and not names.plain_file_name(name):
            raise wrong(f"{table}.{key}", "a file's name without a path", name, "Put the file beside the card.")
    for table in ("weights", "vision"):
        digest = read.get(table, {}).get("sha256")
        if digest and not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise wrong(f"{table}.sha256", "64 hexadecimal digits", digest, "sha256sum FILE prints them.")
    if (tags := read.get("vision", {}).get("tags")) and tags not in TAGS:
        raise wrong("vision.tags", f"one of {', '.join(TAGS)}", tags, "Or give start, end and content.")
    for key, value in read.get("options", {}).items():
        try:
            toml.value_of(value)
        except TypeError:
            raise FieldError(f"options.{key}", f"options.{key} holds a value that no engine takes: {value}.") from None


def _differing(value: Any) -> dict[str, Any]:
    """The fields that differ from their defaults, which are the ones written to disk."""
    rest: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        member = getattr(value, field.name)
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        if member is not None and (field.name == "id" or member != default):
            is_table = dataclasses.is_dataclass(member) and not isinstance(member, type)
            rest[field.name] = _differing(member) if is_table else list(member) if isinstance(member, tuple) else member
    return rest


def dump(card: Card) -> str:
    """`model.toml`, which `parse` reads as the same card."""
    return toml.dumps(_differing(card))


def with_option(text: str, key: str, value: str) -> str:
    """The card of this text with one text among its [options]; everything else stays as its owner wrote it, comments
    included, unless the owner's way of writing options leaves no line for it."""
    card = parse(text)
    wanted = dataclasses.replace(card, options={**card.options, key: value})
    line = f"{key} = {toml.value_of(value)}"
    own, header = re.compile(rf"^[ \t]*{key}[ \t]*=.*$", re.MULTILINE), re.compile(r"^\[options\][^\n]*$", re.MULTILINE)
    edits = [f"{text.rstrip()}\n\n[options]\n{line}\n"]
    if (found := header.search(text)) is not None:
        edits = [text[: found.end()] + own.sub(lambda _: line, text[found.end() :], count=1)]
        edits.append(f"{text[: found.end()]}\n{line}{text[found.end() :]}")
    for edit in edits:
        try:
            if parse(edit) == wanted:
                return edit
        except CardError:
            continue
    return dump(wanted)
