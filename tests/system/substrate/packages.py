"""The packages of this tree, in a signed repository as `make apt-repo` makes it, and older ones to come from."""

from __future__ import annotations

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.system.substrate import cache, host

# Older than anything that was ever released.
OLDER = "0.0.1"
OUTSIDE = ("tests/", "docs/", "bench/", "Makefile", "tools/setup", "tools/system-packages", "tools/test-packages")
NAMES = ("exo-rkllm", "exo-rkllm-simulator")


def repository() -> Path:
    """The same source gives the same packages, so an unchanged one is not built twice."""
    return cache.kept("packages", _source(), _build)


def _source() -> str:
    """Everything in git but what surely is in no package."""
    digest = hashlib.sha256()
    for name in host.run("git", "ls-files", cwd=host.REPOSITORY).splitlines():
        path = host.REPOSITORY / name
        if not name.startswith(OUTSIDE) and path.is_file():
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _build(to: Path) -> None:
    dist = host.REPOSITORY / "dist"
    for old in dist.glob("*.deb"):
        old.unlink()
    build = host.REPOSITORY / "packaging" / "build"
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda arch: host.run(build, arch, cwd=host.REPOSITORY), ("amd64", "arm64")))
    host.run(host.REPOSITORY / "packaging" / "apt-repo", to / "apt", cwd=host.REPOSITORY)
    older = to / "apt" / "older"
    older.mkdir()
    for arch in ("amd64", "arm64"):
        for name in NAMES:
            (package,) = dist.glob(f"{name}_*_{arch}.deb")
            _make_older(package, older / f"{name}_{arch}.deb", to)


def _make_older(package: Path, to: Path, scratch: Path) -> None:
    """The same files under an older version, since what apt and the maintainer scripts look at is the version."""
    work = scratch / "work"
    host.run("dpkg-deb", "-R", package, work)
    control = work / "DEBIAN" / "control"
    version = next(line for line in control.read_text().splitlines() if line.startswith("Version: "))
    number = version.removeprefix("Version: ")
    control.write_text(
        control.read_text().replace(version, f"Version: {OLDER}").replace(f"(= {number})", f"(= {OLDER})")
    )
    # Only this and the next minute will see it.
    host.run("dpkg-deb", "-Zgzip", "-z1", "--root-owner-group", "-b", work, to)
    shutil.rmtree(work)
