"""What a model may be called, what a file's name tells of it, and which entry a spoken name means.

Strings only: no name here ever becomes a path.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from exo_rkllm import socs
from exo_rkllm.errors import UsageError
from exo_rkllm.runtime import filename

LONGEST = 128
# Which engine loads a file where the card does not say it, by what the file's name ends in.
SUFFIXES: Mapping[str, str] = {".rkllm": "rkllm", ".gguf": "llamacpp"}
# ASCII letters, digits and . _ - and never a dot in front: hidden folders are the store's own.
ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
REPO_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,95})", re.ASCII)
# What a conversion adds to a model's name (reference 3.3), taken off again to get the name people say.
CONVERSION = re.compile(
    rf"(?:^|[-_. ])(?:{socs.IN_NAMES}|{'|'.join(socs.QUANTIZATIONS)}|"
    r"opt-?[01]|level[01]|hybrid(?:-?(?:ratio|rate))?-?[01](?:\.\d+)?|ctx\d+k?|\d+k|"
    r"rkllm-?v?\d+\.\d+\.\d+(?:b\d+)?|rkllm|gguf|v?\d+\.\d+\.\d+(?:b\d+)?|npu|core\d)(?=$|[-_. ]|\d)",
    re.IGNORECASE,
)


def valid_id(name: str) -> bool:
    return len(name) <= LONGEST and ID.fullmatch(name) is not None and ".." not in name


def check_id(name: str) -> None:
    """Raises a UsageError for a name, if there is one, that no entry may have."""
    if name and not valid_id(name):
        raise UsageError(f"{name!r} cannot be a model's name.", "Use letters, digits, '.', '_' and '-'.")


def valid_repo(name: str) -> bool:
    org, slash, repo = name.partition("/")
    return bool(slash) and ".." not in name and all(REPO_PART.fullmatch(part) for part in (org, repo))


def plain_file_name(name: str) -> bool:
    """Whether it names a file inside its folder and nothing else, on any file system."""
    return (
        0 < len(name.encode("utf-8", "replace")) <= 255
        and not name.startswith(".")
        and not any(sign in '/\\:*?"<>|' or ord(sign) < 32 or 0x7F <= ord(sign) <= 0x9F for sign in name)
        and not any(0xD800 <= ord(sign) <= 0xDFFF for sign in name)
    )


def _stem(file_name: str, suffixes: Collection[str]) -> str:
    name = file_name.strip()
    suffix = next((one for one in suffixes if name.lower().endswith(one)), "")
    return name[: len(name) - len(suffix)]


def bare_name(file_name: str, suffixes: Collection[str] = SUFFIXES) -> str:
    """A model file's name without what the conversion added to it."""
    bare = _stem(file_name, suffixes)
    while (shorter := CONVERSION.sub("", bare, count=1)) != bare:
        bare = shorter
    return bare


def plain_id(text: str) -> str:
    """Any text as an id; empty where nothing of it can be."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", text.lower(), flags=re.ASCII)
    plain = re.sub(r"\.{2,}", ".", re.sub(r"-{2,}", "-", plain)).lstrip("-._")[:LONGEST].rstrip("-._")
    return plain if valid_id(plain) else ""


def id_from(file_name: str, suffixes: Collection[str] = SUFFIXES) -> str:
    """The name that people will say for `Qwen2.5-1.5B-Instruct-rk3588-w8a8-opt-0.rkllm`: qwen2.5-1.5b-instruct."""
    return plain_id(bare_name(file_name, suffixes)) or plain_id(_stem(file_name, suffixes)) or "model"


@dataclass(frozen=True, slots=True)
class ParsedFilename:
    """Lower case; empty or zero where the name is silent; `optimization` is -1, since 0 is a level."""

    platform: str = ""
    quantization: str = ""
    optimization: int = -1
    hybrid: float = 0.0
    context: int = 0
    toolkit: str = ""


def parse_filename(file: str, repo: str = "") -> ParsedFilename:
    """The file's own name first; its folder's and its repository's for what that leaves out."""
    path = PurePosixPath(file)
    facts: dict[str, Any] = {}
    for text in (path.name, f"{path.parent.name}.rkllm", f"{repo.rpartition('/')[2]}.rkllm"):
        # A folder of its own, so that the working folder's name does not count.
        facts = {**filename.facts(Path("/") / text), **facts}
    return ParsedFilename(
        platform=facts.get("platform", "").lower(),
        quantization=facts.get("dtype", "").lower(),
        optimization=facts.get("optimization", -1),
        hybrid=facts.get("hybrid_ratio", 0.0),
        context=facts.get("max_context", 0),
        toolkit=facts.get("toolkit", ""),
    )


def is_adapter(file: str) -> bool:
    """A LoRA for a model, not a model."""
    return file.lower().endswith("_lora.rkllm")


@dataclass(frozen=True, slots=True)
class ModelNames:
    """What one entry answers to: its id, the repositories it comes from, and its variant (quantization, file)."""

    id: str
    repos: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()


def _is_one_of(name: str, words: Iterable[str]) -> bool:
    return any(word.casefold() == name.casefold() for word in words)


def _by_stem(stem: str, models: Sequence[ModelNames]) -> list[ModelNames]:
    """Exact id first, then repository, then the ids that begin with the stem."""
    candidates = (
        [model for model in models if _is_one_of(stem, (model.id,))],
        [model for model in models if _is_one_of(stem, model.repos)],
        [model for model in models if _is_one_of(stem, (repo.partition("/")[2] for repo in model.repos))],
        _plainest([model for model in models if model.id.casefold().startswith(stem.casefold() + "-")]),
    )
    return next(filter(None, candidates), [])


def _plainest(models: list[ModelNames]) -> list[ModelNames]:
    """The one that all the others are variants of, where there is one: `qwen3` before `qwen3-w4a16`."""
    return [
        model for model in models if all(other is model or other.id.startswith(f"{model.id}-") for other in models)
    ] or models


def matching(name: str, models: Iterable[ModelNames]) -> list[ModelNames]:
    """All entries that a name may mean: one is an answer, none and several are not.

    `name`, `org/repo`, and both with `:tag`, where a tag is a quantization, a file, a size that belongs to the
    name (Ollama's `qwen2.5:1.5b` is `qwen2.5-1.5b`), or `latest`, which means nothing.
    """
    models = list(models)
    stem, colon, tag = name.rpartition(":") if ":" in name else (name, "", "")
    stem = re.sub(r"\.rkllm$", "", stem, flags=re.IGNORECASE)
    if not stem or len(name) > 4 * LONGEST or (colon and not tag):
        return []
    if not colon or _is_one_of(tag, ("latest",)):
        return _by_stem(stem, models)
    return _by_stem(f"{stem}-{tag}", models) or [
        model
        for model in _by_stem(stem, models)
        if _is_one_of(tag, model.variants) or _is_one_of(f"{tag}.rkllm", model.variants)
    ]
