"""Who may do what over TCP, asked of a whole daemon: keys on every listener, and what changes it for everybody."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.daemon.running import Daemon, House

ADMIN, GUEST = "admin-0123456789abcdef", "guest-0123456789abcdef"


@dataclass
class HttpAnswer:
    status: int
    headers: dict[str, str]
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Listener:
    """A daemon's first TCP listener, as any program on this machine reaches it."""

    daemon: Daemon
    port: int = field(init=False)

    def __post_init__(self) -> None:
        self.port = int(self.daemon.status()["listening"][0].rpartition(":")[2])

    def send(
        self, method: str, path: str, body: Any = None, *, key: str | bytes = b"", **headers: str | bytes
    ) -> HttpAnswer:
        """`headers` replace those that http.client would send; `body` may be raw bytes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines: dict[str, str | bytes] = {"Host": f"127.0.0.1:{self.port}", "Content-Length": str(len(data))}
        if key:
            lines["Authorization"] = b"Bearer " + (key if isinstance(key, bytes) else key.encode())
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in lines.items():
            connection.putheader(name, value)
        connection.endheaders(data)
        response = connection.getresponse()
        answer = HttpAnswer(response.status, dict(response.getheaders()), response.read().decode())
        connection.close()
        return answer

    def generate(self, key: str = "", **fields: Any) -> HttpAnswer:
        return self.send("POST", "/api/generate", {"model": "words", "stream": False, **fields}, key=key)


def with_keys(house: House, **variables: Any) -> Listener:
    keys = house.folder / "keys"
    keys.write_text(f"{ADMIN} control\n{GUEST}\n")
    house.words()
    return Listener(house.start(EXO_RKLLM_API_KEYS=str(keys), **variables))


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────


def test_configured_keys_are_needed_on_loopback_too(house: House) -> None:
    """They were asked for beyond loopback only."""
    api = with_keys(house)
    assert api.generate(prompt="one").status == 401
    assert api.send("GET", "/v1/models", key="any-key-will-not-do").status == 401
    assert api.generate(GUEST, prompt="one").json()["response"] == "one"
    assert api.send("GET", "/healthz").status == 200
    assert api.daemon.answer("words", "one") == "one", "the control socket needs no key"


def test_loopback_can_be_left_open_beside_keys(house: House) -> None:
    api = with_keys(house, EXO_RKLLM_API_LOOPBACK_OPEN="true")
    assert api.generate(prompt="one").status == 200
    assert api.generate(keep_alive=0).status == 403, "asking is open, changing the daemon is not"
    assert api.generate(ADMIN, keep_alive=0).status == 200
    report = house.command("doctor", "--json", EXO_RKLLM_API_LOOPBACK_OPEN="true", EXO_RKLLM_API_KEYS="x")
    (line,) = [line for line in json.loads(report.stdout)["checks"] if line["name"] == "API keys"]
    assert line["level"] == "warn" and "loopback_open" in line["fact"]


def test_key_that_is_not_ascii_is_refused_and_breaks_nothing(house: House) -> None:
    """It was a 500 on loopback."""
    house.words()
    api = Listener(house.start())
    for key in ("schlüssel".encode(), b"\xff\xfe"):
        answer = api.send("GET", "/v1/models", key=key)
        assert answer.status == 401 and "ASCII" in answer.text
    assert "Traceback" not in api.daemon.text


# ── what changes the daemon for everybody ────────────────────────────────────────────────────────


def test_client_without_the_right_neither_loads_nor_unloads(house: House) -> None:
    """`ollama stop` and an empty question did, for any holder of a key."""
    api = with_keys(house)
    assert api.generate(GUEST).status == 403
    assert api.daemon.model("words")["state"] == "cold"
    assert api.generate(ADMIN).json()["done_reason"] == "load"
    for path in ("/api/generate", "/api/chat"):
        answer = api.send("POST", path, {"model": "words", "keep_alive": 0}, key=GUEST)
        assert answer.status == 403 and "control" in answer.json()["error"]
    assert api.daemon.model("words")["state"] == "ready"
    assert api.generate(ADMIN, keep_alive=0).json()["done_reason"] == "unload"
    assert api.daemon.model("words")["state"] == "cold"


@pytest.mark.parametrize("keep_alive", [0, -1, "5m"])
def test_keep_alive_without_the_right_is_ignored_and_named(house: House, keep_alive: float | str) -> None:
    """Home Assistant sends -1 and Open WebUI "5m" with each question: neither may pin or unload a shared model."""
    api = with_keys(house, EXO_RKLLM_MODELS_KEEP_ALIVE="100")
    answer = api.generate(GUEST, prompt="one", keep_alive=keep_alive)
    assert answer.json()["response"] == "one"
    assert answer.headers["X-Ignored-Fields"] == "keep_alive"
    model = api.daemon.model("words")
    assert model["state"] == "ready"
    assert model["unload_at"] is not None
    with_right = api.generate(ADMIN, prompt="one", keep_alive=keep_alive)
    assert "X-Ignored-Fields" not in with_right.headers


def test_keep_alive_without_the_right_is_refused_where_the_owner_is_strict(house: House) -> None:
    api = with_keys(house, EXO_RKLLM_API_STRICT="true")
    assert api.generate(GUEST, prompt="one", keep_alive=-1).status == 403
    assert api.generate(ADMIN, prompt="one", keep_alive=-1).status == 200


def test_local_user_may_load_and_unload_while_there_are_no_keys(house: House) -> None:
    house.words()
    api = Listener(house.start())
    assert api.generate(keep_alive=-1).json()["done_reason"] == "load"
    assert api.daemon.model("words")["unload_at"] is None
    assert api.generate(keep_alive=0).json()["done_reason"] == "unload"
    assert api.send("POST", "/api/pull", {"model": "a/b"}).status == 403
    assert api.send("POST", "/v1/models/words/unload").status == 403


# ── pages of other sites, and what strangers send ────────────────────────────────────────────────


def test_hosts_hold_for_an_anonymous_network_too(house: House) -> None:
    """A page that rebinds its name to the board's address asked everything."""
    house.words()
    api = Listener(
        house.start(
            EXO_RKLLM_API_LISTEN="0.0.0.0",  # noqa: S104
            EXO_RKLLM_API_ALLOW_ANONYMOUS="true",
            EXO_RKLLM_API_HOSTS="board.lan",
        )
    )
    assert api.send("GET", "/v1/models", Host="evil.example").status == 403
    for host in ("board.lan:52415", "192.168.1.7:52415", "[fd00::7]", "localhost"):
        assert api.send("GET", "/v1/models", Host=host).status == 200


@pytest.mark.parametrize("host", ["[::1].evil.com", "[::1]evil", "127.0.0.1.evil.com", "[127.0.0.1", "localhost:80:90"])
def test_name_that_only_looks_like_loopback_is_refused(house: House, host: str) -> None:
    house.words()
    assert Listener(house.start()).send("GET", "/v1/models", Host=host).status == 403


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "GZIP"])
def test_compressed_body_is_the_clients_mistake(house: House, encoding: str) -> None:
    """A kilobyte may unpack to a megabyte, and no client of these APIs compresses."""
    house.words()
    api = Listener(house.start())
    answer = api.send("POST", "/api/generate", b"\x1f\x8b garbage", Content_Encoding=encoding)
    assert answer.status == 400 and "compressed" in answer.json()["error"]
    assert "Traceback" not in api.daemon.text


def test_unknown_path_is_not_repeated(house: House) -> None:
    house.words()
    answer = Listener(house.start()).send("GET", "/v1/secret-name")
    assert answer.status == 404 and "secret-name" not in answer.text
