"""The container's files, as far as a machine without a container engine can check them."""

from __future__ import annotations

import re
from typing import Any

import yaml

from exo_rkllm.board.detect import DRIVER_FOLDERS
from exo_rkllm.config.load import read_variables
from exo_rkllm.runtime.locate import OURS
from tests.packaging.conftest import ROOT

FOLDER = ROOT / "packaging/container"


def instructions() -> list[tuple[str, str]]:
    text = (FOLDER / "Containerfile").read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def service() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["exo-rkllm"]
    return found


def test_image_runs_as_the_service_user() -> None:
    said = dict(instructions())
    assert said["USER"] == "exo-rkllm"
    assert said["ENTRYPOINT"] == '["exo-rkllm"]' and said["CMD"] == '["serve"]'
    assert re.fullmatch(r"debian:(trixie|bookworm)-slim", said["FROM"])


def test_image_copies_the_output_of_make_deb() -> None:
    (copied,) = [value.split()[0] for name, value in instructions() if name == "COPY"]
    assert copied == "dist/exo-rkllm_*_${TARGETARCH}.deb"
    assert 'mv "$work"/*.deb "$out/"' in (ROOT / "packaging/build").read_text()


def test_image_variables_are_existing_settings() -> None:
    environment = dict(part.split("=", 1) for name, value in instructions() if name == "ENV" for part in value.split())
    environment.update(service()["environment"])
    values = read_variables({name: value for name, value in environment.items() if name.startswith("EXO_RKLLM_")})
    assert values["api"] == {"listen": "0.0.0.0", "keys": "/run/secrets/api-keys"}  # noqa: S104


def test_compose_file_asks_for_no_privilege() -> None:
    made = service()
    assert "privileged" not in made and made["cap_drop"] == ["ALL"] and made["read_only"] is True
    assert "no-new-privileges:true" in made["security_opt"]
    assert all(port.startswith("127.0.0.1:") for port in made["ports"])
    assert not any("/dev/mem" in device or device == "/dev" for device in made["devices"])


def test_mounts_are_where_the_daemon_looks() -> None:
    binds = {one["source"]: one for one in service()["volumes"] if isinstance(one, dict)}
    assert binds["/usr/lib/exo-rkllm/librkllmrt.so"]["target"] == f"{OURS}/librkllmrt.so"
    assert binds["/sys/kernel/debug/rknpu"]["target"].lstrip("/") in DRIVER_FOLDERS
    assert all(one["read_only"] for one in binds.values())
