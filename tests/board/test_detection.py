"""The detector that exo's hosts call while they start."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from exo_rkllm.detection import detect_rockchip_npu

Build = Callable[[str], Path]


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("orangepi-5-plus", "Rockchip NPU"),
        ("rk3576-vendor", "Rockchip NPU"),
        ("rk3588s-mainline", None),
        ("rk3568-cma", None),
        ("old-driver", None),
        ("acpi", None),
    ],
)
@pytest.mark.seed("4.1", "detectors in get_system_info")
@pytest.mark.seed("4.2", "detector returns bool")
def test_detector_names_a_usable_npu(
    profile: str, expected: str | None, board: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXO_RKLLM_BOARD_ROOT", str(board(profile)))
    assert detect_rockchip_npu() == expected


def test_senseless_root_means_no_npu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXO_RKLLM_BOARD_ROOT", "/\udcff/nowhere")
    assert detect_rockchip_npu() is None


def test_broken_installation_means_no_npu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "exo_rkllm.board.detect", None)
    assert detect_rockchip_npu() is None


def test_detector_imports_nothing_heavy_and_nothing_of_exo() -> None:
    code = (
        "import sys; from exo_rkllm.detection import detect_rockchip_npu as d; d();"
        "print(*sorted(name.split('.')[0] for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"exo", "numpy", "aiohttp", "asyncio", "pyudev", "prometheus_client", "ctypes"} & set(
        done.stdout.split()
    )
