"""What the exo cluster is told of this board, and how its tasks come into the common queue."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from exo_rkllm.assembly import NO_PLUGINS, Node, open_node
from exo_rkllm.backends.base import GenerationRequest, Message, Piece
from exo_rkllm.backends.rkllm import RkllmEngine
from exo_rkllm.board.detect import detect
from exo_rkllm.catalogue.card import parse
from exo_rkllm.cluster.worker.offers import card as make_card
from exo_rkllm.config import load
from exo_rkllm.daemon.cluster import DispatchServing, cluster_node
from exo_rkllm.daemon.offers import exo_family
from exo_rkllm.dispatch import decide
from exo_rkllm.dispatch.dispatcher import Dispatcher
from exo_rkllm.errors import ExoRkllmError, NpuUnavailable
from tests.daemon.running import House
from tests.dispatch.puppet import until
from tests.simulated import Library

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


async def test_offers_follow_the_models_state(dispatcher: Dispatcher, node: Node) -> None:
    offered = DispatchServing(dispatcher, node)
    async with aclosing(offered.offers()) as offers:
        (cold,) = await anext(offers)
        assert (cold.id, cold.state, cold.context, cold.layers, cold.hidden_size) == ("echo", "cold", 512, 4, 64)
        await offered.load("echo")
        while (now := await anext(offers))[0].state != "ready":
            assert now[0].state == "loading"


@pytest.mark.parametrize(
    ("card", "family"),
    [
        ('id = "m"\nbase_model = "Qwen/Qwen3-1.7B"\n', "qwen"),
        ('id = "m"\nbase_model = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"\n', "deepseek"),
        ('id = "gemma-3-1b"\n', "gemma"),
        ('id = "TinyLlama-1.1B"\n', "llama"),
        ('id = "my-model"\n[chat]\nfamily = "phi3"\n', "phi3"),
    ],
)
def test_card_names_the_family_as_exo_does(card: str, family: str) -> None:
    assert exo_family(parse(f'engine = "dummy"\n{card}')) == family


async def test_card_tells_the_cluster_what_the_model_can(node: Node, dispatcher: Dispatcher) -> None:
    folder = node.catalogue.directory / "thinker"
    folder.mkdir()
    card = 'id = "thinker"\nengine = "dummy"\nbase_model = "Qwen/Qwen3-1.7B"\nquantization = "w8a8"\nkv_heads = 8\n'
    (folder / "model.toml").write_text(card + "context = 4096\n")
    async with aclosing(DispatchServing(dispatcher, node).offers()) as offers:
        (thinker,) = [one for one in await anext(offers) if one.id == "thinker"]
    told = make_card(thinker)
    assert told["capabilities"] == ["text", "thinking", "thinking_toggle", "tools"]
    assert (told["family"], told["quantization"], told["base_model"]) == ("qwen", "w8a8", "Qwen/Qwen3-1.7B")
    assert (told["context_length"], told["num_key_value_heads"]) == (4096, 8)


async def test_model_that_needs_no_npu_is_offered_without_one(dispatcher: Dispatcher, node: Node) -> None:
    dispatcher.npu_unavailable(NpuUnavailable("The driver was unloaded.", "modprobe rknpu"))
    async with aclosing(DispatchServing(dispatcher, node).offers()) as offers:
        assert [(one.id, one.state) for one in await anext(offers)] == [("echo", "cold")]


@pytest_asyncio.fixture
async def on_board(
    library: Library, board_root: Path, make_model: Callable[..., Path], tmp_path: Path
) -> AsyncIterator[tuple[Node, Dispatcher]]:
    """A node with one model on the simulated vendor library, in a child process."""
    folder = tmp_path / "models" / "qwen"
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text('id = "qwen"\ncontext = 512\n[weights]\nfile = "m.rkllm"\n')
    make_model(reply="Hello").rename(folder / "m.rkllm")
    variables = {"HOME": str(tmp_path), "EXO_RKLLM_MODELS_DIRECTORY": str(tmp_path / "models")}
    on_board = open_node(load(variables), NO_PLUGINS, library=library("1.3.0"))
    dispatcher = on_board.dispatcher(available=lambda: 1 << 40)
    yield on_board, dispatcher
    await dispatcher.drain(1.0)


async def offered_states(node: Node, dispatcher: Dispatcher, states: list[str]) -> None:
    """Appends what the cluster is told of the one model, whenever that changes."""
    async with aclosing(DispatchServing(dispatcher, node).offers()) as offers:
        async for one in offers:
            states.append(one[0].state if one else "none")  # noqa: PERF401 - seen while it goes on


async def test_answer_makes_no_offers(on_board: tuple[Node, Dispatcher], monkeypatch: pytest.MonkeyPatch) -> None:
    """With 508 models each change of each answer looked at every one of them."""
    node, dispatcher = on_board
    states: list[str] = []
    watching = asyncio.create_task(offered_states(node, dispatcher, states))
    await dispatcher.load("qwen")
    await until(lambda: states and states[-1] == "ready")
    made: list[object] = []

    def make(*_arguments: object) -> tuple[()]:
        made.append(0)
        return ()

    monkeypatch.setattr(DispatchServing, "_offers", make)
    assert await ask(dispatcher) == "Hello"
    await asyncio.sleep(0)
    assert not made
    node.catalogue.notify()
    await until(lambda: made)
    watching.cancel()
    await asyncio.wait([watching])


async def ask(dispatcher: Dispatcher) -> str:
    request = GenerationRequest(model="qwen", messages=(Message("user", "Hi"),))
    return "".join([event.text async for event in dispatcher.generate(request) if isinstance(event, Piece)])


async def test_model_whose_process_was_killed_is_ready_for_the_cluster_again(
    on_board: tuple[Node, Dispatcher],
) -> None:
    """The error of the loss was taken for the model's state until the next undisturbed answer."""
    node, dispatcher = on_board
    states: list[str] = []
    watching = asyncio.create_task(offered_states(node, dispatcher, states))
    await dispatcher.load("qwen")
    engine = dispatcher._engine("qwen")
    assert isinstance(engine, RkllmEngine)
    os.kill(engine._loaded().pid, signal.SIGKILL)
    await until(lambda: dispatcher.status().models[0].state == "cold")
    assert "SIGKILL" in dispatcher.status().models[0].error
    await dispatcher.load("qwen")
    await asyncio.sleep(0)
    await until(lambda: states[-1] == "ready")
    assert "failed" not in states, "one loss: the next request loads it at once"
    assert dispatcher.status().models[0].error == ""
    assert await ask(dispatcher) == "Hello"
    watching.cancel()


