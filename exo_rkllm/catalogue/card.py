"""A model's card: what `model.toml` holds, as one frozen value, read strictly and written back."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from exo_rkllm.backends.base import JSON, Sampling
from exo_rkllm.catalogue import names, toml
from exo_rkllm.chat.chat_format import ChatSettings
from exo_rkllm.errors import CardError
from exo_rkllm.sampling import SETTINGS
from exo_rkllm.schema.specs import Whole, nearest

FILE = "model.toml"
# Which engine loads a file where the card does not say it, by what the file's name ends in.
SUFFIXES: Mapping[str, str] = {".rkllm": "rkllm", ".gguf": "llamacpp"}
LARGEST = 256 * 1024


@dataclass(frozen=True, slots=True)
class Weights:
    file: str
    size: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    id: str
    name: str = ""
    engine: str = "rkllm"
    base_model: str = ""
    source: str = ""  # ORG/REPO@REVISION:FILE
    platform: str = ""
    quantization: str = ""
    runtime_floor: str = ""  # an older runtime refuses the file (reference 3.4)
    context: int = 0
    layers: int = 0
    hidden_size: int = 0
    memory: int = 0  # bytes that a load is expected to take
    reuse: bool = True
    weights: Weights | None = None
    sampling: Sampling = field(default_factory=Sampling)
    chat: ChatSettings = field(default_factory=ChatSettings)
    options: Mapping[str, JSON] = field(default_factory=dict)


def telling_names(card: Card) -> tuple[str, ...]:
    """The names that may tell a model's family, most telling first; an owner's own name for it may tell nothing."""
    return card.base_model, card.id, card.source, card.weights.file if card.weights else ""


@dataclass(frozen=True, slots=True)
class Key:
    kind: type
    what: str


TEXT, WHOLE, NUMBER, SWITCH, WORDS = (
    Key(str, "a string"),
    Key(int, "a whole number"),
    Key(float, "a number"),
    Key(bool, "true or false"),
    Key(tuple, "a list of strings"),
)
# The whole file: table -> key -> what it holds. `options` is the engine's own and checked there.
KEYS: Mapping[str, Mapping[str, Key]] = {
    "": {
        "id": TEXT,
        "name": TEXT,
        "engine": TEXT,
        "base_model": TEXT,
        "source": TEXT,
        "platform": TEXT,
        "quantization": TEXT,
        "runtime_floor": TEXT,
        "context": WHOLE,
        "layers": WHOLE,
        "hidden_size": WHOLE,
        "memory": WHOLE,
        "reuse": SWITCH,
    },
    "weights": {"file": TEXT, "size": WHOLE, "sha256": TEXT},
    "sampling": {setting.name: WHOLE if isinstance(setting.kind, Whole) else NUMBER for setting in SETTINGS},
    "chat": {
        "template": TEXT,
        "tools": TEXT,
        "reasoning": TEXT,
        "family": TEXT,
        "stop": WORDS,
        "system": TEXT,
    },
}
TABLES = {*KEYS, "options"} - {""}
MAY_BE_NEGATIVE = {"seed", "top_k", "frequency_penalty", "presence_penalty"}


def _fits(value: Any, key: Key) -> bool:
    if key.kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if key.kind is tuple:
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    return isinstance(value, key.kind) and (key.kind is bool or not isinstance(value, bool))


@dataclass(frozen=True, slots=True)
class _CardReader:
    """Complaints need the text, to name the line."""

    text: str
    where: str

    def fail(self, table: str, key: str, says: str, hint: str) -> CardError:
        line = toml.line_of(self.text, table, key) or (0 if table else toml.line_of(self.text, key, ""))
        place = toml.at(self.where, line)
        return CardError(f"{place}: {says}.", hint)

    def table(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        keys = KEYS[name]
        read: dict[str, Any] = {}
        for key, value in values.items():
            if key not in keys:
                label = f"[{name}] has no key {key!r}" if name else f"there is no key {key!r}"
                raise self.fail(name, key, label, nearest(key, keys if name else {*keys, *TABLES}))
            if not _fits(value, keys[key]):
                raise self.fail(name, key, f"{key!r} must be {keys[key].what}", f"It is {_shown(value)}.")
            if isinstance(value, int | float) and value < 0 and key not in MAY_BE_NEGATIVE:
                raise self.fail(name, key, f"{key!r} must not be negative", f"It is {value}.")
            read[key] = tuple(value) if isinstance(value, list) else float(value) if keys[key] is NUMBER else value
        return read


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_json(one) for one in value.values())
    if isinstance(value, list):
        return all(_json(one) for one in value)
    return isinstance(value, str | int | float | bool)


def parse(text: str, where: str = FILE, suffixes: Mapping[str, str] = SUFFIXES) -> Card:
    """Strict: an unknown key, a wrong type or an impossible value is one sentence with file and line."""
    values = toml.parse(text, where)
    reader = _CardReader(text, where)
    tables: dict[str, dict[str, Any]] = {}
    for name in TABLES:
        table = values.pop(name, {})
        if not isinstance(table, dict):
            raise reader.fail(name, "", f"{name!r} must be a table", f"Write [{name}] on a line of its own.")
        tables[name] = table
    top = reader.table("", values)
    if "id" not in top:
        raise CardError(f"{where}: the key 'id' is missing.", 'Add: id = "NAME"')
    if not names.valid_id(top["id"]):
        raise reader.fail(
            "", "id", f"{_shown(top['id'])} cannot be a model's id", "Use letters, digits, '.', '_', '-'."
        )
    weights = _weights(reader, tables["weights"])
    sampling = Sampling(**reader.table("sampling", tables["sampling"]))
    chat = reader.table("chat", tables["chat"])
    if chat.get("template") and not names.plain_file_name(chat["template"]):
        raise reader.fail("chat", "template", "'template' must be a file's name, not a path", "Put it beside the card.")
    for key, value in tables["options"].items():
        if not _json(value):
            raise reader.fail("options", key, f"{key!r} holds a value that no engine takes", f"It is {_shown(value)}.")
    if weights is not None:
        top.setdefault("engine", suffixes.get(PurePath(weights.file).suffix.lower(), "rkllm"))
    if weights is None and top.get("engine", "rkllm") == "rkllm":
        raise CardError(f"{where}: the table [weights] is missing.", 'Add: [weights] with file = "NAME.rkllm"')
    return Card(
        **top,
        weights=weights,
        sampling=sampling,
        chat=ChatSettings(**chat),
        options=tables["options"],
    )


def _weights(reader: _CardReader, table: dict[str, Any]) -> Weights | None:
    if not table:
        return None
    read = reader.table("weights", table)
    if not names.plain_file_name(read.get("file", "")):
        raise reader.fail("weights", "file", "'file' must be a file's name, not a path", "Put it beside the card.")
    if read.get("sha256") and not re.fullmatch(r"[0-9a-f]{64}", read["sha256"]):
        raise reader.fail("weights", "sha256", "'sha256' must be 64 hexadecimal digits", "sha256sum FILE prints them.")
    return Weights(**read)


def _written(value: Any) -> dict[str, Any]:
    """What differs from the defaults: a card on disk says what is known and nothing else."""
    written: dict[str, Any] = {}
    for one in dataclasses.fields(value):
        held = getattr(value, one.name)
        default = one.default_factory() if one.default_factory is not dataclasses.MISSING else one.default
        if held is None or (one.name != "id" and held == default):
            continue
        nested = dataclasses.is_dataclass(held) and not isinstance(held, type)
        written[one.name] = _written(held) if nested else list(held) if isinstance(held, tuple) else held
    return written


def dump(card: Card) -> str:
    return toml.dumps(_written(card))
