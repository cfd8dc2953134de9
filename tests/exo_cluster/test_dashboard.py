"""What owners see in exo's dashboard of a board: the real catalogue and dispatcher in the stand-in's cluster."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.assembly import NO_PLUGINS, Node, open_node
from exo_rkllm.cluster.node import ClusterNode
from exo_rkllm.cluster.serving import NodeDescription
from exo_rkllm.cluster.session.view import Phase
from exo_rkllm.config import load
from exo_rkllm.daemon.cluster import DispatchServing
from exo_rkllm.dispatch.dispatcher import Dispatcher
from tests.exo_cluster.dashboard import HABITS, Dashboard
from tests.exo_cluster.lab import until
from tests.exo_cluster.test_node import Exo, in_phase, settings, started
from tests.simulated import Library

CARD = 'id = "{0}"\ncontext = 512\n{1}[weights]\nfile = "m.rkllm"\n'
PLAIN, THINKER = "rkllm/plain", "rkllm/thinker"


@dataclass
class Owner:
    """A board with a node of exo beside it, and the dashboard that exo serves."""

    exo: Exo
    node: Node
    dispatcher: Dispatcher
    cluster: ClusterNode
    make_model: Callable[..., Path]

    @property
    def dashboard(self) -> Dashboard:
        return Dashboard(f"http://127.0.0.1:{self.exo.api}")

    async def shown(self, model: str, what: str, seconds: float = 10.0) -> float:
        async def as_wanted() -> bool:
            return await self.dashboard.shows(model) == what

        return await until(as_wanted, seconds)


@pytest.fixture
async def owner_of(
    library: Library, board_root: Path, make_model: Callable[..., Path], tmp_path: Path
) -> AsyncIterator[Callable[..., Any]]:
    """`await owner_of(name={fields of the simulated model}, ...)`."""
    stack = contextlib.AsyncExitStack()

    def add(name: str, card: str = "", **fields: Any) -> None:
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        (folder / "model.toml").write_text(CARD.format(name, card))
        make_model(**fields).rename(folder / "m.rkllm")

    async def make(*, release: str = "1.3.0", cluster: dict[str, Any] | None = None, **models: dict[str, Any]) -> Owner:
        for name, fields in models.items():
            add(name, **fields)
        variables = {"HOME": str(tmp_path), "EXO_RKLLM_MODELS_DIRECTORY": str(tmp_path / "models")}
        node = open_node(load(variables), NO_PLUGINS, library=library(release))
        dispatcher = node.dispatcher(available=lambda: 1 << 40)
        stack.push_async_callback(dispatcher.drain, 1.0)
        exo = await started()
        stack.push_async_callback(exo.end)
        serving = DispatchServing(dispatcher, node)
        board = ClusterNode(settings(exo, **cluster or {}), NodeDescription("opi5"), serving, tmp_path / "id")
        await board.start()
        stack.push_async_callback(board.stop)
        await in_phase(board, Phase.SERVING)
        return Owner(exo, node, dispatcher, board, make_model)

    async with stack:
        yield make


THINKS = {"reply": "<think>\nhm\n</think>\n\nHello", "card": 'base_model = "Qwen/Qwen3-1.7B"\n'}


async def test_dashboards_own_message_is_answered_whatever_the_model_can(owner_of: Any) -> None:
    """It asks every model for thoughts, probabilities and a temperature; a board that refuses shows an empty box."""
    owner = await owner_of(plain={"reply": "Hello"}, thinker=THINKS)
    assert await owner.dashboard.chat(PLAIN, "Hi") == "Hello"
    assert (await owner.dashboard.chat(THINKER, "Hi")).strip() == "Hello"


@pytest.mark.parametrize("release", ["1.1.4", "1.2.3"])
async def test_runtime_that_takes_sampling_at_load_only_answers_the_dashboard(owner_of: Any, release: str) -> None:
    owner = await owner_of(release=release, plain={"reply": "Hello"})
    assert await owner.dashboard.chat(PLAIN, "Hi") == "Hello"


async def test_settings_that_the_engine_does_not_take_make_no_empty_answer(owner_of: Any) -> None:
    owner = await owner_of(plain={"reply": "Hello"})
    assert await owner.dashboard.chat(PLAIN, "Hi", seed=7, min_p=0.05, top_k=20) == "Hello"
    body = {"model": PLAIN, "messages": [{"role": "user", "content": "Hi"}], "seed": -1, "min_p": 0.05}
    status, text = await owner.dashboard.post("/v1/chat/completions", body)
    assert (status, json.loads(text)["choices"][0]["message"]["content"]) == (200, "Hello")


async def test_prompt_that_does_not_fit_is_told_in_the_box(owner_of: Any) -> None:
    owner = await owner_of(plain={"reply": "Hello"})
    text = await owner.dashboard.chat(PLAIN, "word " * 2000)
    assert text.startswith("[opi5 did not answer] ")
    assert "512" in text
    body = {"model": PLAIN, "messages": [{"role": "user", "content": "word " * 2000}]}
    _, text = await owner.dashboard.post("/v1/chat/completions", body)
    assert "[opi5 did not answer]" in json.loads(text)["choices"][0]["message"]["content"]


async def test_errors_stay_errors_where_the_owner_wants_them(owner_of: Any) -> None:
    """exo gives an empty body with status 200 for them, and an error in a stream."""
    owner = await owner_of(cluster={"errors": "error"}, plain={"reply": "Hello"})
    assert await owner.dashboard.chat(PLAIN, "word " * 2000) == ""
    body = {"model": PLAIN, "messages": [{"role": "user", "content": "word " * 2000}]}
    assert await owner.dashboard.post("/v1/chat/completions", body) == (200, "")
    _, text = await owner.dashboard.post("/v1/chat/completions", {**body, **HABITS})
    assert '"error"' in text
