"""The binding of librknnrt: its layout, its files, its errors, and numbers that are the vendor's own."""

from __future__ import annotations

import ctypes
import json
import os
import struct
from array import array
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.errors import (
    ExoRkllmError,
    ModelFileError,
    ModelNotFound,
    NpuUnavailable,
    RunError,
    RuntimeMissing,
    RuntimeUnsupported,
    UsageError,
)
from exo_rkllm.rknn import abi, encoderfile, failures, locate, version
from exo_rkllm.rknn.library import EncoderLibrary
from exo_rkllm.rknn.session import EncoderSession, interleave
from exo_rkllm.rknn.values import EncoderParams, EncoderShape
from simulator import encoder_file
from simulator.encoder_file import SimEncoder
from tests.rknn.make_vendor_numbers import picture
from tests.simulated import build, write_board

VENDOR: list[dict[str, Any]] = json.loads(Path(__file__).with_name("vendor.json").read_text())
# Offsets as the vendor's headers of 1.6.0 to 2.3.2 have them.
LAYOUT: tuple[tuple[type[ctypes.Structure], int, dict[str, int]], ...] = (
    (abi.InputOutputNumber, 8, {"n_input": 0, "n_output": 4}),
    (
        abi.TensorAttribute,
        376,
        {"index": 0, "n_dims": 4, "dims": 8, "name": 72, "n_elems": 328, "size": 332, "fmt": 336, "type": 340}
        | {"qnt_type": 344, "fl": 348, "zp": 352, "scale": 356, "w_stride": 360, "size_with_stride": 364}
        | {"pass_through": 368, "h_stride": 372},
    ),
    (abi.SdkVersion, 512, {"api_version": 0, "drv_version": 256}),
    (abi.InputTensor, 32, {"index": 0, "buf": 8, "size": 16, "pass_through": 20, "type": 24, "fmt": 28}),
    (abi.OutputTensor, 24, {"want_float": 0, "is_prealloc": 1, "index": 4, "buf": 8, "size": 16}),
)


def stand_in(release: str = "2.3.2") -> Path:
    return build() / f"rknn-{release}" / "librknnrt.so"


@pytest.fixture
def on_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RKLLM_SIM_ROOT", str(write_board(tmp_path / "board")))
    return tmp_path


def opened(file: Path, core_mask: int = 7) -> EncoderSession:
    return EncoderSession.open(EncoderLibrary.open(stand_in()), EncoderParams(str(file), core_mask))


def encoded(session: EncoderSession, pixels: bytes) -> array[float]:
    rows = bytearray(session.shape.tokens * session.shape.row_width * 4)
    session.encode(bytearray(pixels), rows)
    found = array("f")
    found.frombytes(bytes(rows))
    return found


@pytest.mark.parametrize("struct_, size, offsets", LAYOUT, ids=lambda one: getattr(one, "__name__", ""))
def test_structs_have_the_vendors_layout(struct_: type[ctypes.Structure], size: int, offsets: dict[str, int]) -> None:
    assert ctypes.sizeof(struct_) == size
    assert {field[0]: getattr(struct_, field[0]).offset for field in struct_._fields_} == offsets


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────


def rknn_file(path: Path, case: dict[str, Any]) -> Path:
    """A file with the vendor's own block, and without its network."""
    block = json.dumps(case["block"], separators=(",", ":")).encode()
    head = (b"RKNN\0\0\0\0" + struct.pack("<QQ", case["format"], 128)).ljust(case["head"], b"\0")
    path.write_bytes(head + bytes(128) + struct.pack("<Q", len(block)) + block)
    return path


