"""Pictures of strangers become pixels in a child: as people see them, within limits, and whatever they are."""

from __future__ import annotations

import asyncio
import io
import os
import random
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exo_rkllm.errors import PictureError
from exo_rkllm.vision import preprocess
from exo_rkllm.vision.pictures import Encodings, PictureReader, digest
from exo_rkllm.vision.tags import TAGS, tags_for
from exo_rkllm.vision.values import Encoding

Image = pytest.importorskip("PIL.Image")
SIDE = 24
ORIENTATIONS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # and Pillow's transpositions that undo them
LONG = bool(os.environ.get("TESTS_LONG"))
LOSSLESS = ("PNG", "WEBP", "BMP", "TIFF", "GIF")


@pytest.fixture
async def reader() -> AsyncIterator[PictureReader]:
    one = PictureReader(lambda _lines: None)
    yield one
    await one.close()


def saved(picture: Any, kind: str = "PNG", **how: Any) -> bytes:
    data = io.BytesIO()
    picture.save(data, kind, **how)
    return data.getvalue()


def quarters(width: int = SIDE, height: int = SIDE) -> Any:
    """Red, green, blue and yellow from the top left, row by row."""
    picture = Image.new("RGB", (2, 2))
    for at, colour in enumerate(((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))):
        picture.putpixel((at % 2, at // 2), colour)
    return picture.resize((width, height), 0)


async def seen(reader: PictureReader, data: bytes, side: int = SIDE) -> Any:
    return np.frombuffer(await reader.pixels(data, side, side), np.uint8).reshape(side, side, 3)


def corners(pixels: Any) -> list[tuple[int, ...]]:
    return [tuple(map(int, pixels[y, x])) for y in (1, -2) for x in (1, -2)]


EXPECTED = corners(np.asarray(quarters()))


# ── preprocessing ────────────────────────────────────────────────────────────────────────────────


def reference(picture: Any, height: int, width: int) -> Any:
    """The same in double precision, the plain way: the whole square, then four neighbours a pixel."""
    rows, columns = picture.shape[:2]
    side = max(rows, columns)
    square = np.full((side, side, 3), 128.0)
    top, left = (side - rows) // 2, (side - columns) // 2
    square[top : top + rows, left : left + columns] = picture

    def places(size: int) -> tuple[Any, Any, Any]:
        at = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0, side - 1)
        front = np.floor(at).astype(int)
        return front, np.minimum(front + 1, side - 1), at - front

    y0, y1, fy = places(height)
    x0, x1, fx = places(width)
    first = square[y0][:, x0] * (1 - fx)[None, :, None] + square[y0][:, x1] * fx[None, :, None]
    second = square[y1][:, x0] * (1 - fx)[None, :, None] + square[y1][:, x1] * fx[None, :, None]
    return first * (1 - fy)[:, None, None] + second * fy[:, None, None]


@pytest.mark.parametrize("target", [(32, 32), (14, 28), (90, 70)])
def test_pixels_are_the_references_within_half_a_grey_level(target: tuple[int, int]) -> None:
    numbers = np.random.default_rng(8)
    sizes = [(1, 1), (1, 50), (50, 1), (31, 32), (33, 20), (64, 64), (201, 99), *numbers.integers(1, 120, (20, 2))]
    for rows, columns in sizes:
        picture = numbers.integers(0, 256, (rows, columns, 3)).astype(np.uint8)
        found = preprocess.pixels(Image.fromarray(picture), 1, *target)
        assert found.shape == (*target, 3) and found.dtype == np.uint8
        assert np.abs(found - reference(picture, *target)).max() < 0.51, (rows, columns)


@pytest.mark.parametrize("number", range(2, 9))
def test_turned_pixels_are_those_of_the_turned_picture(number: int) -> None:
    numbers = np.random.default_rng(number)
    for rows, columns in ((1, 1), (7, 12), (40, 31), (64, 64), (90, 33)):
        picture = Image.fromarray(numbers.integers(0, 256, (rows, columns, 3)).astype(np.uint8))
        turned = np.asarray(picture.transpose(ORIENTATIONS[number]))
        for target in ((32, 32), (14, 28), (90, 70)):
            found = preprocess.pixels(picture, number, *target)
            assert np.abs(found - reference(turned, *target)).max() < 0.51, (rows, columns, target)


# ── decoding ─────────────────────────────────────────────────────────────────────────────────────


async def test_every_format_and_mode_is_seen_as_people_see_it(reader: PictureReader) -> None:
    picture = quarters()
    for kind in LOSSLESS:
        how = {"lossless": True} if kind == "WEBP" else {}
        assert corners(await seen(reader, saved(picture, kind, **how))) == EXPECTED, kind
    for mode in ("P", "RGBA"):
        assert corners(await seen(reader, saved(picture.convert(mode)))) == EXPECTED, mode
    jpeg = corners(await seen(reader, saved(picture, "JPEG", quality=100, subsampling=0)))
    assert np.abs(np.array(jpeg) - EXPECTED).max() < 6
    cmyk = corners(await seen(reader, saved(picture.convert("CMYK"), "JPEG", quality=100, subsampling=0)))
    assert np.abs(np.array(cmyk) - EXPECTED).max() < 12
    grey = np.asarray(picture.convert("L"))
    for name, form in {"L": picture.convert("L"), "16": Image.fromarray(grey.astype(np.uint16) * 257)}.items():
        found = corners(await seen(reader, saved(form)))
        assert [value[0] for value in found] == [int(grey[y, x]) for y in (1, -2) for x in (1, -2)], name
    transparent = picture.convert("RGBA")
    transparent.putalpha(0)
    assert corners(await seen(reader, saved(transparent))) == EXPECTED, "alpha is dropped"


async def test_first_frame_of_an_animation_is_seen(reader: PictureReader) -> None:
    data = saved(quarters(), "GIF", save_all=True, append_images=[quarters().transpose(0)])
    assert corners(await seen(reader, data)) == EXPECTED


@pytest.mark.parametrize("number", range(1, 9))
async def test_picture_is_turned_as_its_exif_says(reader: PictureReader, number: int) -> None:
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what makes the stored one out of the one that is seen
    stored = quarters().transpose(back[number]) if number in back else quarters()
    exif = Image.Exif()
    exif[0x0112] = number
    assert corners(await seen(reader, saved(stored, "PNG", exif=exif))) == EXPECTED


# ── strangers ────────────────────────────────────────────────────────────────────────────────────


def png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def hostile(numbers: random.Random, count: int) -> list[bytes]:
    good = [saved(quarters(90, 70), kind) for kind in (*LOSSLESS, "JPEG")]
    made = []
    for index in range(count):
        data = numbers.choice(good)
        made.append(
            (
                data[: numbers.randrange(len(data) - 20)],
                png(60000, 60000, zlib.compress(bytes(100_000))),
                numbers.randbytes(numbers.randrange(3000)),
                b"%PDF-1.7\n" + data,
                b"<svg xmlns='http://www.w3.org/2000/svg'/>",
                data[:40] + numbers.randbytes(300),
                b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + numbers.randbytes(90),
                b"II*\0" + numbers.randbytes(300),
            )[index % 8]
        )
    return made


async def test_hostile_pictures_are_refused_and_the_next_one_is_seen(reader: PictureReader) -> None:
    for data in hostile(random.Random(19), 1000 if LONG else 200):
        try:
            await reader.pixels(data, SIDE, SIDE)
        except PictureError as error:
            assert error.status == 400 and error.hint, error
    assert reader._runner is not None and peak_of(reader._runner.pid) < 300_000
    assert corners(await seen(reader, saved(quarters()))) == EXPECTED


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "is empty"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "no format that is read"),
        (png(60000, 60000, b""), "more than 50 million"),
        (png(9000, 9000, zlib.compress(b"")), "more than 50 million"),
        (png(64, 64, b"no zlib"), "cannot be decoded"),
    ],
)
async def test_refusal_says_what_is_wrong(reader: PictureReader, data: bytes, words: str) -> None:
    with pytest.raises(PictureError, match=words):
        await reader.pixels(data, SIDE, SIDE)


