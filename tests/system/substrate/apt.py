"""Packages of another release or architecture, with an apt state of its own: this system's apt is not touched."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.system.substrate import host

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def mirror() -> str:
    """The one that this Debian is set up for."""
    told = host.run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian")
    found = [line for line in told.splitlines() if "security" not in line]
    if not found:
        raise host.Broken("no Debian mirror is set up here: sudo apt-get update")
    return found[0]


@dataclass(frozen=True, slots=True)
class Apt:
    folder: Path
    architecture: str
    options: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path, suites: Sequence[str], architecture: str, status: Path | None = None) -> Apt:
        """`status`: the dpkg records of a root, so that only what is missing there is fetched. The last suite wins."""
        for name in ("lists/partial", "archives/partial", "preferences.d"):
            (folder / name).mkdir(parents=True)
        if status is None:
            status = folder / "status"
            status.touch()
        lines = [f"deb [arch={architecture} signed-by={KEYRING}] {mirror()} {suite} main\n" for suite in suites]
        (folder / "sources.list").write_text("".join(lines))
        settings = {
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Default-Release": suites[-1],
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Dir::State": folder,
            "Dir::State::status": status,
            "Dir::Cache": folder,
            "Dir::Etc::sourcelist": folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferencesparts": folder / "preferences.d",
        }
        apt = cls(folder, architecture, tuple(f"-o{name}={value}" for name, value in settings.items()))
        host.run("apt-get", *apt.options, "-qq", "update")
        return apt

    def names(self) -> frozenset[str]:
        return frozenset(host.run("apt-cache", *self.options, "pkgnames").split())

    def depends(self, package: str) -> tuple[str, ...]:
        told = host.run("apt-cache", *self.options, "depends", "--important", package)
        return tuple(line.split()[-1] for line in told.splitlines() if line.strip().startswith("Depends:"))

    def download(self, packages: Iterable[str], into: Path) -> list[Path]:
        """These packages alone."""
        into.mkdir()
        host.run("apt-get", *self.options, "-qq", "download", *sorted(packages), cwd=into)
        return sorted(into.glob("*.deb"))

    def download_missing(self, packages: Iterable[str]) -> list[Path]:
        """These packages and what they depend on, as far as the records do not have it."""
        host.run("apt-get", *self.options, "-qq", "-y", "--download-only", "install", *packages)
        return sorted((self.folder / "archives").glob("*.deb"))


def unpack(package: Path, root: Path, *exclude: str) -> None:
    """A package's files below a root with merged /usr; no maintainer script runs."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as files:
        done = subprocess.run(
            ["tar", "-C", root, "-x", "--keep-directory-symlink", *(f"--exclude={name}" for name in exclude)],
            stdin=files.stdout,
            capture_output=True,
            text=True,
        )
    if files.returncode or done.returncode:
        raise host.Broken(f"{package.name} cannot be unpacked: {done.stderr}")
