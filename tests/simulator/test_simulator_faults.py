"""What can go wrong, on demand: each way of dying, hanging and lying, at the place that the model names."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from simulator.model_file import ACTIONS, PLACES
from tests.simulated import REPOSITORY, Library
from tests.simulator.raw import ERROR, FINISH, NORMAL, Runtime

Make = Callable[..., Path]
Start = Callable[..., "subprocess.Popen[bytes]"]
HELLO = "one two three four five six"


@pytest.fixture
def start(library: Library, board_root: Path) -> Start:
    """A child that loads and runs a model: `start(model)`, or `start(model, "init", version="1.2.3")`."""

    def begin(model: Path, *steps: str, version: str = "1.3.1", **environment: str) -> subprocess.Popen[bytes]:
        steps = steps or ("init", "run", "destroy")
        arguments = [version, str(library(version)), str(model), *steps]
        plain = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
        return subprocess.Popen(
            [sys.executable, "-m", "tests.simulator.child", *arguments],
            cwd=REPOSITORY, env={**plain, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return begin


def ended(child: subprocess.Popen[bytes]) -> tuple[int, str, bytes]:
    """Return code, what the child told, and the library's stdout."""
    out, told = child.communicate(timeout=20)
    return child.returncode, told.decode(), out


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("segv", -signal.SIGSEGV),
        ("bus", -signal.SIGBUS),
        ("abort", -signal.SIGABRT),
        ("kill", -signal.SIGKILL),
        ("exit:3", 3),
        ("exit:0", 0),
    ],
)
@pytest.mark.parametrize(("place", "told"), [("init", ""), ("prefill", "init 0\n"), ("destroy", "run 0\n")])
def test_a_death(start: Start, make_model: Make, fault: str, code: int, place: str, told: str) -> None:
    returncode, stages, _ = ended(start(make_model(reply=HELLO, faults=(f"{fault}@{place}",))))
    assert returncode == code
    assert stages.endswith(told)
    assert "destroy" not in stages


def test_a_crash_at_a_token_comes_after_the_tokens_before(start: Start, make_model: Make) -> None:
    returncode, told, _ = ended(start(make_model(reply=HELLO, faults=("segv@token:2",))))
    assert returncode == -signal.SIGSEGV
    assert told.splitlines()[1:] == ["event 0 b'one'", "event 0 b' two'"]


@pytest.mark.parametrize(
    ("place", "told"),
    [("init", b""), ("prefill", b"init 0\n"), ("token:1", b"event 0 b'one'\n"), ("destroy", b"run 0\n")],
)
def test_a_hang(start: Start, make_model: Make, place: str, told: bytes) -> None:
    child = start(make_model(reply="one", faults=(f"hang@{place}",)))
    try:
        assert child.stderr is not None
        seen = b""
        while not seen.endswith(told) or not told:
            line = child.stderr.readline() if told else b""
            seen += line
            if not told:
                break
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.3)
    finally:
        child.kill()
        child.communicate()


def test_the_false_success_of_1_1(start: Start, make_model: Make) -> None:
    for fields, version in (({"false_success": "abort"}, "1.3.1"), ({"full_domains": (0,)}, "1.1.4")):
        returncode, told, out = ended(start(make_model(**fields), version=version))
        assert returncode == -signal.SIGABRT
        assert told == "init 0\n"
        assert b"GGML_ASSERT(view_src == NULL" in out


def test_a_second_init_that_fails_kills_1_3_0(start: Start, make_model: Make) -> None:
    good, bad = make_model(), make_model(platform="RK3576")
    returncode, told, _ = ended(start(good, "init", str(bad), "init", version="1.3.0"))
    assert returncode == -signal.SIGSEGV
    assert told == "init 0\n"
    returncode, told, _ = ended(start(good, "init", str(bad), "init", version="1.3.1"))
    assert (returncode, told) == (0, "init 0\ninit -1\n")


@pytest.mark.parametrize(("version", "code"), [("1.3.1", -signal.SIGBUS), ("1.2.3", 0)])
def test_faults_may_strike_in_one_version_only(start: Start, make_model: Make, version: str, code: int) -> None:
    model = make_model(faults=("bus@init",), faults_on="1.3.1", toolkit="1.1.4")
    assert ended(start(model, version=version))[0] == code


