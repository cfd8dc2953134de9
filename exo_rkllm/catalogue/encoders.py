"""The vision encoder in a model's folder: which of its `.rknn` files belongs to the language model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from exo_rkllm.catalogue import names
from exo_rkllm.catalogue.card import VisionFile
from exo_rkllm.errors import ExoRkllmError, UsageError
from exo_rkllm.rknn import encoderfile
from exo_rkllm.vision.tags import tags_for

SUFFIX = ".rknn"


# What the names of encoders of pictures hold; others are of sound, or of speech.
WORDS = ("vision", "visual", "encoder", "vit")
OTHER_WORDS = ("audio", "speech", "asr", "whisper")


def encoder_among(files: Iterable[str], weights: str, repo: str) -> str:
    """The encoder in a repository that belongs to its file `weights`, by their names; empty where none is certain."""
    platform = names.parse_filename(weights, repo).platform
    by_platform: dict[str, list[str]] = {}
    for file in files:
        name = PurePosixPath(file).name.lower()
        if (
            name.endswith(SUFFIX)
            and any(word in name for word in WORDS)
            and not any(word in name for word in OTHER_WORDS)
        ):
            by_platform.setdefault(names.parse_filename(f"{name}.rkllm", repo).platform, []).append(file)
    fitting = by_platform.get(platform) or by_platform.get("") or []
    beside = [file for file in fitting if PurePosixPath(file).parent == PurePosixPath(weights).parent]
    certain = beside or fitting
    return certain[0] if len(certain) == 1 else ""


def encoder_in(folder: Path, weights: Path) -> Path | None:
    """The one encoder of pictures for the SoC that the weights' name tells, by what the files say of themselves.

    None where there is none; raises UsageError where several remain.
    """
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() == SUFFIX and file.is_file())
    except OSError:
        return None
    platform = names.parse_filename(weights.name, "").platform.lower()
    fitting = [file for file in files if _fits(file, platform)]
    if len(fitting) > 1:
        listing = ", ".join(file.name for file in fitting)
        raise UsageError(f"{folder} has several encoders for one model: {listing}.", "Leave one of them there.")
    return fitting[0] if fitting else None


def _fits(file: Path, platform: str) -> bool:
    try:
        facts = encoderfile.inspect(file)
        facts.shape()
    except ExoRkllmError:
        return False
    return not platform or not facts.platforms or platform in facts.platforms


def vision_of(file: str, size: int, sha256: str, model_names: Sequence[str]) -> VisionFile:
    """The card's table for an encoder; its tags are the family's, where the model's names tell one."""
    return VisionFile(file, size, sha256, tags_for(*model_names))
