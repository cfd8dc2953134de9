"""The structs under test against the vendor's figures. Standard library only, for the arm64 interpreter."""

from __future__ import annotations

import ctypes
from typing import Any

from exo_rkllm.runtime import abi
from exo_rkllm.runtime.abi import shared
from exo_rkllm.runtime.abi.shared import Generation
from tests.runtime import abi_table

GENERATIONS = tuple(abi_table.HEADERS)


def kinds(kind: Any) -> dict[str, Any]:
    """The types of a struct's fields by their names."""
    return {entry[0]: entry[1] for entry in kind._fields_}


def struct(generation: Generation, name: str) -> Any:
    """The class that stands for a struct of the vendor's in this generation."""
    own = {
        "RKLLMParam": generation.param,
        "RKLLMExtendParam": kinds(generation.param)["extend_param"],
        "RKLLMInput": generation.input,
        "RKLLMMultiModalInput": generation.multimodal_input,
        "RKLLMInferParam": generation.infer_param,
        "RKLLMResult": generation.result,
    }
    return own.get(name) or getattr(shared, name)


def field(kind: Any, name: str) -> tuple[int, int]:
    """Offset and size; a dotted name goes through inner structs."""
    offset = 0
    *inner, last = name.split(".")
    for step in inner:
        offset += getattr(kind, step).offset
        kind = kinds(kind)[step]
    descriptor = getattr(kind, last)
    return offset + descriptor.offset, descriptor.size


def mismatches(release: str, name: str) -> list[str]:
    """Every figure of a struct in which the class differs."""
    layouts = abi_table.layouts(release)
    layout, kind = layouts[name], struct(abi.load(release), name)
    found = []
    if (size := ctypes.sizeof(kind)) != layout.size:
        found.append(f"{release} {name}: sizeof {size}, vendor {layout.size}")
    if (align := ctypes.alignment(kind)) != layout.align:
        found.append(f"{release} {name}: align {align}, vendor {layout.align}")
    for offset, kind_name, field_name in layout.fields:
        wanted = (offset, abi_table.width(kind_name, layouts))
        if (got := field(kind, field_name)) != wanted:
            found.append(f"{release} {name}.{field_name}: offset and size {got}, vendor {wanted}")
    return found


def all_mismatches() -> list[str]:
    return [
        text for release in GENERATIONS for name in abi_table.layouts(release) for text in mismatches(release, name)
    ]


def figures() -> int:
    """How many offsets the table holds, each generation's whole."""
    return sum(len(layout.fields) for release in GENERATIONS for layout in abi_table.layouts(release).values())
