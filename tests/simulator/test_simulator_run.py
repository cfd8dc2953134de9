"""rkllm_run: what the callback gets, on which thread, and how a run is stopped (reference 2.4 to 2.9)."""

from __future__ import annotations

import ctypes
import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exo_rkllm.board.speeds import speeds
from simulator import tokenizer
from tests.simulator.raw import FINISH, NORMAL, WAITING, Event, Runtime

Make = Callable[..., Path]
END = tokenizer.token("<|im_end|>")


def test_tokens_then_one_finish(runtime: Runtime, make_model: Make) -> None:
    handle = runtime.open(make_model(reply="Hello there, friend."))
    run = runtime.ask(handle)
    assert run.status == 0
    assert [event.text for event in run.events] == [b"Hello", b" there", b",", b" friend", b".", b"", None]
    assert run.states == [NORMAL] * 6 + [FINISH]
    assert run.tokens == [*tokenizer.encode("Hello there, friend."), END]
    runtime.close(handle)


def test_a_character_of_several_tokens_waits(runtime: Runtime, make_model: Make) -> None:
    handle = runtime.open(make_model(reply="🙂é世"))
    run = runtime.ask(handle)
    assert [(event.state, event.text) for event in run.answer] == [
        *[(WAITING, None)] * 3, (NORMAL, "🙂".encode()), (WAITING, None), (NORMAL, "é".encode()),
        *[(WAITING, None)] * 2, (NORMAL, "世".encode()),
    ]  # fmt: skip
    assert tokenizer.decode([event.token for event in run.answer]) == "🙂é世"
    runtime.close(handle)


def test_or_its_bytes_come_one_by_one(newest: Runtime, make_model: Make) -> None:
    handle = newest.open(make_model(reply="🙂", split_multibyte=True))
    run = newest.ask(handle)
    assert [event.text for event in run.answer] == [bytes([byte]) for byte in "🙂".encode()]
    assert set(run.states[:-1]) == {NORMAL}
    newest.close(handle)


def test_the_callback_runs_on_the_callers_thread(runtime: Runtime, make_model: Make) -> None:
    handle = runtime.open(make_model(reply="a b"))
    threads: list[int] = []
    runtime.on_event = lambda _: threads.append(threading.get_native_id())
    runtime.ask(handle)
    assert set(threads) == {threading.get_native_id()}
    runtime.close(handle)


def test_the_results_memory_dies_with_the_callback(runtime: Runtime, make_model: Make) -> None:
    """Whoever reads it later finds neither the text nor a pointer that looks like one."""
    handle = runtime.open(make_model(reply="secret text", decode_tps=20))
    first: list[int] = []
    late: list[bytes] = []
    read = runtime._read

    def note(address: int, state: int) -> Event:
        if not first:
            first.append(address)
            threading.Timer(0.015, lambda: late.append(ctypes.string_at(address, 16))).start()
        return read(address, state)

    runtime._read = note  # type: ignore[method-assign]
    assert runtime.ask(handle).text == "secret text"
    assert late == [b"\xa5" * 16]
    runtime.close(handle)


def test_perf_comes_with_finish_only(load: Callable[[str], Runtime], make_model: Make) -> None:
    for version in ("1.2.3", "1.3.0", "1.3.1"):
        runtime = load(version)
        handle = runtime.open(make_model(reply="one two three", prefill_tps=2000, decode_tps=200))
        run = runtime.ask(handle)
        assert [event.perf is not None for event in run.events] == [False] * 4 + [True]
        assert run.perf.generate_tokens == 3  # and the end, less the first (row 3)
        assert run.perf.prefill_tokens == len(tokenizer.encode(CHAT.format("Hello")))
        assert 0 <= run.perf.prefill_ms - run.perf.prefill_tokens / 2 < SLACK * 1000
        assert 0 <= run.perf.generate_ms - 15 < SLACK * 1000
        assert run.perf.memory_mb > 1
        runtime.close(handle)


