"""The vendor's library crashes, hangs and talks nonsense. Everybody who waits hears why, nothing stays behind."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from exo_rkllm.backends.base import Finish, GenerationRequest, Message, Piece
from exo_rkllm.backends.host import EngineHost
from exo_rkllm.backends.observer import restart_reason
from exo_rkllm.backends.rkllm import RkllmEngine
from exo_rkllm.backends.rkllm_file import RkllmFile
from exo_rkllm.errors import ExoRkllmError, LoadError, RunError, RunnerLost
from exo_rkllm.runner import wire
from exo_rkllm.runner.launch import LANGUAGE_MODEL, start_child
from exo_rkllm.runner.limits import RunnerLimits
from exo_rkllm.runner.wire import FrameKind
from exo_rkllm.runtime.locate import only
from tests.processes import children
from tests.simulated import Library

# A start of Python on a busy machine takes seconds; a test of a load that hangs sets its own limit.
QUICK = RunnerLimits(load=20.0, prefill=0.6, prefill_token=0.0, token=0.4, abort=0.4, close=0.4)
DEATHS = 200 if os.environ.get("TESTS_LONG") else 60
ANSWER = "every word of this answer is one token more or less and there are some of them"


@pytest.fixture
def host(library: Library, board_root: Path) -> EngineHost:
    return EngineHost(lambda _lines: None, only(library("1.3.0")), limits=QUICK)


@pytest.fixture(autouse=True)
def nothing_stays_behind() -> Iterator[None]:
    """No descriptor, child or memory file of a test is there after it."""
    before, others = descriptors(), children().keys()
    yield
    gc.collect()
    assert children().keys() <= others
    assert descriptors() <= before


def descriptors() -> set[str]:
    """What is open that a runner opens: sockets, memory files, process handles."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if "memfd" in target or "pidfd" in target or target.startswith("socket:"):
            found.add(f"{entry.name} {target}")
    return found


async def loaded(host: EngineHost, model: Path) -> RkllmEngine:
    engine = RkllmEngine(RkllmFile(model), host)
    await engine.initialize()
    return engine


def ask(text: str = "hello") -> GenerationRequest:
    return GenerationRequest(messages=(Message("user", text),))


async def hear(engine: RkllmEngine, text: str = "hello") -> str:
    return "".join([event.text async for event in engine.generate(ask(text)) if isinstance(event, Piece)])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("segv@token:3", "killed by SIGSEGV while answering"),
        ("abort@token:3", "killed by SIGABRT while answering"),
        ("kill@token:3", "killed by SIGKILL while answering"),
        ("exit:7@token:3", "ended with exit code 7 while answering"),
        ("segv@prefill", "killed by SIGSEGV while answering"),
        ("hang@token:3", "said nothing for 0.4 s"),
        ("hang@prefill", "said nothing for 0.6 s"),
    ],
)
async def test_every_waiting_caller_gets_the_same_reason(
    fault: str, said: str, host: EngineHost, make_model: Callable[..., Path]
) -> None:
    engine = await loaded(host, make_model(reply=ANSWER, faults=(fault,)))
    began = time.monotonic()
    results = await asyncio.gather(*(hear(engine) for _ in range(4)), return_exceptions=True)
    for result in results:
        assert isinstance(result, RunnerLost)
        assert said in result.sentence
        assert result.hint
    assert time.monotonic() - began < 0.6 + 1.0
    lost = await engine.lost()
    assert said in lost.sentence
    assert restart_reason(lost) == ("hang" if "hang" in fault else "crash")
    with pytest.raises(RunnerLost):
        await hear(engine)
    await engine.close()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("segv@init", "killed by SIGSEGV while loading"),
        ("exit:3@init", "ended with exit code 3 while loading"),
    ],
)
async def test_a_load_that_never_ends_well_says_how(
    fault: str, said: str, host: EngineHost, make_model: Callable[..., Path]
) -> None:
    with pytest.raises(RunnerLost, match=said):
        await loaded(host, make_model(faults=(fault,)))


