"""rkllama's Modelfile: one KEY=VALUE (or Ollama's KEY VALUE) a line, as far as a card has a place for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exo_rkllm.backends.base import Sampling
from exo_rkllm.errors import CardError

FILE = "Modelfile"
LARGEST = 64 * 1024
LINE = re.compile(r"\s*(?:PARAMETER\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*(?:=|\s)\s*(.*?)\s*$")
SAMPLING: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "TEMPERATURE": ("temperature", float),
    "TOP_K": ("top_k", int),
    "TOP_P": ("top_p", float),
    "REPEAT_PENALTY": ("repeat_penalty", float),
    "FREQUENCY_PENALTY": ("frequency_penalty", float),
    "PRESENCE_PENALTY": ("presence_penalty", float),
    "MIROSTAT": ("mirostat", int),
    "MIROSTAT_TAU": ("mirostat_tau", float),
    "MIROSTAT_ETA": ("mirostat_eta", float),
    "SEED": ("seed", int),
}
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


def parse(text: str, where: str = FILE) -> Modelfile:
    values = _pairs(text)
    sampling: dict[str, Any] = {}
    for key, (name, read) in SAMPLING.items():
        if values.get(key):
            sampling[name] = _number(values[key], read, key, where)
    context = next((_number(values[key], int, key, where) for key in CONTEXT if values.get(key)), 0)
    used = {*SAMPLING, *CONTEXT, "FROM", "HUGGINGFACE_PATH", "SYSTEM"}
    return Modelfile(
        weights=values.get("FROM", ""),
        base_model=values.get("HUGGINGFACE_PATH", ""),
        system=values.get("SYSTEM", ""),
        context=max(context, 0),
        sampling=Sampling(**sampling),
        unused=tuple(key for key in values if key not in used),
    )


def read(folder: Path) -> Modelfile | None:
    path = folder / FILE
    if not path.is_file():
        return None
    with path.open("rb") as file:
        raw = file.read(LARGEST + 1)
    if len(raw) > LARGEST:
        raise CardError(f"{path} has more than {LARGEST // 1024} KiB.", "A Modelfile is a few lines of text.")
    return parse(raw.decode("utf-8", "replace"), str(path))


def _pairs(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
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
        found[key] = value.strip()
    return found


def _number(value: str, read: Callable[[str], Any], key: str, where: str) -> Any:
    try:
        return read(value)
    except ValueError:
        raise CardError(f"{where}: {key} is {value[:40]!r}, which is no number.", f"Correct it in {where}") from None
