"""The table of verbs as people type it: Ollama's names, a mistyped verb, no verb at all, and Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from exo_rkllm import __version__
from exo_rkllm.cli import main, next_steps
from exo_rkllm.client.control import DaemonStatus, NotInTheGroup
from exo_rkllm.errors import ExoRkllmError
from tests.daemon.running import House
from tests.hub import LocalHub

# The bar, and what a machine that runs other tests at the same time needs to end a process.
AT_ONCE = 0.3 if os.environ.get("TESTS_LONG") else 2.0


def test_help_lists_every_name_and_the_options_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"]) == 0
    listing = capsys.readouterr().out
    assert "  models, list, ls " in listing
    assert "  unload, stop " in listing
    assert main(["help", "stop"]) == 0
    assert "usage: exo-rkllm unload" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("lst", "Did you mean exo-rkllm list?"),
        ("pul", "Did you mean exo-rkllm pull?"),
        ("unlaod", "Did you mean exo-rkllm unload?"),
        ("xyzzy", "exo-rkllm help lists the verbs."),
    ],
)
def test_wrong_verb_names_the_one_that_was_meant(typed: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([typed]) == 2
    assert capsys.readouterr().err == f"exo-rkllm: There is no verb '{typed}'.\n  try: {hint}\n"


def test_ollamas_verbs_work_with_and_without_a_daemon(house: House) -> None:
    house.words()
    modelfile = house.folder / "Modelfile"
    modelfile.write_text('FROM words\nSYSTEM """Speak\nplainly."""\nPARAMETER temperature 0.5\nLICENSE mine\n')
    assert house.command("version").stdout == f"exo-rkllm {__version__}\nno daemon is running\n"
    assert house.command("cp", "words", "gpt-4o:latest").stdout == "gpt-4o is another name for words.\n"
    made = house.command("create", "plain", "-f", str(modelfile))
    assert made.stdout == "plain is ready. To chat with it: exo-rkllm run plain\n"
    assert made.stderr == f"(LICENSE of {modelfile} has no effect.)\n"
    assert house.command("ls").stdout == house.command("models").stdout

    daemon = house.start()
    assert house.command("version").stdout == f"exo-rkllm {__version__}\ndaemon {__version__}\n"
    assert house.command("cp", "plain", "plainer").stdout == "plainer is another name for plain.\n"
    assert house.command("create", "plainest", "-f", str(modelfile)).returncode == 0
    assert house.command("create", "plainest", "-f", str(modelfile)).returncode == 0, "again, as it was loaded or not"
    assert house.command("run", "plainer", "hello").stdout == "hello\n"
    shown = json.loads(house.command("show", "plainest", "--json").stdout)
    assert shown["id"] == "plainest"
    assert "Speak\nplainly." in house.command("show", "plainest").stdout
    assert house.command("stop", "plain").stdout == "plain is unloaded.\n"
    assert "copies plain." in daemon.text
    refused = house.command("create", "x", "-f", "/nowhere/Modelfile")
    assert (refused.returncode, "cannot be read" in refused.stderr) == (2, True)
    modelfile.write_text("FROM ./model.rkllm\n")
    assert "exo-rkllm import PATH" in house.command("create", "x", "-f", str(modelfile)).stderr


# ── no verb ──────────────────────────────────────────────────────────────────────────────────────


def test_bare_command_shows_the_next_step(board_house: House) -> None:
    house = board_house
    alone = house.command()
    assert alone.returncode == 0
    assert "The daemon is not running. To start it:\n  sudo systemctl start exo-rkllm" in alone.stdout
    assert "No model is installed. To download one that fits this board:\n  exo-rkllm pull ORG/REPO" in alone.stdout
    house.words()
    daemon = house.start()
    shown = house.command().stdout
    assert "The daemon is running; no model is loaded." in shown
    assert "1 model is installed. To chat with one:\n  exo-rkllm run words\n" in shown
    daemon.client.post("/control/load", model="words")
    assert "words is loaded." in house.command().stdout


def test_next_step_is_the_repair_of_what_is_in_the_way() -> None:
    outside = DaemonStatus(error=NotInTheGroup("You may not use it.", "sudo usermod"))
    assert list(next_steps.lines(outside, ["a", "b"])) == [
        "You may not use it.",
        "  sudo usermod",
        "2 models are installed. To chat with one:",
        "  exo-rkllm run a",
    ]
    assert list(next_steps.lines(DaemonStatus(error=ExoRkllmError("It is old.", "restart")), ["a"])) == [
        "It is old.",
        "  restart",
    ]
    broken = DaemonStatus(status={"unavailable_reason": "The NPU is gone.", "hint": ""})
    assert list(next_steps.lines(broken, []))[:2] == ["The NPU is gone.", "  exo-rkllm doctor"]
    busy = DaemonStatus(status={"models": [{"name": "b", "state": "ready"}]})
    assert list(next_steps.lines(busy, ["a", "b"]))[-1] == "  exo-rkllm run b"


# ── Ctrl-C ───────────────────────────────────────────────────────────────────────────────────────


def interrupted(house: House, *words: str, once: Callable[[], object], **variables: str) -> tuple[float, int, str]:
    """Seconds between one Ctrl-C and the command's end, its exit code, and what it said."""
    # A shell that starts the tests in the background has them ignore Ctrl-C, and so would every child.
    process = subprocess.Popen(
        ["env", "--default-signal=INT", *house.program, *words], cwd=house.at, env={**house.environment, **variables},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        once()
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        said, _ = process.communicate(timeout=20)
        return time.monotonic() - began, process.returncode, said
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("words", [("load", "words"), ("run", "words", "hello"), ("bench", "words")])
def test_one_ctrl_c_ends_the_wait_for_a_load(house: House, words: tuple[str, ...]) -> None:
    house.words(load_seconds=30)
    daemon = house.start()
    loading = ["loading"]
    seconds, code, said = interrupted(
        house,
        *words,
        once=lambda: daemon.wait_for(lambda status: [model["state"] for model in status["models"]] == loading),
    )
    assert (code, "Traceback" in said) == (130, False)
    assert seconds < AT_ONCE


@pytest.mark.parametrize("words", [("ps", "--watch"), ("logs", "-f")])
def test_one_ctrl_c_ends_what_is_followed(house: House, words: tuple[str, ...]) -> None:
    house.start()
    seconds, code, said = interrupted(house, *words, once=lambda: time.sleep(0.8))
    assert (code, "Traceback" in said) == (130, False)
    assert seconds < AT_ONCE


@pytest.mark.parametrize(
    ("words", "by_daemon"),
    [
        (("pull", "org/tiny", "--soc", "rk3588"), True),
        (("pull", "org/tiny", "--soc", "rk3588"), False),
        (("search", "tiny"), False),
    ],
)
async def test_one_ctrl_c_ends_what_waits_for_the_hub(house: House, words: tuple[str, ...], by_daemon: bool) -> None:
    async with LocalHub() as hub:
        hub.add("org/tiny", {"tiny-W8A8-rk3588.rkllm": b"x", "config.json": b"{}"})
        hub.faults.linger = 30.0
        if by_daemon:
            house.start()

        def once() -> None:
            deadline = time.monotonic() + 20
            while not hub.asked:
                assert time.monotonic() < deadline
                time.sleep(0.02)

        seconds, code, said = await asyncio.to_thread(
            lambda: interrupted(house, *words, once=once, HF_ENDPOINT=hub.endpoint)
        )
    assert (code, "Traceback" in said) == (130, False)
    assert seconds < AT_ONCE
