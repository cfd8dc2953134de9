"""Two runtimes and four models, loaded in any order: always the right library, and nothing is left behind.

40 loads by default; TESTS_LONG=1 makes 500.
"""

from __future__ import annotations

import gc
import logging
import os
import random
from collections.abc import Callable
from pathlib import Path

from exo_rkllm.assembly import NO_PLUGINS, open_node
from exo_rkllm.backends.base import GenerationRequest, Message, Piece
from exo_rkllm.config import load
from exo_rkllm.runner.launch import resident_bytes
from tests.runtime import folders
from tests.simulated import Library

log = logging.getLogger(__name__)
LOADS = 500 if os.environ.get("TESTS_LONG") else 40
# What the interpreter's own arenas move up and down; a leak of a load's buffers would be several times as much.
JITTER = 4 << 20
# Model: card, toolkit, and the release it belongs to where 1.3.0 or 1.2.3 is the default.
MODELS = {
    "plain": ("", "1.1.4", {"1.3.0": "1.3.0", "1.2.3": "1.2.3"}),
    "chosen": ('[options]\nruntime = "1.2.3"\n', "1.1.4", {"1.3.0": "1.2.3", "1.2.3": "1.2.3"}),
    "young": ("", "1.3.0", {"1.3.0": "1.3.0", "1.2.3": "1.3.0"}),
    "trapped": ("", "1.2.2", {"1.3.0": "1.2.3", "1.2.3": "1.2.3"}),
}


async def test_random_loads_use_the_right_library_and_leave_nothing_behind(
    tmp_path: Path, library: Library, board_root: Path, make_model: Callable[..., Path]
) -> None:
    for name, (card, toolkit, _) in MODELS.items():
        (entry := tmp_path / "models" / name).mkdir(parents=True)
        make_model(reply="{user}", toolkit=toolkit).rename(entry / "m.rkllm")
        (entry / "model.toml").write_text(f'id = "{name}"\ncontext = 512\n[weights]\nfile = "m.rkllm"\n{card}')
    link, default = folders.filled(tmp_path / "lib", library, "1.3.0", "1.2.3"), "1.3.0"
    config = load(
        {"HOME": str(tmp_path), "EXO_RKLLM_BOARD_ROOT": str(board_root), "EXO_RKLLM_RUNTIME_LIBRARY": str(link)}
    )
    node = open_node(config, NO_PLUGINS, models=tmp_path / "models")
    dispatcher = node.dispatcher()
    chance, seen, before = random.Random(8), set(), (0, 0)
    try:
        for number in range(LOADS):
            if number % 8 == 7:
                default = chance.choice(["1.3.0", "1.2.3"])
                folders.set_default(link.parent, f"librkllmrt-{default}.so")
            name = chance.choice([*MODELS])
            await dispatcher.unload(name)
            request = GenerationRequest(model=name, messages=(Message("user", f"word {number}"),), max_tokens=8)
            answer = [event.text async for event in dispatcher.generate(request) if isinstance(event, Piece)]
            assert "".join(answer).strip() == f"word {number}"
            assert folders.mapped_releases(os.getpid()) == [MODELS[name][2][default]], (number, name, default)
            seen.add((name, default))
            if number == LOADS // 4:
                before = footprint()
        after = footprint()
    finally:
        await dispatcher.drain(0.5)
    assert len(seen) > len(MODELS)
    figures = (before[0], after[0], before[1] >> 10, after[1] >> 10)
    log.info("%d loads: descriptors %d to %d, memory %d to %d KiB", LOADS, *figures)
    assert after[0] <= before[0]
    assert after[1] <= before[1] + JITTER


def footprint() -> tuple[int, int]:
    """Open descriptors and resident bytes of this process."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir())), resident_bytes(os.getpid()) or 0
