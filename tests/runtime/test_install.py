"""Putting a library in place: checked first, whole or not at all, from a file or from a real server."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from exo_rkllm.errors import ExoRkllmError, RuntimeMissing, RuntimeUnsupported, UsageError
from exo_rkllm.runtime import install as installing
from exo_rkllm.runtime.install import install, remove, set_default
from exo_rkllm.runtime.locate import NAME, VERSIONS, search
from tests.runtime import libraries
from tests.simulated import Library

FILE = "librkllmrt-{}.so"


def silent(_done: int, _total: int) -> None:
    return None


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "usr" / "lib"


def left_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


@pytest.mark.parametrize("named", [False, True])
def test_a_file_is_put_in_place_readable_by_all(library: Library, target: Path, named: bool) -> None:
    source = library("1.2.3")
    new = install(str(source), target, digest(source).upper() if named else "", silent)
    assert (new.path, new.version.release, new.default) == (target / VERSIONS / FILE.format("1.2.3"), "1.2.3", "1.2.3")
    assert new.path.read_bytes() == source.read_bytes()
    assert stat.S_IMODE(new.path.stat().st_mode) == 0o644
    assert left_in(target) == [NAME, VERSIONS]
    assert left_in(target / VERSIONS) == [FILE.format("1.2.3")]
    assert (target / NAME).readlink() == Path(VERSIONS, FILE.format("1.2.3"))


def test_folder_of_versions_can_be_entered_by_the_service_whatever_the_umask(library: Library, target: Path) -> None:
    target.mkdir(parents=True)
    before = os.umask(0o077)
    try:
        install(str(library("1.2.3")), target, "", silent)
    finally:
        os.umask(before)
    assert stat.S_IMODE((target / VERSIONS).stat().st_mode) == 0o755


def test_an_old_one_is_replaced_not_written_into(tmp_path: Path, target: Path) -> None:
    """A process that has it mapped keeps the old file."""
    install(str(libraries.write(tmp_path / "old.so", "1.2.3", body=b"old")), target, "", silent)
    with (target / NAME).open("rb") as old:
        install(str(libraries.write(tmp_path / "new.so", "1.2.3", body=b"new")), target, "", silent)
        assert b"old" in old.read()
    assert b"new" in (target / NAME).read_bytes()


# ── several versions ─────────────────────────────────────────────────────────────────────────────


def test_another_version_is_added_and_the_default_stays(library: Library, target: Path) -> None:
    install(str(library("1.3.1")), target, "", silent)
    new = install(str(library("1.2.3")), target, "", silent)
    assert (new.version.release, new.default) == ("1.2.3", "1.3.1")
    assert b"version: 1.3.1" in (target / NAME).read_bytes()
    assert [place.release for place in search(target, {}).installed] == ["1.3.1", "1.2.3"]


def test_default_of_no_use_gives_way(library: Library, target: Path) -> None:
    libraries.write(target / NAME, "1.0.1")
    assert install(str(library("1.2.3")), target, "", silent).default == "1.2.3"
    (target / VERSIONS / FILE.format("1.2.3")).unlink()  # the link dangles
    assert install(str(library("1.3.0")), target, "", silent).default == "1.3.0"
    assert search(target, {}).require().release == "1.3.0"


def test_library_of_an_earlier_installation_stays_the_default_until_another_is(library: Library, target: Path) -> None:
    """Before there was a folder of versions, the file lay in the default's own place."""
    old = libraries.write(target / NAME, "1.2.0", body=b"mine")
    assert install(str(library("1.3.1")), target, "", silent).default == "1.2.0"
    assert not old.is_symlink()
    assert set_default(target, "1.3.1") == target / VERSIONS / FILE.format("1.3.1")
    assert b"mine" in (target / VERSIONS / FILE.format("1.2.0")).read_bytes()
    assert [place.release for place in search(target, {}).installed] == ["1.3.1", "1.2.0"]
    assert set_default(target, "1.2.0") == target / VERSIONS / FILE.format("1.2.0")
    assert b"mine" in (target / NAME).read_bytes()
    assert set_default(target, "1.2.0") == target / NAME  # it is the default already
    assert left_in(target) == [NAME, VERSIONS]


