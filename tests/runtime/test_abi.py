"""Every size and every offset of every generation, against what a compiler measured on the vendor's headers."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.runtime import abi
from exo_rkllm.runtime.abi import shared
from tests.runtime import abi_check, abi_table
from tests.runtime.abi_check import GENERATIONS

STRUCTS = [(release, name) for release in GENERATIONS for name in abi_table.layouts(release)]
ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(("release", "name"), STRUCTS)
def test_a_struct_lies_as_the_vendor_s_compiler_laid_it(release: str, name: str) -> None:
    assert abi_check.mismatches(release, name) == []


@pytest.mark.parametrize(("release", "name"), STRUCTS)
def test_a_struct_has_no_field_that_the_vendor_s_has_not(release: str, name: str) -> None:
    """A field too many would be found by its offset only if it moved others."""

    def names(kind: Any) -> set[str]:
        found: set[str] = set()
        for name, inner in abi_check.kinds(kind).items():
            if name in {"image", "video", "audio"}:
                found |= {f"{name}.{deeper}" for deeper in names(inner)}
            else:
                found |= set(abi_check.kinds(inner)) if name == "union" else {name}
        return found

    vendor = {entry.name for entry in abi_table.layouts(release)[name].fields}
    assert names(abi_check.struct(abi.load(release), name)) == vendor


@pytest.mark.parametrize("release", GENERATIONS)
def test_both_tables_of_the_vendor_s_figures_agree(release: str) -> None:
    assert {name: layout.size for name, layout in abi_table.layouts(release).items()} == abi_table.sizes(release)


@pytest.mark.parametrize("release", GENERATIONS)
def test_exactly_the_generation_s_functions_are_bound(release: str) -> None:
    bound = {name: len(arguments) for name, (_, arguments) in abi.load(release).functions.items()}
    assert bound == abi_table.functions(release)


@pytest.mark.parametrize("release", GENERATIONS)
def test_handles_are_never_plain_integers(release: str) -> None:
    """A handle without its type is cut to 32 bits (reference 1.7)."""
    for name, (_, arguments) in abi.load(release).functions.items():
        if name not in {"rkllm_createDefaultParam", "rkllm_init"}:
            assert arguments[0] is ctypes.c_void_p, name


@pytest.mark.parametrize("release", GENERATIONS)
def test_the_callback_answers_from_1_2_1_on(release: str) -> None:
    answers = abi.load(release).result_callback._restype_
    assert answers is (None if release in {"1.1.0", "1.2.0", "1.2.1b1"} else ctypes.c_int)


def test_states_and_types_have_the_vendor_s_numbers() -> None:
    assert [state.value for state in shared.CallState] == [0, 1, 2, 3, 4]
    assert [kind.name for kind in sorted(shared.InputType)] == ["PROMPT", "TOKEN", "EMBED", "MULTIMODAL"]
    assert [mode.name for mode in sorted(shared.InferMode)] == ["GENERATE", "GET_LAST_HIDDEN_LAYER", "GET_LOGITS"]


@pytest.mark.parametrize("release", ["1.0.1", "1.0.0", "1.2.1b2", "1.3.2", "9.9.0", ""])
def test_a_release_that_was_never_measured_has_no_layout(release: str) -> None:
    with pytest.raises(KeyError):
        abi.load(release)


@pytest.mark.parametrize("release", abi.RELEASES)
def test_only_the_generation_in_use_is_imported(release: str) -> None:
    code = f"import sys; from exo_rkllm.runtime import abi; abi.load({release!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.rpartition(".")[2] for name in done.stdout.split() if name.startswith("exo_rkllm.runtime.abi.")}
    assert loaded == {"shared", abi.RELEASES[release]}
