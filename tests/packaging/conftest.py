"""The packages of this tree for this machine's kind, built once and packed fast."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ARCH = "amd64"


def build(folder: Path, **environment: str) -> list[Path]:
    """packaging/build's packages in `folder`; its own words where it fails."""
    settings = {"DEB_OUT": str(folder / "out"), "DEB_WORK": str(folder / "work"), "DEB_XZ": "0", **environment}
    done = subprocess.run(
        ["packaging/build", ARCH], cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted((folder / "out").glob("*.deb"))


@dataclass(frozen=True)
class Package:
    path: Path
    files: Path  # unpacked
    scripts: Path

    def fields(self) -> Mapping[str, str]:
        shown = subprocess.run(["dpkg-deb", "--field", self.path], capture_output=True, text=True, check=True).stdout
        fields: dict[str, str] = {}
        for line in shown.splitlines():
            if not line.startswith(" "):
                name, _, value = line.partition(": ")
                fields[name] = value
        return fields


@dataclass(frozen=True)
class Built:
    folder: Path
    exo_rkllm: Package
    simulator: Package


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """pytest's workers have folders beside each other: whoever comes first builds for all of them."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "packages"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        packages = {path.name.partition("_")[0]: _unpacked(folder, path) for path in _ready(folder)}
    return Built(folder, packages["exo-rkllm"], packages["exo-rkllm-simulator"])


def _ready(folder: Path) -> list[Path]:
    return sorted((folder / "out").glob("*.deb")) or build(folder)


def _unpacked(folder: Path, path: Path) -> Package:
    name = path.name.partition("_")[0]
    package = Package(path, folder / name, folder / f"{name}.control")
    if not package.files.exists():
        subprocess.run(["dpkg-deb", "--control", path, package.scripts], check=True)
        subprocess.run(["dpkg-deb", "--extract", path, package.files], check=True)
    return package
