"""The daemon from start to end, as systemd, a terminal and its users see it."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.daemon.running import Daemon, House
from tests.simulated import Library


def test_daemon_starts_without_board_library_or_model(house: House, tmp_path: Path) -> None:
    daemon = house.start(EXO_RKLLM_BOARD_ROOT=str(tmp_path / "nothing"))
    status = daemon.status()
    assert status["unavailable_reason"]
    assert status["models"] == []
    address = status["listening"][0]
    with urllib.request.urlopen(f"http://{address}/v1/models", timeout=5) as response:
        assert response.status == 200
    daemon.until("STATUS=")
    assert daemon.stop() == 0
    assert "STOPPING=1" in daemon.said or daemon.until("STOPPING=1")
    assert not house.socket.exists()
    assert "Traceback" not in daemon.text


def test_daemon_is_ready_within_its_time(house: House) -> None:
    daemon = house.start()
    assert daemon.until("READY=1") < 10, "1 s is the bar on a machine that does nothing else; bench/start.py measures"


def test_daemon_serves_once_the_library_appears(board_house: House, library: Library, tmp_path: Path) -> None:
    place = tmp_path / "later/librkllmrt.so"
    daemon = board_house.start(EXO_RKLLM_RUNTIME_LIBRARY=str(place))
    assert "librkllmrt" in daemon.status()["unavailable_reason"]
    place.parent.mkdir()
    shutil.copy(library("1.3.0"), place)
    status = daemon.wait_for(lambda status: not status["unavailable_reason"])
    assert status["library"] == str(place)
    place.unlink()
    daemon.wait_for(lambda status: status["unavailable_reason"])


def test_preloaded_models_are_there_from_the_start(house: House) -> None:
    house.words("first")
    house.config.write_text('[models]\npreload = ["first", "missing"]')
    daemon = house.start()
    status = daemon.wait_for(lambda status: [model["state"] for model in status["models"]] == ["ready"])
    assert status["models"][0]["pinned"]
    assert "models.preload: No model 'missing'" in daemon.text
    daemon.until("STATUS=Ready: first.")


# ── what it refuses ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"EXO_RKLLM_API_LISTEN": "::"}, "for the whole network, and there are no API keys."),
        ({"EXO_RKLLM_API_PROT": "1"}, "there is no variable EXO_RKLLM_API_PROT."),
        (
            {"EXO_RKLLM_API_LISTEN": "203.0.113.9"},
            "api.listen: 203.0.113.9 port 0 cannot be listened on: Cannot assign requested address.",
        ),
    ],
)
def test_mistake_at_start_is_a_sentence_and_exit_code_1(house: House, variables: dict[str, str], sentence: str) -> None:
    daemon = house.start(wait=False, **variables)
    assert daemon.wait() == 1
    assert sentence in daemon.text
    assert "\n  try: " in daemon.text
    assert "Traceback" not in daemon.text


def test_a_second_daemon_leaves_the_first_alone(house: House) -> None:
    first = house.start()
    second = house.start(wait=False)
    assert second.wait() == 1
    assert "A daemon is running already" in second.text
    assert first.status()["models"] == []
    assert first.stop() == 0


# ── stop, reload, watchdog, sockets ──────────────────────────────────────────────────────────────


def test_stop_lets_the_answer_end_and_refuses_waiting_requests(house: House) -> None:
    house.words(tokens_per_second=20)
    daemon = house.start()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(daemon.answer, "words", "a b c d e f g h i j k l")
        daemon.wait_for(lambda status: status["models"] and status["models"][0]["running"])
        waits = pool.submit(daemon.answer, "words", "z")
        daemon.wait_for(lambda status: status["models"][0]["waiting"])
        daemon.signal(signal.SIGTERM)
        assert running.result(10) == "a b c d e f g h i j k l"
        assert str(waits.exception(10)).startswith("exo-rkllm is shutting down.")
    assert daemon.wait() == 0


def test_second_stop_signal_ends_running_answers(house: House) -> None:
    house.words(tokens_per_second=0.1)
    daemon = house.start()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(daemon.answer, "words", "a b c")
        daemon.wait_for(lambda status: status["models"] and status["models"][0]["running"])
        daemon.signal(signal.SIGINT)
        daemon.until("STOPPING=1")
        daemon.signal(signal.SIGINT)
        assert daemon.wait(10) == 0
        assert running.exception(10) is not None


def test_the_drain_ends_when_its_time_is_over(house: House) -> None:
    house.words(tokens_per_second=0.1)
    daemon = house.start(EXO_RKLLM_DISPATCH_DRAIN_TIMEOUT="0.3")
    with ThreadPoolExecutor() as pool:
        running = pool.submit(daemon.answer, "words", "a b c")
        daemon.wait_for(lambda status: status["models"] and status["models"][0]["running"])
        assert daemon.stop(10) == 0
        assert "shutting down" in str(running.exception(10))


def test_a_reload_takes_over_what_it_can_and_drops_nobody(house: House) -> None:
    house.words(tokens_per_second=40)
    house.words("second")
    daemon = house.start()
    with ThreadPoolExecutor() as pool:
        answers = daemon.answers(pool, "words", [f"question {number} of eight" for number in range(8)])
        daemon.wait_for(lambda status: status["models"] and status["models"][0]["running"])
        for keep_alive in (100, 200, 300):
            house.config.write_text(
                f'[models]\nkeep_alive = {keep_alive}\npreload = ["second"]\n[log]\nlevel = "debug"'
            )
            daemon.hear()
            daemon.signal(signal.SIGHUP)
            daemon.until("RELOADING=1")
            daemon.until("READY=1")
        assert [answer.result(20) for answer in answers] == [f"question {number} of eight" for number in range(8)]
    status = daemon.wait_for(lambda status: [model["state"] for model in status["models"]] == ["ready", "ready"])
    assert [model["pinned"] for model in status["models"]] == [True, False]


def test_a_reload_with_a_mistake_leaves_the_old_one_in_force(house: House) -> None:
    daemon = house.start()
    house.config.write_text("[api]\nprot = 1")
    daemon.hear()
    daemon.signal(signal.SIGHUP)
    daemon.until("READY=1")
    assert "The configuration was not taken over" in daemon.text
    assert "Did you mean port?" in daemon.text
    house.config.write_text("[board]\nperformance = true\n[dispatch]\nqueue = 7")
    said = house.command("config", "reload", EXO_RKLLM_CONFIG="")
    assert said.stdout == (
        "Applied: dispatch.queue.\nNeeds a restart: board.performance.\n  try: sudo systemctl restart exo-rkllm\n"
    )


def test_watchdog_is_notified_twice_in_its_time(house: House) -> None:
    daemon = house.start(WATCHDOG_USEC="100000")
    daemon.hear()
    daemon.until("WATCHDOG=1")
    daemon.hear()
    daemon.until("WATCHDOG=1")


def test_sockets_that_systemd_opened_are_used_and_left(house: House, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as api, socket.socket(socket.AF_UNIX) as control:
        house.socket.parent.mkdir()
        control.bind(str(house.socket))
        control.listen()
        # Descriptors 3 and 4, for the very process that the shell becomes.
        script = f'exec 3<&{api.fileno()} 4<&{control.fileno()}; LISTEN_FDS=2 LISTEN_PID=$$ exec "$@"'
        daemon = house.start(through=["bash", "-c", script, "activation"])
        assert daemon.status()["listening"] == [
            f"127.0.0.1:{api.getsockname()[1]}",
            str(house.socket),
        ]
        assert daemon.stop() == 0
    assert house.socket.exists()


def test_first_model_is_loaded_by_a_process_that_waits(board_house: House, make_model: Callable[..., Path]) -> None:
    board_house.simulated("qwen", make_model, reply="Hello")
    daemon = board_house.start()
    [waiting] = children(daemon, 1)
    assert not daemon.model_processes()
    assert daemon.answer("qwen", "Hello") == "Hello"
    assert daemon.model_processes() == [waiting]


def children(daemon: Daemon, count: int) -> list[int]:
    """Once there are so many: the process that waits is started when the API answers already."""
    path, end = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children"), time.monotonic() + 20
    while len(found := path.read_text().split()) != count:
        assert time.monotonic() < end, found
        time.sleep(0.01)
    return [*map(int, found)]


def test_stopped_daemon_leaves_no_child_and_no_socket(board_house: House, make_model: Callable[..., Path]) -> None:
    board_house.simulated("qwen", make_model, reply="Hello")
    daemon = board_house.start()
    assert daemon.answer("qwen", "Hi") == "Hello"
    processes = children(daemon, 3)  # the model's, the one for the next model, and the helper
    daemon.process.kill()
    daemon.wait()
    for child in processes:
        for _ in range(200):
            try:
                state = Path(f"/proc/{child}/stat").read_text()
            except FileNotFoundError:
                break
            if re.search(r"\) Z ", state):
                break
            signal.sigtimedwait([], 0.02)
        else:
            raise AssertionError("the model's process outlives the daemon")
    assert house_answers(board_house) == "Hello", "and the next daemon is not kept from the socket"


def house_answers(house: House) -> str:
    daemon = house.start()
    try:
        return daemon.answer("qwen", "Hi")
    finally:
        daemon.stop()


def test_daemon_runs_outside_the_repository(house: House) -> None:
    said = house.command("serve", "--help")
    assert said.returncode == 0
    assert sys.executable not in said.stdout
