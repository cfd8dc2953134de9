"""Which of the installed runtimes a model is loaded with, and why: a pure choice over what was found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exo_rkllm.errors import RuntimeMissing
from exo_rkllm.files.stamps import Stamp
from exo_rkllm.runtime import version
from exo_rkllm.runtime.locate import LibraryPlace, Search
from exo_rkllm.runtime.modelfile import ModelFacts, Objection, against_runtime, check

# The key of a card's [options] that names a release.
OPTION = "runtime"


@dataclass(frozen=True, slots=True)
class RuntimeChoice:
    """The library of one load. `reason` follows "runtime VERSION" after a colon or in brackets.

    `by_owner`: somebody decided it, so that the doubts of the table of traps are known. `stamp` is that of its file.
    """

    path: Path
    release: str
    reason: str
    by_owner: bool = False
    stamp: Stamp = ()

    def __str__(self) -> str:
        return f"{self.release} ({self.reason})"


def choose(search: Search, facts: ModelFacts, wanted: str = "") -> RuntimeChoice:
    """`wanted` is the release that the card names, if it does; that or none is used.

    Otherwise the default, unless another installed one has less against it: the file's toolkit and the table of traps.
    Raises what the search raises where nothing is installed, and RuntimeMissing for a `wanted` one that is not there.
    """
    default = search.require()
    if search.only:
        return _chosen(default, "the library that was named", by_owner=True)
    if wanted:
        return _named(search, facts, wanted)
    weighed = [(_weight(facts, place), place) for place in search.installed]
    least = min(weight for weight, _ in weighed)
    if _weight(facts, default) == least:
        return _chosen(default, "the default" if len(weighed) > 1 else "the only one installed")
    best = min((place for weight, place in weighed if weight == least), key=lambda place: _distance(facts, place))
    (objection, *_) = sorted(against_runtime(facts, default.release), key=lambda one: -one.weight)
    return _chosen(best, f"the default, {default.release}, {objection.harm.partition(':')[0]}")


def objections_to(
    facts: ModelFacts, choice: RuntimeChoice | None, platform: str, context: int = 0
) -> tuple[Objection, ...]:
    """As `modelfile.check` with the chosen runtime, less the doubts about a runtime that the owner chose."""
    objections = check(facts, platform, "" if choice is None else choice.release, context)
    owner = choice is not None and choice.by_owner
    return tuple(one for one in objections if one.certain or not (owner and one.harm))


def _named(search: Search, facts: ModelFacts, wanted: str) -> RuntimeChoice:
    for place in search.installed:
        if place.release == wanted:
            return _chosen(place, "its card says so", by_owner=True)
    installed = ", ".join(place.release for place in search.installed)
    raise RuntimeMissing(
        f"The card of {facts.path.name} wants runtime {wanted}, and installed are only: {installed}.",
        f"exo-rkllm runtime --install FILE with librkllmrt {wanted}, or remove {OPTION} under [options] in its card",
    )


def _chosen(place: LibraryPlace, reason: str, *, by_owner: bool = False) -> RuntimeChoice:
    return RuntimeChoice(place.path, place.release, reason, by_owner, place.stamp)


def _weight(facts: ModelFacts, place: LibraryPlace) -> int:
    return max((objection.weight for objection in against_runtime(facts, place.release)), default=0)


def _distance(facts: ModelFacts, place: LibraryPlace) -> tuple[bool, tuple[int, ...]]:
    """The toolkit's own release first, then the next newer ones; for an unknown toolkit the newest."""
    toolkit, release = () if facts.toolkit is None else version.order(facts.toolkit.value), version.order(place.release)
    if not toolkit:
        return False, tuple(-number for number in release)
    return release < toolkit, release