async def test_a_load_that_hangs_is_ended(host: EngineHost, make_model: Callable[..., Path]) -> None:
    impatient = replace(host, limits=replace(QUICK, load=0.6))
    with pytest.raises(RunnerLost, match=r"said nothing for 0\.6 s"):
        await loaded(impatient, make_model(faults=("hang@init",)))


@pytest.mark.parametrize("style", ["both", "return", "callback"])
async def test_an_answer_that_fails_leaves_the_model_usable(
    style: str, host: EngineHost, make_model: Callable[..., Path]
) -> None:
    """Which of return value and ERROR callback a failure has is unverified, so each alone must do."""
    model = make_model(rules=(("fine", "all is well"),), reply=ANSWER, faults=("error@token:6",), error_style=style)
    engine = await loaded(host, model)
    with pytest.raises(RunError):
        await hear(engine, "break")
    assert await hear(engine, "fine") == "all is well"
    await engine.close()


@pytest.mark.parametrize("lie", ["null"])
async def test_a_load_that_only_claims_success_is_none(
    lie: str, host: EngineHost, make_model: Callable[..., Path]
) -> None:
    with pytest.raises(LoadError):
        await loaded(host, make_model(false_success=lie))


async def test_an_abort_that_is_ignored_costs_the_process(host: EngineHost, make_model: Callable[..., Path]) -> None:
    model = make_model(reply=ANSWER, endless=True, decode_tps=200, ignore_abort=True)
    engine = await loaded(host, model)
    async with aclosing(engine.generate(ask())) as events:
        async for event in events:
            if isinstance(event, Piece):
                break
    lost = await asyncio.wait_for(engine.lost(), 2)
    assert "did not stop when told to" in str(lost)
    await engine.settled("")
    await engine.close()


async def test_a_child_that_hangs_while_it_ends_is_killed(host: EngineHost, make_model: Callable[..., Path]) -> None:
    engine = await loaded(host, make_model(faults=("hang@destroy",)))
    began = time.monotonic()
    await engine.close()
    assert time.monotonic() - began < QUICK.close + 0.5


async def test_leaving_a_queued_request_starts_no_prefill(host: EngineHost, make_model: Callable[..., Path]) -> None:
    engine = await loaded(host, make_model(reply="{user}", decode_tps=100))
    first = asyncio.ensure_future(hear(engine, "one two three four five six seven eight"))
    await asyncio.sleep(0.02)
    second = asyncio.ensure_future(hear(engine, "never"))
    await asyncio.sleep(0.02)
    second.cancel()
    third = await hear(engine, "third")
    assert await first == "one two three four five six seven eight"
    assert third == "third"
    await engine.close()


async def test_garbage_on_stdout_reaches_nobody(host: EngineHost, make_model: Callable[..., Path]) -> None:
    engine = await loaded(host, make_model(reply=ANSWER, faults=("garbage:300000@token:2",)))
    assert await hear(engine) == ANSWER
    await engine.close()


async def test_garbage_in_the_stream_ends_the_child(host: EngineHost, make_model: Callable[..., Path]) -> None:
    engine = await loaded(host, make_model(reply=ANSWER, decode_tps=50))
    waiting = asyncio.ensure_future(hear(engine))
    await asyncio.sleep(0.05)
    # A child whose memory is overwritten may write anything: its own end of the stream is reached through its fd table.
    talk_nonsense(engine.pid or 0)
    with pytest.raises(RunnerLost, match="sent a frame of kind"):
        await waiting
    await engine.close()


def test_order_that_cannot_be_read_ends_the_child_with_the_reason() -> None:
    """Its listener reads it, whose end would leave a process that hears nothing."""
    child = start_child(LANGUAGE_MODEL, "a model")
    child.sock.setblocking(True)
    child.sock.sendall(wire.pack_json(FrameKind.RUN, 1, {"fds": 0}))
    assert child.process.wait(20) == 1
    assert any("KeyError: 'prompt'" in line for line in child.box.new_lines())
    child.discard()


def talk_nonsense(pid: int) -> None:
    stolen = steal_socket(pid)
    os.write(stolen, b"\xff" * 64)
    os.close(stolen)


