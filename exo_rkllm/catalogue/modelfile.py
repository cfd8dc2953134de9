"""rkllama's and Ollama's Modelfiles: lines of KEY=VALUE or [PARAMETER] KEY VALUE, as far as a card has a place."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exo_rkllm.errors import CardError
from exo_rkllm.privileges import open_original
from exo_rkllm.sampling import SETTINGS, Sampling
from exo_rkllm.schema.quantities import from_text
from exo_rkllm.schema.specs import FieldError, ValueSpec, Whole

FILE = "Modelfile"
LARGEST = 64 * 1024
LINE = re.compile(r"\s*(?:PARAMETER\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*(?:=|\s)\s*(.*?)\s*$")
SAMPLING = {setting.name.upper(): setting for setting in SETTINGS}
CONTEXT = ("NUM_CTX", "MAX_CONTEXT_LEN", "CONTEXT")


@dataclass(frozen=True, slots=True)
class Modelfile:
    """`unused` are keys that a card has no place for."""

    weights: str = ""
    base_model: str = ""
    system: str = ""
    context: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    unused: tuple[str, ...] = ()
    template: str = ""
    adapter: str = ""
    stop: tuple[str, ...] = ()


def parse(text: str, where: str = FILE) -> Modelfile:
    pairs = _pairs(text)
    values = dict(pairs)
    sampling = {
        row.name: _number(values[key], row.kind, key, where) for key, row in SAMPLING.items() if values.get(key)
    }
    context = next((_number(values[key], Whole(), key, where) for key in CONTEXT if values.get(key)), 0)
    used = {*SAMPLING, *CONTEXT, "FROM", "HUGGINGFACE_PATH", "SYSTEM", "TEMPLATE", "ADAPTER", "STOP"}
    return Modelfile(
        weights=values.get("FROM", ""),
        base_model=values.get("HUGGINGFACE_PATH", ""),
        system=values.get("SYSTEM", ""),
        context=max(context, 0),
        sampling=Sampling(**sampling),
        template=values.get("TEMPLATE", ""),
        adapter=values.get("ADAPTER", ""),
        stop=tuple(value for key, value in pairs if key == "STOP" and value),
        unused=tuple(key for key in values if key not in used),
    )


def read(folder: Path) -> Modelfile | None:
    """None without the file; raises CardError if it cannot be read or makes no sense."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with open_original(path) as file:
            raw = file.read(LARGEST + 1)
    except OSError as error:
        raise CardError(f"{path} cannot be read: {error.strerror}.", f"ls -l {path}") from None
    if len(raw) > LARGEST:
        raise CardError(f"{path} has more than {LARGEST // 1024} KiB.", "A Modelfile is a few lines of text.")
    return parse(raw.decode("utf-8", "replace"), str(path))


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    lines = iter(text.splitlines())
    for line in lines:
        pair = LINE.match(line)
        if line.lstrip().startswith("#") or not pair:
            continue
        key, value = pair[1].upper(), pair[2]
        if value.startswith('"""'):
            value = value[3:]
            while '"""' not in value and (more := next(lines, None)) is not None:
                value += "\n" + more
            value = value.partition('"""')[0]
        elif len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        pairs.append((key, value.strip()))
    return pairs


def _number(text: str, kind: ValueSpec, key: str, where: str) -> Any:
    try:
        return kind.check(from_text(kind, text), key)
    except FieldError as error:
        raise CardError(f"{where}: {error.sentence}", f"Correct it in {where}") from None
