"""A loaded model of any generation, in this process, through the real ctypes path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from exo_rkllm.runtime.blackbox import BlackBox, redirected
from exo_rkllm.runtime.session import Library as OpenLibrary
from exo_rkllm.runtime.session import LoadParams, Session
from tests.simulated import Library


class Load(Protocol):
    def __call__(self, release: str, /, params: Mapping[str, Any] = ..., **model: Any) -> Session: ...


@pytest.fixture
def caught() -> Iterator[Callable[[], BlackBox]]:
    """What the library prints, from the first call on: pytest moves stdout between setting up and running a test."""
    with ExitStack() as stack:
        boxes: list[BlackBox] = []

        def box() -> BlackBox:
            if not boxes:
                boxes.append(stack.enter_context(redirected()))
            return boxes[0]

        yield box


@pytest.fixture
def load(
    library: Library, board_root: Path, make_model: Callable[..., Path], caught: Callable[[], BlackBox]
) -> Iterator[Load]:
    """`load("1.3.0", {"top_k": 1}, reply="Hi")`: a session. `tokenize` and `embed` go to `Session.open`."""
    opened: list[Session] = []

    def make(release: str, /, params: Mapping[str, Any] = {}, **model: Any) -> Session:
        tokenize, embed = model.pop("tokenize", None), model.pop("embed", None)
        path = params.get("model_path") or str(make_model(**model))
        wanted = LoadParams(**{**params, "model_path": path})
        session = Session.open(OpenLibrary.open(library(release)), wanted, caught(), tokenize, embed)
        opened.append(session)
        return session

    yield make
    for session in opened:
        session.close()
