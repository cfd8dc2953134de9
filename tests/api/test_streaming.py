"""What is ready together leaves together, directly onto the connection where that has room."""

from __future__ import annotations

import asyncio

from exo_rkllm.api.streaming import StreamBuffer


async def taken(buffer: StreamBuffer, into: list[bytes]) -> None:
    while data := await buffer.take():
        into.append(data)


class Connection:
    """Takes what is written directly, as long as it has room."""

    def __init__(self) -> None:
        self.room = True
        self.direct: list[bytes] = []

    def write(self, data: bytes) -> bool:
        if self.room:
            self.direct.append(data)
        return self.room


async def test_writer_takes_everything_without_a_connection() -> None:
    buffer, written = StreamBuffer(), list[bytes]()
    writer = asyncio.create_task(taken(buffer, written))
    await asyncio.sleep(0)
    for text in ("a", "b"):
        buffer.put(text)
    await asyncio.sleep(0.01)
    buffer.close()
    await writer
    assert written == [b"ab"]


async def test_connection_with_room_is_written_directly() -> None:
    buffer, written, connection = StreamBuffer(), list[bytes](), Connection()
    writer = asyncio.create_task(taken(buffer, written))
    await asyncio.sleep(0)
    buffer.direct_write = connection.write
    for text in ("a", "b"):
        buffer.put(text)
    await asyncio.sleep(0.01)
    assert connection.direct == [b"ab"] and written == []
    connection.room = False
    buffer.put("c")
    await asyncio.sleep(0.01)
    buffer.put("d")
    buffer.close()
    await writer
    assert connection.direct == [b"ab"] and b"".join(written) == b"cd"  # nothing twice, and in its order


async def test_what_comes_alone_is_written_at_once_behind_what_waits() -> None:
    buffer, written, connection = StreamBuffer(), list[bytes](), Connection()
    writer = asyncio.create_task(taken(buffer, written))
    await asyncio.sleep(0)
    buffer.direct_write = connection.write
    buffer.put_at_once("a")
    assert connection.direct == [b"a"], "no turn of the loop in between"
    buffer.put("b")
    buffer.put_at_once("c")
    assert connection.direct == [b"a", b"bc"]
    connection.room = False
    buffer.put_at_once("d")
    connection.room = True
    buffer.put_at_once("e")  # the writer is awake, and has it
    buffer.close()
    await writer
    assert connection.direct == [b"a", b"bc"] and b"".join(written) == b"de"
