"""What an owner wants to do, in at most three commands each, with a stopwatch; by clicks in tests/page/test_gallery.py.

Installing and opening the network are typed on a bare Debian: tests/system/test_3_readme.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from tests.daemon.running import House
from tests.daemon.test_sees import seeing
from tests.hub import LocalHub, large

MOST_COMMANDS, AN_OWNERS_PATIENCE = 3, 60.0
PICTURE = Path(__file__).parents[2] / "docs/images/shapes.png"
REPO, FILE = "maker/Tower-1B-RKLLM", "Tower-1B_w8a8_rk3588.rkllm"


async def test_owner_finds_a_model_asks_about_a_picture_and_sees_why_it_is_slow(
    board_house: House, make_model: Callable[..., Path], record_property: Callable[[str, object], None]
) -> None:
    tasks = {
        "find and pull a model": (
            (("search", "tower"), f"{REPO}:{FILE}"),
            (("pull", f"{REPO}:{FILE}"), "tower-1b is ready"),
            (("run", "tower-1b", "Why is the sky blue?"), "Because of the air."),
        ),
        "ask about a picture": ((("run", "qwen2-vl", "What is this?", "--image", str(PICTURE)), "red"),),
        "see why it is slow": ((("bench", "tower-1b"), "CPU governor"),),
    }
    seeing(board_house, make_model)
    weights = make_model(reply="Because of the air. ", prefill_tps=50000, decode_tps=1000).read_bytes()
    async with LocalHub() as hub:
        hub.add(REPO, {FILE: large(weights)})
        board_house.start(HF_ENDPOINT=hub.endpoint)
        for task, commands in tasks.items():
            assert len(commands) <= MOST_COMMANDS
            began = time.monotonic()
            for words, answer in commands:
                done = await asyncio.to_thread(board_house.command, *words, HF_ENDPOINT=hub.endpoint)
                assert answer in done.stdout + done.stderr, (words, done.stdout, done.stderr)
                assert done.returncode == 0, done.stderr
            seconds = time.monotonic() - began
            assert seconds < AN_OWNERS_PATIENCE
            record_property(task, f"{len(commands)} commands, {seconds:.1f} s")
