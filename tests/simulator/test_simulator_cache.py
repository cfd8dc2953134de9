"""What a run leaves behind: prefix reuse, history, the shifting window, prompt cache files (reference 2.10, 2.11)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest

from simulator import tokenizer
from tests.simulator.raw import FINISH, Run, Runtime

Make = Callable[..., Path]
Read = Callable[[], str]
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


def turn(text: str) -> str:
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def count(text: str) -> int:
    return len(tokenizer.encode(text))


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Read:
    return lambda: capfd.readouterr().out


@pytest.fixture(params=["1.2.3", "1.3.0", "1.3.1"])
def counted(request: pytest.FixtureRequest, load: Callable[[str], Runtime]) -> Runtime:
    """The versions whose callback tells how many tokens were really computed."""
    return load(request.param)


def size(runtime: Runtime, handle: int) -> int:
    sizes = (ctypes.c_int * 1)()
    assert runtime.call("get_kv_cache_size", handle, sizes) == 0
    return sizes[0]


def clear(runtime: Runtime, handle: int, keep_system: int = 0) -> int:
    more = (None, None) if runtime.gen >= 4 else ()
    return runtime.call("clear_kv_cache", handle, keep_system, *more)


# ── prefix reuse ──


def test_the_same_prompt_again_costs_one_token(counted: Runtime, make_model: Make) -> None:
    handle = counted.open(make_model(reply="a"))
    first, second = counted.ask(handle), counted.ask(handle)
    assert first.perf.prefill_tokens == count(SYSTEM + turn("Hello"))
    assert second.perf.prefill_tokens == 1
    counted.close(handle)


def test_only_the_common_beginning_is_reused(counted: Runtime, make_model: Make) -> None:
    handle = counted.open(make_model(reply="a"))
    counted.ask(handle, "one two three")
    run = counted.ask(handle, "one two four")
    assert run.perf.prefill_tokens == count(" four<|im_end|>\n<|im_start|>assistant\n")
    counted.close(handle)


def test_a_conversation_that_is_sent_whole_finds_its_own_answer_in_the_cache(
    counted: Runtime, make_model: Make
) -> None:
    """What stateless chat clients do: every turn repeats the conversation, and only the new turn is computed."""
    handle = counted.open(make_model(reply="The answer is 42."))
    counted.call("set_chat_template", handle, b"", b"", b"")
    opening = SYSTEM + turn("What is it?")
    answer = counted.ask(handle, opening).text
    rest = "<|im_end|>\n" + turn("Why?")
    run = counted.ask(handle, opening + answer + rest)
    assert run.perf.prefill_tokens == count(rest)
    counted.close(handle)


def test_tokens_reuse_what_text_left(counted: Runtime, make_model: Make) -> None:
    handle = counted.open(make_model(reply="a"))
    counted.ask(handle, "Hello")
    run = counted.run(handle, counted.inputs(tokens=tokenizer.encode(SYSTEM + turn("Hello"))))
    assert run.perf.prefill_tokens == 1
    counted.close(handle)


def test_reuse_is_told_at_level_two(
    modern: Runtime, make_model: Make, said: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RKLLM_LOG_LEVEL", "2")
    handle = modern.open(make_model(reply="a"))
    modern.ask(handle)
    modern.ask(handle)
    total = count(SYSTEM + turn("Hello"))
    assert f"I rkllm: kv cache matches {total - 1} / {total} tokens of prompt" in said()
    modern.close(handle)


def test_1_1_reuses_nothing(
    load: Callable[[str], Runtime], make_model: Make, said: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RKLLM_LOG_LEVEL", "2")
    runtime = load("1.1.4")
    handle = runtime.open(make_model(reply="a"))
    runtime.ask(handle)
    runtime.ask(handle)
    assert said().count("kv cache matches 0 / ") == 2
    runtime.close(handle)


@pytest.mark.parametrize(("version", "reused"), [("1.2.3", False), ("1.3.0", False), ("1.3.1", True)])
def test_linear_attention_is_reused_from_1_3_1_on(
    load: Callable[[str], Runtime], make_model: Make, version: str, reused: bool
) -> None:
    runtime = load(version)
    handle = runtime.open(make_model(architecture="rwkv7", reply="a"))
    runtime.ask(handle)
    assert (runtime.ask(handle).perf.prefill_tokens == 1) is reused
    runtime.close(handle)


def test_embeddings_are_reused_from_1_2_3_on(
    load: Callable[[str], Runtime], make_model: Make, said: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RKLLM_LOG_LEVEL", "2")
    rows = [0.25 * i for i in range(4 * 64)]
    for version, reused in (("1.2.1b1", 0), ("1.2.3", 3), ("1.3.1", 3)):
        runtime = load(version)
        handle = runtime.open(make_model(reply="a"))
        for _ in range(2):
            runtime.run(handle, runtime.inputs(embed=rows, rows=4))
        told = [line for line in said().splitlines() if "kv cache matches" in line]
        assert told[1] == f"I rkllm: kv cache matches {reused} / 4 tokens of prompt"
        runtime.close(handle)


def test_a_clear_forgets(counted: Runtime, make_model: Make) -> None:
    handle = counted.open(make_model(reply="a"))
    first = counted.ask(handle)
    assert clear(counted, handle) == 0
    assert counted.ask(handle).perf.prefill_tokens == first.perf.prefill_tokens
    counted.close(handle)


# ── history ──


def test_history_grows_by_the_new_turn_only(counted: Runtime, make_model: Make) -> None:
    handle = counted.open(make_model(reply="one two", rules=(("Hello", "first"),)))
    first = counted.ask(handle, "Hello", keep_history=1)
    after_first = count(SYSTEM + turn("Hello")) + len(first.answer)
    assert size(counted, handle) == after_first
    second = counted.ask(handle, "More", keep_history=1)
    assert second.perf.prefill_tokens == count(turn("More"))
    assert size(counted, handle) == after_first + count(turn("More")) + len(second.answer)
    counted.close(handle)


def test_a_run_without_history_leaves_none(counted: Runtime, make_model: Make) -> None:
    handle = counted.open(make_model(reply="a"))
    counted.ask(handle)
    assert size(counted, handle) == 0
    counted.close(handle)


def test_old_history_is_seen_by_a_run_that_keeps_none(counted: Runtime, make_model: Make) -> None:
    handle = counted.open(make_model(reply="a"))
    counted.ask(handle, keep_history=1)
    history = size(counted, handle)
    run = counted.ask(handle, "New")
    assert run.perf.prefill_tokens == count(turn("New"))
    assert size(counted, handle) == history
    clear(counted, handle)
    run = counted.ask(handle, "New")
    assert run.perf.prefill_tokens == count(SYSTEM + turn("New"))
    counted.close(handle)


def test_a_clear_may_keep_the_system_prompt(counted: Runtime, make_model: Make) -> None:
    handle = counted.open(make_model(reply="a"))
    counted.ask(handle, keep_history=1)
    assert clear(counted, handle, keep_system=1) == 0
    assert size(counted, handle) == count(SYSTEM)
    assert counted.ask(handle, "New").perf.prefill_tokens == count(turn("New"))
    counted.close(handle)


def test_a_range_can_be_cleared_in_a_pause_only(counted: Runtime, make_model: Make, said: Read) -> None:
    handle = counted.open(make_model(reply="a"))
    counted.ask(handle, keep_history=1)
    start, end = (ctypes.c_int * 1)(0), (ctypes.c_int * 1)(3)
    assert counted.call("clear_kv_cache", handle, 0, start, end) == -1
    assert said().endswith(
        "E rkllm: start_pos and end_pos are only valid when keep_history == 0 and the generation has been paused by "
        "returning 1 in the callback!\n"
    )
    assert counted.call("clear_kv_cache", handle, 0, end, start) == 0  # start >= end: everything
    assert size(counted, handle) == 0
    counted.close(handle)


def test_the_two_argument_clear_of_1_2_0_is_seen_by_newer_ones(counted: Runtime, make_model: Make, said: Read) -> None:
    handle = counted.open(make_model())
    assert counted.call("clear_kv_cache", handle, 0, 0xDEAD0000, 0xDEAD0000) == -1
    assert "from 1.2.1 on rkllm_clear_kv_cache takes 4 arguments" in said()
    assert counted.call("get_kv_cache_size", handle, None) == -1
    counted.close(handle)


# ── the window ──


def long_prompt(tokens: int) -> list[int]:
    return [tokenizer.token(" word")] * tokens


def test_a_prompt_over_the_context_is_refused(runtime: Runtime, make_model: Make, said: Read) -> None:
    handle = runtime.open(make_model(), context=64)
    run = runtime.run(handle, runtime.inputs(tokens=long_prompt(65)))
    assert (run.status, run.events) == (-1, [])
    assert "E rkllm: the length of prompt is greater than max context (prompt: 65 tokens, max context: 64)" in said()
    assert runtime.run(handle, runtime.inputs(tokens=long_prompt(60))).status == 0
    runtime.close(handle)


def test_a_prompt_that_leaves_no_room(runtime: Runtime, make_model: Make, said: Read) -> None:
    handle = runtime.open(make_model(), context=64)
    assert runtime.run(handle, runtime.inputs(tokens=long_prompt(64))).status == -1
    assert "E rkllm: the context is not enough!" in said()
    runtime.close(handle)


def shifted(runtime: Runtime, handle: int) -> Run:
    return runtime.run(handle, runtime.inputs(tokens=long_prompt(40)), runtime.infer(keep_history=1))


def test_old_history_makes_room(
    counted: Runtime, make_model: Make, said: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RKLLM_LOG_LEVEL", "2")
    handle = counted.open(make_model(reply="a b c d"), context=64, n_keep=4)
    shifted(counted, handle)
    assert size(counted, handle) == 44
    said()
    assert shifted(counted, handle).status == 0
    assert "context to be full[64], delete the kv cache in [4, 25), total: 21" in said()
    assert size(counted, handle) <= 64
    counted.close(handle)


def test_a_kept_beginning_that_leaves_no_room(counted: Runtime, make_model: Make, said: Read) -> None:
    handle = counted.open(make_model(reply="a b c d"), context=64, n_keep=30)
    shifted(counted, handle)
    assert shifted(counted, handle).status == -1
    assert "the context is not enough! (history: 44, prompt: 40, max context: 64)" in said()
    counted.close(handle)


def test_with_n_keep_an_answer_goes_on_in_a_moving_window(modern: Runtime, make_model: Make) -> None:
    handle = modern.open(make_model(endless=True), context=64, n_keep=8, max_new=500)
    run = modern.run(handle, modern.inputs(tokens=long_prompt(20)))
    assert len(run.tokens) == 500
    assert run.states[-1] == FINISH
    modern.close(handle)


# ── prompt cache files ──


def test_a_saved_prompt_is_not_computed_again(counted: Runtime, make_model: Make, tmp_path: Path) -> None:
    model, path = make_model(reply="a"), tmp_path / "prompt.bin"
    handle = counted.open(model)
    run = counted.ask(handle, save=str(path))
    counted.close(handle)
    tokens = run.perf.prefill_tokens + 1
    assert path.stat().st_size == 4 * len(tokenizer.pieces()) + 7627 + tokens * (2 * 24 * 2 * 64 * 2 + 16)

    handle = counted.open(model)
    assert counted.call("load_prompt_cache", handle, str(path).encode()) == 0
    assert counted.ask(handle).perf.prefill_tokens == 1
    counted.ask(handle, "Something else")
    assert counted.ask(handle).perf.prefill_tokens == 1
    assert counted.call("release_prompt_cache", handle) == 0
    clear(counted, handle)
    assert counted.ask(handle).perf.prefill_tokens == run.perf.prefill_tokens
    counted.close(handle)


def test_a_saved_prompt_works_in_1_1(
    load: Callable[[str], Runtime], make_model: Make, tmp_path: Path, said: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RKLLM_LOG_LEVEL", "2")
    runtime = load("1.1.4")
    handle = runtime.open(make_model(reply="a"))
    runtime.ask(handle, save=str(tmp_path / "p.bin"))
    assert runtime.call("load_prompt_cache", handle, str(tmp_path / "p.bin").encode()) == 0
    runtime.ask(handle)
    total = count(SYSTEM + turn("Hello"))
    assert f"kv cache matches {total - 1} / {total} tokens" in said()
    runtime.close(handle)


def test_without_a_name_it_is_saved_where_one_stands(
    runtime: Runtime, make_model: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    handle = runtime.open(make_model(reply="a"))
    runtime.ask(handle, save="")
    tokens = count(SYSTEM + turn("Hello")) + 1
    fixed = 4 * len(tokenizer.pieces()) + 7627
    assert (tmp_path / "prompt_cache.bin").stat().st_size == fixed + tokens * (2 * 24 * 2 * 64 * 2 + 16)
    runtime.close(handle)


def test_what_is_no_prompt_cache(runtime: Runtime, make_model: Make, tmp_path: Path, said: Read) -> None:
    handle = runtime.open(make_model(reply="a"))
    other = runtime.open(make_model(name="another"))
    mine, empty, torn = tmp_path / "mine.bin", tmp_path / "empty.bin", tmp_path / "torn.bin"
    runtime.ask(handle, save=str(mine))
    empty.touch()
    torn.write_bytes(mine.read_bytes()[:50])

    def loaded(handle: int, path: Path) -> str:
        said()
        assert runtime.call("load_prompt_cache", handle, str(path).encode()) == -1
        return said()

    assert loaded(handle, tmp_path / "no.bin") == f"E rkllm: prompt cache file '{tmp_path}/no.bin' does not exist\n"
    assert loaded(handle, empty) == f"E rkllm: prompt cache file '{empty}' is empty\n"
    assert loaded(handle, torn) == f"E rkllm: failed to load prompt cache from {torn}\n"
    assert "E rkllm: the prompt dose not match the current model[" in loaded(other, mine)
    runtime.close(handle)
    runtime.close(other)


def test_a_prompt_cache_that_cannot_be_written(newest: Runtime, make_model: Make, tmp_path: Path, said: Read) -> None:
    handle = newest.open(make_model(reply="a"))
    run = newest.ask(handle, save=str(tmp_path / "no" / "folder.bin"))
    assert (run.status, run.states[-1]) == (0, FINISH)
    assert "E rkllm: failed to save prompt cache to" in said()
    newest.close(handle)


def test_rwkv_has_no_prompt_cache(newest: Runtime, make_model: Make, tmp_path: Path, said: Read) -> None:
    handle = newest.open(make_model(architecture="rwkv7", reply="a"))
    newest.ask(handle, save=str(tmp_path / "p.bin"))
    assert newest.call("load_prompt_cache", handle, str(tmp_path / "p.bin").encode()) == -1
    assert said().count("W rkllm: prompt cache is not supported for rwkv7") == 2
    newest.close(handle)
