"""Writes vendor.json: what the vendor's own simulator computes for small linear encoders, and its files' own words.

Not a part of the tests' run: it needs rknn-toolkit2, onnx and their friends in a Python of their own.

    python -m venv lab && lab/bin/pip install rknn-toolkit2 onnx==1.16.1
    lab/bin/python tests/rknn/make_vendor_numbers.py
"""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path
from typing import Any

# Side of the picture, side of a token's square, width of a row, outputs.
SHAPES = ((64, 16, 12, 1), (56, 14, 18, 3), (96, 16, 9, 2))


def picture(side: int) -> list[int]:
    """Bytes of a picture that has no symmetry: rows, columns, RGB."""
    return [(37 * y + 11 * x + 101 * c + y * x) % 256 for y in range(side) for x in range(side) for c in range(3)]


def sign(d: int) -> float:
    return 1.0 if d // 3 % 2 == 0 else -1.0


def network(path: Path, side: int, patch: int, width: int, outputs: int) -> None:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    tokens = (side // patch) ** 2
    nodes, constants, results = [], [], []
    for k in range(outputs):
        weights = np.zeros((width, 3, patch, patch), np.float32)
        for d in range(width):
            weights[d, (d + k) % 3] = (k + 1) * sign(d + k) / patch**2
        constants += [
            numpy_helper.from_array(weights, f"weights{k}"),
            numpy_helper.from_array(np.array([1, width, tokens], np.int64), f"shape{k}"),
        ]
        nodes += [
            helper.make_node(
                "Conv", ["pixels", f"weights{k}"], [f"conv{k}"], kernel_shape=[patch, patch], strides=[patch, patch]
            ),
            helper.make_node("Reshape", [f"conv{k}", f"shape{k}"], [f"rows{k}"]),
            helper.make_node("Transpose", [f"rows{k}"], [f"embedding{k}"], perm=[0, 2, 1]),
        ]
        results.append(helper.make_tensor_value_info(f"embedding{k}", TensorProto.FLOAT, [1, tokens, width]))
    source = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, side, side])
    graph = helper.make_graph(nodes, "linear", [source], results, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))


def numbers(side: int, patch: int, width: int, outputs: int) -> dict[str, Any]:
    import numpy as np
    from rknn.api import RKNN

    with tempfile.TemporaryDirectory() as folder:
        network(Path(folder, "net.onnx"), side, patch, width, outputs)
        toolkit = RKNN(verbose=False)
        toolkit.config(mean_values=[[127.5] * 3], std_values=[[127.5] * 3], target_platform="rk3588")
        assert toolkit.load_onnx(str(Path(folder, "net.onnx"))) == 0
        assert toolkit.build(do_quantization=False) == 0
        assert toolkit.export_rknn(str(Path(folder, "net.rknn"))) == 0
        assert toolkit.init_runtime() == 0
        pixels = np.array(picture(side), np.uint8).reshape(1, side, side, 3)
        found = toolkit.inference(inputs=[pixels], data_format=["nhwc"])
        data = Path(folder, "net.rknn").read_bytes()
    version, length = struct.unpack_from("<QQ", data, 8)
    return {
        "side": side,
        "patch": patch,
        "width": width,
        "format": version,
        "head": len(data) - length - 8 - struct.unpack_from("<Q", data, 64 + length)[0],
        "block": json.loads(data[64 + length + 8 :]),
        "outputs": [[round(float(value), 6) for value in output.ravel()] for output in found],
    }


if __name__ == "__main__":
    out = Path(__file__).with_name("vendor.json")
    out.write_text(json.dumps([numbers(*shape) for shape in SHAPES]) + "\n")
