"""The command line against a running daemon, and what it says where there is none."""

from __future__ import annotations

import argparse
import asyncio
import grp
import json
import os
import pwd
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from exo_rkllm import __version__
from exo_rkllm.api.control.translate import SocketPeer, peer_of
from exo_rkllm.cli import ps
from exo_rkllm.cli.load import seconds_of
from exo_rkllm.cli.output import duration, size
from exo_rkllm.cli.top import last_hour
from exo_rkllm.client.control import VERSION_HEADER, Client, DaemonUnreachable, VersionMismatch, find, group_of
from exo_rkllm.config import ControlSettings
from exo_rkllm.daemon import listen
from exo_rkllm.errors import ExoRkllmError
from tests.daemon.running import REPOSITORY, House
from tests.hub import LocalHub, large

# ── without a daemon ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("verb", [("ps",), ("load", "x"), ("unload", "x"), ("logs",), ("config", "reload")])
def test_a_daemon_that_does_not_run_is_a_sentence_with_the_command_that_starts_it(
    house: House, verb: tuple[str, ...]
) -> None:
    done = house.command(*verb)
    assert done.returncode == 1
    sentence = f"The daemon is not running: nobody answers at {house.socket} or /run/exo-rkllm/control.sock."
    assert f"exo-rkllm: {sentence}\n" in done.stderr
    assert "  try: sudo systemctl start exo-rkllm, or in a terminal of its own: exo-rkllm serve" in done.stderr
    assert done.stdout == ""


