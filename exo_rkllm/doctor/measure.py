"""The measurements of `selftest` that need a model: each loads an engine, asks it, watches the board and closes it."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exo_rkllm.backends.base import (
    Array,
    Engine,
    Finish,
    GenerationEvent,
    GenerationRequest,
    Message,
    Piece,
    Sampling,
)
from exo_rkllm.board import speeds
from exo_rkllm.board.counters import Reading, read
from exo_rkllm.board.detect import Board
from exo_rkllm.board.sources import Sources
from exo_rkllm.chat.prompt import render
from exo_rkllm.chat.renderer import Renderer
from exo_rkllm.doctor.report import Finding, bad, good, poor, unseen
from exo_rkllm.runtime.ends import FINDINGS

QUESTION = "Explain in a few sentences how a lighthouse works."
FOLLOW_UP = "And how far can it be seen?"
SHORT = "Answer with one word: is water wet?"
LONG = QUESTION + " " + "Describe the lamp, the lens, the tower and the keeper. " * 40
TOKENS = 64
LONG_PREFILL = 0.2  # seconds; an abort within less tells nothing
ENOUGH = 512  # for a short answer, thoughts included
LOGITS_TOKENS = 8
UNSET, ZERO, GREEDY = Sampling(), Sampling(temperature=0.0), Sampling(temperature=1.0, top_k=1)
MIB = 1 << 20


@dataclass(slots=True)
class Bench:
    """What a measurement needs. `engine` makes one that is not loaded yet; `lines` collects the library's log."""

    board: Board
    sources: Sources
    engine: Callable[[], Engine]
    lines: list[str] = field(default_factory=list)
    interval: float = 0.5
    tail: float = 20.0  # seconds to wait for the power to go off
    answers: dict[str, Any] = field(default_factory=dict)  # what to keep beside the model, see `keep`

    def reading(self) -> Reading:
        return read(self.sources)


@dataclass(frozen=True, slots=True)
class MeasuredAnswer:
    text: str
    first: float | None
    seconds: float
    finish: Finish | None


async def rendered(
    engine: Engine, messages: tuple[Message, ...], tokens: int, sampling: Sampling = UNSET
) -> GenerationRequest:
    """As the daemon sends it: an entry's messages in its own template."""
    request = GenerationRequest(model=engine.model.id, messages=messages, max_tokens=tokens, sampling=sampling)
    with closing(Renderer()) as renderer:
        return (await render(request, engine.model, engine.capabilities, renderer.render)).request


async def ask(engine: Engine, *messages: Message, tokens: int = TOKENS, sampling: Sampling = UNSET) -> MeasuredAnswer:
    return await timed(engine.generate(await rendered(engine, messages, tokens, sampling)))


async def timed(answer: AsyncGenerator[GenerationEvent, None]) -> MeasuredAnswer:
    """Listens to the end."""
    began = time.monotonic()
    first: float | None = None
    text, finish = "", None
    async with aclosing(answer) as events:
        async for event in events:
            if isinstance(event, Piece):
                first = first or time.monotonic() - began
                text += event.text
            elif isinstance(event, Finish):
                finish = event
    return MeasuredAnswer(text, first, time.monotonic() - began, finish)


@asynccontextmanager
async def loaded_engine(bench: Bench) -> AsyncIterator[Engine]:
    engine = bench.engine()
    try:
        await engine.initialize()
        yield engine
    finally:
        await engine.close()


@dataclass(frozen=True, slots=True)
class TimedReading:
    """`seconds` after the first one."""

    seconds: float
    reading: Reading


@asynccontextmanager
async def watch_readings(read_board: Callable[[], Reading], interval: float) -> AsyncIterator[list[TimedReading]]:
    """Readings at an even pace, which go on while the body runs."""
    readings: list[TimedReading] = []
    began = time.monotonic()

    async def look() -> None:
        while True:
            readings.append(TimedReading(time.monotonic() - began, read_board()))
            await asyncio.sleep(interval)

    watcher = asyncio.ensure_future(look())
    try:
        yield readings
    finally:
        watcher.cancel()
        await asyncio.wait({watcher})


