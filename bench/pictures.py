"""What a 12 megapixel JPEG costs before its encoder sees it, beside what its decoding alone takes.

python -m bench.pictures
"""

from __future__ import annotations

import asyncio
import io
import os
import time
from collections.abc import Mapping

import numpy as np
from PIL import Image

from bench.table import Row, show
from exo_rkllm.vision import pictures
from exo_rkllm.vision.pictures import PictureReader, digest

ROUNDS = 25
SIDE = 448
PLAIN: Mapping[str, str] = {"GLIBC_TUNABLES": ""}


def photograph() -> bytes:
    """4000 x 3000, of a photograph's shapes, noise and size (3.3 MB)."""
    numbers = np.random.default_rng(1)
    small = Image.fromarray(numbers.integers(0, 256, (75, 100, 3), dtype=np.uint8))
    shapes = np.asarray(small.resize((4000, 3000), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = (shapes + numbers.normal(0, 6, (3000, 4000, 1)).astype(np.int16)).clip(0, 255).astype(np.uint8)
    data = io.BytesIO()
    Image.fromarray(noisy).save(data, "JPEG", quality=88)
    return data.getvalue()


def decoded(data: bytes) -> float:
    """Milliseconds of Pillow's own decoding, in this process and with its allocator as it comes."""
    began = time.perf_counter()
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
    return (time.perf_counter() - began) * 1e3


async def read(reader: PictureReader, data: bytes) -> float:
    """Milliseconds from the bytes of a request to the encoder's pixels."""
    began = time.perf_counter()
    await digest(data)
    await reader.pixels(data, SIDE, SIDE)
    return (time.perf_counter() - began) * 1e3


async def measure() -> None:
    data = photograph()
    ours, before = PictureReader(lambda _lines: None), PictureReader(lambda _lines: None)
    await ours.pixels(data, SIDE, SIDE)  # which starts the child
    huge, pictures.ENVIRONMENT = pictures.ENVIRONMENT, PLAIN
    await before.pixels(data, SIDE, SIDE)
    pictures.ENVIRONMENT = huge
    small = io.BytesIO()
    Image.open(io.BytesIO(data)).resize((SIDE, SIDE)).save(small, "JPEG", quality=88)
    times: list[list[float]] = [[], [], [], []]
    for _ in range(ROUNDS):
        times[0].append(decoded(data))
        times[1].append(await read(before, data))
        times[2].append(await read(ours, data))
        times[3].append(await read(ours, small.getvalue()))
    rows = [
        Row("Pillow's decoding alone, in this process", "ms", times[0]),
        Row("the picture's way to its encoder, with ordinary pages", "ms", times[1]),
        Row("the picture's way to its encoder", "ms", times[2], "60"),
        Row(f"the same of {SIDE} x {SIDE}", "ms", times[3], "15"),
    ]
    show(f"A JPEG of 12 megapixels, {len(data) / 1e6:.1f} MB (load {os.getloadavg()[0]:.1f})", rows)
    for reader in (ours, before):
        await reader.close()


def main() -> None:
    asyncio.run(measure())


if __name__ == "__main__":
    main()
