"""`exo-rkllm run` beside a daemon: one copy of the model, one queue."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exo_rkllm.client.answers import DaemonSource
from exo_rkllm.client.control import DaemonUnreachable
from tests.daemon.running import House


def test_the_daemon_answers_with_its_own_copy(house: House) -> None:
    house.words()
    daemon = house.start()
    told = house.command("run", "words", "one two three", "--verbose")
    assert told.stdout == "one two three\n"
    assert "eval count:           3 tokens" in told.stderr
    assert daemon.model("words")["state"] == "ready", "the model stays where it is"


def test_run_reports_the_daemons_refusal(house: House) -> None:
    house.start()
    told = house.command("run", "nobody", "hi")
    assert (told.returncode, "No model 'nobody'" in told.stderr) == (1, True)


def test_run_loads_a_bare_file_itself(board_house: House, make_model: Callable[..., Path], tmp_path: Path) -> None:
    file = make_model(reply="here")
    daemon = board_house.start()
    assert board_house.command("run", str(file), "hi").stdout == "here\n"
    assert daemon.status()["models"] == []


def test_daemon_that_stops_between_two_questions_is_a_sentence(tmp_path: Path) -> None:
    source = DaemonSource(tmp_path / "control.sock")
    with pytest.raises(DaemonUnreachable, match="nobody answers at"):
        asyncio.run(source.load("words"))


def test_ctrl_c_ends_the_answer_and_not_the_daemons_model(house: House) -> None:
    house.words(tokens_per_second=10)
    daemon = house.start()
    command = subprocess.Popen(
        [*house.program, "run", "words", "word " * 300],
        cwd=house.at, env=house.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    daemon.wait_for(lambda status: any(model["running"] for model in status["models"]))
    time.sleep(0.3)
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=20)
    assert command.returncode == 130
    daemon.wait_for(lambda status: not any(model["running"] for model in status["models"]))
    assert daemon.model("words")["state"] == "ready"
