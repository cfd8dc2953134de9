"""Changelog, bill of materials and repository."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from exo_rkllm import __version__
from tests.packaging.conftest import ROOT, Built
from tools import changelog, sbom

TEXT = """\
# Changelog

## 1.1.0 (unreleased)

* Something `new`
  on two lines.

## 1.0.0 (2026-01-31)

* First.
"""


def test_debian_changelog_is_generated_from_ours() -> None:
    made = changelog.debian(TEXT, "1.1.0", "1.1.0", 1_700_000_000)
    assert made.startswith("exo-rkllm (1.1.0) stable; urgency=medium\n\n  * Something new on two lines.\n\n -- ")
    assert "Tue, 14 Nov 2023 22:13:20 +0000" in made and "Sat, 31 Jan 2026 12:00:00 +0000" in made
    shown = subprocess.run(["dpkg-parsechangelog", "-l-", "-SVersion"], input=made, capture_output=True, text=True)
    assert shown.stdout == "1.1.0\n" and not shown.stderr


def test_version_without_a_changelog_entry_is_refused() -> None:
    with pytest.raises(changelog.WrongChangelog, match=r"begins with 1\.1\.0, and exo_rkllm.__version__ is 1\.2\.0"):
        changelog.debian(TEXT, "1.2.0", "1.2.0", 0)


def test_changelog_has_the_current_version() -> None:
    assert changelog.version() == __version__
    made = changelog.debian((ROOT / "CHANGELOG.md").read_text(), __version__, __version__, 0)
    assert made.startswith(f"exo-rkllm ({__version__}) ")


def test_sbom_lists_bundled_and_required_software(built: Built) -> None:
    parts = {part["name"]: part for part in sbom.document(0)["components"]}
    carried = list((built.exo_rkllm.files / "usr/lib/exo-rkllm/vendor").glob("*.dist-info/METADATA"))
    assert len(carried) == 2
    for metadata in carried:
        fields = dict(re.findall(r"^(Name|Version): (.*)$", metadata.read_text(), re.MULTILINE))
        assert parts[fields["Name"]]["version"] == fields["Version"]
        wheel = next((ROOT / "build/wheels/amd64").glob(f"{metadata.parent.name.partition('.dist-info')[0]}-*.whl"))
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        assert digest in [one["content"] for one in parts[fields["Name"]]["hashes"]]
    depends = re.findall(r"(?:^|[,|] ?)([a-z0-9][a-z0-9.+-]+)", built.exo_rkllm.fields()["Depends"])
    made_by_debhelper = {"systemd", "systemd-standalone-sysusers", "systemd-sysusers", "debconf", "debconf-2.0"}
    assert set(depends) - made_by_debhelper <= set(parts)


@pytest.fixture(scope="module")
def repository(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("tree")
    (tree / "packaging").mkdir()
    (tree / "dist").mkdir()
    (tree / "build").mkdir()
    shutil.copy(ROOT / "packaging/apt-repo", tree / "packaging")
    for path in (built.folder / "out").glob("*.deb"):
        shutil.copy2(path, tree / "dist")
    environment = {name: value for name, value in os.environ.items() if name not in ("KEY", "GNUPGHOME")}
    done = subprocess.run([tree / "packaging/apt-repo"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tree / "dist/apt"


@pytest.mark.parametrize("suite", ["bookworm", "trixie", "jammy", "noble"])
def test_apt_trusts_every_index(repository: Path, suite: str) -> None:
    release = repository / "dists" / suite
    signed = ["gpgv", "--keyring", str(repository / "exo-rkllm.gpg")]
    done = subprocess.run([*signed, str(release / "InRelease")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (release / "InRelease").read_text()
    assert f"Suite: {suite}" in text and "Architectures: amd64 arm64" in text
    packages = release / "main/binary-amd64/Packages"
    assert hashlib.sha256(packages.read_bytes()).hexdigest() in text
    assert gzip.decompress(packages.with_suffix(".gz").read_bytes()) == packages.read_bytes()
    for name, digest in re.findall(r"Filename: (\S+)(?s:.*?)SHA256: (\S+)", packages.read_text()):
        assert hashlib.sha256((repository / name).read_bytes()).hexdigest() == digest
    (release / "InRelease").write_text(text.replace(suite, "sid"))
    assert subprocess.run([*signed, str(release / "InRelease")], capture_output=True).returncode != 0