def test_version_is_removed_and_the_default_only_as_the_last(library: Library, target: Path) -> None:
    for release in ("1.3.1", "1.2.3"):
        install(str(library(release)), target, "", silent)
    with pytest.raises(UsageError, match=r"1\.3\.1 is the default, and 1\.2\.3 would remain") as caught:
        remove(target, "1.3.1")
    assert caught.value.hint == f"exo-rkllm runtime --default 1.2.3 --directory {target}, then again"
    remove(target, "1.2.3")
    assert left_in(target / VERSIONS) == [FILE.format("1.3.1")]
    remove(target, "1.3.1")
    assert left_in(target) == [VERSIONS]
    assert left_in(target / VERSIONS) == []


@pytest.mark.parametrize("name", ["9.9.9", "", "../../secret", "1.2.3/../../secret", "librkllmrt-1.2.3.so", "*"])
@pytest.mark.parametrize("change", [set_default, remove])
def test_no_name_leads_out_of_the_folder(
    tmp_path: Path, library: Library, target: Path, name: str, change: Callable[[Path, str], object]
) -> None:
    secret = libraries.write(tmp_path / "secret", "1.2.0")
    for release in ("1.3.1", "1.2.3"):
        install(str(library(release)), target, "", silent)
    with pytest.raises(RuntimeMissing, match=r"is not installed in .* \(there: 1\.3\.1, 1\.2\.3\)"):
        change(target, name)
    assert secret.exists()
    assert len(left_in(target / VERSIONS)) == 2


def test_link_among_the_versions_is_removed_and_not_followed(tmp_path: Path, library: Library, target: Path) -> None:
    install(str(library("1.3.1")), target, "", silent)
    elsewhere = libraries.write(tmp_path / "elsewhere.so", "1.2.0")
    (target / VERSIONS / "mine.so").symlink_to(elsewhere)
    remove(target, "1.2.0")
    assert elsewhere.exists()
    assert left_in(target / VERSIONS) == [FILE.format("1.3.1")]


def test_file_counts_by_what_is_in_it_and_not_by_its_name(target: Path) -> None:
    libraries.write(target / VERSIONS / FILE.format("1.2.2"), "1.2.0")
    libraries.write(target / VERSIONS / "notes.txt", "1.2.1")
    libraries.write(target / VERSIONS / ".hidden.so", "1.2.3")
    libraries.write(target / VERSIONS / "broken.so", "1.0.1")
    libraries.write(target / NAME, "1.3.0")
    assert [place.release for place in search(target, {}).installed] == ["1.3.0", "1.2.0"]


