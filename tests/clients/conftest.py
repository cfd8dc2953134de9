"""One daemon a runtime for the whole bank: a simulated board with models as people have them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from simulator import boards, tokenizer
from simulator.model_file import SimModel, write
from tests.daemon.running import Daemon, House, house_of
from tests.simulated import Library

# The one that fixes sampling at load and counts nothing, the one that most boards have, and the newest.
RUNTIMES = ("1.1.4", "1.2.3", "1.3.1")


@dataclass(frozen=True)
class Service:
    """A daemon of the bank: where it answers, and which runtime it has."""

    url: str
    runtime: str
    daemon: Daemon
    house: House


def add_model(house: House, name: str, card: str = "", **situation: object) -> None:
    house.add(name, f'{card}[weights]\nfile = "m.rkllm"\n')
    write(house.models / name / "m.rkllm", SimModel(**situation))  # type: ignore[arg-type]  # the fields of SimModel


def furnished(house: House, library: Path, root: Path) -> House:
    """With a model that calls tools (qwen3-4b) and one that cannot (story)."""
    add_model(house, "qwen3-4b", 'base_model = "Qwen/Qwen3-4B"\n', reply="Hello there.")
    add_model(house, "story", reply="Hello there.")
    add_model(house, "ada", 'base_model = "Qwen/Qwen3-4B"\n', reply='{"name": "Ada", "age": 36}')
    answers = f"yes = {tokenizer.token('yes')}\nno = {tokenizer.token('no')}\n"
    judge = f'base_model = "Qwen/Qwen3-Reranker-0.6B"\n[rerank]\n{answers}'
    add_model(house, "judge", judge, reply="no", rules=(("<Document>: The lamp", "yes"),))
    house.environment |= {
        "RKLLM_SIM_ROOT": str(root),
        "EXO_RKLLM_BOARD_ROOT": str(root),
        "EXO_RKLLM_RUNTIME_LIBRARY": str(library),
    }
    return house


@pytest.fixture(scope="module", autouse=True)
def every_process_ends() -> None:
    """Not with the module: one service is for all of them."""


@pytest.fixture(scope="session", params=RUNTIMES)
def service(
    request: pytest.FixtureRequest, library: Library, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    house = house_of(tmp_path_factory.mktemp("bank") / "h")
    root = boards.write("orangepi-5-plus", house.folder / "b")
    with house.stack:
        daemon = furnished(house, library(request.param), root).start(wait=False)
        daemon.until("READY=1", 60.0)
        yield Service(f"http://{daemon.status()['listening'][0]}", request.param, daemon, house)
