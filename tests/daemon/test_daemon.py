"""The daemon without its sockets: a board that changes, a library that comes, a configuration taken over."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from exo_rkllm.api.control.tables import PullRequest
from exo_rkllm.config import Config, load
from exo_rkllm.daemon.cluster import DispatchServing
from exo_rkllm.daemon.daemon import Daemon, differing, headline
from exo_rkllm.errors import ConfigError, UsageError
from exo_rkllm.log.ring import Ring
from tests.simulated import REPOSITORY, Library


@pytest.fixture
def config(board: Callable[[str], Path], library: Library, tmp_path: Path) -> Config:
    for name in ("one", "two"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "model.toml").write_text(f'id = "{name}"\nengine = "dummy"\ncontext = 512\n')
    return load(
        {
            "EXO_RKLLM_BOARD_ROOT": str(board("orangepi-5-plus")),
            "EXO_RKLLM_RUNTIME_LIBRARY": str(library("1.3.0")),
            "EXO_RKLLM_MODELS_DIRECTORY": str(tmp_path / "models"),
            "EXO_RKLLM_CLUSTER_ENABLED": "false",
        }
    )


class Written:
    """The configuration as it stands on disk."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.mistake: ConfigError | None = None

    def __call__(self) -> Config:
        if self.mistake is not None:
            raise self.mistake
        return self.config


@pytest.fixture
def written(config: Config) -> Written:
    return Written(config)


@pytest_asyncio.fixture
async def daemon(config: Config, written: Written) -> AsyncIterator[Daemon]:
    one = Daemon(config, {}, Ring(), written)
    one.start()
    yield one
    await one.dispatcher.drain(1.0)
    await one.stop()


async def test_missing_driver_makes_the_npu_unavailable_until_it_is_back(daemon: Daemon, tmp_path: Path) -> None:
    assert daemon.dispatcher.status().unavailable_reason == ""
    root = Path(daemon.config.board.root)
    (root / "sys").rename(tmp_path / "sys")
    daemon.hardware.watch.look()
    assert daemon.dispatcher.status().unavailable_reason
    assert headline(daemon.dispatcher.overview()) == daemon.dispatcher.status().unavailable_reason
    (tmp_path / "sys").rename(root / "sys")
    daemon.hardware.watch.look()
    assert daemon.dispatcher.status().unavailable_reason == ""
    assert headline(daemon.dispatcher.overview()) == "No model is loaded; the first request loads one."


async def test_the_library_is_named_with_its_generation(daemon: Daemon) -> None:
    assert daemon.runtime() == ("1.3.0", "v1_3_0")
    assert str(daemon.facts()["library"]).endswith("librkllmrt.so")


async def test_reload_takes_over_what_needs_no_restart(daemon: Daemon, written: Written) -> None:
    old = written.config
    written.config = replace(
        old,
        models=replace(old.models, preload=("two", "three"), keep_alive=-1.0),
        api=replace(old.api, port=1),
        log=replace(old.log, level="debug"),
    )
    assert daemon.reload() == {
        "changed": ["models.preload", "models.keep_alive", "log.level"],
        "restart": ["api.port"],
    }
    async with aclosing(daemon.dispatcher.subscribe()) as changes:
        async for status in changes:
            if [model.state for model in status.models] == ["ready"]:
                break
    assert [(model.name, model.pinned) for model in daemon.dispatcher.status().models] == [("two", True)]
    written.mistake = ConfigError("There is no key api.prot.")
    with pytest.raises(ConfigError):
        daemon.reload()
    assert daemon.config is written.config


async def test_headline_says_that_the_daemon_is_stopping(daemon: Daemon) -> None:
    await daemon.dispatcher.drain(0.0)
    assert headline(daemon.dispatcher.overview()) == "Stopping: running answers may end."


async def test_a_model_is_removed_with_its_folder(daemon: Daemon) -> None:
    await daemon.dispatcher.load("one")
    assert await daemon.remove("one") == "one"
    assert [entry.id for entry in daemon.node.catalogue.list()] == ["two"]
    assert [model.state for model in daemon.dispatcher.status().models] == ["cold"]


