"""Which of a repository's files is for this board, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exo_rkllm import socs
from exo_rkllm.catalogue.names import ParsedFilename, is_adapter, parse_filename
from exo_rkllm.errors import ModelNotFound

ENDINGS = (".rkllm",)


@dataclass(frozen=True, slots=True)
class BoardRoom:
    """What a model must fit: the SoC, and bytes of memory, all and free; empty and None where not known."""

    soc: str = ""
    memory: int | None = None
    free: int | None = None

    def unfit(self, size: int) -> str:
        if self.memory is None or size <= self.memory:
            return ""
        return f"Its file has {size / 1e9:.1f} GB, and this board has {self.memory / 1e9:.1f} GB of memory."

    def note(self, size: int) -> str:
        if self.free is None or size <= self.free or self.unfit(size):
            return ""
        return f"It needs {size / 1e9:.1f} GB of memory, of which {self.free / 1e9:.1f} GB are free now."


@dataclass(frozen=True, slots=True)
class Choice:
    file: str
    why: str


def candidates(files: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(file for file in files if file.lower().endswith(ENDINGS) and not is_adapter(file)))


def choose(files: Sequence[str], repo: str, soc: str, request: str = "") -> Choice:
    """The file for an SoC, which may go by any of its names or be unknown (empty), as off a board.

    `request` is a file, or a word that only one file's name has. Raises ModelNotFound with the candidates where none
    fits, or several fit equally well.
    """
    offers = candidates(files)
    soc = socs.family_of(soc)
    if request:
        return _requested(offers, files, repo, request)
    if not offers:
        endings = sorted({file.rpartition(".")[2] for file in files if "." in file})[:6]
        raise ModelNotFound(
            f"{repo} has no .rkllm file, only: {', '.join(endings) or 'nothing'}.", _elsewhere(files, repo)
        )
    facts = {file: parse_filename(file, repo) for file in offers}
    fitting = [file for file in offers if fits(facts[file], soc)]
    platforms = {facts[file].platform for file in fitting}
    if not fitting:
        raise ModelNotFound(
            made_for_others(offers, repo, soc),
            "Look for a conversion for this SoC: a file is tied to the SoC that it was made for.",
        )
    best = best_of(fitting, repo, soc)
    if len(best) > 1 or (not soc and len(platforms) > 1):
        several = best if soc else fitting
        raise ModelNotFound(
            f"{repo} has several files that would do: {_list(several)}.",
            f"Say which: exo-rkllm pull {repo}:{several[0]}",
        )
    return Choice(best[0], _why(best[0], facts[best[0]], len(offers), len(fitting), soc))


def fits(fact: ParsedFilename, soc: str) -> bool:
    return not soc or fact.platform in (soc, "")


def best_of(files: Sequence[str], repo: str, soc: str) -> list[str]:
    """Those of the files, which all fit, that are equally good and better than the rest."""
    ranks = {file: _rank(parse_filename(file, repo), soc) for file in files}
    return sorted(file for file in files if ranks[file] == min(ranks.values()))


def made_for_others(offers: Sequence[str], repo: str, soc: str) -> str:
    """What is wrong with a repository none of whose files fits."""
    platforms = ", ".join(sorted({parse_filename(file, repo).platform.upper() for file in offers}))
    return f"{repo} has files for {platforms} only, and this board is an {soc.upper()}."


def _elsewhere(files: Sequence[str], repo: str) -> str:
    """A GGUF is never chosen unless it is asked for: it would run on the CPU, and who pulls here means the NPU."""
    hint = "Look for a conversion of the model: most have rkllm or rk3588 in their names."
    ggufs = sorted(file for file in files if file.lower().endswith(".gguf"))
    return f"{hint} On the CPU, by llama.cpp: exo-rkllm pull {repo}:{ggufs[0]}" if ggufs else hint


def _requested(offers: Sequence[str], files: Sequence[str], repo: str, request: str) -> Choice:
    word = request.lower()
    for match in (
        [file for file in files if file == request],
        [file for file in offers if file.lower() == word],
        [file for file in offers if file.lower().rpartition("/")[2] in (word, f"{word}.rkllm")],
        [file for file in offers if parse_filename(file).quantization == word],
        [file for file in offers if word in file.lower()],
    ):
        if len(match) == 1:
            return Choice(match[0], "as asked for")
        if match:
            raise ModelNotFound(
                f"{request!r} fits several files of {repo}: {_list(match)}.", f"exo-rkllm pull {repo}:{match[0]}"
            )
    raise ModelNotFound(
        f"{repo} has no file {request!r}; it has: {_list(offers) or 'no .rkllm file'}.", f"exo-rkllm pull {repo}"
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


def _why(file: str, fact: ParsedFilename, offers: int, fitting: int, soc: str) -> str:
    if offers == 1:
        return "the only model file" + (f", made for {fact.platform.upper()}" if fact.platform else "")
    reasons = [f"{fitting} of {offers} files fit {soc.upper()}" if soc else f"one of {offers}"]
    if fact.quantization:
        reasons.append(f"{fact.quantization} is what runs best there")
    if "hybrid" in file.lower():
        reasons.append(f"hybrid ratio {fact.hybrid:g} is the fastest offered")
    return ", ".join(reasons)


def _list(files: Sequence[str]) -> str:
    return ", ".join(files[:12]) + (f" and {len(files) - 12} more" if len(files) > 12 else "")
