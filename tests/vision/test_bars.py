"""What a model is shown, to the last float, and what seeing costs a model that is only told: see issue 19's bars."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exo_rkllm.assembly import NO_PLUGINS, open_node
from exo_rkllm.backends.base import Finish, GenerationRequest
from exo_rkllm.backends.base import Image as SentImage
from exo_rkllm.backends.rkllm_load import image_tags
from exo_rkllm.config import load
from exo_rkllm.runner.jobs import ChildJob
from exo_rkllm.runner.parent import Runner
from exo_rkllm.runner.stream import RunStream
from exo_rkllm.vision.tags import TAGS
from simulator import encoder_file
from simulator.encoder_file import SimEncoder
from tests.rknn.test_session import VENDOR
from tests.simulated import Library, build
from tests.vision.test_pictures import ORIENTATIONS, reference

Image = pytest.importorskip("PIL.Image")
LONG = bool(os.environ.get("TESTS_LONG"))
# The encoders that the vendor's own simulator computed (tests/rknn/vendor.json): the stand-in's numbers are its.
SHAPES = [(case["side"], case["patch"], case["width"], len(case["outputs"])) for case in VENDOR]
FAMILIES = list(TAGS)


def photograph(width: int, height: int, seed: int) -> Any:
    numbers = np.random.default_rng(seed)
    small = Image.fromarray(numbers.integers(0, 256, (3, 4, 3)).astype(np.uint8)).resize((width, height), 3)
    noise = numbers.integers(-20, 21, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(small).astype(int) + noise, 0, 255).astype(np.uint8))


@cache
def pictures() -> list[tuple[bytes, Any]]:
    """Files of every kind, each with the RGB picture that people see in it."""
    made: list[tuple[bytes, Any]] = []

    def add(picture: Any, kind: str, **how: Any) -> None:
        data = io.BytesIO()
        picture.save(data, kind, **how)
        data.seek(0)
        seen = Image.open(data)
        seen.load()
        made.append((data.getvalue(), np.asarray(seen.convert("RGB"))))

    sizes = [(1, 1), (1, 90), (90, 1), (64, 64), (333, 200), (200, 333), (799, 601)]
    if LONG:
        sizes += [(2, 3), (95, 96), (1024, 768), (1920, 1080), (3000, 1000), (4000, 3000), (13, 700)]
    for number, (width, height) in enumerate(sizes):
        picture = photograph(width, height, number)
        add(picture, ("PNG", "BMP", "TIFF", "WEBP")[number % 4], **({"lossless": True} if number % 4 == 3 else {}))
        add(picture, "JPEG", quality=60 + number)
    picture = photograph(120, 80, 99)
    for mode in ("1", "L", "LA", "P", "RGBA"):
        add(picture.convert(mode), "PNG")
    for mode in ("L", "CMYK", "YCbCr"):
        add(picture.convert(mode), "JPEG")
    add(picture, "GIF")
    add(picture.convert("L"), "GIF")
    for number, turn in ORIENTATIONS.items():
        exif = Image.Exif()
        exif[0x0112] = number
        data = io.BytesIO()
        picture.save(data, "PNG", exif=exif)
        made.append((data.getvalue(), np.asarray(picture.transpose(turn))))
    extra = 50 - len(made) if LONG else 0
    for number in range(extra):
        add(photograph(50 + 37 * number, 400 - 20 * number, 200 + number), "PNG")
    return made


@cache
def expected(number: int, side: int, patch: int, width: int, outputs: int) -> Any:
    """The rows of a picture by the networks of tests/rknn/make_vendor_numbers.py, one token's outputs side by side."""
    pixels = np.rint(reference(pictures()[number][1], side, side))
    across = side // patch
    means = pixels.reshape(across, patch, across, patch, 3).mean(axis=(1, 3)).reshape(-1, 3)
    values = (means - 127.5) / 127.5
    rows = [
        np.stack(
            [(k + 1) * (1 if (d + k) // 3 % 2 == 0 else -1) * values[:, (d + k) % 3] for d in range(width)], axis=1
        )
        for k in range(outputs)
    ]
    return np.concatenate(rows, axis=1)


@pytest.mark.parametrize("family", FAMILIES)
async def test_floats_that_reach_the_runtime_are_the_vendors_for_every_family_and_kind(
    family: str,
    library: Library,
    board_root: Path,
    make_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[Any] = []
    order = Runner.order

    def recorded(self: Runner, number: int, job: ChildJob, make: Any, arrays: Sequence[memoryview] = ()) -> RunStream:
        given.extend(np.frombuffer(one, np.float32).copy() for one in arrays if job.output == "text")
        return order(self, number, job, make, arrays)

    monkeypatch.setattr(Runner, "order", recorded)
    kinds = pictures()
    assert not LONG or len(kinds) >= 50
    for at, (side, patch, width, outputs) in enumerate(SHAPES):
        folder = tmp_path / "models" / f"lens-{at}"
        folder.mkdir(parents=True)
        card = f'id = "lens-{at}"\n[weights]\nfile = "m.rkllm"\n[vision]\nfile = "m.rknn"\ntags = "{family}"\n'
        (folder / "model.toml").write_text(card)
        model = make_model(
            reply="seen", vision=True, vision_patch=patch // 2, embedding_length=width, embedding_outputs=outputs
        )
        model.rename(folder / "m.rkllm")
        shape = SimEncoder(size=side, tokens=(side // patch) ** 2, width=width, outputs=outputs)
        encoder_file.write(folder / "m.rknn", shape)
    variables = {
        "HOME": str(tmp_path),
        "EXO_RKLLM_MODELS_DIRECTORY": str(tmp_path / "models"),
        "EXO_RKLLM_RUNTIME_ENCODER_LIBRARY": str(build() / "rknn-2.3.2" / "librknnrt.so"),
    }
    node = open_node(load(variables), NO_PLUGINS, library=library("1.3.1"))
    which = FAMILIES.index(family)
    # Each family with each shape and kind in the long form, and its share of them otherwise.
    for at, shape_ in enumerate(SHAPES) if LONG else [(which % 3, SHAPES[which % 3])]:
        entry = node.catalogue.get(f"lens-{at}")
        start, end, content = TAGS[family]
        assert image_tags(entry.vision) == {"img_start": start, "img_end": end, "img_content": content}
        engine = node.engine(entry)
        await engine.initialize()
        for number in range(0 if LONG else which, len(kinds), 1 if LONG else len(FAMILIES)):
            given.clear()
            request = GenerationRequest(prompt="<image>?", images=(SentImage(kinds[number][0], ""),))
            finish = [event async for event in engine.generate(request)][-1]
            assert isinstance(finish, Finish) and finish.usage.images == 1
            rows = expected(number, *shape_)
            assert np.abs(given[0].reshape(rows.shape) - rows).max() < 1e-3, (family, shape_, number)
        await engine.close()


LIGHT = {
    *("exo_rkllm.vision", "exo_rkllm.vision.tags", "exo_rkllm.rknn"),
    *("exo_rkllm.rknn.encoderfile", "exo_rkllm.rknn.values"),
}
TEXT_ONLY = """
    import asyncio, sys
    from exo_rkllm.assembly import NO_PLUGINS, open_node
    from exo_rkllm.backends.base import GenerationRequest, Message
    from exo_rkllm.config import load
    import os

    async def main():
        node = open_node(load(os.environ), NO_PLUGINS, library=__import__("pathlib").Path(sys.argv[1]))
        dispatcher = node.dispatcher()
        request = GenerationRequest(model=sys.argv[2], messages=(Message("user", "Hi"),))
        async for event in dispatcher.generate(request):
            print(getattr(event, "text", ""), end="")
        print()
        print(*sorted(sys.modules), sep="\\n")
        await dispatcher.drain(1)

    asyncio.run(main())
"""


def test_text_path_imports_nothing_of_vision_until_a_picture_comes(
    library: Library, board_root: Path, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "models" / "lens"
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text('id = "lens"\n[weights]\nfile = "m.rkllm"\n[vision]\nfile = "m.rknn"\n')
    make_model(reply="Hello").rename(folder / "m.rkllm")
    encoder_file.write(folder / "m.rknn", SimEncoder())
    variables = {"HOME": str(tmp_path), "EXO_RKLLM_MODELS_DIRECTORY": str(tmp_path / "models")}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EXO_RKLLM_")}
    command = [sys.executable, "-c", textwrap.dedent(TEXT_ONLY), str(library("1.3.1")), "lens"]
    done = subprocess.run(command, env=environment | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer, *modules = done.stdout.split()
    assert answer == "Hello"
    imported = {name for name in modules if name.startswith(("exo_rkllm.vision", "exo_rkllm.rknn"))}
    # The card's encoder is looked at when the catalogue is read: a few plain values.
    assert not imported - LIGHT, imported - LIGHT
    assert not {"PIL", "numpy", "exo_rkllm.backends.rkllm_vision", "exo_rkllm.runner.encoder_child"} & set(modules)