@pytest.mark.parametrize(("version", "padding"), [("1.2.3", "[PAD151935]"), ("1.2.0", "")])
def test_one_version_may_answer_padding_without_end(
    load: Callable[[str], Runtime], make_model: Make, version: str, padding: str
) -> None:
    """board-facts 13: 1.2.3 with DeepSeek-R1-Distill-Qwen-1.5B (LUB, rknn-llm issue 467; A)."""
    runtime = load(version)
    handle = runtime.open(make_model(reply=HELLO, pads_on="1.2.3", toolkit="1.1.4"), max_new=40)
    text = runtime.ask(handle).text
    assert (text == HELLO) == (version == "1.2.0")
    assert text.startswith(3 * padding)
    runtime.close(handle)


def test_garbage_on_stdout(start: Start, make_model: Make) -> None:
    returncode, _, out = ended(start(make_model(faults=("garbage@token:1",))))
    assert returncode == 0
    with pytest.raises(UnicodeDecodeError):
        out.decode()


def test_lines_may_wait_in_stdios_buffer(start: Start, make_model: Make) -> None:
    assert ended(start(make_model(), "init", "vanish"))[2].startswith(b"W rkllm: SIMULATOR")
    assert ended(start(make_model(), "init", "vanish", RKLLM_SIM_BUFFERED="1"))[2] == b""


def test_a_stall_is_a_pause_that_ends(newest: Runtime, make_model: Make) -> None:
    handle = newest.open(make_model(reply=HELLO, faults=("stall:150@token:2",)))
    stamps: list[float] = []
    newest.on_event = lambda _: stamps.append(time.monotonic())
    assert newest.ask(handle).text == HELLO
    assert stamps[2] - stamps[1] >= 0.15
    newest.close(handle)


@pytest.mark.parametrize(("place", "before"), [("prefill", 0), ("token:0", 0), ("token:3", 3)])
@pytest.mark.parametrize(
    ("style", "status", "state"), [("both", -1, [ERROR]), ("return", -1, []), ("callback", 0, [ERROR])]
)
def test_a_failed_run(
    runtime: Runtime, make_model: Make, place: str, before: int, style: str, status: int, state: list[int]
) -> None:
    handle = runtime.open(make_model(reply=HELLO, faults=(f"error@{place}",), error_style=style))
    for _ in range(2):
        run = runtime.ask(handle)
        assert (run.status, run.states) == (status, [NORMAL] * before + state)
    runtime.close(handle)


def test_an_init_that_fails_at_the_end(newest: Runtime, make_model: Make, capfd: pytest.CaptureFixture[str]) -> None:
    assert newest.init(newest.param(make_model(faults=("error@init",)))) == (-1, None)
    assert capfd.readouterr().out.endswith("E rkllm: rkllm_init failed\n")


def test_text_that_is_no_utf8(newest: Runtime, make_model: Make) -> None:
    reply = b"good \xff\xfe bad \xe2\x82 end"
    handle = newest.open(make_model(reply=reply))
    run = newest.ask(handle)
    assert b"".join(event.text or b"" for event in run.events) == reply
    newest.close(handle)


def test_a_finish_call_may_carry_text(newest: Runtime, make_model: Make) -> None:
    handle = newest.open(make_model(reply="a", finish_text="stale"))
    run = newest.ask(handle)
    assert [event.text for event in run.answer] == [b"a"]
    assert (run.events[-1].state, run.events[-1].text) == (FINISH, b"stale")
    newest.close(handle)


def test_every_fault_can_be_written(make_model: Make) -> None:
    for action in ACTIONS:
        for place in PLACES:
            make_model(faults=(f"{action}:1@{place}" + (":2" if place == "token" else ""),))
    for wrong in ("segv", "segv@nowhere", "burn@init", "segv@token", "exit:x@init"):
        with pytest.raises(ValueError, match="no fault"):
            make_model(faults=(wrong,))