async def test_model_that_keeps_dying_is_offered_again_once_it_may_be_loaded(
    on_board: tuple[Node, Dispatcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decide, "BACK_OFF", (0.0, 0.3))
    node, dispatcher = on_board
    states: list[str] = []
    watching = asyncio.create_task(offered_states(node, dispatcher, states))
    for _ in range(2):
        await dispatcher.load("qwen")
        engine = dispatcher._engine("qwen")
        assert isinstance(engine, RkllmEngine)
        os.kill(engine._loaded().pid, signal.SIGSEGV)
        await until(lambda: dispatcher.status().models[0].state in ("cold", "failed"))
    await until(lambda: states[-1] == "failed")
    assert dispatcher.status().models[0].retry_at is not None
    await until(lambda: states[-1] == "cold")
    watching.cancel()


async def test_model_whose_load_was_refused_is_failed_until_it_is_loaded(on_board: tuple[Node, Dispatcher]) -> None:
    node, dispatcher = on_board
    file = node.catalogue.get("qwen").folder / "m.rkllm"
    whole = file.read_bytes()
    file.write_bytes(b"x" * len(whole))
    states: list[str] = []
    watching = asyncio.create_task(offered_states(node, dispatcher, states))
    with pytest.raises(ExoRkllmError):
        await dispatcher.load("qwen")
    await until(lambda: states[-1] == "failed")
    (refused,) = dispatcher.status().models
    assert (refused.state, bool(refused.error), bool(refused.hint)) == ("failed", True, True)
    file.write_bytes(whole)
    await dispatcher.load("qwen")
    await until(lambda: states[-1] == "ready")
    assert dispatcher.status().models[0].error == ""
    watching.cancel()


async def test_model_whose_driver_came_back_is_offered_as_it_is(on_board: tuple[Node, Dispatcher]) -> None:
    node, dispatcher = on_board
    states: list[str] = []
    watching = asyncio.create_task(offered_states(node, dispatcher, states))
    await dispatcher.load("qwen")
    dispatcher.npu_unavailable(NpuUnavailable("The driver was unbound.", "exo-rkllm board"))
    (away,) = dispatcher.status().models
    assert (away.state, away.error) == ("failed", "The driver was unbound.")
    await until(lambda: states[-1] == "failed")
    await until(lambda: not dispatcher._lives)
    dispatcher.npu_available()
    (back,) = dispatcher.status().models
    assert (back.state, back.error) == ("cold", "")
    await until(lambda: states[-1] == "cold")
    assert await ask(dispatcher) == "Hello"
    await until(lambda: states[-1] == "ready")
    watching.cancel()


async def test_task_of_the_cluster_joins_the_common_queue(dispatcher: Dispatcher, node: Node) -> None:
    request = GenerationRequest(model="echo", messages=(Message("user", "hello cluster"),))
    events = [event async for event in DispatchServing(dispatcher, node).generate(request, client="exo")]
    assert "".join(event.text for event in events if isinstance(event, Piece)) == "hello cluster"
    assert dispatcher.status().models[0].state == "ready"


async def test_cluster_node_exists_only_where_it_is_enabled(dispatcher: Dispatcher, node: Node, tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "EXO_RKLLM_CLUSTER_NAME": "kitchen"}
    board = detect(tmp_path)
    off = load({**environment, "EXO_RKLLM_CLUSTER_ENABLED": "false"})
    assert cluster_node(off, environment, dispatcher, node, lambda: board) is None
    first = cluster_node(load(environment), environment, dispatcher, node, lambda: board)
    assert first is not None
    again = cluster_node(load(environment), environment, dispatcher, node, lambda: board)
    assert again is not None
    assert first.node_id == again.node_id, "the board is the same node after a restart"


@pytest.mark.parametrize(
    ("variables", "joins"),
    [
        ({}, False),
        ({"EXO_RKLLM_CLUSTER_NAMESPACE": "lab"}, True),
        ({"EXO_RKLLM_CLUSTER_ENDPOINTS": "tcp/[fd00::10]:52414"}, True),
    ],
)
async def test_board_with_keys_joins_only_a_cluster_that_is_named(
    dispatcher: Dispatcher, node: Node, tmp_path: Path, variables: dict[str, str], joins: bool
) -> None:
    environment = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), **variables}
    config, board = load(environment), detect(tmp_path)
    assert (cluster_node(config, environment, dispatcher, node, lambda: board, keys=True) is not None) == joins
    assert cluster_node(config, environment, dispatcher, node, lambda: board) is not None


def test_daemon_with_keys_says_why_it_joins_no_cluster(house: House) -> None:
    """A stranger's exo asked a board that wanted keys of everybody else."""
    (house.folder / "keys").write_text("0123456789abcdef01\n")
    daemon = house.start(
        EXO_RKLLM_API_KEYS=str(house.folder / "keys"),
        EXO_RKLLM_CLUSTER_ENABLED="true",
        EXO_RKLLM_CLUSTER_DISCOVERY_PORT="52613",
    )
    assert daemon.status()["cluster"] is None
    daemon.stop()
    assert "exo asks for none" in daemon.text
