"""What owners see in exo's dashboard of a board: the real catalogue and dispatcher in the stand-in's cluster."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.assembly import NO_PLUGINS, Node, open_node
from exo_rkllm.backends.rkllm import RkllmEngine
from exo_rkllm.cluster.node import ClusterNode
from exo_rkllm.cluster.serving import NodeDescription
from exo_rkllm.cluster.session.view import OfferView, Phase
from exo_rkllm.config import load
from exo_rkllm.daemon import offers
from exo_rkllm.daemon.cluster import DispatchServing
from exo_rkllm.daemon.offers import MachineRoom, Retries
from exo_rkllm.dispatch.dispatcher import Dispatcher
from exo_rkllm.errors import NpuUnavailable
from simulator import encoder_file
from tests.exo_cluster import captured
from tests.exo_cluster.dashboard import HABITS, Dashboard
from tests.exo_cluster.lab import until
from tests.exo_cluster.test_node import Exo, in_phase, settings, started
from tests.simulated import Library, build

CARD = 'id = "{0}"\ncontext = 512\n{1}[weights]\nfile = "m.rkllm"\n'
PLAIN, THINKER = "rkllm/plain", "rkllm/thinker"


@dataclass
class Owner:
    """A board with a node of exo beside it, and the dashboard that exo serves."""

    exo: Exo
    node: Node
    dispatcher: Dispatcher
    cluster: ClusterNode
    models: Path
    room: list[MachineRoom]

    @property
    def dashboard(self) -> Dashboard:
        return Dashboard(f"http://127.0.0.1:{self.exo.api}")

    def offer(self, name: str) -> OfferView:
        (offer,) = (one for one in self.cluster.view().offers if one.model == name)
        return offer

    async def cards(self) -> set[str]:
        return set((await self.dashboard.state())["customModelCards"])

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
        if "[vision]" in card:
            encoder_file.write(folder / "m.rknn", encoder_file.SimEncoder())

    async def make(*, release: str = "1.3.0", cluster: dict[str, Any] | None = None, **models: dict[str, Any]) -> Owner:
        for name, fields in models.items():
            add(name, **fields)
        variables = {
            "HOME": str(tmp_path),
            "EXO_RKLLM_MODELS_DIRECTORY": str(tmp_path / "models"),
            "EXO_RKLLM_RUNTIME_ENCODER_LIBRARY": str(build() / "rknn-2.3.2" / "librknnrt.so"),
        }
        node = open_node(load(variables), NO_PLUGINS, library=library(release))
        dispatcher = node.dispatcher(available=lambda: 1 << 40)
        stack.push_async_callback(dispatcher.drain, 1.0)
        exo = await started()
        stack.push_async_callback(exo.end)
        room = [MachineRoom()]
        serving = DispatchServing(dispatcher, node, lambda: room[0])
        board = ClusterNode(settings(exo, **cluster or {}), NodeDescription("opi5"), serving, tmp_path / "id")
        await board.start()
        stack.push_async_callback(board.stop)
        await in_phase(board, Phase.SERVING, 30)
        return Owner(exo, node, dispatcher, board, tmp_path / "models", room)

    async with stack:
        yield make


THINKS = {"reply": "<think>\nhm\n</think>\n\nHello", "card": 'base_model = "Qwen/Qwen3-1.7B"\n'}


async def test_dashboards_own_message_is_answered_whatever_the_model_can(owner_of: Any) -> None:
    """It asks every model for thoughts, probabilities and a temperature; a board that refuses shows an empty box."""
    owner = await owner_of(plain={"reply": "Hello"}, thinker=THINKS)
    assert await owner.dashboard.chat(PLAIN, "Hi") == "Hello"
    assert (await owner.dashboard.chat(THINKER, "Hi")).strip() == "Hello"


async def test_what_exo_makes_of_each_endpoints_requests_is_answered_whatever_the_model_can(owner_of: Any) -> None:
    """Its OpenAI, Claude, responses and Ollama endpoints, with tools, their results, thinking and options."""
    owner = await owner_of(plain={"reply": "Hello"}, thinker=THINKS)
    for model in (PLAIN, THINKER):
        for request in captured.requests():
            body = {"model": model, "task_params": {**request["task_params"], "model": model}}
            status, text = await owner.dashboard.post("/v1/chat/completions", body)
            where = request["endpoint"], request["what"], model, text
            said = "The tool said: rain" if "result" in request["what"] else "Hello"
            assert status == 200, where
            assert json.loads(text)["choices"][0]["message"]["content"].strip() == said, where


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


def bitmap(colour: bytes, side: int = 512) -> str:
    """The data URL of a picture that exo sends in several chunks."""
    rows = colour[::-1] * side * side
    head = struct.pack("<2sIII", b"BM", 54 + len(rows), 0, 54)
    data = head + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, len(rows), 0, 0, 0, 0) + rows
    return f"data:image/bmp;base64,{base64.b64encode(data).decode()}"


async def test_pictures_come_in_chunks_and_a_known_one_is_not_encoded_again(owner_of: Any) -> None:
    """As in transcript 03g: data first, in parts, then the task. What exo sent before comes as a hash only."""
    sees = {"card": '[vision]\nfile = "m.rknn"\n', "vision": True, "embedding_length": 64}
    owner = await owner_of(plain={**sees, "reply": "{sees} {user}"})
    red, blue = ({"type": "image_url", "image_url": {"url": bitmap(colour)}} for colour in (b"\xff\0\0", b"\0\0\xff"))
    words = [{"type": "text", "text": text} for text in ("First", "then", "what?")]
    asked = {"role": "user", "content": [words[0], red, words[1], blue, words[2]]}
    _, text = await owner.dashboard.post("/v1/chat/completions", {"model": PLAIN, "messages": [asked]})
    answer = json.loads(text)["choices"][0]["message"]["content"]
    assert answer == "Picture 1: I see red. Picture 2: I see blue. First<image>then<image>what?"
    assert await owner.dashboard.chat(PLAIN, [blue, words[2]]) == "I see blue. <image>what?"
    (model,) = owner.dispatcher.status().models
    assert (model.pictures.shown, model.pictures.encoded) == (3, 2)
    broken = {"type": "image_url", "image_url": {"url": "data:image/png;base64,bm8gcGljdHVyZQ=="}}
    box = await owner.dashboard.chat(PLAIN, [broken])
    assert "[opi5 did not answer] The picture is in no format" in box


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


# ── ready means that it will answer ──


async def test_model_whose_idle_process_was_killed_stays_ready_and_answers(owner_of: Any) -> None:
    """The OOM killer takes idle processes, too; the model never came back, and doctor found everything right."""
    owner = await owner_of(plain={"reply": "Hello"})
    assert await owner.dashboard.chat(PLAIN, "Hi") == "Hello"
    engine = owner.dispatcher._engine("plain")
    assert isinstance(engine, RkllmEngine)
    os.kill(engine._loaded().pid, signal.SIGKILL)
    await until(lambda: lost(owner), 10)
    assert await owner.dashboard.chat(PLAIN, "Hi") == "Hello"
    assert owner.offer("plain") == OfferView(PLAIN, "plain", offered=True)


async def lost(owner: Owner) -> bool:
    return owner.dispatcher.status().models[0].state == "cold"


async def test_model_for_another_soc_or_too_large_is_not_offered_and_the_reason_is_told(owner_of: Any) -> None:
    foreign = {"reply": "Hi", "card": 'platform = "rk3576"\n'}
    large = {"reply": "Hi", "card": "memory = 9000000000\n"}
    owner = await owner_of(plain={"reply": "Hello"}, foreign=foreign, large=large)
    await owner.shown("rkllm/foreign", "READY")  # nothing is known of the board yet
    owner.room[0] = MachineRoom("rk3588", 8_000_000_000, 16)
    owner.node.catalogue.notify()
    for name in ("foreign", "large"):
        await owner.shown(f"rkllm/{name}", "")
    await until(lambda: only_cards(owner, {PLAIN}), 5)
    assert owner.offer("foreign").reason == "foreign is built for RK3576, and this board is RK3588."
    assert owner.offer("large").reason == "large needs 9.0 GB of memory, and this board has 8.0 GB."
    assert await owner.dashboard.chat(PLAIN, "Hi") == "Hello"


async def only_cards(owner: Owner, wanted: set[str]) -> bool:
    return await owner.cards() == wanted


async def test_model_that_was_removed_goes_and_comes_back_within_two_seconds(owner_of: Any) -> None:
    owner = await owner_of(plain={"reply": "Hello"}, other={"reply": "Hello"})
    await owner.shown(PLAIN, "READY")
    away = owner.models.parent / "away"
    (owner.models / "plain").rename(away)
    owner.node.catalogue.notify()  # as the daemon's watch of the folder does
    await owner.shown(PLAIN, "", 2.0)
    await until(lambda: only_cards(owner, {"rkllm/other"}), 2.0)
    away.rename(owner.models / "plain")
    owner.node.catalogue.notify()
    await owner.shown(PLAIN, "READY", 2.0)
    assert await owner.dashboard.chat(PLAIN, "Hi") == "Hello"
    assert await owner.cards() == {PLAIN, "rkllm/other"}


async def test_models_leave_with_the_driver_and_come_back_with_it(owner_of: Any) -> None:
    owner = await owner_of(plain={"reply": "Hello"})
    for _ in range(2):
        assert await owner.dashboard.chat(PLAIN, "Hi") == "Hello"
        owner.dispatcher.npu_unavailable(NpuUnavailable("The driver was unbound.", "exo-rkllm board"))
        await owner.shown(PLAIN, "")
        assert owner.offer("plain").reason == "The driver was unbound."
        owner.dispatcher.npu_available()
        await owner.shown(PLAIN, "READY")


async def test_model_whose_load_was_refused_is_offered_again(owner_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody but a task of the cluster may ever load it, so the cluster has to be able to try."""
    monkeypatch.setattr(offers, "FIRST_RETRY", 1.0)
    owner = await owner_of(plain={"reply": "Hello"})
    file = owner.models / "plain" / "m.rkllm"
    whole = file.read_bytes()
    file.write_bytes(b"x" * len(whole))
    text = await owner.dashboard.chat(PLAIN, "Hi")
    assert text.startswith("[opi5 did not answer] ")
    await owner.shown(PLAIN, "", 1.0)
    assert owner.offer("plain").reason in text
    file.write_bytes(whole)
    await owner.shown(PLAIN, "READY")
    assert await owner.dashboard.chat(PLAIN, "Hi") == "Hello"


def test_refused_loads_are_tried_again_after_longer_and_longer_pauses() -> None:
    retries, now, pauses = Retries(), 0.0, []
    assert not retries.is_due("m", now)
    for _ in range(9):
        due = retries.deadline(now)
        assert due is not None
        pauses.append(due - now)
        assert not retries.is_due("m", due - 0.001)
        assert retries.is_due("m", due)
        assert retries.deadline(due) is None
        now = due
        retries.tried("m", loaded=False)
        assert not retries.is_due("m", now)
        retries.refused("m", now)  # whoever asked tells of the same refusal
    assert pauses == [10, 20, 40, 80, 160, 320, 600, 600, 600]
    retries.tried("m", loaded=True)
    assert retries.deadline(now) is None
    assert not retries.is_due("m", now)
    assert retries.deadline(now) == now + 10
