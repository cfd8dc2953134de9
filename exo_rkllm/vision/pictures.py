"""Pictures as clients sent them become pixels of an encoder's size, in a child; what was encoded is kept by hash."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Mapping

from exo_rkllm.errors import EncoderLost, PictureError, RunnerLost
from exo_rkllm.runner.jobs import PictureJob
from exo_rkllm.runner.launch import ChildProgram
from exo_rkllm.runner.limits import RunnerLimits
from exo_rkllm.runner.parent import LineSink, Runner
from exo_rkllm.runner.stream import ArrayRows
from exo_rkllm.vision.values import Encoding

DECODER = ChildProgram("exo_rkllm.vision.decoder_child", site=True)
# Seconds for one picture: the largest that is allowed takes two on the slowest board.
LIMITS = RunnerLimits(load=30.0, prefill=10.0, abort=0.5, close=1.0)
# A decoded photograph takes 48 MB, and the kernel a quarter of the time to hand them out in pages of 4 KiB. glibc below
# 2.35 does not know this and goes on without it.
ENVIRONMENT: Mapping[str, str] = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
# Digests of fewer bytes than this take less time than handing them to a thread.
SMALL = 1 << 16
# Bytes of encodings that are kept: some fifty of Qwen3-VL-2B's.
BUDGET = 64 << 20


class PictureReader:
    """Decodes one picture at a time in a child, which is started with the first one and ends when it has no work."""

    def __init__(self, report: LineSink) -> None:
        self._report = report
        self._lock = asyncio.Lock()
        self._runner: Runner | None = None

    async def pixels(self, data: bytes, height: int, width: int) -> memoryview:
        """`height` x `width` RGB bytes; raises PictureError for a picture that cannot be used."""
        if not data:
            raise PictureError("The picture is empty.", "Send a PNG, JPEG or WebP picture.")
        async with self._lock:
            try:
                return await self._decode(data, height, width)
            except RunnerLost as error:
                if error.cause != "crash":
                    raise PictureError("The picture took too long to decode.", "Send a smaller one.") from error
            try:  # the child may just have ended for want of work
                return await self._decode(data, height, width)
            except RunnerLost as error:
                raise PictureError("The picture made its decoder crash.", "Send it in another format.") from error

    async def _decode(self, data: bytes, height: int, width: int) -> memoryview:
        if self._runner is None or self._runner.gone:
            self._runner, _ = await Runner.start_program(
                DECODER, "pictures", {}, report=self._report, limits=LIMITS, environment=ENVIRONMENT
            )
        rows = await only_rows(self._runner, PictureJob("pixels", height, width), memoryview(data))
        return rows.data

    async def close(self) -> None:
        """Ends the child once it has decoded what it was given; the next picture starts another one."""
        async with self._lock:
            if self._runner is not None:
                await self._runner.close()
                self._runner = None


class Encodings:
    """Encodings by the file of their encoder and the digest of their picture; the oldest in use go first."""

    def __init__(self, budget: int = BUDGET) -> None:
        self._budget = budget
        self._kept: OrderedDict[tuple[str, str], Encoding] = OrderedDict()
        self.size = 0

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._kept

    def get(self, key: tuple[str, str]) -> Encoding | None:
        if (encoding := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
        return encoding

    def keep(self, key: tuple[str, str], encoding: Encoding) -> None:
        if key in self._kept or encoding.size > self._budget:
            return
        self._kept[key] = encoding
        self.size += encoding.size
        while self.size > self._budget:
            self.size -= self._kept.popitem(last=False)[1].size


class Pictures:
    """What one process has seen: its decoder, and the encodings of all its models."""

    def __init__(self, report: LineSink) -> None:
        self.reader = PictureReader(report)
        self.encodings = Encodings()


async def digest(data: bytes) -> str:
    """What the same picture is recognised by."""
    if len(data) <= SMALL:
        return _digest(data)
    return await asyncio.to_thread(_digest, data)


def _digest(data: bytes) -> str:
    """Of BLAKE2, which takes a third of SHA-256's time on CPUs without instructions for it."""
    return hashlib.blake2b(data, digest_size=32).hexdigest()


async def only_rows(runner: Runner, job: PictureJob, array: memoryview) -> ArrayRows:
    """The one array that a child answers a job with."""
    rows: ArrayRows | None = None
    run = runner.run(runner.number(), job, lambda _text, _token: None, (array,))
    try:
        async for batch in run:
            for event in batch:
                if isinstance(event, ArrayRows):
                    rows = event
    finally:
        await run.aclose()
    if rows is None:
        raise EncoderLost("A process for pictures answered without a result.", "exo-rkllm logs")
    return rows
