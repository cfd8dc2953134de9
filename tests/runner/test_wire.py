"""The frames between daemon and child: whatever way a stream is cut, the same frames come out."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_rkllm.runner import wire
from exo_rkllm.runner.wire import Frame, FrameKind, ProtocolError, Reader

FRAMES = st.lists(
    st.builds(Frame, st.sampled_from(sorted(wire.TO_PARENT)), st.integers(0, 2**32 - 1), st.binary(max_size=300)),
    max_size=8,
)


@given(FRAMES, st.lists(st.integers(1, 40), max_size=60))
def test_frames_survive_any_cut(frames: list[Frame], cuts: list[int]) -> None:
    stream = b"".join(wire.pack(*frame) for frame in frames)
    reader, seen = Reader(wire.TO_PARENT), []
    for cut in cuts:
        seen += reader.feed(stream[:cut])
        stream = stream[cut:]
    seen += reader.feed(stream)
    assert seen == frames


@given(st.binary(min_size=1, max_size=200))
def test_garbage_is_a_protocol_error_or_waits_for_more(data: bytes) -> None:
    try:
        frames = Reader(wire.TO_PARENT).feed(data)
    except ProtocolError:
        return
    assert all(frame.kind in wire.TO_PARENT for frame in frames)


@pytest.mark.parametrize(
    "data",
    [
        wire.HEADER.pack(0, FrameKind.LOAD, 1),  # a kind of the other direction
        wire.HEADER.pack(0, 99, 1),
        wire.HEADER.pack(wire.MAX_PAYLOAD + 1, FrameKind.TOKEN, 1),
    ],
)
def test_frame_kind_that_no_child_sends_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Reader(wire.TO_PARENT).feed(data)


@pytest.mark.parametrize("payload", [b"{", b"[]", b"\xff"])
def test_a_frame_that_should_hold_an_object_does(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        Frame(FrameKind.DONE, 1, payload).json()


def test_arrays_travel_as_descriptors_not_as_bytes() -> None:
    ours, theirs = socket.socketpair()
    content = os.urandom(1 << 20)
    fd = wire.memory_file("rows", content)
    frame = wire.pack_json(FrameKind.ROWS, 7, {"rows": 1})
    wire.send(ours, frame, [fd])
    os.close(fd)
    data, fds = wire.receive(theirs)
    assert data == frame
    assert len(fds) == 1
    assert os.pread(fds[0], len(content), 0) == content
    assert not os.get_inheritable(fds[0])
    os.close(fds[0])
    ours.close()
    assert wire.receive(theirs) == (b"", [])
    theirs.close()


@pytest.mark.parametrize("text", [b"", b"word", "ß…".encode()])
def test_a_read_that_is_one_token_is_seen_at_once(text: bytes) -> None:
    frame = wire.TOKEN_HEAD.pack(len(text) + 4, FrameKind.TOKEN, 7, 42) + text
    reader = Reader(wire.TO_PARENT)
    assert reader.sole_token(frame) == (7, 42, text)
    for other in (frame[:-1], frame + b"\0", frame * 2, b"", wire.pack(FrameKind.STARTED, 7)):
        assert reader.sole_token(other) is None
    assert reader.feed(frame[:5]) == [] and reader.sole_token(frame) is None  # what began before comes first
