"""The daemon's end of a child, below any engine: arrays in, big orders, starts that are given up."""

from __future__ import annotations

import array
import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.errors import ExoRkllmError, NotSupported, RunnerLost, UsageError
from exo_rkllm.runner import launch
from exo_rkllm.runner.jobs import INLINE, RunnerJob
from exo_rkllm.runner.limits import RunnerLimits
from exo_rkllm.runner.parent import Runner
from exo_rkllm.runner.stream import RunDone
from exo_rkllm.runtime.values import LoadParams
from tests.runner.test_faults import nothing_stays_behind  # noqa: F401 - every test here leaves nothing, too
from tests.simulated import Library

WIDTH = 64


@pytest.fixture
def start(library: Library, board_root: Path, make_model: Callable[..., Path]) -> Callable[..., Any]:
    async def start_one(version: str = "1.3.1", limits: RunnerLimits = RunnerLimits(), **fields: Any) -> Runner:
        model = make_model(embedding_length=WIDTH, template="none", **fields)
        params = LoadParams(str(model), cpus=(0, 1, 2, 3))
        runner, _ = await Runner.start("model", library(version), params, report=lambda _: None, limits=limits)
        return runner

    return start_one


async def hear(runner: Runner, job: RunnerJob, arrays: Sequence[memoryview] = ()) -> str:
    batches = [batch async for batch in runner.run(runner.number(), job, lambda text, _: text, arrays)]
    events = [event for batch in batches for event in batch]
    assert isinstance(events[-1], RunDone)
    return "".join(event for event in events if isinstance(event, str))


def rows(count: int) -> memoryview:
    return memoryview(array.array("f", [0.25] * count * WIDTH)).cast("B")


@pytest.mark.parametrize(
    ("kind", "figures", "count"),
    [
        ("image", {"n_tokens": 4, "count": 2, "start": "<|vision_start|>", "end": "<|vision_end|>"}, 8),
        ("video", {"n_tokens": 2, "frames": 3}, 6),
        ("audio", {"n_tokens": 5}, 5),
    ],
)
async def test_media_travel_beside_the_prompt(
    kind: str, figures: dict[str, Any], count: int, start: Callable[..., Any]
) -> None:
    runner = await start(reply="saw it", vision=True)
    tags = "<image>" * figures.get("count", 1) if kind == "image" else f"<{kind}>"
    job = RunnerJob(prompt=f"{tags} what is it", arrays=({"kind": kind, **figures},))
    assert await hear(runner, job, [rows(count)]) == "saw it"
    await runner.close()


async def test_embeddings_are_an_input_of_their_own(start: Callable[..., Any]) -> None:
    runner = await start(reply="from rows")
    job = RunnerJob(arrays=({"kind": "embed", "n_tokens": 3},))
    assert await hear(runner, job, [rows(3)]) == "from rows"
    await runner.close()


async def test_a_prompt_larger_than_the_sockets_buffer_arrives_whole(start: Callable[..., Any]) -> None:
    """While the child is busy, too: what does not fit waits in the daemon, and the loop goes on."""
    runner = await start(reply="{user}", max_context=1 << 20, decode_tps=0.0)
    words = "word " * 100_000
    answers = await asyncio.gather(*(hear(runner, RunnerJob(prompt=words, max_tokens=2)) for _ in range(3)))
    assert answers == ["word word"] * 3
    await runner.close()


@pytest.mark.parametrize("words", ["short", "ä" * (INLINE + 1)])
def test_long_prompt_is_neither_written_as_json_nor_read(words: str) -> None:
    rest = memoryview(b"rows")
    payload, files = RunnerJob(prompt=words, arrays=({"kind": "image"},)).packed([rest])
    assert (len(payload) < 1000, files[-1]) == (True, rest)
    assert [bytes(file).decode() for file in files[:-1]] == ([words] if len(words) > INLINE else [])


async def test_long_prompt_arrives_beside_a_picture_and_alone(start: Callable[..., Any]) -> None:
    runner = await start(reply="saw {media}, {user}", vision=True, max_context=1 << 16)
    long = "ä" * (INLINE + 1)
    job = RunnerJob(prompt=f"<image>{long}", arrays=({"kind": "image", "n_tokens": 4},), max_tokens=4)
    assert (await hear(runner, job, [rows(4)])).startswith("saw 1")
    assert "ä" in await hear(runner, RunnerJob(prompt=long, max_tokens=40))
    for broken in ("\0", "\ud800"):
        with pytest.raises(UsageError, match="The prompt holds a"):
            await hear(runner, RunnerJob(prompt=long + broken))
    await runner.close()


async def test_a_start_that_is_given_up_leaves_no_child(start: Callable[..., Any]) -> None:
    loading = asyncio.ensure_future(start(load_seconds=30, limits=RunnerLimits(close=0.2)))
    await asyncio.sleep(0.3)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading


async def test_a_child_that_cannot_be_started_leaves_nothing(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python3")
    with pytest.raises(ExoRkllmError, match="cannot be started"):
        await start()


async def test_a_call_that_no_session_has_is_refused(start: Callable[..., Any]) -> None:
    runner = await start()
    with pytest.raises(NotSupported):
        await runner.call("format_disk")
    assert await runner.call("kv_size") == [0]
    await runner.close()
    with pytest.raises(RunnerLost):
        await runner.call("kv_size")


async def test_a_request_that_the_session_refuses_harms_no_other(start: Callable[..., Any]) -> None:
    runner = await start(reply="fine")
    with pytest.raises(UsageError):
        await hear(runner, RunnerJob(prompt="a NUL \0 inside"))
    assert await hear(runner, RunnerJob(prompt="hello")) == "fine"
    await runner.close()


async def test_tokens_of_half_a_character_are_joined(start: Callable[..., Any]) -> None:
    runner = await start(reply="é 語 🙂", split_multibyte=True)
    assert await hear(runner, RunnerJob(prompt="hello")) == "é 語 🙂"
    await runner.close()


async def test_bytes_that_are_no_text_become_replacement_signs(start: Callable[..., Any]) -> None:
    runner = await start(reply=b"ok \xff\xfe end\xe8", split_multibyte=True)
    text = await hear(runner, RunnerJob(prompt="hello"))
    assert text.startswith("ok ")
    assert "\ufffd" in text
    await runner.close()


async def test_the_childs_own_command_line_needs_nothing_but_its_arguments(start: Callable[..., Any]) -> None:
    """Without an inherited environment variable or working directory of ours."""
    runner = await start()
    command = Path(f"/proc/{runner.pid}/cmdline").read_bytes().split(b"\0")  # noqa: ASYNC240 - procfs does not block
    flags = [flag.encode() for flag in launch.FLAGS]
    assert command[1 : len(flags) + 2] == [*flags, b"-c"] and flags[0] == b"-I"
    await runner.close()


async def test_the_child_has_a_group_of_its_own_in_our_session(start: Callable[..., Any]) -> None:
    """The terminal's Ctrl-C must not reach it, and another session would be scheduled against ours."""
    runner = await start()
    assert os.getpgid(runner.pid) == runner.pid
    assert os.getsid(runner.pid) == os.getsid(0)
    await runner.close()
