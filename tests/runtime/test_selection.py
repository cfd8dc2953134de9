"""Which installed runtime a model is loaded with: by its card, its toolkit, the table of traps, or by default."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_rkllm.errors import RuntimeMissing
from exo_rkllm.runtime import abi, locate, version
from exo_rkllm.runtime.locate import LibraryPlace, Search
from exo_rkllm.runtime.modelfile import Fact, ModelFacts, against_runtime
from exo_rkllm.runtime.selection import RuntimeChoice, choose, objections_to
from exo_rkllm.runtime.traps import TRAPS
from exo_rkllm.runtime.version import Version
from tests.runtime import libraries

DEEPSEEK = {"name": "DeepSeek-R1-Distill-Qwen-1.5B"}
TOO_OLD = "the default, 1.2.3, is too old for toolkit 1.3.0"
FOLDER = Path("/usr/lib/exo-rkllm/runtimes")


def place(release: str) -> LibraryPlace:
    return LibraryPlace(FOLDER / f"librkllmrt-{release}.so", "system", Version(release, "version string"))


def installed(default: str, *others: str) -> Search:
    return Search((place(default),), FOLDER, tuple(map(place, sorted(others, key=version.order, reverse=True))))


def facts(toolkit: str = "", source: str = "footer", **known: Any) -> ModelFacts:
    given: dict[str, Any] = {name: Fact(value, "header") for name, value in known.items()}
    if toolkit:
        given["toolkit"] = Fact(toolkit, source)  # type: ignore[arg-type]  # one of the literals
    return ModelFacts(Path("/models/m/m.rkllm"), 1 << 30, known_head=True, **given)


@pytest.mark.parametrize(
    ("model", "search", "release", "reason"),
    [
        (facts("1.2.1"), installed("1.3.0"), "1.3.0", "the only one installed"),
        (facts("1.2.1"), installed("1.3.0", "1.2.1", "1.2.3"), "1.3.0", "the default"),
        (facts(), installed("1.2.3", "1.3.1"), "1.2.3", "the default"),
        # The toolkit: its own release before a newer one, and the nearest of those.
        (facts("1.3.0"), installed("1.2.3", "1.3.1", "1.3.0"), "1.3.0", TOO_OLD),
        (facts("1.3.0"), installed("1.2.3", "1.3.1"), "1.3.1", TOO_OLD),
        (facts("1.3.0", "name"), installed("1.2.3", "1.3.1"), "1.3.1", TOO_OLD),
        (facts("1.3.0"), installed("1.2.3", "1.2.0"), "1.2.3", "the default"),  # none can, and the load says so
        # The traps.
        (facts("1.2.2", **DEEPSEEK), installed("1.2.3", "1.2.2"), "1.2.2", "the default, 1.2.3, turns DeepSeek"),
        (facts("1.1.4", **DEEPSEEK), installed("1.2.3", "1.3.1", "1.2.0"), "1.2.0", "the default, 1.2.3, turns"),
        (facts(**DEEPSEEK), installed("1.2.3", "1.3.1", "1.2.0"), "1.3.1", "the default, 1.2.3, turns"),
        (facts("1.2.3", **DEEPSEEK), installed("1.2.3", "1.2.2"), "1.2.3", "the default"),  # the other cannot read it
        (facts("1.2.2"), installed("1.3.0", "1.2.3"), "1.2.3", "the default, 1.3.0, misses the end token"),
        (facts("1.2.2"), installed("1.3.1", "1.2.3"), "1.2.3", "the default, 1.3.1, crashes (SIGBUS)"),
        # Neither is better: the owner's default.
        (facts("1.2.2"), installed("1.3.0", "1.3.1"), "1.3.0", "the default"),
        (facts("1.2.2"), installed("1.3.1", "1.3.0"), "1.3.1", "the default"),
        (facts("1.2.3", **DEEPSEEK), installed("1.2.3", "1.3.0"), "1.3.0", "the default, 1.2.3, turns"),
    ],
)  # fmt: skip
def test_default_is_used_unless_another_has_less_against_it(
    model: ModelFacts, search: Search, release: str, reason: str
) -> None:
    choice = choose(search, model)
    assert choice.release == release
    assert choice.path == place(release).path
    assert choice.reason.startswith(reason)
    assert not choice.by_owner
    assert str(choice) == f"{release} ({choice.reason})"


def test_card_goes_before_everything_but_a_library_that_was_named() -> None:
    model = facts("1.3.1", **DEEPSEEK)
    choice = choose(installed("1.3.1", "1.2.3"), model, "1.2.3")
    assert (choice.release, choice.reason, choice.by_owner) == ("1.2.3", "its card says so", True)
    named = choose(Search((place("1.3.0"),), FOLDER, only=True), model, "1.2.3")
    assert (named.release, named.reason, named.by_owner) == ("1.3.0", "the library that was named", True)


@pytest.mark.parametrize("wanted", ["1.2.2", "1.2", "../librkllmrt.so", "/etc/passwd", "1.3.0 "])
def test_card_that_names_what_is_not_installed_is_refused(wanted: str) -> None:
    with pytest.raises(
        RuntimeMissing, match=re.escape(f"wants runtime {wanted}, and installed are only: 1.3.0, 1.2.3.")
    ):
        choose(installed("1.3.0", "1.2.3"), facts(), wanted)


def test_nothing_installed_raises_what_the_search_says(tmp_path: Path) -> None:
    with pytest.raises(RuntimeMissing, match=r"No librkllmrt\.so was found"):
        choose(locate.search(environ={}, root=tmp_path), facts(), "1.2.3")


def test_owners_choice_silences_doubts_about_it_and_no_others() -> None:
    model = facts("1.2.2", platform="RK3576")
    own, chance = RuntimeChoice(Path("x"), "1.3.0", "", by_owner=True), RuntimeChoice(Path("x"), "1.3.0", "")
    assert len(objections_to(model, chance, "RK3588")) == 2
    (one,) = objections_to(model, own, "RK3588")
    assert "RK3576" in one.error.sentence
    (old,) = objections_to(facts("1.3.1"), own, "")
    assert old.certain
    assert objections_to(model, None, "RK3576") == ()


RELEASES = st.sampled_from([*abi.RELEASES])


@given(st.lists(RELEASES, min_size=1, unique=True), st.sampled_from(["", *abi.RELEASES]), st.booleans())
def test_choice_never_has_more_against_it_than_the_default(releases: list[str], toolkit: str, deepseek: bool) -> None:
    def weight(release: str) -> int:
        return max((one.weight for one in against_runtime(model, release)), default=0)

    model = facts(toolkit, **(DEEPSEEK if deepseek else {}))
    choice = choose(installed(*releases), model)
    assert weight(choice.release) == min(map(weight, releases))
    assert choice.release == releases[0] or weight(choice.release) < weight(releases[0])


# ── the table ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.runtime)
def test_trap_names_a_supported_release_a_source_and_what_helps(trap: Any) -> None:
    assert trap.runtime in abi.RELEASES
    assert re.search(r"\(board-facts 13; [AB]\)", trap.source)
    assert trap.harm
    assert trap.advice.startswith("exo-rkllm ")
    assert trap.toolkit or trap.model


@pytest.mark.parametrize(
    "name",
    [
        "DeepSeek-R1-Distill-Qwen-1.5B_W8A8_RK3588.rkllm",
        "deepseek-r1-distill-qwen-1.5b",
        "DeepSeek R1 Distill Qwen 1.5B",
    ],
)
def test_model_is_known_by_the_files_name_the_entrys_and_its_own(name: str) -> None:
    paths = (Path("/models/m", name), Path("/models", name, "m.rkllm"))
    found = [ModelFacts(path, 1, known_head=True) for path in paths]
    found.append(ModelFacts(Path("/m/m"), 1, known_head=True, name=Fact(name, "header")))
    for one in found:
        assert [objection.harm for objection in against_runtime(one, "1.2.3")] == [TRAPS[0].harm]
        assert [*against_runtime(one, "1.2.2")] == []


# ── looking ──────────────────────────────────────────────────────────────────────────────────────


def test_default_may_be_one_of_the_folders_files(tmp_path: Path) -> None:
    for release in ("1.2.0", "1.3.0"):
        libraries.write(tmp_path / "runtimes" / f"librkllmrt-{release}.so", release)
    search = locate.search(tmp_path / "runtimes" / "librkllmrt-1.2.0.so", {})
    assert [one.release for one in search.installed] == ["1.2.0", "1.3.0"]


def test_library_that_was_named_alone_has_nothing_beside_it(tmp_path: Path) -> None:
    libraries.write(tmp_path / "runtimes" / "librkllmrt-1.3.0.so", "1.3.0")
    search = locate.only(libraries.write(tmp_path / "librkllmrt.so", "1.2.0"))
    assert [one.release for one in search.installed] == ["1.2.0"]


def test_broken_default_that_somebody_named_hides_the_others(tmp_path: Path) -> None:
    """Falling back from it would hide the mistake."""
    libraries.write(tmp_path / "runtimes" / "librkllmrt-1.3.0.so", "1.3.0")
    search = locate.search(tmp_path / "librkllmrt.so", {})
    assert search.installed == ()
    with pytest.raises(RuntimeMissing):
        search.require()
