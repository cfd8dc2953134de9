"""What is ready together leaves together, straight onto the connection where that has room."""

from __future__ import annotations

import asyncio

from exo_rkllm.api.streaming import StreamBuffer


async def taken(outbox: StreamBuffer, into: list[bytes]) -> None:
    while data := await outbox.take():
        into.append(data)


async def test_without_a_connection_the_writer_takes_all() -> None:
    outbox, written = StreamBuffer(), list[bytes]()
    writer = asyncio.create_task(taken(outbox, written))
    await asyncio.sleep(0)
    for text in ("a", "b"):
        outbox.put(text)
    await asyncio.sleep(0.01)
    outbox.close()
    await writer
    assert written == [b"ab"]


async def test_a_connection_with_room_is_written_without_the_writer() -> None:
    outbox, written, straight = StreamBuffer(), list[bytes](), list[bytes]()
    room = True

    def write(data: bytes) -> bool:
        if room:
            straight.append(data)
        return room

    writer = asyncio.create_task(taken(outbox, written))
    await asyncio.sleep(0)
    outbox.direct_write = write
    for text in ("a", "b"):
        outbox.put(text)
    await asyncio.sleep(0.01)
    assert straight == [b"ab"] and written == []
    room = False
    outbox.put("c")
    await asyncio.sleep(0.01)
    outbox.put("d")
    outbox.close()
    await writer
    assert straight == [b"ab"] and b"".join(written) == b"cd"  # nothing twice, and in its order