def peak_of(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


async def test_largest_picture_is_seen_and_memory_stays_bounded(reader: PictureReader) -> None:
    """50 million pixels, and a mode that has to be converted."""
    big = zlib.compress(bytes((3 * 7000 + 1) * 7000), 1)
    assert not (await seen(reader, png(7000, 7000, big))).any()
    assert reader._runner is not None
    peak = peak_of(reader._runner.pid)
    assert peak < 700_000, f"{peak} kB"


async def test_decoder_takes_its_memory_in_large_pages(reader: PictureReader) -> None:
    await seen(reader, saved(quarters()))
    assert reader._runner is not None
    environment = Path(f"/proc/{reader._runner.pid}/environ").read_bytes()  # noqa: ASYNC240 - procfs does not wait
    assert b"GLIBC_TUNABLES=glibc.malloc.hugetlb=1" in environment


async def test_decoder_that_is_killed_is_started_again(reader: PictureReader) -> None:
    data = saved(quarters())
    await reader.pixels(data, SIDE, SIDE)
    for _ in range(3):
        assert reader._runner is not None
        os.kill(reader._runner.pid, signal.SIGKILL)
        assert corners(await seen(reader, data)) == EXPECTED


async def test_decoder_ends_with_its_reader(reader: PictureReader) -> None:
    await reader.pixels(saved(quarters()), SIDE, SIDE)
    assert reader._runner is not None
    pid = reader._runner.pid
    await reader.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_pictures_that_come_at_once_wait_for_one_another(reader: PictureReader) -> None:
    data = saved(quarters())
    found = await asyncio.gather(*(seen(reader, data) for _ in range(5)))
    assert all(corners(one) == EXPECTED for one in found)


def test_nothing_of_pillow_or_numpy_is_imported_with_the_daemon() -> None:
    code = "import exo_rkllm.daemon.daemon, exo_rkllm.backends.rkllm, sys; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "PIL" not in modules and "exo_rkllm.vision.pictures" not in modules
    assert "exo_rkllm.vision.decoder_child" not in modules and "exo_rkllm.rknn.session" not in modules


# ── what is kept ─────────────────────────────────────────────────────────────────────────────────


def test_encodings_are_kept_within_a_budget_and_the_oldest_in_use_goes_first() -> None:
    kept = Encodings(budget=100)
    for name in "abc":
        kept.keep(("file", name), Encoding(1, 10, memoryview(bytes(40))))
        assert kept.get(("file", "a")) is not None or name == "c"
    assert [("file", name) in kept for name in "abc"] == [True, False, True]
    assert kept.size == 80
    kept.keep(("file", "large"), Encoding(1, 30, memoryview(bytes(120))))
    kept.keep(("file", "a"), Encoding(1, 10, memoryview(bytes(40))))
    assert kept.size == 80 and ("file", "large") not in kept


async def test_digest_is_the_same_for_the_same_bytes() -> None:
    small, large = b"x" * 10, b"x" * (1 << 20)
    assert await digest(small) == await digest(bytes(small)) != await digest(large) == await digest(bytes(large))


@pytest.mark.parametrize(
    "name, row",
    [
        ("Qwen/Qwen2.5-VL-3B-Instruct", "qwen"),
        ("internvl3_5-2b-instruct_w8a8_rk3588.rkllm", "internvl"),
        ("DeepSeekOCR-3B", "deepseek-ocr"),
        ("google/gemma-4-E2B", "gemma"),
        ("MiniCPM-V-2_6", "minicpm"),
        ("SmolVLM-256M", ""),
    ],
)
def test_tags_are_those_of_the_family(name: str, row: str) -> None:
    assert tags_for("", name) == row
    assert row == "" or TAGS[row].content
