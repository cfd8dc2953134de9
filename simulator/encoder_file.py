"""`.rknn` files for the stand-in librknnrt, with the head and the JSON block of the vendor's toolkit.

python -m simulator.encoder_file demo_vision_rk3588.rknn --size 392 --tokens 196
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEAD = 64
FORMAT = 6
ZEROS = 4096  # where a real file has its network


@dataclass(frozen=True, slots=True, kw_only=True)
class SimEncoder:
    """A picture of `size` x `size` becomes `tokens` rows of `width` floats, in each of `outputs`.

    `fault` is ACTION@PLACE: kill, segv or hang at init or run, fail at run.
    """

    size: int = 392
    tokens: int = 196
    width: int = 64
    outputs: int = 1
    platform: str = "rk3588"
    toolkit: str = "2.3.2"
    load_seconds: float = 0.0
    run_seconds: float = 0.0
    fault: str = ""


def block(encoder: SimEncoder) -> dict[str, Any]:
    """The JSON block, with keys of our own behind the vendor's."""
    plain = {"qnt_method": "", "qnt_type": "", "vx_type": ""}
    shapes = [[1, 3, encoder.size, encoder.size]] + [[1, encoder.tokens, encoder.width]] * encoder.outputs
    names = ["pixels", *(f"embedding{index}" for index in range(encoder.outputs))]
    ends = [("input", 0), *(("output", index) for index in range(encoder.outputs))]
    return {
        "graph": [
            {"left": side, "left_tensor_id": index, "right": "norm_tensor", "right_tensor_id": number}
            for number, (side, index) in enumerate(ends)
        ],
        "name": "rknn model",
        "norm_tensor": [
            {"dim_num": len(shape), "dtype": plain, "size": shape, "tensor_id": number, "url": name}
            for number, (shape, name) in enumerate(zip(shapes, names, strict=True))
        ],
        "target_platform": [encoder.platform],
        "version": encoder.toolkit,
        "sim_load_seconds": encoder.load_seconds,
        "sim_run_seconds": encoder.run_seconds,
        "sim_fault": encoder.fault,
    }


def write(path: Path, encoder: SimEncoder) -> Path:
    """Writes the encoder to `path` and returns it."""
    text = json.dumps(block(encoder), separators=(",", ":")).encode()
    head = b"RKNN\0\0\0\0" + struct.pack("<QQ", FORMAT, ZEROS)
    path.write_bytes(head.ljust(HEAD, b"\0") + bytes(ZEROS) + struct.pack("<Q", len(text)) + text)
    return path


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="simulator.encoder_file", description="Write a simulated .rknn file.")
    parser.add_argument("out", type=Path)
    for field in dataclasses.fields(SimEncoder):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    values = vars(parser.parse_args(argv))
    print(write(values.pop("out"), SimEncoder(**values)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
