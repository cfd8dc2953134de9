"""exo's `exo.device_detectors` entry point; hosts call it while they start, so it imports late and never raises."""

from __future__ import annotations

NAME = "Rockchip NPU"


def detect_rockchip_npu() -> str | None:
    """The name where RKLLM models can run on this machine now, else None."""
    try:
        import os
        from pathlib import Path

        from exo_rkllm.board.detect import detect

        board = detect(Path(os.environ.get("EXO_RKLLM_BOARD_ROOT") or "/"))
    except Exception:  # noqa: BLE001 - whatever went wrong, the host must start (classic-plugin 4.1)
        return None
    return NAME if board.unavailable_reason() is None else None
