"""Ollama's own client pulls from a server that speaks the Hub's HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import ollama
import pytest

from exo_rkllm.api.context import ApiContext, ApiKey, ApiServerSettings
from exo_rkllm.api.control.tables import PULL, PullRequest
from exo_rkllm.catalogue.hub import Access
from exo_rkllm.catalogue.progress import PullProgress
from exo_rkllm.catalogue.pull import PullTarget, pull
from exo_rkllm.catalogue.store import Catalogue
from simulator.model_file import SimModel, write
from tests.api.world import world
from tests.hub import LocalHub, large

SETTINGS = ApiServerSettings(keys=(ApiKey("admin", "sesame", control=True),))
FILE = "Qwen2.5-0.5B-Instruct-rk3588-w8a8.rkllm"


async def test_pull_streams_its_progress_and_ends_with_a_model(tmp_path: Path) -> None:
    weights = write(tmp_path / FILE, SimModel(reply="hello")).read_bytes()

    async with LocalHub() as hub:
        hub.add("org/Qwen2.5-0.5B", {FILE: large(weights), "README.md": b"a model"})

        def parts(catalogue: Catalogue, **more: object) -> ApiContext:
            def fetch(name: str) -> AsyncGenerator[PullProgress, None]:
                return pull(catalogue, PullTarget.of(name, "rk3588"), Access(hub.endpoint), soc="rk3588")

            return ApiContext(catalogue=catalogue, pull=fetch, **more)  # type: ignore[arg-type]

        async with world(settings=SETTINGS, parts=parts) as server:
            client = ollama.AsyncClient(server.url, headers={"Authorization": "Bearer sesame"})
            steps = [step async for step in await client.pull("org/Qwen2.5-0.5B", stream=True)]
            assert steps[0].status == "pulling manifest" and steps[-1].status == "success"
            assert {step.total for step in steps if step.total} == {len(weights)}
            assert max(step.completed or 0 for step in steps) == len(weights)
            assert "qwen2.5-0.5b-instruct" in {entry.id for entry in server.catalogue.list()}
            assert (await client.pull("org/Qwen2.5-0.5B")).status == "success"
            with pytest.raises(ollama.ResponseError, match="org/none"):
                async for _ in await client.pull("org/none", stream=True):
                    pass
            with pytest.raises(ollama.ResponseError, match="of a name without an organisation"):
                await client.pull("../../etc/passwd")
            with pytest.raises(ollama.ResponseError, match="of a name without an organisation"):
                await client.pull("llama3")
            hub.repos["GatekeeperZA/Qwen3-1.7B-RKLLM-v1.2.3"] = hub.repos["org/Qwen2.5-0.5B"]
            assert (await client.pull("qwen3:1.7b")).status == "success"
            assert "qwen3-1.7b" in {entry.id for entry in server.catalogue.list()}
            await client.delete("qwen2.5-0.5b-instruct")
            assert "qwen2.5-0.5b-instruct" not in {entry.id for entry in server.catalogue.list()}


async def test_a_daemon_that_fetches_nothing_says_how() -> None:
    async with world(settings=SETTINGS) as server:
        client = ollama.AsyncClient(server.url, headers={"Authorization": "Bearer sesame"})
        with pytest.raises(ollama.ResponseError, match="exo-rkllm pull org/repo"):
            await client.pull("org/repo")


def test_token_of_a_pull_is_not_shown() -> None:
    """A request that is logged as a whole must not show it."""
    request = PullRequest(**PULL.check({"model": "a/b", "token": "hf_sesame", "replace": True}, ""))
    assert (request.token, request.replace) == ("hf_sesame", True) and "sesame" not in repr(request)
