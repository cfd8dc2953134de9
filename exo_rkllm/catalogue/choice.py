"""Which of a repository's files is for this board, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exo_rkllm import socs
from exo_rkllm.catalogue.names import ParsedFilename, is_adapter, parse_filename
from exo_rkllm.errors import ModelNotFound

ENDINGS = (".rkllm",)


@dataclass(frozen=True, slots=True)
class Choice:
    file: str
    why: str


def candidates(files: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(file for file in files if file.lower().endswith(ENDINGS) and not is_adapter(file)))


def choose(files: Sequence[str], repo: str, soc: str, wanted: str = "") -> Choice:
    """`wanted` is a file, or a word that only one file's name has; `soc` is empty off a board."""
    offered = candidates(files)
    soc = socs.family_of(soc)
    if wanted:
        return _wanted(offered, files, repo, wanted)
    if not offered:
        others = sorted({file.rpartition(".")[2] for file in files if "." in file})[:6]
        raise ModelNotFound(
            f"{repo} has no .rkllm file, only: {', '.join(others) or 'nothing'}.",
            _elsewhere(files, repo),
        )
    facts = {file: parse_filename(file, repo) for file in offered}
    fitting = [file for file in offered if not soc or facts[file].platform in (soc, "")]
    if not fitting:
        made_for = ", ".join(sorted({fact.platform.upper() for fact in facts.values()}))
        raise ModelNotFound(
            f"{repo} has files for {made_for} only, and this board is an {soc.upper()}.",
            "Look for a conversion for this SoC: a file is tied to the SoC that it was made for.",
        )
    ranked = sorted(fitting, key=lambda file: (_rank(facts[file], soc), file))
    tied = [file for file in ranked if _rank(facts[file], soc) == _rank(facts[ranked[0]], soc)]
    platforms = {facts[file].platform for file in fitting}
    if len(tied) > 1 or (not soc and len(platforms) > 1):
        several = tied if soc else sorted(fitting)
        raise ModelNotFound(
            f"{repo} has several files that would do: {_listed(several)}.",
            f"Say which: exo-rkllm pull {repo}:{several[0]}",
        )
    return Choice(ranked[0], _why(ranked[0], facts[ranked[0]], len(offered), len(fitting), soc))


def _elsewhere(files: Sequence[str], repo: str) -> str:
    """A GGUF is never chosen unasked: it would run on the CPU, and who pulls here means the NPU."""
    hint = "Look for a conversion of the model: most have rkllm or rk3588 in their names."
    ggufs = sorted(file for file in files if file.lower().endswith(".gguf"))
    return f"{hint} On the CPU, by llama.cpp: exo-rkllm pull {repo}:{ggufs[0]}" if ggufs else hint


def _wanted(offered: Sequence[str], files: Sequence[str], repo: str, wanted: str) -> Choice:
    lowered = wanted.lower()
    for match in (
        [file for file in files if file == wanted],
        [file for file in offered if file.lower() == lowered],
        [file for file in offered if file.lower().rpartition("/")[2] in (lowered, f"{lowered}.rkllm")],
        [file for file in offered if parse_filename(file).quantization == lowered],
        [file for file in offered if lowered in file.lower()],
    ):
        if len(match) == 1:
            return Choice(match[0], "as asked for")
        if match:
            raise ModelNotFound(
                f"{wanted!r} fits several files of {repo}: {_listed(match)}.", f"exo-rkllm pull {repo}:{match[0]}"
            )
    raise ModelNotFound(
        f"{repo} has no file {wanted!r}; it has: {_listed(offered) or 'no .rkllm file'}.", f"exo-rkllm pull {repo}"
    )


def _rank(fact: ParsedFilename, soc: str) -> tuple[int, int, float, int]:
    """Lower is better: made for this SoC, its best quantization, least mixed, optimized for speed."""
    row = socs.BY_NAME.get(soc or fact.platform)
    order = row.quantizations if row else ()
    return (
        0 if fact.platform == soc else 1,
        order.index(fact.quantization) if fact.quantization in order else len(order),
        fact.hybrid,
        fact.optimization if fact.optimization >= 0 else 2,
    )


def _why(file: str, fact: ParsedFilename, offered: int, fitting: int, soc: str) -> str:
    if offered == 1:
        return "the only model file" + (f", made for {fact.platform.upper()}" if fact.platform else "")
    reasons = [f"{fitting} of {offered} files fit {soc.upper()}" if soc else f"one of {offered}"]
    if fact.quantization:
        reasons.append(f"{fact.quantization} is what runs best there")
    if "hybrid" in file.lower():
        reasons.append(f"hybrid ratio {fact.hybrid:g} is the fastest offered")
    return ", ".join(reasons)


def _listed(files: Sequence[str]) -> str:
    shown = ", ".join(files[:12])
    return shown + (f" and {len(files) - 12} more" if len(files) > 12 else "")
