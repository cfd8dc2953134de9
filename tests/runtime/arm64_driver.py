"""Runs under an arm64 interpreter, by qemu-user: the table, then every function of every generation. Prints JSON.

python3 arm64_driver.py LIBRARIES MODEL LORA SCRATCH   with RKLLM_SIM_ROOT set to a board
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from exo_rkllm.runtime import abi
from exo_rkllm.runtime.blackbox import redirected
from exo_rkllm.runtime.session import Library
from tests.runtime import abi_check, calls


def main(libraries: Path, model: Path, lora: Path, scratch: Path) -> None:
    called: dict[str, dict[str, list[int]]] = {}
    null: dict[str, dict[str, int]] = {}
    report = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "figures": abi_check.figures(),
        "mismatches": abi_check.all_mismatches(),
        "called": called,
        "null": null,
    }
    for folder in sorted(folder for folder in libraries.iterdir() if folder.name in abi.RELEASES):
        with redirected() as box:
            library = Library.open(folder / "librkllmrt.so")
            null[library.version] = calls.null_handles(library)
            cache = scratch / f"{library.version}.cache"
            called[library.version] = calls.everything(library, model, cache, lora, box)
    sys.stdout.write(json.dumps(report))


main(*map(Path, sys.argv[1:]))
