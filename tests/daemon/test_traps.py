"""What others' servers for these boards got wrong, on a whole daemon; those of the API alone are in tests/api."""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.running import Daemon, House
from tests.simulated import Library


def asked(daemon: Daemon, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
    address = daemon.status()["listening"][0]
    request = urllib.request.Request(f"http://{address}{path}", json.dumps({"model": "qwen", **body}).encode())
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - our own daemon
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


MESSAGES = [{"role": "user", "content": "Hi"}]
QUESTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/chat/completions", {"messages": MESSAGES}),
    ("/v1/completions", {"prompt": "Hi"}),
    ("/v1/responses", {"input": "Hi"}),
    ("/v1/embeddings", {"input": "Hi"}),
    ("/v1/messages", {"messages": MESSAGES, "max_tokens": 9}),
    ("/api/chat", {"messages": MESSAGES}),
    ("/api/generate", {"prompt": "Hi"}),
    ("/api/embed", {"input": "Hi"}),
)


def test_without_the_library_nothing_answers_in_its_place(
    board_house: House, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    """A server that could not load the library answered with made-up words, and said nothing of it."""
    board_house.simulated("qwen", make_model, reply="Hello")
    daemon = board_house.start(EXO_RKLLM_RUNTIME_LIBRARY=str(tmp_path / "librkllmrt.so"))
    for path, body in QUESTIONS:
        status, said = asked(daemon, path, **body)
        assert status == 503, path
        assert "librkllmrt.so cannot be read" in json.dumps(said)
    assert not daemon.model_processes()


def test_library_without_an_npu_answers_nothing(
    house: House, make_model: Callable[..., Path], make_board: Callable[..., Path], library: Library
) -> None:
    """A library on the disk was taken for the hardware, on any machine."""
    house.simulated("qwen", make_model, reply="Hello")
    nothing = make_board(driver="")
    house.environment |= on(nothing, library)
    daemon = house.start()
    assert daemon.status()["unavailable_reason"].startswith("The RK3588 has an NPU, and")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://{daemon.status()['listening'][0]}/readyz", timeout=10)
    with caught.value as error:
        assert error.code == 503
    assert asked(daemon, "/v1/chat/completions", messages=MESSAGES)[0] == 503
    failed = house.command("run", str(house.models / "qwen/m.rkllm"), "Hi")
    assert failed.returncode == 1, "and a start that failed is no success"
    assert failed.stdout == ""


def on(root: Path, library: Library) -> dict[str, Any]:
    return {
        "EXO_RKLLM_RUNTIME_LIBRARY": str(library("1.3.0")),
        "EXO_RKLLM_BOARD_ROOT": str(root),
        "RKLLM_SIM_ROOT": str(root),
    }


def test_a_second_daemon_takes_no_model_from_the_first(board_house: House, make_model: Callable[..., Path]) -> None:
    """A second instance killed the first one's processes at its start, and its own at its end."""
    board_house.simulated("qwen", make_model, reply="word " * 40, decode_tps=20)
    first = board_house.start()
    answer = first.ask("qwen", "Hi")
    assert any("text" in event for event in answer)
    [child] = first.model_processes()
    second = board_house.start(wait=False, EXO_RKLLM_API_PORT="0")
    assert second.wait() == 1
    rest = "".join(event.get("text", "") for event in answer)
    assert rest.split().count("word") >= 30, "the answer went on to its end"
    assert first.model_processes() == [child]
    assert first.answer("qwen", "Hi", max_tokens=2).split() == ["word", "word"]


def test_vectors_are_the_models_own(board_house: House, make_model: Callable[..., Path]) -> None:
    """Random vectors passed for embeddings: of length one, and another each time."""
    board_house.simulated("qwen", make_model)

    def vectors(daemon: Daemon, path: str) -> list[list[float]]:
        status, said = asked(daemon, path, input=["a cat", "a cat", "two dogs"])
        assert status == 200, said
        return said["embeddings"] if path == "/api/embed" else [row["embedding"] for row in said["data"]]

    daemon = board_house.start()
    told = vectors(daemon, "/v1/embeddings")
    assert told[0] == told[1] != told[2]
    assert all(math.isclose(math.hypot(*one), 1, abs_tol=1e-5) for one in told)
    for one, other in zip(told, vectors(daemon, "/api/embed"), strict=True):
        assert one == pytest.approx(other)
    daemon.client.post("/control/unload", model="qwen")
    for one, other in zip(told, vectors(daemon, "/v1/embeddings"), strict=True):
        assert one == pytest.approx(other), "another process of the same model says the same"


@pytest.mark.parametrize(("profile", "load"), [("rk3576-busy", [0.38, 0.04]), ("load-single", [0.57])])
def test_every_soc_shows_its_own_cores(
    house: House, board: Callable[[str], Path], library: Library, profile: str, load: list[float]
) -> None:
    """Others' code knew three cores, one way of writing them, and one address."""
    root = board(profile).rename(house.folder / "b")
    house.environment |= on(root, library)
    daemon = house.start()
    with urllib.request.urlopen(f"http://{daemon.status()['listening'][0]}/v1/status", timeout=10) as response:
        shown = json.load(response)["board"]
    assert shown["load"] == load
    assert shown["driver"]["cores"] == len(load)