# How late a deadline may be met on a busy machine; it is never met early.
SLACK = 0.1
CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)


@pytest.mark.parametrize("most", [1, 3])
def test_a_limit_of_new_tokens(runtime: Runtime, make_model: Make, most: int) -> None:
    model = make_model(reply="one two three four")
    handle = runtime.open(model, max_new=most)
    assert runtime.ask(handle).states == [NORMAL] * most + [FINISH]
    runtime.close(handle)


def test_a_limit_a_run_from_1_3_on(load: Callable[[str], Runtime], make_model: Make) -> None:
    runtime = load("1.3.0")
    handle = runtime.open(make_model(reply="one two three four"), max_new=3)
    for wanted, given in ((2, 2), (0, 3), (-1, 4)):
        assert len(runtime.ask(handle, max_new=wanted).answer) == given
    runtime.close(handle)


def test_an_endless_model_ends_with_the_context_where_no_window_shifts(runtime: Runtime, make_model: Make) -> None:
    """What was believed before row 1."""
    handle = runtime.open(make_model(endless=True, reply="x y", window_shifts=False), context=128)
    run = runtime.ask(handle)
    assert run.status == 0
    assert len(tokenizer.encode(CHAT.format("Hello"))) + len(run.tokens) == 128
    assert run.states[-1] == FINISH
    runtime.close(handle)


def test_special_tokens_are_shown_on_demand(runtime: Runtime, make_model: Make) -> None:
    model = make_model(reply="a<|im_start|>b")
    handle = runtime.open(model)
    run = runtime.ask(handle)
    assert [event.text for event in run.events] == [b"a", b"", b"b", b"", None]
    runtime.close(handle)
    handle = runtime.open(model, skip_special=0)
    run = runtime.ask(handle)
    assert [event.text for event in run.events] == [b"a", b"<|im_start|>", b"b", b"<|im_end|>", None]
    runtime.close(handle)


def test_an_ignored_end_of_text(newest: Runtime, make_model: Make) -> None:
    handle = newest.open(make_model(reply="a"), ignore_eos=1, max_new=5, skip_special=0)
    run = newest.ask(handle)
    assert [event.text for event in run.events] == [b"a", b"<|im_end|>", b"a", b"<|im_end|>", b"a", None]
    newest.close(handle)


# ── time ──


def test_twenty_tokens_a_second_are_twenty(newest: Runtime, make_model: Make) -> None:
    """The pace holds although the callback takes its share."""
    handle = newest.open(make_model(reply="one two three four five six", decode_tps=100))
    stamps: list[float] = []

    def note(_: Event) -> int:
        stamps.append(time.monotonic())
        time.sleep(0.004)
        return 0

    newest.on_event = note
    newest.ask(handle)
    assert 0.059 <= stamps[-1] - stamps[0] < 0.06 + SLACK
    newest.close(handle)


def test_what_a_slow_callback_loses_is_not_caught_up(newest: Runtime, make_model: Make) -> None:
    handle = newest.open(make_model(reply="one two three four", decode_tps=50))
    stamps: list[float] = []

    def note(_: Event) -> int:
        stamps.append(time.monotonic())
        time.sleep(0.05 if len(stamps) == 1 else 0)
        return 0

    newest.on_event = note
    newest.ask(handle)
    steps = [later - earlier for earlier, later in itertools.pairwise(stamps)]
    assert steps[0] >= 0.05
    assert min(steps[1:]) > 0.005  # a pace that caught up would hurry here
    newest.close(handle)