def steal_socket(pid: int) -> int:
    """pidfd_getfd(2): a duplicate of another process's descriptor."""
    sockets = [entry for entry in Path(f"/proc/{pid}/fd").iterdir() if str(entry.readlink()).startswith("socket:")]
    pidfd = os.pidfd_open(pid)
    try:
        duplicate = ctypes.CDLL(None, use_errno=True).syscall(438, pidfd, int(sockets[0].name), 0)
        if duplicate < 0:
            pytest.skip(f"pidfd_getfd is not allowed here: {os.strerror(ctypes.get_errno())}")
        return int(duplicate)
    finally:
        os.close(pidfd)


async def test_the_child_dies_with_its_parent(
    library: Library, board_root: Path, make_model: Callable[..., Path]
) -> None:
    """Also while the library hangs, where nobody reads the closed socket on the main thread."""
    model = make_model(faults=("hang@prefill",))
    script = f"""
import asyncio, sys
from pathlib import Path
from exo_rkllm.backends.host import EngineHost
from exo_rkllm.backends.rkllm import RkllmEngine
from exo_rkllm.backends.rkllm_file import RkllmFile
from exo_rkllm.backends.base import GenerationRequest, Message
from exo_rkllm.runtime.locate import only
async def main():
    host = EngineHost(lambda _: None, only(Path({str(library("1.3.0"))!r})))
    engine = RkllmEngine(RkllmFile(Path({str(model)!r})), host)
    await engine.initialize()
    asyncio.ensure_future(anext(engine.generate(GenerationRequest(messages=(Message("user", "hi"),)))))
    await asyncio.sleep(0.2)
    print(engine.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    parent.kill()
    await parent.wait()
    await wait_until(lambda: not alive(pid))


def alive(pid: int) -> bool:
    """An orphan stays in the process table until somebody reaps it; a zombie is dead all the same."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def wait_until(condition: Callable[[], bool], seconds: float = 1.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        await asyncio.sleep(0.02)


async def test_many_deaths_leave_nothing(host: EngineHost, make_model: Callable[..., Path]) -> None:
    """Killed from outside and inside, at any moment; each waiting caller hears it, and the next load works."""
    faulty = [
        make_model(reply=ANSWER, faults=(fault,))
        for fault in ("segv@token:3", "exit:1@init", "segv@init", "abort@token:0", "exit:9@token:5", "hang@token:3")
    ]
    healthy = make_model(reply=ANSWER, decode_tps=100)

    async def one(number: int) -> None:
        which = number % (len(faulty) + 2)
        try:
            if which < len(faulty):
                engine = await loaded(host, faulty[which])
            else:
                engine = await loaded(host, healthy)
                kill = (os.kill, engine.pid or 0, signal.SIGKILL) if which % 2 else (talk_nonsense, engine.pid or 0)
                asyncio.get_running_loop().call_later(0.02, *kill)
        except ExoRkllmError:
            return
        callers = await asyncio.gather(*(hear(engine) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(error, RunnerLost) for error in callers)
        await engine.close()

    numbers = itertools.count()
    for _ in range(DEATHS // 4):
        await asyncio.gather(*(one(next(numbers)) for _ in range(4)))
    engine = await loaded(host, healthy)
    assert await hear(engine) == ANSWER
    await engine.close()


async def test_rows_arrive_whole_and_stay_valid(host: EngineHost, make_model: Callable[..., Path]) -> None:
    engine = await loaded(host, make_model(embedding_length=128))
    request = GenerationRequest(prompt="hidden states of this", output="hidden")
    arrays = [event async for event in engine.generate(request) if not isinstance(event, Piece | Finish)]
    rows = arrays[-1]
    await engine.close()
    assert (rows.width, len(rows.data)) == (128, rows.rows * 128 * 4)  # type: ignore[union-attr]
    assert any(rows.data.cast("f"))  # type: ignore[union-attr]


def test_a_token_frame_is_what_the_reader_expects() -> None:
    """The child builds it in one call, without `wire.pack`."""
    text = "hé".encode()
    built = wire.TOKEN_HEAD.pack(len(text) + wire.TOKEN_ID.size, FrameKind.TOKEN, 5, 42) + text
    assert built == wire.pack(FrameKind.TOKEN, 5, wire.TOKEN_ID.pack(42) + text)
