"""Default locations: one rule for the service, one for every other user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SYSTEM_CONFIG = Path("/etc/exo-rkllm/config.toml")
SYSTEM_SOCKET = Path("/run/exo-rkllm/control.sock")
SYSTEM_STATE = Path("/var/lib/exo-rkllm")
# Python packages that Debian has none of, as the package carries them; on no import path.
VENDOR_FOLDER = Path("/usr/lib/exo-rkllm/vendor")


@dataclass(frozen=True, slots=True)
class Places:
    """`configs` are read in this order; `sockets` are tried in this order by the command line.

    `api_keys` is systemd's credential with API keys, if it hands over any credentials at all.
    """

    configs: tuple[Path, ...]
    models: Path
    state: Path
    socket: Path
    sockets: tuple[Path, ...]
    api_keys: Path | None


def places(environment: Mapping[str, str]) -> Places:
    """systemd tells a service its folders (StateDirectory=, RuntimeDirectory=); a user has the XDG ones."""
    home = Path(environment.get("HOME") or "/")
    own = _xdg(environment, "XDG_CONFIG_HOME", home / ".config") / "exo-rkllm/config.toml"
    configs = (SYSTEM_CONFIG, own)
    credentials = environment.get("CREDENTIALS_DIRECTORY")
    api_keys = Path(credentials) / "api-keys" if credentials else None
    if "STATE_DIRECTORY" in environment:
        state = _first(environment["STATE_DIRECTORY"])
        socket = _first(environment.get("RUNTIME_DIRECTORY", str(SYSTEM_SOCKET.parent))) / SYSTEM_SOCKET.name
        return Places(configs[:1], state / "models", state, socket, (socket,), api_keys)
    state = _xdg(environment, "XDG_DATA_HOME", home / ".local/share") / "exo-rkllm"
    socket = _xdg(environment, "XDG_RUNTIME_DIR", home / ".cache") / "exo-rkllm" / SYSTEM_SOCKET.name
    return Places(configs, state / "models", state, socket, (socket, SYSTEM_SOCKET), api_keys)


def lease_socket(control: str | Path) -> Path:
    """Where other programs take turns on the NPU: beside the control socket."""
    return Path(control).with_name("npu.sock")


def _first(directories: str) -> Path:
    """systemd gives several folders with colons between them."""
    return Path(directories.split(":")[0])


def _xdg(environment: Mapping[str, str], name: str, default: Path) -> Path:
    """A relative path in these variables is to be ignored (XDG base directory specification)."""
    value = environment.get(name, "")
    return Path(value) if value.startswith("/") else default