def test_a_named_speed_gives_the_benchmarks_first_token(newest: Runtime, make_model: Make) -> None:
    speed = speeds()["rk3588/minicpm4-0.5b"]
    handle = newest.open(make_model(speed="rk3588/minicpm4-0.5b", reply="one two", npu_bytes=1))
    run = newest.run(handle, newest.inputs(tokens=[300] * 128))
    assert run.perf.prefill_tokens == 128
    assert 0 <= run.perf.prefill_ms - speed.ttft_ms < SLACK * 1000
    assert 0 <= run.perf.generate_ms - 2000 / speed.decode_tps < SLACK * 1000
    newest.close(handle)


def test_the_timing_block(
    load: Callable[[str], Runtime], make_model: Make, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RKLLM_LOG_LEVEL", "1")
    for version, stages in (
        ("1.3.0", ["Stage", "Prefill", "Generate"]),
        ("1.2.0", ["Stage", "Init", "Prefill", "Generate"]),
    ):
        runtime = load(version)
        handle = runtime.open(make_model(reply="a b"))
        capfd.readouterr()
        runtime.ask(handle)
        lines = capfd.readouterr().out.splitlines()
        assert all(line.startswith("I rkllm: ") for line in lines)
        words = [line.removeprefix("I rkllm: ").split() for line in lines]
        assert [word[0] for word in words if word[0] in stages] == stages
        generate = next(word for word in words if word[0] == "Generate")
        assert generate[2] == "2"
        runtime.close(handle)


# ── stopping ──


def abort_after(runtime: Runtime, handle: int, seconds: float) -> threading.Thread:
    def call() -> None:
        time.sleep(seconds)
        runtime.call("abort", handle)

    thread = threading.Thread(target=call)
    thread.start()
    return thread


def test_an_abort_ends_the_run_with_finish(runtime: Runtime, make_model: Make) -> None:
    handle = runtime.open(make_model(endless=True, decode_tps=200))
    assert runtime.call("abort", handle) == 0  # with nothing to stop: the next run is another one
    began = time.monotonic()
    thread = abort_after(runtime, handle, 0.05)
    run = runtime.ask(handle)
    thread.join()
    assert 0.05 <= time.monotonic() - began < 0.05 + SLACK
    assert run.status == 0
    assert run.states[-1] == FINISH
    assert 1 <= len(run.tokens) <= 30  # ten on a machine with nothing else to do
    runtime.close(handle)


def test_an_abort_may_take_its_time(newest: Runtime, make_model: Make) -> None:
    handle = newest.open(make_model(endless=True, decode_tps=200, abort_delay_ms=150))
    began = time.monotonic()
    thread = abort_after(newest, handle, 0.02)
    newest.ask(handle)
    thread.join()
    assert 0.17 <= time.monotonic() - began < 0.2 + SLACK
    newest.close(handle)


def test_an_abort_may_be_ignored(newest: Runtime, make_model: Make) -> None:
    handle = newest.open(make_model(reply="one two three four", decode_tps=100, ignore_abort=True))
    thread = abort_after(newest, handle, 0.01)
    assert len(newest.ask(handle).answer) == 4
    thread.join()
    newest.close(handle)


def test_an_abort_in_a_long_prefill(newest: Runtime, make_model: Make) -> None:
    handle = newest.open(make_model(prefill_tps=2000))
    thread = abort_after(newest, handle, 0.01)
    run = newest.run(handle, newest.inputs(tokens=[300] * 1500))
    thread.join()
    assert run.states == [FINISH]
    assert run.perf.prefill_ms < 400
    newest.close(handle)


def test_abort_from_inside_the_callback(newest: Runtime, make_model: Make) -> None:
    handle = newest.open(make_model(endless=True))
    newest.on_event = lambda _: newest.call("abort", handle)
    assert newest.ask(handle).states == [NORMAL, FINISH]
    newest.close(handle)


def test_is_running(runtime: Runtime, make_model: Make) -> None:
    handle = runtime.open(make_model(reply="a"))
    seen: list[int] = []
    runtime.on_event = lambda _: seen.append(runtime.call("is_running", handle))
    assert runtime.call("is_running", handle) == 0
    runtime.ask(handle)
    assert seen == [1] * 3
    assert runtime.call("is_running", handle) == 0
    runtime.close(handle)


def test_a_second_run_and_a_destroy_inside_the_callback_are_refused(
    runtime: Runtime, make_model: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    handle = runtime.open(make_model(reply="a"))
    inputs, infer = runtime.inputs("x"), runtime.infer()
    answers: list[int] = []

    def nested(_: Event) -> int:
        answers.append(runtime.lib.rkllm_run(handle, inputs, infer, None))
        answers.append(runtime.lib.rkllm_destroy(handle))
        answers.append(runtime.call("release_prompt_cache", handle))
        return 0

    runtime.on_event = nested
    assert runtime.ask(handle).status == 0
    assert set(answers) == {-1}
    assert "SIMULATOR: the handle is busy, one run at a time" in capfd.readouterr().out
    runtime.close(handle)


def test_destroy_stops_what_runs(newest: Runtime, make_model: Make) -> None:
    handle = newest.open(make_model(endless=True, decode_tps=100))
    started = threading.Event()
    newest.on_event = lambda _: started.set()
    thread = threading.Thread(target=newest.ask, args=(handle,))
    thread.start()
    assert started.wait(5)
    newest.close(handle)
    thread.join(5)
    assert newest.events[-1].state == FINISH


def test_async_calls_back_on_a_thread_of_the_library(runtime: Runtime, make_model: Make) -> None:
    handle = runtime.open(make_model(reply="a b", decode_tps=100))
    done, threads = threading.Event(), set()

    def note(event: Event) -> int:
        threads.add(threading.get_native_id())
        if event.state == FINISH:
            done.set()
        return 0

    runtime.on_event = note
    for _ in range(2):
        done.clear()
        runtime.events = []
        while runtime.lib.rkllm_is_running(handle):
            time.sleep(0.001)
        assert runtime.lib.rkllm_run_async(handle, runtime.inputs("x"), runtime.infer(), None) == 0
        assert done.wait(5)
        assert [event.text for event in runtime.events] == [b"a", b" b", b"", None]
    assert threading.get_native_id() not in threads
    runtime.close(handle)


# ── pausing ──


@pytest.fixture(params=["1.2.3", "1.3.0", "1.3.1"])
def pausable(request: pytest.FixtureRequest, load: Callable[[str], Runtime]) -> Runtime:
    return load(request.param)


def test_a_pause_keeps_the_cache_and_goes_on(pausable: Runtime, make_model: Make) -> None:
    handle = pausable.open(make_model(reply="one two three four"))
    pausable.on_event = lambda event: int(event.text == b" two")
    sizes = (ctypes.c_int * 1)()
    run = pausable.ask(handle)
    assert (run.status, run.states) == (0, [NORMAL, NORMAL])
    pausable.call("get_kv_cache_size", handle, sizes)
    prompt = len(tokenizer.encode(CHAT.format("Hello")))
    assert sizes[0] == prompt + 2

    resumed = pausable.ask(handle, "")
    assert resumed.text == " three four"
    assert resumed.perf.prefill_tokens == 0
    pausable.call("get_kv_cache_size", handle, sizes)
    assert sizes[0] == 0
    pausable.close(handle)


def test_a_paused_cache_can_be_cut_and_added_to(pausable: Runtime, make_model: Make) -> None:
    handle = pausable.open(make_model(reply="one two three four", resume_reads=True))
    pausable.on_event = lambda event: int(event.text == b" two")
    pausable.ask(handle)
    sizes = (ctypes.c_int * 1)()
    pausable.call("get_kv_cache_size", handle, sizes)
    before = sizes[0]
    assert pausable.call("clear_kv_cache", handle, 0, (ctypes.c_int * 1)(before - 1), (ctypes.c_int * 1)(before)) == 0
    pausable.call("get_kv_cache_size", handle, sizes)
    assert sizes[0] == before - 1
    pausable.on_event = lambda _: 0
    run = pausable.ask(handle, " never")
    assert run.text == " three four"
    assert run.perf.prefill_tokens == 1
    pausable.close(handle)


def test_a_pause_needs_keep_history_0(pausable: Runtime, make_model: Make, capfd: pytest.CaptureFixture[str]) -> None:
    handle = pausable.open(make_model(reply="one two"))
    pausable.on_event = lambda event: int(event.text == b"one")
    assert pausable.ask(handle, keep_history=1).text == "one two"
    assert "return 1 pauses runs with keep_history 0 only" in capfd.readouterr().out
    pausable.close(handle)


def test_what_a_callback_may_not_return(newest: Runtime, make_model: Make, capfd: pytest.CaptureFixture[str]) -> None:
    handle = newest.open(make_model(reply="a"))
    newest.on_event = lambda _: 77
    assert newest.ask(handle).text == "a"
    assert "the callback returned 77, expected 0 to 2" in capfd.readouterr().out
    newest.close(handle)


def test_the_npus_load_can_be_watched(
    newest: Runtime, make_model: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = tmp_path / "load"
    monkeypatch.setenv("RKLLM_SIM_LOAD_FILE", str(load))
    handle = newest.open(make_model(reply="a"))
    seen: list[str] = []
    newest.on_event = lambda _: seen.append(load.read_text())
    newest.ask(handle)
    assert seen[0] == "NPU load:  Core0: 67%, Core1: 68%, Core2: 69%,\n"
    assert load.read_text() == "NPU load:  Core0:  0%, Core1:  0%, Core2:  0%,\n"
    newest.close(handle)


def _prompt(begun: str) -> str:
    return f"<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n{begun}"


@pytest.mark.parametrize(
    ("begun", "rest"),
    [
        ("", "one two three four."),
        ("one two", " three four."),
        ("one two three four.", ""),
        ("one 2 three", " four."),  # what deviates is aligned by its last bytes
        ("QQQQQ", "wo three four."),  # and where nothing is alike, by its length
    ],
)
def test_answer_goes_on_from_what_stands_behind_the_prompt(
    newest: Runtime, make_model: Make, begun: str, rest: str
) -> None:
    handle = newest.open(make_model(reply="one two three four.", continues=True, template="none"))
    run = newest.ask(handle, _prompt(begun))
    assert b"".join(event.text or b"" for event in run.answer).decode() == rest
    newest.close(handle)


def test_thoughts_that_stand_behind_the_prompt_are_not_thought_again(newest: Runtime, make_model: Make) -> None:
    handle = newest.open(make_model(reply="one two", continues=True, thinking="Well."))
    assert newest.call("set_chat_template", handle, b"", b"", b"") == 0  # the prompt comes rendered, as the daemon's
    for begun, rest in (("<think>\nWell.\n</think>\n\none", " two"), ("<think>\n", "Well.\n</think>\n\none two")):
        run = newest.ask(handle, _prompt(begun))
        assert b"".join(event.text or b"" for event in run.answer).decode() == rest
    newest.close(handle)


def test_errors_are_as_frequent_as_they_should_be_and_repeatable(newest: Runtime, make_model: Make) -> None:
    words = " ".join(["word"] * 400)
    answers = []
    for _ in range(2):
        handle = newest.open(make_model(reply=words, error_rate=0.05, seed=3))
        runs = [b"".join(event.text or b"" for event in newest.ask(handle).answer) for _ in range(8)]
        answers.append(runs)
        newest.close(handle)
    assert answers[0] == answers[1], "a new process errs alike"
    assert len(set(answers[0])) == 8, "and each run otherwise"
    said = b" ".join(answers[0]).split()
    assert 0.02 < sum(word != b"word" for word in said) / len(said) < 0.1
    assert any(len(answer) < len(words) / 2 for answer in answers[0]), "some end early"