# ── one function a probe ─────────────────────────────────────────────────────────────────────────


async def answers(bench: Bench) -> Finding:
    began = time.monotonic()
    async with loaded_engine(bench) as engine:
        load = time.monotonic() - began
        answer = await ask(engine, Message("user", QUESTION))
        memory = engine.memory
    if answer.finish is None or not answer.text:
        return bad("The model loaded and answered nothing.", "exo-rkllm run NAME hello --verbose")
    usage, timings = answer.finish.usage, answer.finish.timings
    facts = [f"load {load:.1f} s", f"first token {answer.first or 0:.2f} s"]
    if timings.prefill and usage.prompt > usage.cached and usage.counted:
        facts.append(f"prompt {(usage.prompt - usage.cached) / timings.prefill:.0f} tokens/s")
    if speed := timings.tokens_per_second(usage.completion):
        facts.append(f"answer {speed:.1f} tokens/s")
    if memory is not None:
        facts.append(f"memory {memory / MIB:.0f} MiB")
    return good(", ".join(facts) + comparison(bench.board, engine.model.path, usage.prompt + usage.completion))


def comparison(board: Board, path: Path | None, length: int) -> str:
    """What the vendor measured for this model at full clocks, else for a usual one, and the file's own brake."""
    if board.soc is None or path is None:
        return ""
    name = f"{path.parent.name}-{path.name}"
    known = speeds.expected_speed(board.soc.name, name, length)
    if known is not None:
        text = f" (expected at full clocks and {length} tokens: {known[0]:.1f} tokens/s, the vendor's {known[1]})"
    else:
        text = f" (the vendor: {board.soc.benchmark})" if board.soc.benchmark else ""
    return text + (f"; w8a8_g128 costs {speeds.GROUPED_W8A8}" if speeds.grouped(name) else "")