def test_folder_that_cannot_be_changed_says_what_helps(
    library: Library, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for release in ("1.3.1", "1.2.3"):
        install(str(library(release)), target, "", silent)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(RuntimeMissing, match="cannot be changed: Permission denied") as caught:
        set_default(target, "1.2.3")
    assert "sudo" in caught.value.hint
    assert left_in(target) == [NAME, VERSIONS]
    assert b"version: 1.3.1" in (target / NAME).read_bytes()


# ── from a file ──────────────────────────────────────────────────────────────────────────────────


def test_a_library_for_the_boards_may_be_put_into_an_image(tmp_path: Path, target: Path) -> None:
    for release in ("1.3.0", "1.2.3"):
        source = libraries.write(tmp_path / "vendor.so", release, "aarch64")
        new = install(str(source), target, "", silent)
        assert (new.version.release, new.default) == (release, "1.3.0")
    set_default(target, "1.2.3")
    assert b"1.2.3" in (target / NAME).read_bytes()


@pytest.mark.parametrize(
    ("release", "machine", "kind", "says"),
    [
        ("1.0.1", libraries.HERE.machine, RuntimeUnsupported, "is librkllmrt 1.0.1"),
        ("9.9.0", libraries.HERE.machine, RuntimeUnsupported, "is librkllmrt 9.9.0"),
        ("", libraries.HERE.machine, RuntimeUnsupported, "does not say which release"),
        ("1.3.0", "riscv", RuntimeMissing, "built for 64-bit riscv"),
    ],
)
def test_what_cannot_be_used_is_not_put_in_place(
    tmp_path: Path, target: Path, release: str, machine: str, kind: type[ExoRkllmError], says: str
) -> None:
    good = libraries.write(target / NAME, "1.2.0")
    source = libraries.write(tmp_path / "vendor.so", release, machine)
    with pytest.raises(kind) as caught:
        install(str(source), target, "", silent)
    assert caught.value.sentence.startswith(str(source))
    assert says in caught.value.sentence
    assert b"1.2.0" in good.read_bytes()
    assert left_in(target) == [NAME, VERSIONS]
    assert left_in(target / VERSIONS) == []


def test_another_checksum_than_promised(library: Library, target: Path) -> None:
    with pytest.raises(RuntimeMissing, match=f"not {'0' * 64}"):
        install(str(library("1.3.0")), target, "0" * 64, silent)
    assert left_in(target / VERSIONS) == []


@pytest.mark.parametrize("checksum", ["abc", "x" * 64])
def test_what_is_no_checksum(library: Library, target: Path, checksum: str) -> None:
    with pytest.raises(UsageError, match="is not a SHA-256"):
        install(str(library("1.3.0")), target, checksum, silent)


def test_a_source_that_is_not_there(tmp_path: Path, target: Path) -> None:
    with pytest.raises(RuntimeMissing, match="cannot be read: No such file"):
        install(str(tmp_path / "missing.so"), target, "", silent)
    with pytest.raises(RuntimeMissing, match="cannot be read: Is a directory"):
        install(str(tmp_path), target, "", silent)


def test_a_target_that_cannot_be_written(library: Library, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RuntimeMissing, match="cannot be written") as caught:
        install(str(library("1.3.0")), tmp_path / "file", "", silent)
    assert "--directory" in caught.value.hint


def test_a_file_far_too_large(library: Library, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installing, "LARGEST", 1000)
    with pytest.raises(RuntimeMissing, match="so it is no library of the vendor's"):
        install(str(library("1.3.0")), target, "", silent)
    assert left_in(target / VERSIONS) == []


# ── from a server ────────────────────────────────────────────────────────────────────────────────

Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A real server on loopback that gives these bytes; `short` promises more than it sends."""
    servers: list[ThreadingHTTPServer] = []

    def start(content: bytes, *, short: int = 0, status: int = 200, told: bool = True) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                if told:
                    self.send_header("Content-Length", str(len(content) + short))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Not into the test's output."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/librkllmrt.so"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("told", [True, False])
def test_a_download_is_checked_and_shown(library: Library, target: Path, serve: Serve, told: bool) -> None:
    source, shown = library("1.3.0"), []
    url = serve(source.read_bytes(), told=told)
    new = install(url, target, digest(source), lambda done, total: shown.append((done, total)))
    assert new.version.release == "1.3.0"
    assert new.path.read_bytes() == source.read_bytes()
    size = source.stat().st_size
    assert shown[-1] == (size, size if told else 0)


def test_a_download_without_a_checksum_is_not_begun(target: Path) -> None:
    with pytest.raises(UsageError, match="needs its checksum"):
        install("https://example.invalid/librkllmrt.so", target, "", silent)


def test_another_file_than_promised(target: Path, serve: Serve) -> None:
    with pytest.raises(RuntimeMissing, match="has the SHA-256"):
        install(serve(b"something else"), target, "0" * 64, silent)
    assert left_in(target / VERSIONS) == []


def test_a_download_that_breaks_off(library: Library, target: Path, serve: Serve) -> None:
    source = library("1.3.0")
    with pytest.raises(RuntimeMissing, match=r"ended after|cannot be read"):
        install(serve(source.read_bytes(), short=100), target, digest(source), silent)
    assert left_in(target / VERSIONS) == []


def test_a_server_that_has_no_such_file(target: Path, serve: Serve) -> None:
    with pytest.raises(RuntimeMissing, match="404"):
        install(serve(b"", status=404), target, "0" * 64, silent)


def test_no_server(target: Path, serve: Serve) -> None:
    with pytest.raises(RuntimeMissing, match=r"so cannot be read: Connection refused\."):
        install("http://127.0.0.1:9/librkllmrt.so", target, "0" * 64, silent)
