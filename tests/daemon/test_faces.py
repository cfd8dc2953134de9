"""What the daemon opens to whom: the API with and without keys, the same on the control socket, metrics alone."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from http.client import HTTPConnection
from typing import Any

import pytest

from exo_rkllm.api.context import ApiKey
from exo_rkllm.client.control import connect
from exo_rkllm.config import ApiSettings
from exo_rkllm.daemon.keys import read_keys
from exo_rkllm.errors import ConfigError
from tests.daemon.running import Daemon, House

SECRET, ADMIN = "a-key-of-a-client", "the-key-of-an-admin"
QUESTION = {"model": "words", "messages": [{"role": "user", "content": "Hello there"}]}


def call(address: str, path: str, body: Any = None, key: str = "") -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"http://{address}{path}", data, headers), timeout=10
        ) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def port_of(daemon: Daemon, number: int = 0) -> str:
    """On loopback, whatever it listens on."""
    return f"127.0.0.1:{daemon.status()['listening'][number].rpartition(':')[2]}"


def said(answer: tuple[int, str]) -> str:
    status, body = answer
    assert status == 200, body
    return str(json.loads(body)["choices"][0]["message"]["content"])


def test_the_api_answers_on_its_port_and_on_the_control_socket(house: House) -> None:
    house.words()
    daemon = house.start()
    assert said(call(port_of(daemon), "/v1/chat/completions", QUESTION)) == "Hello there"
    connection = HTTPConnection("localhost")
    connection.sock = connect(house.socket, 10)
    connection.request("POST", "/v1/chat/completions", json.dumps(QUESTION), {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert said((response.status, response.read().decode())) == "Hello there"
    connection.close()


def test_the_network_needs_a_key_and_a_reload_changes_it(house: House) -> None:
    house.words()
    keys = house.folder / "keys"
    keys.write_text(f"{SECRET}\n{ADMIN} control\n")
    house.config.write_text(f'[api]\nkeys = "{keys}"')
    daemon = house.start(EXO_RKLLM_API_LISTEN="0.0.0.0")  # noqa: S104 - with keys
    address = port_of(daemon)
    assert call(address, "/v1/chat/completions", QUESTION)[0] == 401
    assert said(call(address, "/v1/chat/completions", QUESTION, SECRET)) == "Hello there"
    assert call(address, "/v1/models/words/unload", {}, SECRET)[0] == 403
    assert call(address, "/v1/models/words/unload", {}, ADMIN)[0] == 200
    keys.write_text("another-key-of-a-client\n")
    assert daemon.client.post("/control/reload")["changed"] == ["API keys"]
    assert call(address, "/v1/chat/completions", QUESTION, SECRET)[0] == 401
    assert said(call(address, "/v1/chat/completions", QUESTION, "another-key-of-a-client")) == "Hello there"
    keys.write_text("short\n")
    assert house.command("config", "reload").returncode == 1
    assert said(call(address, "/v1/chat/completions", QUESTION, "another-key-of-a-client")) == "Hello there"


def test_metrics_port_serves_metrics_only(house: House) -> None:
    house.words()
    daemon = house.start(EXO_RKLLM_METRICS_LISTEN="0.0.0.0:0")
    daemon.answer("words", "one two three")
    address = port_of(daemon, 2)
    status, page = call(address, "/metrics")
    assert status == 200
    assert 'rkllm_requests_total{finish_reason="stop",model="words"} 1.0' in page
    assert 'rkllm_generated_tokens_total{model="words"} 3.0' in page
    assert call(address, "/v1/models")[0] == 404
    assert call(port_of(daemon), "/metrics")[0] == 200


def test_metrics_address_without_a_port_is_refused(house: House) -> None:
    daemon = house.start(wait=False, EXO_RKLLM_METRICS_LISTEN="everywhere")
    assert daemon.wait() == 1
    assert "metrics.listen = 'everywhere' is no address with a port." in daemon.text


def test_the_metrics_port_of_another_program_is_named(house: House) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        daemon = house.start(wait=False, EXO_RKLLM_METRICS_LISTEN=f"127.0.0.1:{taken.getsockname()[1]}")
        assert daemon.wait() == 1
    assert "Something listens on 127.0.0.1 port" in daemon.text


# ── the control socket takes nothing that it does not understand ─────────────────────────────────


NONSENSE = (
    ("POST", "/control/load", b"{", "The request's body is not JSON."),
    ("POST", "/control/load", b"[]", "The body must be an object, not a list of 0."),
    ("POST", "/control/load", b"{}", "model is missing."),
    ("POST", "/control/load", b'{"model": "words", "keepalive": 1}', "There is no key keepalive."),
    ("POST", "/control/load", b'{"model": 1}', "model must be a string, not 1."),
    ("POST", "/control/load", b'{"model": "words", "keep_alive": true}', "keep_alive must be a number, not true."),
    ("POST", "/control/ask", b'{"model": "words", "messages": [{"who": 1}]}', "The question cannot be read"),
    ("GET", "/control/logs?lines=-1", None, "lines must be a whole number, not '-1'."),
    ("GET", "/control/nothing", None, "nothing"),
)


def test_malformed_request_is_answered_with_a_sentence(house: House) -> None:
    house.words()
    house.start()
    for method, path, body, sentence in NONSENSE:
        connection = HTTPConnection("localhost")
        connection.sock = connect(house.socket, 10)
        connection.request(method, path, body)
        response = connection.getresponse()
        error = json.loads(response.read())["error"]
        connection.close()
        assert 400 <= response.status < 500, body
        assert sentence in error["sentence"]


# ── the file with keys ───────────────────────────────────────────────────────────────────────────


def test_key_opens_the_api_and_control_only_with_its_right(house: House) -> None:
    path = house.folder / "keys"
    path.write_text(f"# for the kitchen\n{SECRET}\n\n{ADMIN} control # mine\n")
    assert read_keys(ApiSettings(keys=str(path)), {}) == (ApiKey("key 2", SECRET), ApiKey("key 4", ADMIN, control=True))
    assert read_keys(ApiSettings(), {}) == ()
    (house.folder / "api-keys").write_text(SECRET)
    assert read_keys(ApiSettings(), {"CREDENTIALS_DIRECTORY": str(house.folder)}) == (ApiKey("key 1", SECRET),)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "There is no key in"),
        (b"short", "line 1: a key has 16 characters or more"),
        (b"a-key-of-a-client kontrol", "line 1: a key has 16 characters or more, and 'control' or nothing after it"),
        (b"\xff\xfe", "it is not UTF-8 text"),
        (None, "No such file or directory"),
    ],
)
def test_unusable_key_file_is_refused_without_showing_a_key(house: House, content: bytes | None, sentence: str) -> None:
    path = house.folder / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_keys(ApiSettings(keys=str(path)), {})
    assert sentence in caught.value.sentence
    assert "client" not in caught.value.sentence, "a key is never shown"
