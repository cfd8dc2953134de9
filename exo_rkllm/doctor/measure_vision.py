"""The measurement of `selftest` for models that see: squares of one colour, named by the model."""

from __future__ import annotations

import struct
import zlib

from exo_rkllm.backends.base import Engine, Image, Message
from exo_rkllm.doctor.measure import MIB, Bench, MeasuredAnswer, ask, loaded_engine
from exo_rkllm.doctor.report import Finding, bad, good, poor, unseen

QUESTION = "Which colour does this picture have? Answer with one word."
SQUARES = {"red": b"\xff\0\0", "blue": b"\0\0\xff"}
SIDE = 64


def square(colour: bytes) -> bytes:
    """A PNG of one colour."""
    rows = (b"\0" + colour * SIDE) * SIDE
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


async def vision(bench: Bench) -> Finding:
    """An encoder in domain 0 beside a language model in another, and a colour that got through both."""
    async with loaded_engine(bench) as engine:
        if not engine.capabilities.images:
            return unseen("the model does not see: --model NAME of one whose card has [vision]")
        answers = {name: await _look(engine, colour) for name, colour in SQUARES.items()}
        again = await _look(engine, SQUARES["red"])
        memory = engine.memory
    finishes = [answer.finish for answer in (*answers.values(), again)]
    if any(finish is None for finish in finishes):
        return bad("An answer about a picture had no end.", "exo-rkllm run NAME hello --image FILE --verbose")
    first, second, kept = (finish.timings.encode for finish in finishes if finish is not None)
    facts = f"first image {first:.2f} s with the encoder's load, the next {second:.2f} s, a known one {kept:.2f} s"
    if memory is not None:
        facts += f", memory {memory / MIB:.0f} MiB"
    if again.finish is not None and again.finish.usage.encoded:
        return bad(f"The same picture was encoded twice: {facts}.", "Attach the report to an issue")
    told = {name: " ".join(answer.text.split())[:80] for name, answer in answers.items()}
    wrong = [f"{name} square: {text!a}" for name, text in told.items() if name not in text.lower()]
    if wrong:
        return poor(
            f"{'; '.join(wrong)} ({facts})",
            "Compare the tags under [vision] in the model's model.toml with its maker's",
        )
    return good(f"both colours named; {facts}")


async def _look(engine: Engine, colour: bytes) -> MeasuredAnswer:
    return await ask(engine, Message("user", QUESTION, images=(Image(square(colour), "image/png"),)))