def as_user(user: int, work: Callable[[], object]) -> str:
    """What became of it in a process of that user, who need not be able to start anything."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            said = f"{work()}"
        except ExoRkllmError as error:
            said = f"{error.sentence}\n{error.hint}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    ("group", "hint"),
    [
        ("video", "sudo usermod -aG video $USER, then log in again"),
        ("root", "sudo exo-rkllm ..., or run the daemon as its service: sudo systemctl start exo-rkllm"),
    ],
)
def test_a_user_who_is_not_in_the_group_is_told_how_to_get_in(group: str, hint: str) -> None:
    """Nobody is told to join root's group."""
    with TemporaryDirectory() as folder:  # pytest's own is closed to everybody else
        Path(folder).chmod(0o755)
        path = Path(folder) / "control.sock"
        with listen.control_socket(ControlSettings(str(path), "")) as sock:
            os.chown(path, 0, grp.getgrnam(group).gr_gid)
            said = as_user(65534, lambda: find({"HOME": "/", "EXO_RKLLM_CONTROL_SOCKET": str(path)}))
            assert sock.fileno() > 0
    assert said.splitlines() == [
        f"You may not use the daemon's control socket {path}: it is for the group {group}.",
        hint,
    ]


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[None]:
    """A server that says the same to everybody, on a control socket."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection, suppress(ConnectionError):
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def reply(body: bytes, version: str = __version__) -> bytes:
    head = f"HTTP/1.1 200 OK\r\n{VERSION_HEADER}: {version}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


def test_a_daemon_of_another_release_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with answering(path, reply(b"{}", "9.9.9")), pytest.raises(VersionMismatch) as caught:
        Client(path, 2).get("/control/version")
    assert caught.value.sentence == f"This command is exo-rkllm {__version__} and the daemon is 9.9.9."
    assert caught.value.hint == "systemctl restart exo-rkllm"


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n", reply(b'{"text": "a"}\n')])
def test_an_answer_that_breaks_off_is_no_answer(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "socket"
    with answering(path, answer), pytest.raises(DaemonUnreachable, match="in the middle of its answer"):
        list(Client(path, 2).stream("GET", "/control/logs"))


def test_the_users_own_daemon_is_found_before_the_service(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    assert find({**environment, "EXO_RKLLM_CONTROL_SOCKET": str(tmp_path / "none")}) is None
    (tmp_path / "exo-rkllm").mkdir()
    with answering(tmp_path / "exo-rkllm/control.sock", reply(b"{}")):
        found = find(environment)
        assert found is not None
        assert found.path == tmp_path / "exo-rkllm/control.sock"


# ── with one ─────────────────────────────────────────────────────────────────────────────────────


def test_load_ps_and_unload_follow_a_model(board_house: House) -> None:
    house = board_house
    house.words("words", load_seconds=0.1)
    daemon = house.start()
    assert house.command("ps").stdout == (
        "No model is loaded. The first request loads one; so does: exo-rkllm load MODEL\n"
    )
    loaded = house.command("load", "words", "--keep-alive", "1h")
    assert (loaded.stdout, loaded.stderr) == ("words is ready.\n", "loading words ...\n")
    shown = house.command("ps").stdout.splitlines()
    assert shown[0].split() == ["MODEL", "STATE", "RUNTIME", "MEMORY", "RUNNING", "WAITING", "SINCE", "UNTIL"]
    assert re.fullmatch(r"words  ready +- +- +- +- +\d+s +idle, (1h|59m 5\ds)", shown[1])
    status = json.loads(house.command("ps", "--json").stdout)
    assert [model["name"] for model in status["models"]] == ["words"]
    assert house.command("unload", "words").stdout == "words is unloaded.\n"
    assert house.command("unload", "words").stdout == "words was not loaded.\n"
    assert "(uid " in daemon.text
    assert re.search(r"\(uid \d+, pid \d+\) unloads words\.", daemon.text), "who did it is in the log"


def test_load_names_a_missing_model(house: House) -> None:
    house.start()
    done = house.command("load", "nothing")
    assert done.returncode == 1
    assert "exo-rkllm: No model 'nothing' in" in done.stderr


def test_logs_now_and_as_they_come(house: House) -> None:
    house.words()
    daemon = house.start()
    daemon.answer("words", "Hello")
    shown = house.command("logs", "-n", "50").stdout
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d exo-rkllm .* serves on ", shown, re.MULTILINE)
    assert re.search(r"words: stop, 1 tokens in and 1 out in .*  \[[0-9a-f]{32}\]$", shown, re.MULTILINE)
    lines = [json.loads(line) for line in house.command("logs", "--json").stdout.splitlines()]
    assert {"number", "time", "level", "source", "text", "fields"} == set(lines[0])
    assert [line["fields"].get("model") for line in lines if "is loaded" in line["text"]] == ["words"]
    following = subprocess.Popen(
        [sys.executable, "-m", "exo_rkllm", "logs", "-f", "-n", "1"],
        cwd=REPOSITORY,
        env=house.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert following.stdout is not None
    try:
        assert following.stdout.readline()
        daemon.client.post("/control/reload")
        assert "reloads the configuration." in following.stdout.readline()
        assert "Configuration taken over: nothing changed." in following.stdout.readline()
    finally:
        following.terminate()
        following.communicate()


def test_watching_ps_goes_on_until_it_is_left(house: House) -> None:
    house.words()
    daemon = house.start()
    watching = subprocess.Popen(
        [sys.executable, "-m", "exo_rkllm", "ps", "--watch", "--json"],
        cwd=REPOSITORY,
        env=house.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    try:
        assert json.loads(watching.stdout.readline())["models"] == []
        daemon.client.post("/control/load", model="words")
        states = []
        while "ready" not in states:
            states += [model["state"] for model in json.loads(watching.stdout.readline())["models"]]
    finally:
        watching.terminate()
        watching.communicate()
    assert daemon.process.poll() is None


def test_request_is_stopped_wherever_it_is_and_its_reader_is_told(house: House) -> None:
    house.words(tokens_per_second=20)
    daemon = house.start()
    running = daemon.ask("words", "word " * 300)
    while "text" not in next(running):
        pass
    waiting = daemon.ask("words", "word " * 300)
    assert "progress" in next(waiting)
    [model] = daemon.status()["models"]
    for request in (*model["waiting"], *model["running"]):
        assert daemon.client.post("/control/stop", request=request["id"]) == {"stopped": True}
    assert daemon.client.post("/control/stop", request="gone") == {"stopped": False}
    *_, last = running
    assert last["finish"]["reason"] == "abort"
    with pytest.raises(ExoRkllmError, match="ended from outside before its turn came"):
        list(waiting)
    assert "stops the request" in daemon.text


def test_config_is_shown_checked_and_explained(house: House) -> None:
    house.config.write_text("[api]\nport = 1234")
    shown = house.command("config", "show", EXO_RKLLM_API_PORT="99").stdout
    assert "port = 99  # set" in shown
    assert house.command("config", "show", "--defaults").stdout.startswith("# Configuration of exo-rkllm.")
    checked = house.command("config", "check")
    assert (checked.returncode, checked.stdout) == (0, f"{house.config}\nThe configuration is valid.\n")
    house.config.write_text("[api]\nprot = 1234")
    checked = house.command("config", "check")
    assert checked.returncode == 1
    assert checked.stderr == (
        f"exo-rkllm: {house.config}, line 2: there is no key api.prot.\n  try: Did you mean port?\n"
    )


def test_top_asks_for_the_daemons_hour(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.start()
    for name in ("XDG_RUNTIME_DIR", "EXO_RKLLM_CONFIG"):
        monkeypatch.setenv(name, house.environment[name])
    assert last_hour() == ()
    answer = Client(house.socket).get("/control/history")
    assert list(answer) == ["samples"]


def test_a_loaded_model_is_removed_by_its_full_name(house: House) -> None:
    house.words("words")
    daemon = house.start()
    daemon.client.post("/control/load", model="words")
    assert house.command("rm", "wor").returncode == 1
    done = house.command("rm", "words")
    assert (done.returncode, done.stdout) == (0, "removed words\n")
    assert not (house.models / "words").exists()
    assert daemon.model("words")["state"] == "cold"


async def test_pull_is_done_by_the_daemon(house: House, make_model: Callable[..., Path]) -> None:
    async with LocalHub() as hub:
        hub.add("org/tiny", {"tiny-W8A8-rk3588.rkllm": large(make_model().read_bytes()), "config.json": b"{}"})
        daemon = house.start(HF_ENDPOINT="http://127.0.0.1:1")
        words = ("pull", "org/tiny", "--soc", "rk3588", "--name", "tiny")
        done = await asyncio.to_thread(house.command, *words, HF_ENDPOINT=hub.endpoint)
    assert done.returncode == 0, done.stderr
    assert (house.models / "tiny/model.toml").is_file()
    assert "pulls org/tiny." in daemon.text
    refused = house.command("pull", "not a repository")
    assert refused.returncode == 2
    assert "is no repository" in refused.stderr


# ── how it is shown ──────────────────────────────────────────────────────────────────────────────


def test_ps_shows_the_unavailable_reason_first() -> None:
    status = {
        "unavailable_reason": "The NPU is gone.",
        "hint": "exo-rkllm doctor",
        "draining": True,
        "models": [
            {
                "name": "qwen",
                "state": "cold",
                "memory": 2 * 10**9,
                "running": [],
                "waiting": [{}],
                "since": 0.0,
                "pinned": True,
                "unload_at": None,
                "retry_at": None,
                "error": "It died.",
                "hint": "exo-rkllm logs",
            }
        ],
    }
    lines = ps.report(status).splitlines()
    assert lines[:3] == [
        "The NPU is gone.",
        "  try: exo-rkllm doctor",
        "The daemon is stopping and lets running answers finish.",
    ]
    assert re.fullmatch(r"qwen   cold +- +- +- +1 +\d+d \d+h +pinned", lines[4]) or "qwen" in lines[4]
    assert lines[5:] == ["qwen: It died.", "  try: exo-rkllm logs"]


def model(**facts: object) -> dict[str, object]:
    known = {"name": "qwen", "state": "ready", "memory": 2 * 10**9, "running": [], "waiting": [], "since": 0.0}
    return {**known, "pinned": False, "unload_at": None, "retry_at": None, "error": "", "hint": "", **facts}


@pytest.mark.parametrize(
    ("facts", "cells"),
    [
        ({"unload_at": 10**10}, ["qwen", "ready", "-", "2.00 GB", "-", "-"]),
        ({"running": [{"tokens": 7}]}, ["qwen", "ready", "-", "2.00 GB", "1 (7 tokens)", "-"]),
        ({"retry_at": 0.0, "state": "cold", "waiting": [{}]}, ["qwen", "cold", "-", "-", "-", "1"]),
        ({"runtime": "1.2.3", "runtime_reason": "its card says so"}, ["qwen", "ready", "1.2.3", "2.00 GB", "-", "-"]),
    ],
)
def test_ps_shows_a_models_figures_in_a_row(facts: dict[str, object], cells: list[str]) -> None:
    assert list(ps.row(model(**facts))[:6]) == cells


def test_ps_shows_until_when_a_model_stays() -> None:
    assert ps.row(model())[7] == "until unloaded"
    assert ps.row(model(pinned=True))[7] == "pinned"
    assert ps.row(model(running=[{"tokens": 1}]))[7] == ""
    assert ps.row(model(unload_at=time.time() + 90))[7] in ("idle, 1m 30s", "idle, 1m 29s")
    assert ps.row(model(state="cold", retry_at=time.time() + 90))[7] in ("retry in 1m 30s", "retry in 1m 29s")


@pytest.mark.parametrize(("installed", "told"), [(2, ["qwen: runtime 1.2.3, its card says so"]), (1, [])])
def test_ps_says_why_a_model_has_its_runtime_where_there_are_several(installed: int, told: list[str]) -> None:
    loaded = model(runtime="1.2.3", runtime_reason="its card says so")
    status = {"unavailable_reason": "", "draining": False, "models": [loaded], "runtimes": [{}] * installed}
    assert ps.report(status).splitlines()[2:] == told


def test_durations_and_sizes_use_their_largest_units() -> None:
    assert [duration(seconds) for seconds in (0.2, 59, 61, 3600, 12_000, 200_000)] == [
        "0s", "59s", "1m 1s", "1h", "3h 20m", "2d 7h",
    ]  # fmt: skip
    assert [size(number) for number in (0, 999, 1000, 20e6, 1.69e9, 5e12)] == [
        "0 B", "999 B", "1 kB", "20 MB", "1.69 GB", "5000.00 GB",
    ]  # fmt: skip


def test_malformed_time_is_wrong_usage() -> None:
    assert seconds_of("5m") == 300.0
    with pytest.raises(argparse.ArgumentTypeError, match="such as 90s, 1h30m or 1d, not 'soon'"):
        seconds_of("soon")


def test_the_group_that_opens_the_socket_is_the_sockets_or_its_folders(tmp_path: Path) -> None:
    own = grp.getgrgid(tmp_path.stat().st_gid).gr_name
    assert group_of(tmp_path / "closed") == own
    assert group_of(Path("/nonexistent/folder/socket")) == "exo-rkllm"


def test_whoever_asks_has_a_name_where_the_machine_knows_one() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert str(peer_of(ours)) == f"{pwd.getpwuid(os.getuid()).pw_name} (uid {os.getuid()}, pid {os.getpid()})"
    assert str(SocketPeer(pid=7, uid=4_000_000, gid=0)) == "somebody (uid 4000000, pid 7)"
