"""What the names of a repository's files say, before one of them is here: SoC, quantization, and the rest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from exo_rkllm.runtime import filename


@dataclass(frozen=True, slots=True)
class ParsedFilename:
    """Lower case; empty or zero where the name is silent; `optimization` is -1, since 0 is a level."""

    platform: str = ""
    quantization: str = ""
    optimization: int = -1
    hybrid: float = 0.0
    context: int = 0
    toolkit: str = ""


def named(file: str, repo: str = "") -> ParsedFilename:
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
