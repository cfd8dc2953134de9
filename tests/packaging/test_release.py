"""Changelog, bill of materials and repository."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm import __version__
from exo_rkllm.cli import NAMES
from tests.packaging.conftest import ROOT, Built
from tools import changelog, oci, sbom

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
    for name in ("apt-repo", "key.sh"):
        shutil.copy(ROOT / "packaging" / name, tree / "packaging")
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


# ── the release archive ──────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def released(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make release` makes of the packages that are there, without the image, which takes minutes."""
    out = tmp_path_factory.mktemp("release")
    environment = {name: value for name, value in os.environ.items() if name not in ("KEY", "GNUPGHOME")}
    environment |= {"DEBS": str(built.folder / "out"), "IMAGES": ""}
    done = subprocess.run([ROOT / "packaging/release", out], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    sums = out / f"exo-rkllm-{__version__}.tar.sha256"
    assert subprocess.run(["sha256sum", "--check", "--quiet", sums.name], cwd=out).returncode == 0
    subprocess.run(["tar", "-xf", out / f"exo-rkllm-{__version__}.tar", "-C", out], check=True)
    return out / f"exo-rkllm-{__version__}"


def test_release_archive_has_everything_that_is_published(released: Path) -> None:
    names = {path.name for path in released.iterdir()}
    assert names == {
        "INSTALL",
        "SHA256SUMS",
        "SHA256SUMS.asc",
        "apt",
        "exo-rkllm.asc",
        "exo-rkllm.cdx.json",
        f"exo-rkllm_{__version__}_amd64.deb",
        f"exo-rkllm-simulator_{__version__}_amd64.deb",
        f"exo_rkllm-{__version__}-py3-none-any.whl",
        f"exo_rkllm-{__version__}.tar.gz",
    }
    assert {path.name for path in (released / "apt/dists").iterdir()} == {"bookworm", "trixie", "jammy", "noble"}
    files = {str(path.relative_to(released)) for path in released.rglob("*") if path.is_file()}
    summed = {line.split("  ", 1)[1] for line in (released / "SHA256SUMS").read_text().splitlines()}
    assert summed == {name for name in files if not name.startswith("SHA256SUMS")}


def test_checksums_of_the_release_archive_hold_and_are_signed(released: Path, tmp_path: Path) -> None:
    check = ["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"]
    assert subprocess.run(check, cwd=released).returncode == 0
    keyring = tmp_path / "keyring.gpg"
    dearmor = ["gpg", "--batch", "--homedir", str(tmp_path), "--dearmor", "-o", str(keyring)]
    subprocess.run([*dearmor, released / "exo-rkllm.asc"], check=True, capture_output=True)
    signed = ["gpgv", "--keyring", str(keyring), str(released / "SHA256SUMS.asc"), str(released / "SHA256SUMS")]
    assert subprocess.run(signed, capture_output=True).returncode == 0
    (released / "SHA256SUMS").write_text("0" * 64 + "  INSTALL\n")
    assert subprocess.run(signed, capture_output=True).returncode != 0


def test_source_of_the_release_is_whole_and_its_metadata_is_what_pypi_takes(released: Path) -> None:
    with tarfile.open(released / f"exo_rkllm-{__version__}.tar.gz") as source:
        packed = {name.partition("/")[2] for name in source.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert not {name for name in tracked if name and not name.startswith(".")} - packed
    with zipfile.ZipFile(released / f"exo_rkllm-{__version__}-py3-none-any.whl") as wheel:
        text = wheel.read(f"exo_rkllm-{__version__}.dist-info/METADATA").decode()
        assert any(name.endswith("LICENSE") for name in wheel.namelist())
    metadata, _, description = text.partition("\n\n")
    urls = dict(re.findall(r"^Project-URL: (\w[\w ]*), (\S+)$", metadata, re.MULTILINE))
    assert {"Source", "Documentation", "Changelog", "Issues"} <= set(urls)
    assert re.search(r"^License(-Expression)?: Apache-2.0$", metadata, re.MULTILINE)
    links = re.findall(r"\]\(([^)#]+)", description)
    assert links and all(link.startswith("https://") for link in links), links


@pytest.mark.seed("4.4", "sub-packages in the wheel")
def test_wheel_contains_every_file_of_the_package(released: Path) -> None:
    """What is installed is what is in the tree: a wheel has every file that the code reads."""
    listed = subprocess.run(["git", "ls-files", "exo_rkllm"], cwd=ROOT, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(released / f"exo_rkllm-{__version__}-py3-none-any.whl") as wheel:
        assert not set(listed.stdout.split()) - set(wheel.namelist())


def test_instructions_of_the_release_name_what_is_in_it(released: Path) -> None:
    text = (released / "INSTALL").read_text()
    assert "@" not in text
    for name in re.findall(r"\./(\S+\.(?:deb|whl))", text.replace("$(dpkg --print-architecture)", "amd64")):
        assert (released / name).is_file(), name
    commands = re.findall(r"^  (?:sudo )?exo-rkllm ([a-z]+)", text, re.MULTILINE)
    assert commands and set(commands) <= set(NAMES)


# ── the container's image ────────────────────────────────────────────────────────────────────────


def test_image_is_an_oci_archive_of_the_containerfile(tmp_path: Path) -> None:
    root = tmp_path / "root.tar"
    with tarfile.open(root, "w") as tar:
        tar.add(ROOT / "LICENSE", "usr/share/LICENSE")
    text = (ROOT / "packaging/container/Containerfile").read_text()
    outs = [tmp_path / "one.tar", tmp_path / "two.tar"]
    for out in outs:
        oci.archive(text, "arm64", root, out, 1_700_000_000)
    assert outs[0].read_bytes() == outs[1].read_bytes()
    with tarfile.open(outs[0]) as tar:
        contents = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
    assert contents["oci-layout"] == b'{"imageLayoutVersion":"1.0.0"}'
    for name, content in contents.items():
        if name.startswith("blobs/"):
            assert name == f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"

    def blob(descriptor: dict[str, Any]) -> bytes:
        content = contents[f"blobs/sha256/{descriptor['digest'].removeprefix('sha256:')}"]
        assert len(content) == descriptor["size"]
        return content

    (entry,) = json.loads(contents["index.json"])["manifests"]
    assert entry["platform"] == {"architecture": "arm64", "os": "linux"}
    manifest = json.loads(blob(entry))
    config = json.loads(blob(manifest["config"]))
    assert (config["config"]["User"], config["config"]["Cmd"]) == ("exo-rkllm", ["serve"])
    assert "EXO_RKLLM_API_LISTEN=0.0.0.0" in config["config"]["Env"]
    layer = gzip.decompress(blob(manifest["layers"][0]))
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    assert layer == root.read_bytes()


def test_image_is_built_by_the_containerfiles_own_run(capsys: pytest.CaptureFixture[str]) -> None:
    file = str(ROOT / "packaging/container/Containerfile")
    oci.main("run", file)
    run = capsys.readouterr().out
    assert "apt-get install --yes --no-install-recommends" in run and "/tmp/exo-rkllm_*.deb" in run
    oci.main("suite", file)
    assert capsys.readouterr().out in ("trixie\n", "bookworm\n")
    with pytest.raises(SystemExit, match="no Debian release"):
        oci.suite("FROM scratch")
