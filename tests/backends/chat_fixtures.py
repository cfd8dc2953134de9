"""Models behind servers: a GGUF with a program that stands in for llama-server, and a card for one on loopback."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from exo_rkllm.catalogue.card import Card, Weights
from exo_rkllm.catalogue.entry import Entry
from tests.backends.chat_server import Server, application

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture
def gguf(tmp_path: Path) -> Callable[..., Entry]:
    """`gguf(context=64, program="/usr/bin/llama-server")`; its options are the card's."""
    stand_in = tmp_path / "llama-server"
    stand_in.write_text(
        f'#!/bin/sh\nexport PYTHONPATH={REPOSITORY}\nexec {sys.executable} -m tests.backends.chat_server "$@"\n'
    )
    stand_in.chmod(0o755)
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(100))

    def make(context: int = 4096, **options: Any) -> Entry:
        options.setdefault("program", str(stand_in))
        return Entry(
            tmp_path, Card("m", engine="llamacpp", context=context, weights=Weights("m.gguf"), options=options)
        )

    return make


@pytest_asyncio.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """`await serve(context=64, key="secret")` is the card of a model on a server like vLLM's, or else llama.cpp's."""
    runners: list[web.AppRunner] = []

    async def start(context: int = 4096, key: str = "", more: int = 0, *, vllm: bool = True, **options: Any) -> Entry:
        server = Server("far/model", context, key, vllm=vllm)
        server.more = more
        runner = web.AppRunner(application(server), shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        options.setdefault("base_url", f"http://127.0.0.1:{port}/v1")
        return Entry(tmp_path, Card("far", engine="openai", options=options))

    start.runners = runners  # type: ignore[attr-defined]
    yield start
    for runner in runners:
        await runner.cleanup()