async def test_malformed_pull_is_refused_before_it_begins(daemon: Daemon) -> None:
    with pytest.raises(UsageError, match="is no repository"):
        daemon.pull(PullRequest("no repository"))


async def test_failed_preload_is_logged_with_its_reason(
    config: Config, written: Written, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(Path(config.models.directory) / "two")
    card = Path(config.models.directory) / "one/model.toml"
    card.write_text('id = "one"\nengine = "quantum"\ncontext = 512\n')
    one = Daemon(replace(config, models=replace(config.models, preload=("one",))), {}, Ring(), written)
    one.start()
    for _ in range(50):
        await asyncio.sleep(0.01)
        if "one is not preloaded" in caplog.text:
            break
    assert "one is not preloaded: one wants the engine 'quantum', which is not installed." in caplog.text
    await one.dispatcher.drain(1.0)
    await one.stop()


def test_differing_settings_are_named() -> None:
    old = Config()
    new = replace(old, api=replace(old.api, port=1, listen="::1"), log=replace(old.log, level="debug"), files=("x",))
    assert differing(old, new) == ["api.listen", "api.port", "log.level"]
    assert differing(old, new, ("api.port", "log")) == ["api.port", "log.level"]


# ── what the cluster is offered ──────────────────────────────────────────────────────────────────


async def run_command(config: Config, *words: str) -> None:
    """In a process of its own, as from another terminal."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exo_rkllm", *words, "--models", config.models.directory),
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await process.wait() == 0


@pytest.fixture
def thinker(make_model: Callable[..., Path], tmp_path: Path) -> Path:
    """A reasoning model's folder, as it is published."""
    folder = tmp_path / "published"
    folder.mkdir()
    make_model().rename(folder / "Qwen3-0.6B-w8a8-rk3588.rkllm")
    shape = {"num_hidden_layers": 28, "hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8}
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3", **shape}))
    template = "{% for one in messages %}{{ one.content }}{% endfor %}<think></think>"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return folder


async def test_import_and_removal_by_another_process_change_the_offers_within_two_seconds(
    daemon: Daemon, thinker: Path
) -> None:
    async with aclosing(DispatchServing(daemon.dispatcher, daemon.node).offers()) as offers:
        assert {model.id for model in await anext(offers)} == {"one", "two"}
        await run_command(daemon.config, "import", str(thinker), "--name", "three", "--offline")
        assert {model.id for model in await asyncio.wait_for(anext(offers), 2)} == {"one", "two", "three"}
        await run_command(daemon.config, "rm", "two")
        assert {model.id for model in await asyncio.wait_for(anext(offers), 2)} == {"one", "three"}
        card = daemon.node.catalogue.get("one").folder / "model.toml"
        card.write_text(card.read_text().replace("512", "1024"))
        assert {model.context for model in await asyncio.wait_for(anext(offers), 2) if model.id == "one"} == {1024}


async def test_cluster_is_told_of_a_models_thoughts_and_shape(daemon: Daemon, thinker: Path) -> None:
    await run_command(daemon.config, "import", str(thinker), "--name", "three", "--offline")
    async with aclosing(DispatchServing(daemon.dispatcher, daemon.node).offers()) as offers:
        models = {model.id: model for model in await anext(offers)}
    assert (models["three"].thinking, models["one"].thinking) == (True, False)
    assert (models["three"].layers, models["three"].hidden_size, models["three"].kv_heads) == (28, 1024, 8)
    assert not models["three"].images


async def test_cluster_is_told_that_a_remote_model_sees_images(daemon: Daemon) -> None:
    folder = daemon.node.catalogue.directory / "seer"
    folder.mkdir()
    (folder / "model.toml").write_text(
        'id = "seer"\nengine = "openai"\n[options]\nbase_url = "http://127.0.0.1:1/v1"\n'
    )
    async with aclosing(DispatchServing(daemon.dispatcher, daemon.node).offers()) as offers:
        assert {model.id for model in await anext(offers) if model.images} == {"seer"}
