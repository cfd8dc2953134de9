"""Whose models a verb works on where nothing is configured."""

from __future__ import annotations

from pathlib import Path

import pytest

from exo_rkllm.cli.place import configured


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("STATE_DIRECTORY", "XDG_DATA_HOME", "EXO_RKLLM_MODELS_DIRECTORY", "EXO_RKLLM_CONTROL_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EXO_RKLLM_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path


def test_readable_service_folder_is_used(home: Path) -> None:
    service = home / "service"
    service.mkdir()
    assert configured(service) == service / "models"
    assert configured(home / "none") == home / ".local/share/exo-rkllm/models"


def test_own_daemon_uses_own_models(home: Path) -> None:
    service, socket = home / "service", home / "run/exo-rkllm/control.sock"
    service.mkdir()
    socket.parent.mkdir(parents=True)
    socket.touch()
    assert configured(service) == home / ".local/share/exo-rkllm/models"


def test_configured_folder_is_used_by_everyone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = home / "service"
    service.mkdir()
    monkeypatch.setenv("EXO_RKLLM_MODELS_DIRECTORY", "/mnt/nvme/models")
    assert configured(service) == Path("/mnt/nvme/models")
