"""Where the daemon listens, for whom, and what it says where it cannot."""

from __future__ import annotations

import grp
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from exo_rkllm.config import ApiSettings, ControlSettings
from exo_rkllm.daemon import listen
from exo_rkllm.errors import ConfigError


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listening(opened: ExitStack, api: ApiSettings) -> list[socket.socket]:
    return [opened.enter_context(sock) for sock in listen.api_sockets(api)]


def test_loopback_needs_no_key(opened: ExitStack) -> None:
    sockets = listening(opened, ApiSettings(listen="127.0.0.1", port=0))
    listen.check_open(sockets, ApiSettings(), keys=False)
    assert listen.address_of(sockets[0]).startswith("127.0.0.1:")


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])  # noqa: S104 - what is refused
def test_network_needs_keys_or_an_explicit_waiver(opened: ExitStack, address: str) -> None:
    sockets = listening(opened, ApiSettings(listen=address, port=0))
    with pytest.raises(ConfigError, match="for the whole network, and there are no API keys") as caught:
        listen.check_open(sockets, ApiSettings(), keys=False)
    assert "allow_anonymous = true" in caught.value.hint
    listen.check_open(sockets, ApiSettings(keys="/etc/keys"), keys=True)
    listen.check_open(sockets, ApiSettings(allow_anonymous=True), keys=False)


def test_both_families_answer_where_one_address_is_all_of_them(opened: ExitStack) -> None:
    (sock,) = listening(opened, ApiSettings(listen="::", port=0))
    port = sock.getsockname()[1]
    for address in ("127.0.0.1", "::1"):
        socket.create_connection((address, port), 1).close()


def test_a_port_that_is_taken_is_named(opened: ExitStack) -> None:
    (taken,) = listening(opened, ApiSettings(port=0))
    port = taken.getsockname()[1]
    with pytest.raises(ConfigError, match=rf"Something listens on 127\.0\.0\.1 port {port} already"):
        listen.api_sockets(ApiSettings(port=port))


@pytest.mark.parametrize("address", ["no such host.invalid", "203.0.113.9"])
def test_an_address_that_is_none_of_ours_is_named(address: str) -> None:
    with pytest.raises(ConfigError, match=address.replace(".", r"\.")):
        listen.api_sockets(ApiSettings(listen=address, port=0))


def test_the_control_socket_belongs_to_its_group(tmp_path: Path, opened: ExitStack) -> None:
    path = tmp_path / "run/control.sock"
    group = grp.getgrgid(os.getgroups()[0] if os.getgroups() else os.getgid())
    sock = opened.enter_context(listen.control_socket(ControlSettings(str(path), group.gr_name)))
    assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_gid) == (0o660, group.gr_gid)
    assert listen.address_of(sock) == str(path)
    assert listen.is_loopback(sock)


def test_without_the_group_it_is_for_the_user_alone(tmp_path: Path, opened: ExitStack) -> None:
    path = tmp_path / "run/control.sock"
    opened.enter_context(listen.control_socket(ControlSettings(str(path), "no-such-group")))
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_dead_daemons_socket_is_replaced_and_a_living_ones_is_not(tmp_path: Path, opened: ExitStack) -> None:
    path = tmp_path / "control.sock"
    listen.control_socket(ControlSettings(str(path), "")).close()
    assert path.exists()
    opened.enter_context(listen.control_socket(ControlSettings(str(path), "")))
    with pytest.raises(ConfigError, match="A daemon is running already"):
        listen.control_socket(ControlSettings(str(path), ""))
    listen.remove(path)
    listen.remove(path)
    assert not path.exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        listen.control_socket(ControlSettings(str(tmp_path / "file/control.sock"), ""))
