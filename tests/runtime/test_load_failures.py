"""A model that does not load: one sentence with the facts and one hint, whatever the reason, on every generation."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.errors import (
    ContextOverflow,
    ExoRkllmError,
    LoadError,
    ModelFileError,
    ModelNotFound,
    NpuUnavailable,
    OutOfMemory,
    RunError,
)
from exo_rkllm.runtime.session import TokenInput
from tests.runtime.answers import SINCE_1_2_0, ask
from tests.runtime.conftest import Load
from tests.simulated import VERSIONS

every = pytest.mark.parametrize("release", VERSIONS)
since_1_2_0 = pytest.mark.parametrize("release", SINCE_1_2_0)


def refused(load: Load, kind: type[ExoRkllmError], release: str, *arguments: Any, **model: Any) -> ExoRkllmError:
    with pytest.raises(kind) as caught:
        load(release, *arguments, **model)
    assert caught.value.hint
    assert "\n" not in caught.value.sentence
    return caught.value


@every
def test_missing_file_is_named(load: Load, release: str) -> None:
    error = refused(load, ModelNotFound, release, {"model_path": "/nowhere/model.rkllm"})
    assert "/nowhere/model.rkllm" in error.sentence


@every
@pytest.mark.parametrize(
    "content",
    [b"GGUF" + bytes(4096), b"<!DOCTYPE html>" * 99, b"", os.urandom(4096)],
    ids=["gguf", "html", "empty", "noise"],
)
def test_file_that_is_no_model_is_refused(load: Load, release: str, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.rkllm"
    path.write_bytes(content)
    error = refused(load, ModelFileError, release, {"model_path": str(path)})
    assert "model.rkllm" in error.sentence


@every
def test_cut_off_file_is_refused(load: Load, release: str, make_model: Callable[..., Path]) -> None:
    path = make_model()
    os.truncate(path, path.stat().st_size // 2)
    refused(load, ModelFileError, release, {"model_path": str(path)})


@every
def test_file_for_another_soc_is_refused(load: Load, release: str) -> None:
    error = refused(load, ModelFileError, release, platform="RK3576", npu_cores=2)
    assert "this board is RK3588" in error.sentence
    assert ("RK3576" in error.sentence) == (release != "1.1.4")  # which does not print what the file is for


@every
def test_toolkit_newer_than_the_runtime_is_refused(load: Load, release: str) -> None:
    error = refused(load, ExoRkllmError, release, toolkit="9.1.0")
    assert error.code in {"load_failed", "model_file"}
    assert "model-0.rkllm" in error.sentence


@every
def test_context_over_the_limit_is_refused(load: Load, release: str) -> None:
    error = refused(load, LoadError, release, {"max_context_len": 8192}, max_context=4096)
    assert "4096 tokens at most, and 8192 were asked for" in error.sentence
    assert "--context 4096" in error.hint


@since_1_2_0
@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"cpus": (7,)}, "only CPU 7 was enabled"),
        ({"cpus": ()}, ""),
        ({"n_keep": 4096}, "n_keep"),
        ({"base_domain_id": -1}, "base_domain_id is -1"),
    ],
)
def test_settings_that_the_library_refuses(load: Load, release: str, params: dict[str, Any], says: str) -> None:
    if not says:
        assert load(release, params).facts.cpus  # nothing given is never nothing set
        return
    assert says in refused(load, LoadError, release, params).sentence


@every
def test_load_without_npu_memory_is_out_of_memory(load: Load, release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.1.x says that all is well, and would abort the process in the first run."""
    monkeypatch.setenv("RKLLM_SIM_NPU_BYTES", "1000")
    error = refused(load, OutOfMemory, release)
    assert "base_domain_id" in error.hint


def test_full_domain_fails_and_another_one_loads(load: Load) -> None:
    model: dict[str, Any] = {"full_domains": (0,)}
    refused(load, OutOfMemory, "1.2.3", **model)
    assert load("1.2.3", {"base_domain_id": 1}, **model).facts.context


@every
def test_load_without_a_driver_is_refused(
    load: Load, release: str, make_board: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RKLLM_SIM_ROOT", str(make_board(driver="")))
    assert "cannot be opened" in refused(load, NpuUnavailable, release).sentence


@every
def test_unsupported_soc_is_refused(
    load: Load, release: str, make_board: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RKLLM_SIM_ROOT", str(make_board("rk3566")))
    assert "RK3566" in refused(load, NpuUnavailable, release).sentence


@every
def test_unreadable_soc_is_explained(load: Load, release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "container"
    driver = root / "sys/module/rknpu"
    driver.mkdir(parents=True)
    (driver / "version").write_text("0.9.8\n")
    monkeypatch.setenv("RKLLM_SIM_ROOT", str(root))
    assert "cannot tell which SoC" in refused(load, NpuUnavailable, release).sentence


@every
def test_init_without_a_handle_is_a_failed_load(load: Load, release: str) -> None:
    error = refused(load, LoadError, release, false_success="null")
    assert "without a reason" in error.sentence


@since_1_2_0
def test_the_next_load_works(load: Load, release: str) -> None:
    for _ in range(3):
        refused(load, LoadError, release, {"max_context_len": 8192}, max_context=4096)
    session = load(release, reply="well")
    assert ask(session, "x").text == "well"
    session.close()


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────


@every
@pytest.mark.parametrize("style", ["both", "return", "callback"])
def test_a_prompt_that_is_too_long(load: Load, release: str, style: str) -> None:
    """However a release shows that a run failed."""
    session = load(release, max_context=64, overlong=style)
    with pytest.raises(ContextOverflow) as caught:
        ask(session, TokenInput([1] * 99))
    assert "The prompt has 99 tokens" in caught.value.sentence
    assert "a context of 64" in caught.value.sentence
    assert ask(session, TokenInput([1])).pieces


@every
@pytest.mark.parametrize("style", ["both", "return", "callback"])
def test_a_run_that_fails_without_a_word(load: Load, release: str, style: str) -> None:
    session = load(release, faults=("error@token:3",), error_style=style, reply="a b c d e f g h")
    heard: list[bytes] = []
    with pytest.raises(RunError, match="failed at a run"):
        session.run(TokenInput([1]), lambda text, _token, _waiting: heard.append(text))
    assert len(heard) == 3


@every
def test_garbage_on_stdout_stays_in_the_log(load: Load, release: str, caught: Any) -> None:
    session = load(release, faults=("garbage@token:2",), reply="one two three four")
    assert ask(session, "x").text == "one two three four"
    assert any("garbage" in line for line in caught().new_lines())


def test_errors_cross_a_process_as_two_lines(load: Load) -> None:
    error = refused(load, LoadError, "1.3.0", {"max_context_len": 8192}, max_context=4096)
    assert json.loads(json.dumps([error.code, error.sentence, error.hint]))
