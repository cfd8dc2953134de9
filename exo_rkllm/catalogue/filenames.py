"""What the names of model files and repositories say: SoC, quantization, context, toolkit (reference 3.3)."""

from __future__ import annotations

import re
from dataclasses import dataclass

EDGE = r"(?:^|[-_./ ])"
END = r"(?=$|[-_./ ])"
PLATFORM = re.compile(EDGE + r"(rk35(?:62|66|68|76|88)|rv1126b)s?" + END, re.IGNORECASE)
QUANTIZATION = re.compile(
    EDGE + r"(w8a8(?:_g(?:128|256|512))?|w4a16(?:_g(?:32|64|128))?|w4a8_g32)" + r"(?=$|[-_./ ])", re.IGNORECASE
)
OPTIMIZATION = re.compile(EDGE + r"(?:opt-?|level)([01])" + END, re.IGNORECASE)
HYBRID = re.compile(r"hybrid(?:-?(?:ratio|rate))?[-_]?([01](?:\.\d+)?)", re.IGNORECASE)
CONTEXT = re.compile(EDGE + r"(?:ctx(\d+)(k?)|(\d+)(k))" + END, re.IGNORECASE)
TOOLKIT = re.compile(r"(?:^|[-_./ ]|rkllm)v?(\d+\.\d+\.\d+(?:b\d+)?)(?=$|[-_/ ]|\.rkllm)", re.IGNORECASE)
SIZE = re.compile(EDGE + r"(\d+(?:[._]\d+)?)b" + END, re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Named:
    """Empty or zero where the name is silent; `optimization` is -1, since 0 is a level."""

    platform: str = ""
    quantization: str = ""
    optimization: int = -1
    hybrid: float = 0.0
    context: int = 0
    toolkit: str = ""


def _first(pattern: re.Pattern[str], *texts: str) -> re.Match[str] | None:
    return next((found for text in texts if (found := pattern.search(text))), None)


def named(file: str, repo: str = "") -> Named:
    """The file's own name first; the repository's for what the file leaves out."""
    platform = _first(PLATFORM, file, repo)
    quantization = _first(QUANTIZATION, file, repo)
    optimization = _first(OPTIMIZATION, file, repo)
    hybrid = _first(HYBRID, file, repo)
    context = _first(CONTEXT, file, repo)
    toolkit = _first(TOOLKIT, file, repo)
    return Named(
        platform=platform[1].lower() if platform else "",
        quantization=quantization[1].lower() if quantization else "",
        optimization=int(optimization[1]) if optimization else -1,
        hybrid=float(hybrid[1]) if hybrid else 0.0,
        context=_context(context) if context else 0,
        toolkit=toolkit[1] if toolkit else "",
    )


def _context(found: re.Match[str]) -> int:
    number, thousands = (found[1], found[2]) if found[1] else (found[3], found[4])
    return int(number[:7]) * (1024 if thousands else 1)


def is_adapter(file: str) -> bool:
    """A LoRA for a model, not a model."""
    return file.lower().endswith("_lora.rkllm")
