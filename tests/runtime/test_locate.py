"""Where the library is looked for, and what the search says of each place."""

from __future__ import annotations

from pathlib import Path

import pytest

from exo_rkllm.errors import RuntimeMissing, RuntimeUnsupported
from exo_rkllm.files.stamps import stamp_of
from exo_rkllm.runtime import locate, version
from exo_rkllm.runtime.locate import DIRECTORIES, NAME, OURS, VARIABLE, VERSIONS
from tests.runtime import libraries


def inside(root: Path, directory: Path) -> Path:
    return root / directory.relative_to("/") / NAME


def test_nothing_anywhere_says_where_it_looked_and_how_to_install(tmp_path: Path) -> None:
    search = locate.search(environ={}, root=tmp_path)
    assert search.found is None
    assert {place.held for place in search.places} == {"nothing"}
    with pytest.raises(RuntimeMissing) as caught:
        search.require()
    for directory in DIRECTORIES:
        assert str(directory) in caught.value.sentence
    assert "exo-rkllm runtime --install" in caught.value.hint


@pytest.mark.parametrize("directory", DIRECTORIES)
def test_every_usual_spot_is_searched(tmp_path: Path, directory: Path) -> None:
    path = libraries.write(inside(tmp_path, directory), "1.2.3")
    found = locate.search(environ={}, root=tmp_path).require()
    assert (found.path, found.origin, found.held) == (path, "system", "librkllmrt 1.2.3")


def test_what_we_installed_comes_first(tmp_path: Path) -> None:
    libraries.write(inside(tmp_path, Path("/usr/lib")), "1.1.4")
    ours = libraries.write(inside(tmp_path, OURS), "1.3.0")
    assert locate.search(environ={}, root=tmp_path).require().path == ours


def test_a_library_that_cannot_be_used_does_not_hide_one_that_can(tmp_path: Path) -> None:
    old = libraries.write(inside(tmp_path, Path("/usr/local/lib")), "1.0.1")
    good = libraries.write(inside(tmp_path, Path("/usr/lib")), "1.2.0")
    search = locate.search(environ={}, root=tmp_path)
    assert search.require().path == good
    (refused,) = [place for place in search.places if place.path == old]
    assert "1.0.1" in refused.held


def test_where_only_unusable_ones_are_their_reason_is_the_error(tmp_path: Path) -> None:
    libraries.write(inside(tmp_path, Path("/usr/lib")), "1.0.1")
    with pytest.raises(RuntimeUnsupported, match=r"1\.0\.1"):
        locate.search(environ={}, root=tmp_path).require()


def test_a_path_that_was_named_is_the_only_one(tmp_path: Path) -> None:
    """Falling back from it would hide the mistake."""
    libraries.write(inside(tmp_path, OURS), "1.3.0")
    search = locate.search(tmp_path / "mine.so", environ={}, root=tmp_path)
    with pytest.raises(RuntimeMissing, match=r"mine\.so cannot be read"):
        search.require()
    assert [place.origin for place in search.places] == ["argument"]


def test_the_variable_is_the_only_one_unless_a_path_was_named(tmp_path: Path) -> None:
    named = libraries.write(tmp_path / "named" / NAME, "1.3.0")
    other = libraries.write(tmp_path / "other" / NAME, "1.2.3")
    environ = {VARIABLE: str(other)}
    assert locate.search(environ=environ, root=tmp_path).require().path == other
    assert locate.search(named, environ=environ, root=tmp_path).require().path == named


def test_a_directory_stands_for_the_library_in_it(tmp_path: Path) -> None:
    path = libraries.write(tmp_path / NAME, "1.3.1")
    assert locate.search(tmp_path, environ={}).require().path == path


def test_the_loader_s_own_path_is_searched_first(tmp_path: Path) -> None:
    """The vendor's demos are started with LD_LIBRARY_PATH."""
    libraries.write(inside(tmp_path, OURS), "1.3.0")
    demo = libraries.write(tmp_path / "demo" / "lib" / NAME, "1.2.1")
    environ = {"LD_LIBRARY_PATH": "relative:/demo/lib:"}
    assert locate.search(environ=environ, root=tmp_path).require().path == demo


def test_a_dangling_link_is_told_from_nothing(tmp_path: Path) -> None:
    path = inside(tmp_path, OURS)
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "gone")
    (place, *_) = locate.search(environ={}, root=tmp_path).places
    assert "cannot be read" in place.held


def test_find_gives_the_path_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = libraries.write(tmp_path / NAME, "1.3.1")
    monkeypatch.setenv(VARIABLE, str(path))
    assert locate.find() == path
    assert locate.find(path) == path


def test_no_library_is_read_twice_unless_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / OURS.relative_to("/") / VERSIONS
    first = libraries.write(folder / "librkllmrt-1.3.0.so", "1.3.0")
    libraries.write(folder / "librkllmrt-1.2.3.so", "1.2.3")
    (folder.parent / NAME).symlink_to(f"{VERSIONS}/{first.name}")
    read: list[str] = []
    check = version.check

    def counted(path: Path, *, for_board: bool = False) -> version.Version:
        read.append(path.name)
        return check(path, for_board=for_board)

    monkeypatch.setattr(version, "check", counted)
    search = locate.search(environ={}, root=tmp_path)
    assert [place.release for place in search.installed] == ["1.3.0", "1.2.3"]
    there = [name for name in read if (folder / name).exists() or name == NAME]
    assert there.count("librkllmrt-1.3.0.so") == 0, "the default's link has led to it"
    read.clear()
    libraries.write(folder / "librkllmrt-1.2.3.so", "1.2.0")
    libraries.write(folder / "broken.so", "1.0.1")
    again = locate.search(environ={}, root=tmp_path, before=search)
    assert [place.release for place in again.installed] == ["1.3.0", "1.2.0"]
    assert {"librkllmrt-1.2.3.so", "broken.so"} <= {*read} <= {"librkllmrt-1.2.3.so", "broken.so", NAME}
    assert again.found is not None and again.found.stamp == stamp_of(first)
