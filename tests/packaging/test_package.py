"""The packages as they are built: what is in them, what they ask for, and where they may be installed."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from exo_rkllm import __version__
from exo_rkllm.config import document
from exo_rkllm.config.load import read_file
from tests.packaging.conftest import ROOT, Built, build
from tests.packaging.releases import RELEASES

CLAUSE = re.compile(r"(?P<name>[a-z0-9][a-z0-9+.-]*)(?::any)?(?: \((?P<relation>[<>=]+) (?P<version>[^)]+)\))?")


def holds(version: str, relation: str, wanted: str) -> bool:
    names = {">=": "ge", "<=": "le", "=": "eq", "<<": "lt", ">>": "gt"}
    return subprocess.run(["dpkg", "--compare-versions", version, names[relation], wanted]).returncode == 0


def satisfied(clause: str, release: str) -> bool:
    """Whether the release has one of the alternatives; our own packages come from the same repository."""
    for alternative in clause.split("|"):
        found = CLAUSE.fullmatch(alternative.strip())
        assert found is not None, alternative
        have = RELEASES[release].get(found["name"])
        if found["name"].startswith("exo-rkllm") or (
            have is not None and (found["version"] is None or holds(have, found["relation"], found["version"]))
        ):
            return True
    return False


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_satisfies_the_dependencies(built: Built, release: str) -> None:
    for package in (built.exo_rkllm, built.simulator):
        fields = package.fields()
        for clause in (fields["Depends"] + ", " + fields.get("Recommends", "python3")).split(", "):
            assert satisfied(clause, release), f"{release} has nothing for {clause!r}"


def test_missing_dependency_is_detected() -> None:
    assert not satisfied("python3 (>= 3.11) | python3-zenoh", "jammy")
    assert satisfied("python3 (>= 3.11) | python3-tomli (>= 1.2)", "jammy")


def test_minimum_versions_match_pyproject(built: Built) -> None:
    """One place decides which versions will do; Debian's epoch stands before them."""
    wanted = dict(re.findall(r'^  "([a-z0-9-]+)>=([0-9.]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    depends = built.exo_rkllm.fields()["Depends"]
    for name in ("aiohttp", "jinja2", "numpy", "prometheus-client", "pyudev"):
        assert re.search(rf"python3-{name} \(>= (\d+:)?{re.escape(wanted[name])}\)", depends), name


def test_both_packages_have_the_one_version(built: Built) -> None:
    for package in (built.exo_rkllm, built.simulator):
        assert package.fields()["Version"] == __version__


def test_deb_contains_the_whole_python_package(built: Built) -> None:
    listed = subprocess.run(["git", "ls-files", "exo_rkllm"], cwd=ROOT, capture_output=True, text=True, check=True)
    there = built.exo_rkllm.files / "usr/lib/python3/dist-packages"
    for name in listed.stdout.split():
        assert (there / name).read_bytes() == (ROOT / name).read_bytes()
    shown = subprocess.run(["dpkg-deb", "--contents", built.exo_rkllm.path], capture_output=True, text=True, check=True)
    assert "__pycache__" not in shown.stdout
    assert not (there / "zenoh").exists()


def test_classic_exo_finds_the_engine_that_apt_installed(built: Built) -> None:
    """As it looks for it, with the Python that sees Debian's modules; each entry point names what is there."""
    there = built.exo_rkllm.files / "usr/lib/python3/dist-packages"
    look = (
        "import importlib.metadata as m, json\n"
        "points = m.distribution('exo-rkllm').entry_points\n"
        "print(json.dumps({p.group + ' ' + p.name: p.value for p in points}))\n"
    )
    script = f"import sys; sys.path[:0] = [{str(there)!r}]\n{look}"
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found == {
        f"{point.group} {point.name}": point.value
        for point in importlib.metadata.distribution("exo-rkllm").entry_points
    }
    assert found["exo.inference_engines rkllm-npu"] == "exo_rkllm.engine:RKLLMInferenceEngine"
    assert {"exo.models rkllm", "exo.device_detectors rockchip"} <= set(found)


def test_bundled_wheels_are_unchanged(built: Built) -> None:
    """Every file that is there has the hash that its maker signed for in RECORD."""
    vendor = built.exo_rkllm.files / "usr/lib/exo-rkllm/vendor"
    check = (
        "import base64, csv, hashlib, pathlib, sys\n"
        "root = pathlib.Path(sys.argv[1]); seen = 0\n"
        "records = [line for one in root.glob('*.dist-info/RECORD') for line in csv.reader(one.open())]\n"
        "for name, digest, _ in records:\n"
        "    if digest and (root / name).exists():\n"
        "        own = base64.urlsafe_b64encode(hashlib.sha256((root / name).read_bytes()).digest())\n"
        "        assert digest == 'sha256=' + own.rstrip(b'=').decode(), name\n"
        "        seen += 1\n"
        "print(seen)\n"
    )
    done = subprocess.run([sys.executable, "-c", check, vendor], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 10
    assert (vendor / "zenoh/zenoh.abi3.so").stat().st_size > 20_000_000
    assert (vendor / "llguidance/_lib.abi3.so").stat().st_size > 5_000_000


def test_jammy_can_unpack_the_packages(built: Built) -> None:
    """Its dpkg knows gzip, xz and zstd of control.tar and data.tar; we say xz, whatever the build machine's default."""
    for package in (built.exo_rkllm, built.simulator):
        members = subprocess.run(["ar", "t", package.path], capture_output=True, text=True, check=True).stdout.split()
        assert members == ["debian-binary", "control.tar.xz", "data.tar.xz"]


def test_packaged_configuration_is_the_table_and_a_conffile(built: Built) -> None:
    shipped = built.exo_rkllm.files / "etc/exo-rkllm/config.toml"
    assert shipped.read_text() == document.default_file()
    assert not any(read_file(shipped).values()), "everything is commented out"
    conffiles = (built.exo_rkllm.scripts / "conffiles").read_text().split()
    assert conffiles == ["/etc/exo-rkllm/api-keys", "/etc/exo-rkllm/config.toml"]


def test_api_keys_belong_to_root_alone(built: Built) -> None:
    shipped = built.exo_rkllm.files / "etc/exo-rkllm/api-keys"
    assert shipped.stat().st_mode & 0o777 == 0o600
    assert not [line for line in shipped.read_text().splitlines() if not line.startswith("#")]


def test_simulator_is_not_found_as_the_vendor_library(built: Built) -> None:
    """No folder that is searched for a library holds one, in either package."""
    from exo_rkllm.runtime.locate import DIRECTORIES, NAME

    for package in (built.exo_rkllm, built.simulator):
        for folder in DIRECTORIES:
            assert not (package.files / folder.relative_to("/") / NAME).exists()
    found = sorted(path.parent.name for path in built.simulator.files.rglob(NAME))
    assert found == ["1.0.1", "1.1.4", "1.2.0", "1.2.1b1", "1.2.3", "1.3.0", "1.3.1", "9.9.0"]
    encoders = sorted(path.parent.name for path in built.simulator.files.rglob("librknnrt.so"))
    assert encoders == ["rknn-1.5.2", "rknn-1.6.0", "rknn-2.3.2"]
    assert not list(built.exo_rkllm.files.rglob("librknnrt.so"))


def test_maintainer_scripts_parse(built: Built) -> None:
    for package in (built.exo_rkllm, built.simulator):
        for script in ("postinst", "prerm", "postrm"):
            path = package.scripts / script
            if path.exists():
                subprocess.run(["sh", "-n", path], check=True)


def test_every_script_of_the_tree_parses() -> None:
    for script in ("build", "wheels", "apt-repo", "reproducible", "release-check", "debian/back-off"):
        subprocess.run(["sh", "-n", ROOT / "packaging" / script], check=True)


def test_lintian_finds_nothing(built: Built) -> None:
    packages = [str(built.exo_rkllm.path), str(built.simulator.path)]
    command = ["lintian", "--fail-on", "error,warning", *packages]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert not re.findall(r"^[EW]: .*", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("package", ["exo-rkllm", "exo-rkllm-simulator"])
def test_every_lintian_override_has_a_reason(package: str) -> None:
    lines = (ROOT / f"packaging/debian/{package}.lintian-overrides").read_text().splitlines()
    assert lines[0].startswith("#")
    assert any(not line.startswith("#") for line in lines)


def test_two_builds_are_identical(built: Built, tmp_path: Path) -> None:
    again = build(tmp_path / "longer", TZ="Asia/Tokyo", LC_ALL="C", HOME=str(tmp_path))
    for path in again:
        assert path.read_bytes() == (built.folder / "out" / path.name).read_bytes(), path.name
