"""What the exo cluster is told of this board, and how its tasks come into the common queue."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from exo_rkllm.assembly import NO_PLUGINS, Node, open_node
from exo_rkllm.backends.base import GenerationRequest, Message, Piece
from exo_rkllm.board.detect import detect
from exo_rkllm.config import load
from exo_rkllm.daemon.cluster import DispatchServing, cluster_node
from exo_rkllm.dispatch.dispatcher import Dispatcher
from exo_rkllm.errors import NpuUnavailable

CARD = 'id = "echo"\nengine = "dummy"\ncontext = 512\nlayers = 4\nhidden_size = 64\n'


@pytest.fixture
def node(tmp_path: Path) -> Node:
    folder = tmp_path / "models" / "echo"
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text(CARD)
    return open_node(load({"HOME": str(tmp_path), "EXO_RKLLM_MODELS_DIRECTORY": str(tmp_path / "models")}), NO_PLUGINS)


@pytest_asyncio.fixture
async def dispatcher(node: Node) -> AsyncIterator[Dispatcher]:
    dispatcher = node.dispatcher()
    yield dispatcher
    await dispatcher.drain(1.0)


async def test_models_are_offered_as_they_are_loaded_and_not_while_the_board_is_away(
    dispatcher: Dispatcher, node: Node
) -> None:
    offered = DispatchServing(dispatcher, node)
    async with aclosing(offered.offers()) as offers:
        (cold,) = await anext(offers)
        assert (cold.id, cold.state, cold.context, cold.layers, cold.hidden_size) == ("echo", "cold", 512, 4, 64)
        await offered.load("echo")
        while (now := await anext(offers))[0].state != "ready":
            assert now[0].state == "loading"
        dispatcher.npu_unavailable(NpuUnavailable("The driver was unloaded.", "modprobe rknpu"))
        while now := await anext(offers):
            assert now[0].id == "echo"
        dispatcher.npu_available()
        assert [one.id for one in await anext(offers)] == ["echo"]


async def test_a_task_stands_in_the_common_queue(dispatcher: Dispatcher, node: Node) -> None:
    request = GenerationRequest(model="echo", messages=(Message("user", "hello cluster"),))
    events = [event async for event in DispatchServing(dispatcher, node).generate(request, client="exo")]
    assert "".join(event.text for event in events if isinstance(event, Piece)) == "hello cluster"
    assert dispatcher.status().models[0].state == "ready"


async def test_a_node_is_made_only_where_it_is_wanted(dispatcher: Dispatcher, node: Node, tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "EXO_RKLLM_CLUSTER_NAME": "kitchen"}
    board = detect(tmp_path)
    off = load({**environment, "EXO_RKLLM_CLUSTER_ENABLED": "false"})
    assert cluster_node(off, environment, dispatcher, node, board) is None
    first = cluster_node(load(environment), environment, dispatcher, node, board)
    assert first is not None
    again = cluster_node(load(environment), environment, dispatcher, node, board)
    assert again is not None
    assert first.node_id == again.node_id, "the board is the same node after a restart"
