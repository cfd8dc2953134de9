"""Every exported function of every generation under AddressSanitizer, UBSan and the leak check (walk.c)."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from simulator.model_file import SimModel, write
from tests.simulated import REPOSITORY, VERSIONS, Library
from tests.simulator.raw import GENERATIONS

SOURCE = Path(__file__).parent / "walk.c"
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-g", "-O1", "-pthread")
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
# The layouts' names: RKLLM_G2 ... RKLLM_G6, G3B for 1.2.1b1.
NAMES = {2.0: "G2", 3.0: "G3", 3.5: "G3B", 4.0: "G4", 5.0: "G5", 6.0: "G6"}

Compile = Callable[[Path, str], Path]
CROSS, QEMU = "aarch64-linux-gnu-gcc", "qemu-aarch64-static"
MISSING = [name for name in (CROSS, QEMU) if shutil.which(name) is None]


def layout(version: str) -> tuple[str, str]:
    """The compiler's flags for a caller of that version."""
    return f"-DRKLLM_GEN=RKLLM_{NAMES[GENERATIONS[version]]}", f"-I{REPOSITORY / 'simulator' / 'include'}"


@pytest.fixture
def driver(library: Library, tmp_path: Path) -> Callable[[Path, str], Path]:
    """Compiles a C file against one version's sanitized build."""

    def compiled(source: Path, version: str) -> Path:
        so = library(version, sanitize=True)
        out = tmp_path / source.stem
        command = ["gcc", *FLAGS, *SANITIZE, *layout(version), source, so, f"-Wl,-rpath,{so.parent}", "-o", out]
        subprocess.run([*map(str, command)], check=True, capture_output=True, text=True)
        return out

    return compiled


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    chat = write(folder / "chat.rkllm", SimModel(reply="I heard: {user}"))
    write(folder / "endless.rkllm", SimModel(reply="on and on", endless=True, decode_tps=2000))
    write(folder / "eyes.rkllm", SimModel(vision=True, reply="{media} image"))
    write(folder / "bare.rkllm", SimModel(has_tokenizer=False, has_embedding=False, reply="a b"))
    write(folder / "lora.rkllm", SimModel(reply="Arr, {user}"))
    (folder / "torn.rkllm").write_bytes(chat.read_bytes()[:70_000])
    return folder


@pytest.mark.parametrize("version", VERSIONS)
def test_a_walk_through_everything(driver: Compile, models: Path, board_root: Path, version: str) -> None:
    walk = driver(SOURCE, version)
    for level in ("0", "2"):
        environment = {**os.environ, "RKLLM_LOG_LEVEL": level, "ASAN_OPTIONS": "detect_leaks=1"}
        done = subprocess.run([walk, models], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("walked\n")


@pytest.mark.skipif(platform.machine() == "aarch64", reason="this machine is an arm64 one: the walk above was it")
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
@pytest.mark.parametrize("version", VERSIONS)
def test_the_same_walk_on_arm64(library: Library, models: Path, board_root: Path, tmp_path: Path, version: str) -> None:
    so = library(version, machine="aarch64")
    walk = tmp_path / "walk"
    command = [CROSS, *FLAGS, *layout(version), SOURCE, so, f"-Wl,-rpath,{so.parent}", "-o", walk]
    subprocess.run([*map(str, command)], check=True, capture_output=True, text=True)
    done = subprocess.run(
        [QEMU, "-L", "/usr/aarch64-linux-gnu", walk, models], capture_output=True, text=True, timeout=120
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("walked\n")


BAD_CALLERS = {
    "keeps the text": """
        static const char *kept;
        static int on(RKLLMResult *r, void *u, LLMCallState s)
        {
            (void)u;
            if (kept != NULL) printf("%c\\n", *kept);
            if (s == RKLLM_RUN_NORMAL) kept = r->text;
            return 0;
        }
    """,
    "keeps the result": """
        static RKLLMResult *kept;
        static int on(RKLLMResult *r, void *u, LLMCallState s)
        {
            (void)u; (void)s;
            if (kept != NULL) printf("%d\\n", kept->token_id);
            kept = r;
            return 0;
        }
    """,
}
BAD_MAIN = """
#include "rkllm.h"
#include <stdio.h>
#include <string.h>
%s
int main(int count, char **arguments)
{
    RKLLMParam param = rkllm_createDefaultParam();
    param.model_path = arguments[count - 1];
    param.extend_param.enabled_cpus_mask = 0xF0;
    RKLLMCallback callback = {on, NULL, NULL, NULL, NULL, NULL};
    LLMHandle handle;
    if (rkllm_init(&handle, &param, &callback) != 0) return 9;
    RKLLMInput input;
    memset(&input, 0, sizeof input);
    input.prompt_input = "Hello";
    return rkllm_run(handle, &input, NULL, NULL);
}
"""


@pytest.mark.parametrize("habit", BAD_CALLERS)
def test_a_caller_that_reads_too_late_is_caught(
    driver: Compile, models: Path, board_root: Path, tmp_path: Path, habit: str
) -> None:
    source = tmp_path / "bad.c"
    source.write_text(BAD_MAIN % BAD_CALLERS[habit])
    done = subprocess.run([driver(source, "1.3.1"), models / "chat.rkllm"], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "heap-use-after-free" in done.stderr
