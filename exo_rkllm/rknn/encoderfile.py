"""What a `.rknn` file says of itself, read without the library: its shapes, its SoC, and the toolkit that made it.

Sixty-four bytes of head (the magic, a version, the length of the data), the data, then a block of JSON behind its own
length, as toolkits 1.6 to 2.5 write it.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exo_rkllm.errors import ModelFileError, ModelNotFound
from exo_rkllm.rknn.values import EncoderShape

MAGIC = b"RKNN\0\0\0\0"
LENGTHS = struct.Struct("<QQ")
# Lengths of the head in the versions of the format that were seen.
HEADS = (64, 24, 72)
LONGEST_JSON = 16 << 20
AGAIN = "Download or convert it again"


@dataclass(frozen=True, slots=True)
class EncoderFacts:
    path: Path
    size: int
    platforms: tuple[str, ...]
    toolkit: str
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]

    def shape(self) -> EncoderShape:
        """Raises ModelFileError where it is no encoder of pictures."""
        source = self.inputs[0] if len(self.inputs) == 1 else ()
        rows = {tuple(size for size in output if size > 1)[:2] for output in self.outputs}
        if len(source) != 4 or 3 not in (source[1], source[3]) or len(rows) != 1 or len(next(iter(rows))) != 2:
            raise ModelFileError(
                f"{self.path} encodes no pictures: from {shapes_text(self.inputs)} to {shapes_text(self.outputs)}.",
                "Take the vision encoder that belongs to the language model",
            )
        height, width = source[2:4] if source[1] == 3 else source[1:3]
        tokens, output_width = next(iter(rows))
        return EncoderShape(height, width, tokens, output_width, len(self.outputs))


def is_encoder_file(path: Path) -> bool:
    """Whether it begins as a `.rknn` file does, whatever its name is."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def inspect(path: Path) -> EncoderFacts:
    """Raises ModelNotFound or ModelFileError for what is no `.rknn` file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(len(MAGIC) + LENGTHS.size)
            if head[: len(MAGIC)] != MAGIC or len(head) < len(MAGIC) + LENGTHS.size:
                raise ModelFileError(f"{path} is no .rknn file: it does not begin with RKNN.", AGAIN)
            _, length = LENGTHS.unpack_from(head, len(MAGIC))
            block: dict[str, Any] | None = None
            for start in HEADS:
                if block is None and start + length + 8 < size:
                    file.seek(start + length)
                    block = _block(file.read(8), file.read(LONGEST_JSON))
    except FileNotFoundError:
        raise ModelNotFound(f"There is no {path}.", f"ls {path.parent}") from None
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}.", f"ls -l {path}") from error
    if block is None:
        raise ModelFileError(f"{path} is cut off, or of an unknown format: it does not name its shapes.", AGAIN)
    try:
        return _facts(path, size, block)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelFileError(f"{path} does not name its shapes as .rknn files do.", AGAIN) from error


def _block(length: bytes, rest: bytes) -> dict[str, Any] | None:
    count = int.from_bytes(length, "little")
    if not rest.startswith(b"{") or not 2 <= count <= len(rest):
        return None
    try:
        value = json.loads(rest[:count])
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _facts(path: Path, size: int, block: dict[str, Any]) -> EncoderFacts:
    shapes = {item["tensor_id"]: tuple(map(int, item["size"])) for item in block["norm_tensor"]}
    ends: dict[str, dict[int, tuple[int, ...]]] = {"input": {}, "output": {}}
    for link in block["graph"]:
        if link["left"] in ends and link["right"] == "norm_tensor":
            ends[link["left"]][int(link["left_tensor_id"])] = shapes[link["right_tensor_id"]]
    inputs, outputs = (tuple(shape for _, shape in sorted(ends[side].items())) for side in ("input", "output"))
    platforms = block.get("target_platform") or []
    return EncoderFacts(
        path,
        size,
        tuple(str(name).lower() for name in ([platforms] if isinstance(platforms, str) else platforms)),
        str(block.get("version", "")),
        inputs,
        outputs,
    )


def shapes_text(shapes: tuple[tuple[int, ...], ...]) -> str:
    """As people write them: 1x3x448x448."""
    return ", ".join("x".join(map(str, shape)) for shape in shapes) or "nothing"
