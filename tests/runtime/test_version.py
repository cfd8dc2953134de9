"""Telling the release from a file's bytes, and refusing what is not known."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_rkllm.errors import RuntimeMissing, RuntimeUnsupported
from exo_rkllm.runtime import abi, elf, version
from exo_rkllm.runtime.elf import Elf
from tests.runtime import libraries
from tests.simulated import REFUSED, VERSIONS, Library

ORDERED = ["1.0.0beta", "1.0.1", "1.0.2", "1.1.0", "1.1.4", "1.2.0", "1.2.1b1", "1.2.1b2", "1.2.1", "1.2.3", "1.3.0"]


@pytest.mark.parametrize("release", VERSIONS)
def test_the_release_stands_in_the_library(library: Library, release: str) -> None:
    found = version.check(library(release))
    assert (found.release, found.evidence, found.supported) == (release, "version string", True)


@pytest.mark.parametrize("release", REFUSED)
def test_an_unknown_release_is_refused_with_its_name_and_the_supported_ones(library: Library, release: str) -> None:
    path = library(release)
    with pytest.raises(RuntimeUnsupported) as caught:
        version.check(path)
    assert f"{path} is librkllmrt {release}" in caught.value.sentence
    assert "1.1.0 to 1.1.4, 1.2.0, 1.2.1b1, 1.2.1 to 1.2.3, 1.3.0 and 1.3.1" in caught.value.sentence
    assert caught.value.hint


@pytest.mark.parametrize("release", REFUSED)
def test_reading_alone_refuses_nothing_that_says_what_it_is(library: Library, release: str, tmp_path: Path) -> None:
    assert version.read(library(release)).release == release
    assert version.read(libraries.write(tmp_path / "a.so", release, libraries.OTHER.machine)).release == release


@pytest.mark.parametrize("release", ["1.0.1", "1.2.1b2", "1.2.4", "1.3.2", "2.0.0"])
def test_a_neighbour_of_a_known_release_is_not_taken_for_it(tmp_path: Path, release: str) -> None:
    with pytest.raises(RuntimeUnsupported, match=release):
        version.check(libraries.write(tmp_path / "librkllmrt.so", release))


@pytest.mark.parametrize("release", abi.RELEASES)
def test_every_release_of_the_table_is_known_by_its_string(tmp_path: Path, release: str) -> None:
    assert version.check(libraries.write(tmp_path / "librkllmrt.so", release)).release == release


def test_the_vendor_s_own_files_are_known_without_a_string(monkeypatch: pytest.MonkeyPatch) -> None:
    """As git names them: the ids are the vendor's, so a made-up file has to bring its own."""
    data = b"the bytes of a release without a version string"
    name = hashlib.sha1(b"blob 47\0" + data, usedforsecurity=False).hexdigest()
    assert version.in_bytes(data) is None
    monkeypatch.setattr(version, "BLOBS", {name: "1.1.4"})
    assert version.in_bytes(data) == version.Version("1.1.4", "git blob")


def test_the_table_of_blobs_names_measured_releases_and_the_refused_one() -> None:
    assert set(version.BLOBS.values()) == {"1.0.1", *abi.RELEASES} - {"1.3.1"}
    assert all(len(name) == 40 and int(name, 16) for name in version.BLOBS)


@pytest.mark.parametrize(
    ("exported", "verdict"),
    [
        ([], "is not an RKLLM runtime"),
        (["rkllm_init"], "looks like 1.0.x"),
        (["rkllm_init", "rkllm_run_async"], "looks like 1.1.x"),
        (["rkllm_init", "rkllm_run_async", "rkllm_set_chat_template"], "looks like 1.2.0 or 1.2.1b1"),
        (
            ["rkllm_init", "rkllm_run_async", "rkllm_set_chat_template", "rkllm_get_kv_cache_size"],
            "looks like 1.2.1 or newer",
        ),
    ],
)
def test_symbols_only_make_the_refusal_say_more(tmp_path: Path, exported: list[str], verdict: str) -> None:
    path = libraries.write(tmp_path / "librkllmrt.so", body=libraries.names(*exported))
    with pytest.raises(RuntimeUnsupported) as caught:
        version.check(path)
    assert "does not say which release it is" in caught.value.sentence
    assert verdict in caught.value.sentence


def test_releases_are_ordered_with_their_betas_before_them() -> None:
    assert sorted(set(ORDERED), key=version.order) == ORDERED
    assert version.order("unknown") == ()


@given(st.binary(max_size=400))
def test_any_bytes_are_read(data: bytes) -> None:
    assert version.in_bytes(data) is None or b"RKLLM SDK" in data
    assert version.guess(data)
    assert elf.parse(data) is None or data.startswith(b"\x7fELF")


# ── what cannot be loaded at all ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (libraries.header("aarch64"), Elf(64, "aarch64", shared=True)),
        (libraries.header("arm", bits=32), Elf(32, "arm", shared=True)),
        (libraries.header("x86-64", little=False), Elf(64, "x86-64", shared=True)),
        (libraries.header("riscv", kind=2), Elf(64, "riscv", shared=False)),
        (b"\x7fELF", None),
        (b"#!/bin/sh\necho hello world\n", None),
    ],
)
def test_an_elf_header_says_what_the_file_is_for(head: bytes, found: Elf | None) -> None:
    assert elf.parse(head) == found


def test_an_unknown_machine_is_named_by_its_number() -> None:
    head = bytearray(libraries.header())
    head[18:20] = (999).to_bytes(2, "little")
    assert str(elf.parse(bytes(head))) == "64-bit machine 999"


def test_a_library_for_another_machine_is_refused_with_both_named(tmp_path: Path) -> None:
    path = libraries.write(tmp_path / "librkllmrt.so", "1.3.0", libraries.OTHER.machine)
    with pytest.raises(RuntimeMissing) as caught:
        version.check(path)
    assert f"built for {libraries.OTHER}, and this Python is {libraries.HERE}" in caught.value.sentence


def test_an_image_for_a_board_may_take_the_board_s_library(tmp_path: Path) -> None:
    path = libraries.write(tmp_path / "librkllmrt.so", "1.3.0", "aarch64")
    assert version.check(path, for_board=True).release == "1.3.0"
    with pytest.raises(RuntimeMissing):
        version.check(libraries.write(tmp_path / "arm.so", "1.3.0", "arm"), for_board=True)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "is empty"), (b"<html>not found</html>" * 9, "is not a shared library")],
)
def test_a_file_that_is_no_library_says_so(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "librkllmrt.so"
    path.write_bytes(content)
    with pytest.raises(RuntimeMissing, match=says):
        version.check(path)


def test_a_missing_library(tmp_path: Path) -> None:
    with pytest.raises(RuntimeMissing, match="No such file or directory"):
        version.check(tmp_path / "librkllmrt.so")
    with pytest.raises(RuntimeMissing, match="cannot be read"):
        version.check(tmp_path)


def test_an_unreadable_library_has_its_own_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = libraries.write(tmp_path / "closed.so", "1.3.0")
    path.chmod(0)
    if os.geteuid() == 0:  # root reads everything, so the kernel's answer is given here
        monkeypatch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(RuntimeMissing, match="Permission denied") as caught:
        version.check(path)
    assert caught.value.hint == f"chmod a+r {path}"
