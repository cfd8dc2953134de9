"""What the file looks like from outside, before anything is called (reference 1.6 and 1.11)."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.simulated import REFUSED, VERSIONS, Library

G1 = {"createDefaultParam", "init", "destroy", "run", "abort"}
G2 = G1 | {"run_async", "is_running", "load_lora", "load_prompt_cache", "release_prompt_cache"}
G3 = G2 | {"set_chat_template", "clear_kv_cache"}
G4 = G3 | {"get_kv_cache_size", "set_function_tools", "set_cross_attn_params"}
EXPORTS = {
    "1.0.1": G1,
    "1.1.4": G2,
    "1.2.0": G3,
    "1.2.1b1": G3,
    "1.2.3": G4,
    "1.3.0": G4,
    "1.3.1": G4,
    "9.9.0": G4,
}


def exported(path: Path) -> set[str]:
    lines = subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True).stdout
    return {line.split()[-1] for line in lines.splitlines()}


@pytest.mark.parametrize("version", EXPORTS)
def test_exactly_the_functions_of_its_generation_are_exported(library: Library, version: str) -> None:
    assert exported(library(version)) == {f"rkllm_{name}" for name in EXPORTS[version]}


@pytest.mark.parametrize("version", EXPORTS)
def test_the_soname_has_no_version(library: Library, version: str) -> None:
    dynamic = subprocess.run(["readelf", "-d", library(version)], capture_output=True, text=True, check=True).stdout
    assert "Library soname: [librkllmrt.so]" in dynamic


@pytest.mark.parametrize("version", EXPORTS)
def test_the_version_is_readable_before_loading(library: Library, version: str) -> None:
    text = f"RKLLM SDK (version: {version} | target: Linux | build: simulator)".encode()
    assert library(version).read_bytes().count(text) == 1


@pytest.mark.skipif(
    platform.machine() == "x86_64" and shutil.which("aarch64-linux-gnu-gcc") is None,
    reason="gcc-aarch64-linux-gnu is not installed",
)
@pytest.mark.parametrize("version", [*VERSIONS, *REFUSED])
def test_it_is_built_for_arm64_with_the_same_layouts(library: Library, version: str) -> None:
    """The layouts are static assertions of the build itself."""
    elf = library(version, machine="aarch64").read_bytes()[:20]
    assert elf[:5] == b"\x7fELF\x02"
    assert elf[18:20] == b"\xb7\x00"