@pytest.mark.parametrize("case", VENDOR, ids=lambda case: f"{case['side']}x{len(case['outputs'])}")
def test_rows_are_those_of_the_vendors_simulator(on_board: Path, case: dict[str, Any]) -> None:
    session = opened(rknn_file(on_board / "m.rknn", case))
    shape, outputs, width = session.shape, case["outputs"], case["width"]
    tokens = (case["side"] // case["patch"]) ** 2
    assert shape == EncoderShape(case["side"], case["side"], tokens, width, len(outputs))
    expected = [
        value for token in range(tokens) for output in outputs for value in output[token * width : (token + 1) * width]
    ]
    found = encoded(session, bytes(picture(case["side"])))
    assert found.tolist() == pytest.approx(expected, abs=1e-3)
    again = encoded(session, bytes(len(picture(case["side"]))))
    assert again != found, "the next picture is another one"
    session.close()
    session.close()
    with pytest.raises(RunError, match="closed"):
        encoded(session, bytes(picture(case["side"])))


def test_interleaving_puts_a_tokens_outputs_side_by_side() -> None:
    rows = bytearray(12)
    interleave([b"aabbcc", b"AABBCC"], memoryview(rows), 2)
    assert bytes(rows) == b"aaAAbbBBccCC"


def test_wrong_buffers_are_refused_before_the_library_sees_them(on_board: Path) -> None:
    session = opened(encoder_file.write(on_board / "m.rknn", SimEncoder(size=28, tokens=4)))
    with pytest.raises(UsageError, match="28 x 28"):
        session.encode(bytearray(27 * 28 * 3), bytearray(4 * 64 * 4))


# ── files ────────────────────────────────────────────────────────────────────────────────────────


def test_file_says_shapes_platform_and_toolkit(tmp_path: Path) -> None:
    facts = encoderfile.inspect(rknn_file(tmp_path / "m.rknn", VENDOR[1]))
    assert facts.platforms == ("rk3588",)
    assert facts.toolkit == VENDOR[1]["block"]["version"]
    assert facts.shape() == EncoderShape(56, 56, 16, 18, 3)
    assert encoderfile.shapes_text(facts.inputs) == "1x3x56x56"
    assert encoderfile.is_encoder_file(facts.path)
    assert not encoderfile.is_encoder_file(tmp_path / "none")


def test_what_is_no_encoder_is_refused_with_a_sentence(tmp_path: Path) -> None:
    good = rknn_file(tmp_path / "m.rknn", VENDOR[0]).read_bytes()
    block = VENDOR[0]["block"]
    one_input = {**block, "norm_tensor": [{**block["norm_tensor"][0], "size": [1, 80, 3000]}, block["norm_tensor"][1]]}
    cases = {
        "does not begin with RKNN": b"GGUF" + good[4:],
        "does not begin": good[:10],
        "cut off": good[:-30],
        "cut": good[:80],
        "does not name its shapes": good[:192] + struct.pack("<Q", 2) + b"{}",
        "encodes no pictures": rknn_file(tmp_path / "sound.rknn", {**VENDOR[0], "block": one_input}).read_bytes(),
        "unknown format": good[:200] + b"\xff" * (len(good) - 200),
    }
    for words, data in cases.items():
        (tmp_path / "bad.rknn").write_bytes(data)
        with pytest.raises(ModelFileError, match=words):
            encoderfile.inspect(tmp_path / "bad.rknn").shape()
    with pytest.raises(ModelNotFound):
        encoderfile.inspect(tmp_path / "none.rknn")
    with pytest.raises(ModelFileError, match="cannot be read"):
        encoderfile.inspect(tmp_path)


# ── errors ───────────────────────────────────────────────────────────────────────────────────────


def test_every_status_is_a_sentence_with_a_hint() -> None:
    assert set(failures.ERRORS) == set(range(-13, 0))
    for status in failures.ERRORS:
        error = failures.failure(status, "a run", "/models/m.rknn")
        assert f"{status})." in error.sentence and error.hint and "{" not in error.sentence + error.hint
    assert "-77" in failures.failure(-77, "a run", "m").sentence


@pytest.mark.parametrize(
    "encoder, board, error, words",
    [
        (SimEncoder(platform="rk3576"), {}, ModelFileError, "another SoC"),
        (SimEncoder(), {"driver": ""}, NpuUnavailable, "no NPU"),
        (SimEncoder(fault="fail@run"), {}, RunError, "encoding the picture"),
    ],
)
def test_librarys_refusals_are_raised(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    encoder: SimEncoder,
    board: dict[str, str],
    error: type[ExoRkllmError],
    words: str,
) -> None:
    monkeypatch.setenv("RKLLM_SIM_ROOT", str(write_board(tmp_path / "board", **board)))
    file = encoder_file.write(tmp_path / "m.rknn", encoder)
    with pytest.raises(error, match=words):
        session = opened(file)
        encoded(session, bytes(session.shape.pixels))


def test_damaged_file_and_wrong_cores_are_refused(on_board: Path) -> None:
    file = on_board / "m.rknn"
    file.write_bytes(b"RKNN")
    with pytest.raises(ModelFileError, match="MODEL_INVALID"):
        opened(file)
    encoder_file.write(file, SimEncoder())
    with pytest.raises(RunError, match="PARAM_INVALID"):
        opened(file, core_mask=5)


def test_stand_in_checks_what_it_is_given(on_board: Path) -> None:
    """A binding with another layout would be noticed, as it is by the vendor's twin."""
    library = EncoderLibrary.open(stand_in())
    session = EncoderSession.open(library, EncoderParams(str(encoder_file.write(on_board / "m.rknn", SimEncoder()))))
    call, context = library.functions, session._context
    attribute, pixels = abi.TensorAttribute(), (ctypes.c_uint8 * session.shape.pixels)()
    at = ctypes.addressof(pixels)
    assert call["rknn_query"](context, abi.QUERY_INPUT_ATTR, ctypes.byref(attribute), 375) == -5
    assert call["rknn_query"](context, 99, ctypes.byref(attribute), 376) == -5
    attribute.index = 1
    assert call["rknn_query"](context, abi.QUERY_INPUT_ATTR, ctypes.byref(attribute), 376) == -5
    assert call["rknn_query"](7, abi.QUERY_IN_OUT_NUM, ctypes.byref(attribute), 8) == -7
    for wrong in (
        abi.InputTensor(1, at, len(pixels), 0, abi.UINT8, abi.NHWC),
        abi.InputTensor(0, at, len(pixels), 1, abi.UINT8, abi.NHWC),
        abi.InputTensor(0, at, len(pixels), 0, 0, abi.NHWC),
        abi.InputTensor(0, at, len(pixels), 0, abi.UINT8, abi.NCHW),
    ):
        assert call["rknn_inputs_set"](context, 1, ctypes.byref(wrong)) == -5
    short = abi.InputTensor(0, at, len(pixels) - 1, 0, abi.UINT8, abi.NHWC)
    assert call["rknn_inputs_set"](context, 1, ctypes.byref(short)) == -8
    assert call["rknn_run"](context, None) == -5, "no picture was set"
    right = abi.InputTensor(0, at, len(pixels), 0, abi.UINT8, abi.NHWC)
    assert call["rknn_inputs_set"](context, 1, ctypes.byref(right)) == 0
    assert call["rknn_run"](context, None) == 0
    output = abi.OutputTensor(0, 1, 0, at, 4)
    assert call["rknn_outputs_get"](context, 1, ctypes.byref(output), None) == -5
    output.want_float = 1
    assert call["rknn_outputs_get"](context, 1, ctypes.byref(output), None) == -9
    output = abi.OutputTensor(1, 0, 0, None, 0)
    assert call["rknn_outputs_get"](context, 1, ctypes.byref(output), None) == 0
    assert output.size == 196 * 64 * 4
    assert call["rknn_outputs_release"](context, 1, ctypes.byref(output)) == 0
    session.close()
    assert call["rknn_run"](context, None) == -7


# ── the library ──────────────────────────────────────────────────────────────────────────────────


def test_release_is_read_from_the_file(tmp_path: Path) -> None:
    assert version.check(stand_in()) == "2.3.2"
    assert EncoderLibrary.open(stand_in("1.6.0")).release == "1.6.0"
    with pytest.raises(RuntimeUnsupported, match=r"1\.5\.2"):
        version.check(stand_in("1.5.2"))
    silent = tmp_path / "librknnrt.so"
    silent.write_bytes(stand_in().read_bytes().replace(b"librknnrt version", b"librknnrt vXrsion"))
    with pytest.raises(RuntimeUnsupported, match="does not say"):
        version.check(silent)
    silent.write_bytes(b"no library")
    with pytest.raises(RuntimeMissing, match="not a shared library"):
        version.check(silent)


def test_library_without_a_function_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "librknnrt.so"
    broken.write_bytes(stand_in().read_bytes().replace(b"rknn_set_core_mask", b"rknn_set_cXre_mask"))
    with pytest.raises(RuntimeUnsupported, match="lacks rknn_set_core_mask"):
        EncoderLibrary.open(broken)
    # Another file, since the first one is mapped: a head without its segments, and the words that tell the release.
    cut_off = tmp_path / "cut-off.so"
    cut_off.write_bytes(stand_in().read_bytes()[:64].ljust(4096, b"\xff") + b"librknnrt version: 2.0.0")
    with pytest.raises(RuntimeMissing):
        EncoderLibrary.open(cut_off)


def test_library_is_found_by_argument_variable_and_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locate.find(stand_in()) == stand_in()
    with pytest.raises(RuntimeMissing, match=r"No librknnrt\.so was found"):
        locate.find(root=tmp_path)
    place = tmp_path / "usr/lib/librknnrt.so"
    place.parent.mkdir(parents=True)
    place.symlink_to(stand_in())
    assert locate.find(root=tmp_path) == place
    monkeypatch.setenv(locate.VARIABLE, str(tmp_path / "none"))
    with pytest.raises(RuntimeMissing, match="cannot be read"):
        locate.find(root=tmp_path)


@pytest.mark.skipif("RKNN_API_LIBRARY" not in os.environ, reason="needs rknn-toolkit2's librknn_api.so for x86-64")
def test_vendors_own_library_finds_no_npu_here(tmp_path: Path) -> None:
    """RKNN_API_LIBRARY is its path, RKNN_API_MODEL that of a file made by the toolkit. It takes bytes only."""
    library = EncoderLibrary.open(os.environ["RKNN_API_LIBRARY"])
    data = Path(os.environ["RKNN_API_MODEL"]).read_bytes()
    context = ctypes.c_uint64()
    status = library.functions["rknn_init"](ctypes.byref(context), ctypes.c_char_p(data), len(data), 0, None)
    assert isinstance(failures.failure(status, "loading", "m.rknn"), NpuUnavailable)
