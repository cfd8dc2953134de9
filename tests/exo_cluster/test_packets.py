"""Discovery datagrams: the captured ones, and whatever else arrives at an open port."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_rkllm.cluster.discovery.namespace import blake3, digest, namespace_of
from exo_rkllm.cluster.discovery.packets import Hello, WhatsUp, decode, encode, valid_node_id
from tests.exo_cluster.captured import packets


def test_every_captured_packet_is_read_and_written_back() -> None:
    kinds = {"Hello": Hello, "WhatsUp": WhatsUp}
    for captured in packets():
        packet = decode(bytes.fromhex(captured["hex"]))
        assert isinstance(packet, Hello | WhatsUp)
        assert type(packet) is kinds[captured["kind"]]
        assert encode(packet).hex() == captured["hex"]


def test_reference_examples_are_encoded_and_decoded() -> None:
    hello = decode(bytes.fromhex("45584f00511531a10bb63ba76e2bf1dad2aa1268"))
    assert hello == Hello(bytes.fromhex("511531a10bb63ba7"), digest("0.3.70"))
    answer = decode(bytes.fromhex("45584f01311a05341c0e51fc64d6855e5916b2339ed587b901515ba1becc"))
    assert answer == WhatsUp(bytes.fromhex("311a05341c0e51fc"), "a15b5101b987d59e33b216595e85d664", 52414)
    assert encode(WhatsUp(bytes(8), "c0ffee00c0ffee00c0ffee00c0ffee01", 52414))[12:].hex().startswith("01eeffc000")


def test_namespace_hashes_match_captured_ones() -> None:
    assert digest("0.3.70").hex() == "6e2bf1dad2aa1268"
    assert digest("0.3.71").hex() == "90c407a737ac542f"
    assert namespace_of(digest("0.3.71"), ("0.3.70", "0.3.71")) == "0.3.71"
    assert namespace_of(bytes(8), ("0.3.70",)) is None


@pytest.mark.parametrize(
    ("length", "expected"),
    [  # computed with the blake3 package on PyPI
        (0, "af1349b9f5f9a1a6a0404dea36dcc949"),
        (1, "2d3adedff11b61f14c886e35afa03673"),
        (64, "4eed7141ea4a5cd4b788606bd23f46e2"),
        (65, "de1e5fa0be70df6d2be8fffd0e99ceaa"),
        (1024, "42214739f095a406f3fc83deb889744a"),
    ],
)
def test_blake3_of_one_chunk(length: int, expected: str) -> None:
    assert blake3(bytes(index % 251 for index in range(length))).hex()[:32] == expected


def test_a_namespace_longer_than_a_chunk_is_refused() -> None:
    with pytest.raises(ValueError, match="1024"):
        blake3(bytes(1025))


@given(st.binary(max_size=64))
def test_garbage_is_no_packet_or_is_written_back_as_it_came(data: bytes) -> None:
    packet = decode(data)
    assert packet is None or encode(packet) == data


@given(st.binary(min_size=26, max_size=26))
def test_an_answer_names_a_node_that_zenoh_can_have(tail: bytes) -> None:
    packet = decode(b"EXO\x01" + tail)
    assert packet is None or (isinstance(packet, WhatsUp) and valid_node_id(packet.node_id) and packet.port)


def test_a_node_without_a_port_or_an_id_is_none() -> None:
    assert decode(b"EXO\x01" + bytes(8) + b"\x01" + bytes(15) + b"\0\0") is None
    assert decode(b"EXO\x01" + bytes(8) + bytes(16) + b"\xbe\xcc") is None
    assert decode(b"EXO\x02" + bytes(16)) is None
