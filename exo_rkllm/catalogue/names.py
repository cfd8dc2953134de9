"""What a model may be called, what a file's name tells of it, and which entry a spoken name means.

Strings only: no name here ever becomes a path.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from exo_rkllm import socs
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
    cleaned = re.sub(r"[^a-z0-9._-]+", "-", text.lower(), flags=re.ASCII)
    cleaned = re.sub(r"\.{2,}", ".", re.sub(r"-{2,}", "-", cleaned)).lstrip("-._")[:LONGEST].rstrip("-._")
    return cleaned if valid_id(cleaned) else ""


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
    """The file's own name first; its folders' and its repository's for what that leaves out."""
    found: dict[str, object] = {}
    folders = PurePosixPath(file).parent.name
    for text in (PurePosixPath(file).name, f"{folders}.rkllm", f"{repo.rpartition('/')[2]}.rkllm"):
        # A folder of its own, so that the working folder's name does not count.
        found = {**filename.facts(Path("/") / text), **found}
    return ParsedFilename(
        platform=str(found.get("platform", "")).lower(),
        quantization=str(found.get("dtype", "")).lower(),
        optimization=int(str(found.get("optimization", -1))),
        hybrid=float(str(found.get("hybrid_ratio", 0.0))),
        context=int(str(found.get("max_context", 0))),
        toolkit=str(found.get("toolkit", "")),
    )


def is_adapter(file: str) -> bool:
    """A LoRA for a model, not a model."""
    return file.lower().endswith("_lora.rkllm")


@dataclass(frozen=True, slots=True)
class Known:
    """What one entry answers to: its id, the repositories it comes from, and its variant (quantization, file)."""

    id: str
    repos: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()


def _same(left: str, right: str) -> bool:
    return left.casefold() == right.casefold()


def _by_stem(stem: str, known: Sequence[Known]) -> list[Known]:
    """Exact id first, then repository, then the ids that begin with the words said."""
    for found in (
        [one for one in known if _same(one.id, stem)],
        [one for one in known if any(_same(repo, stem) for repo in one.repos)],
        [one for one in known if "/" not in stem and any(_same(repo.partition("/")[2], stem) for repo in one.repos)],
        _plainest([one for one in known if one.id.casefold().startswith(stem.casefold() + "-")]),
    ):
        if found:
            return found
    return []


def _plainest(found: list[Known]) -> list[Known]:
    """The one that all the others are variants of, where there is one: `qwen3` before `qwen3-w4a16`."""
    plain = [one for one in found if all(other is one or other.id.startswith(f"{one.id}-") for other in found)]
    return plain or found


def matching(name: str, known: Iterable[Known]) -> list[Known]:
    """All entries that a name may mean: one is an answer, none and several are not.

    `name`, `org/repo`, and both with `:tag`, where a tag is a quantization, a file, a size that belongs to the
    name (Ollama's `qwen2.5:1.5b` is `qwen2.5-1.5b`), or `latest`, which says nothing.
    """
    known = list(known)
    if not name or len(name) > 4 * LONGEST:
        return []
    stem, colon, tag = name.rpartition(":") if ":" in name else (name, "", "")
    stem = re.sub(r"\.rkllm$", "", stem, flags=re.IGNORECASE)
    if not stem or (colon and not tag):
        return []
    if not colon or _same(tag, "latest"):
        return _by_stem(stem, known)
    sized = _by_stem(f"{stem}-{tag}", known)
    if sized:
        return sized
    return [
        one
        for one in _by_stem(stem, known)
        if any(_same(variant, tag) or _same(variant, f"{tag}.rkllm") for variant in one.variants)
    ]
