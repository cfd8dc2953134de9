"""What udev makes of our rules: right groups on the NPU's nodes, tags for systemd, and nothing on other hardware."""

from __future__ import annotations

import grp
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.board.udevadm import RULES, dry_run, namespaces, verifier

TOOLS = [tool for tool in ("umockdev-run", "udevadm", "unshare") if shutil.which(tool) is None]
dry = pytest.mark.skipif(
    bool(TOOLS) or not namespaces(), reason=f"a dry run needs user namespaces and {TOOLS or 'has all its tools'}"
)


def test_udev_rules_pass_udevadm_verify(tmp_path: Path) -> None:
    command = verifier()
    if isinstance(command, str):
        pytest.skip(command)
    done = subprocess.run([*command, "--resolve-names=never", str(RULES)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Success: 1" in done.stdout + done.stderr
    broken = tmp_path / "70-broken.rules"
    broken.write_text(RULES.read_text().replace('SUBSYSTEM=="drm"', 'SUBSYSTEM="drm"', 1))
    refused = subprocess.run([*command, "--resolve-names=never", str(broken)], capture_output=True, timeout=30)
    assert refused.returncode == 1, "the check would pass anything"


def ours(lines: list[str]) -> set[str]:
    """`GROUP 44` and the like, from lines that name our file."""
    found = {line.partition(".rules:")[2].partition(" ")[2] for line in lines if "/70-exo-rkllm.rules:" in line}
    return {what for what in found if what}


def group(name: str) -> str:
    return f"GROUP {grp.getgrnam(name).gr_gid}"


@dry
@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        (
            "orangepi-5-plus",
            {
                "/devices/platform/fdab0000.npu/drm/card1": "video",
                "/devices/platform/fdab0000.npu/drm/renderD129": "render",
            },
        ),
        ("rv1126b-misc", {"/devices/virtual/misc/rknpu": "render"}),
        ("rk3588s-mainline", {"/devices/platform/rknn/accel/accel0": "render"}),
        ("raspberry-pi", {}),
    ],
)
def test_only_npu_nodes_get_the_groups(profile: str, expected: dict[str, str], tmp_path: Path) -> None:
    seen = {device: ours(lines) for device, lines in dry_run(profile, tmp_path).items()}
    assert {device: what for device, what in seen.items() if what} == {
        device: {group(name), "MODE 0660"} for device, name in expected.items()
    }


@dry
def test_only_the_npu_gets_systemd_units(tmp_path: Path) -> None:
    lines = dry_run("orangepi-5-plus", tmp_path)
    tagged = {device for device, said in lines.items() if any(":systemd:" in line for line in said if "TAGS=" in line)}
    npu = "/devices/platform/fdab0000.npu"
    assert tagged == {npu, f"{npu}/drm/card1", f"{npu}/drm/renderD129"}
    assert "SYSTEMD_ALIAS=/exo/rkllm/npu" in lines[npu]


@dry
def test_removed_device_is_left_alone(tmp_path: Path) -> None:
    assert not any(ours(lines) for lines in dry_run("orangepi-5-plus", tmp_path, action="remove").values())


def test_rules_create_no_device_named_rknpu() -> None:
    """A link of that name makes the vendor's library speak the wrong ABI (npu-platform 2.3)."""
    text = "\n".join(line for line in RULES.read_text().splitlines() if not line.startswith("#"))
    assert "SYMLINK" not in text
    assert "RUN" not in text
    assert 'NAME="' not in text