async def load_follows(bench: Bench) -> Finding:
    before = bench.reading()
    if before.load is None:
        return unseen(f"the load cannot be read: {before.absent.get('load', '')}")
    async with loaded_engine(bench) as engine, watch_readings(bench.reading, bench.interval) as timeline:
        await ask(engine, Message("user", QUESTION), tokens=4 * TOKENS)
    seen = [one.reading for one in timeline]
    loads = [reading.load for reading in seen if reading.load is not None]
    peak = [max(values) for values in zip(*loads, strict=False)]
    celsius = [reading.celsius for reading in seen if reading.celsius is not None]
    heat = f", {min(celsius):.0f} to {max(celsius):.0f} degrees" if celsius else ""
    megahertz = sorted({reading.clock.hertz // 10**6 for reading in seen if reading.clock is not None})
    clock = f", {' and '.join(map(str, megahertz))} MHz" if megahertz else ""
    fact = f"peak {', '.join(f'{part:.0%}' for part in peak)}{heat}{clock}"
    if not any(part > 0 for part in peak):
        return bad(f"A model answered and no core had any load: {fact}.", "exo-rkllm doctor")
    return good(fact)


async def power_tail(bench: Bench) -> Finding:
    async with loaded_engine(bench) as engine:
        await ask(engine, Message("user", QUESTION), tokens=8)
        began = time.monotonic()
        while time.monotonic() - began < bench.tail:
            powered = bench.reading().powered
            if powered is None:
                return unseen("the power state cannot be read")
            if not powered:
                return good(f"off after {time.monotonic() - began:.1f} s, the model still loaded")
            await asyncio.sleep(bench.interval / 5)
    return poor(f"still powered after {bench.tail:.0f} s", "exo-rkllm ps; does another program use the NPU?")


async def reading_wakes_nothing(bench: Bench) -> Finding:
    before = bench.reading()
    if before.powered is not False or before.powered_seconds is None:
        return unseen("the NPU is not asleep, or that cannot be read")
    for _ in range(10):
        bench.reading()
        await asyncio.sleep(bench.interval)
    after = bench.reading()
    if after.powered_seconds != before.powered_seconds:
        return bad("The NPU was powered while it was only looked at.", "Report this: it must not happen.")
    return good("ten readings, and it slept on")


async def prefix_reuse(bench: Bench) -> Finding:
    async with loaded_engine(bench) as engine:
        first = await ask(engine, Message("user", QUESTION), tokens=32)
        turns = (Message("user", QUESTION), Message("assistant", first.text), Message("user", FOLLOW_UP))
        second = await ask(engine, *turns, tokens=8)
    if first.finish is None or second.finish is None:
        return bad("A turn had no end.", "exo-rkllm run NAME hello --verbose")
    if not (first.finish.usage.counted and second.finish.usage.counted):
        return unseen("this runtime does not tell how many tokens it read")
    before = first.finish.usage.prompt + first.finish.usage.completion
    computed = second.finish.usage.prompt - second.finish.usage.cached
    fact = f"{computed} tokens read for the second turn, {before} in the first, first token {second.first or 0:.2f} s"
    if computed < before:
        return good(fact)
    return poor(fact, "The whole conversation was read again: exo-rkllm show NAME, and look for reuse")


async def abort(bench: Bench) -> Finding:
    async with loaded_engine(bench) as engine:
        request = await rendered(engine, (Message("user", LONG),), 512)
        began = time.monotonic()
        async with aclosing(engine.generate(request)) as events:
            async for event in events:
                if isinstance(event, Piece):
                    break
            stop = time.monotonic()
        await engine.settled(request.id)
        took = time.monotonic() - stop
        after = await ask(engine, Message("user", QUESTION), tokens=4)
    if not after.text:
        return bad("After an abort the model answered nothing.", "exo-rkllm run NAME hello --verbose")
    return good(f"prompt read in {stop - began:.2f} s, ended {took * 1000:.0f} ms after the abort, next answer fine")


async def end_token(bench: Bench) -> Finding:
    """Kept, so that answers end there on a runtime that misses it, too (`runtime/ends.py`)."""
    async with loaded_engine(bench) as engine:
        answer = await ask(engine, Message("user", SHORT), tokens=ENOUGH)
        bench.answers["runtime"] = engine.runtime[0]
    if answer.finish is None or answer.finish.reason != "stop":
        return poor(f"no end within {ENOUGH} tokens", "Name the model's end_tokens under [options] in its model.toml")
    if answer.finish.end_token is None:
        return unseen("the runtime ended the answer without telling an end token")
    bench.answers["end_tokens"] = [answer.finish.end_token]
    return good(f"the answer ended by {answer.finish.end_token}")


async def logits_rows(bench: Bench) -> Finding:
    ids = tuple(range(1, LOGITS_TOKENS + 1))
    async with loaded_engine(bench) as engine:
        if not engine.capabilities.logits:
            return unseen("this runtime has no logits")
        request = GenerationRequest(model=engine.model.id, tokens=ids, output="logits")
        rows = [event.rows async for event in engine.generate(request) if isinstance(event, Array)]
        bench.answers["runtime"] = engine.runtime[0]
    bench.answers["logits_rows"] = rows
    if rows not in ([1], [LOGITS_TOKENS]):
        return poor(f"{rows} rows for {LOGITS_TOKENS} tokens", "Attach the report to an issue")
    return good(f"{rows[0]} of {LOGITS_TOKENS} rows")


async def greedy(bench: Bench) -> Finding:
    async with loaded_engine(bench) as engine:
        if not engine.capabilities.sampling_per_run:
            return unseen("this runtime takes sampling at load only")
        texts = [
            (await ask(engine, Message("user", QUESTION), tokens=32, sampling=how)).text for how in (ZERO, ZERO, GREEDY)
        ]
        bench.answers["runtime"] = engine.runtime[0]
    bench.answers["temperature_zero_is_greedy"] = len(set(texts)) == 1
    if len(set(texts)) == 1:
        return good("the same answer twice, and the same as with top_k 1")
    return poor("Temperature 0 and top_k 1 differ, or differ from run to run.", "Attach the report to an issue")


async def long_abort(bench: Bench) -> Finding:
    """The same words in two orders: what one prompt left in the cache must not shorten the other."""
    words = LONG.split()
    async with loaded_engine(bench) as engine:
        whole = await ask(engine, Message("user", " ".join(words)), tokens=1)
        if whole.finish is None or not whole.finish.timings.prefill:
            return unseen("this runtime does not tell how long it read")
        prefill = whole.finish.timings.prefill
        if prefill < LONG_PREFILL:
            return unseen(f"{whole.finish.usage.prompt} tokens were read in {prefill:.2f} s, too fast to be cut short")
        request = await rendered(engine, (Message("user", " ".join(words[::-1])),), 512)
        async with aclosing(engine.generate(request)) as events:
            async for _ in events:  # it has begun to read
                break
            await asyncio.sleep(prefill / 4)
            stop = time.monotonic()
        await engine.settled(request.id)
        took = time.monotonic() - stop
        bench.answers["runtime"] = engine.runtime[0]
    bench.answers["abort_in_prefill_seconds"] = round(took, 3)
    tokens = whole.finish.usage.prompt
    return good(f"ended {took:.2f} s after the abort, with {prefill * 3 / 4:.2f} s of {tokens} tokens still to read")


async def open_nodes(bench: Bench) -> Finding:
    async with loaded_engine(bench) as engine:
        await ask(engine, Message("user", QUESTION), tokens=4)
        nodes = sorted({node for child in children() for node in device_nodes(child)})
    if not nodes:
        return unseen("the runner has no device open, as with a simulated library")
    return good(", ".join(nodes))


async def memory_freed(bench: Bench) -> Finding:
    before = bench.reading().memory_available
    async with loaded_engine(bench) as engine:
        await ask(engine, Message("user", QUESTION), tokens=4)
        during = bench.reading().memory_available
    await asyncio.sleep(bench.interval)
    after = bench.reading().memory_available
    if before is None or during is None or after is None:
        return unseen("/proc/meminfo cannot be read")
    fact = f"{before / MIB:.0f} MiB available before, {during / MIB:.0f} loaded, {after / MIB:.0f} after"
    return good(fact) if before - after < 64 * MIB else poor(fact, "free -h; run it again, since others use memory too")


def keep(path: Path, answers: Mapping[str, Any]) -> Path:
    """Adds what was measured about a model file to the notes beside it, which every load of it reads.

    Replaces the file as a whole: it may lie in a folder of the service's, and this process be root. Raises OSError.
    """
    notes = path.with_name(FINDINGS)
    try:
        known = json.loads(notes.read_bytes())
    except (OSError, ValueError):
        known = {}
    known = known if isinstance(known, dict) else {}
    before = known.get(path.name)
    known[path.name] = {**(before if isinstance(before, dict) else {}), **answers}
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".selftest-", delete=False) as file:
        json.dump(known, file, indent=2)
    beside = Path(file.name)
    beside.chmod(0o644)
    beside.replace(notes)
    return notes


def children() -> list[int]:
    """Child processes of this one: a loaded model is one of them."""
    numbers = []
    for task in Path("/proc/self/task").iterdir():
        try:
            numbers += [int(word) for word in (task / "children").read_text().split()]
        except (OSError, ValueError):
            continue
    return numbers


def device_nodes(process: int) -> set[str]:
    nodes = set()
    try:
        descriptors = list(Path(f"/proc/{process}/fd").iterdir())
    except OSError:
        return set()
    for descriptor in descriptors:
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue
        if target.startswith(("/dev/dri/", "/dev/dma_heap/", "/dev/rk", "/dev/accel/")):
            nodes.add(target)
    return nodes


MEASUREMENTS: Mapping[str, Callable[[Bench], object]] = {
    "answers": answers,
    "load-follows": load_follows,
    "power-tail": power_tail,
    "reading-wakes-nothing": reading_wakes_nothing,
    "prefix-reuse": prefix_reuse,
    "abort": abort,
    "end-token": end_token,
    "logits-rows": logits_rows,
    "temperature-zero": greedy,
    "long-abort": long_abort,
    "opened": open_nodes,
    "memory-freed": memory_freed,
}
