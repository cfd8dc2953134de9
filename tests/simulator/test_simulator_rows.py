"""What boards were measured to do, one row of the reference's section 14 a test, both ways round.

`measured` fixtures leave a switch out: the library then does what its version was measured to do. Docstrings name the
certainty (A measured, B measured by one project, C claim or inference, ? nobody says) and the source.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exo_rkllm.board.speeds import speeds
from simulator import tokenizer
from tests.simulated import REPOSITORY, Library
from tests.simulator.raw import ERROR, FINISH, HIDDEN, LOGITS, NORMAL, Run, Runtime

Make = Callable[..., Path]
Load = Callable[[str], Runtime]
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
FRAME = "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"
END = tokenizer.token("<|im_end|>")
WORD = tokenizer.token(" word")
TOKEN_BYTES = 2 * 24 * 2 * 64 * 2 + 16  # of the default model in a prompt cache file


@pytest.fixture(params=["1.2.3", "1.3.0", "1.3.1"])
def counted(request: pytest.FixtureRequest, load: Load) -> Runtime:
    """The versions that report figures and whose callback answers."""
    return load(request.param)


def words(runtime: Runtime, handle: int, count: int, **infer: object) -> Run:
    return runtime.run(handle, runtime.inputs(tokens=[WORD] * count), runtime.infer(**infer))  # type: ignore[arg-type]


def abort_at(runtime: Runtime, handle: int, token: int) -> None:
    """From inside the callback, which is clean on 1.3.1 (SEAT, A)."""
    runtime.on_event = lambda _: runtime.call("abort", handle) if len(runtime.events) == token else 0


def clear(runtime: Runtime, handle: int) -> None:
    assert runtime.call("clear_kv_cache", handle, 0, *((None, None) if runtime.gen >= 4 else ())) == 0


def slower(runtime: Runtime, handle: int, mode: int = HIDDEN) -> float:
    began = time.monotonic()
    runtime.ask(handle, mode=mode)
    return time.monotonic() - began


ROWS = sorted({*(f"{row:02}" for row in range(1, 20)), "06b", "06c"})


@pytest.mark.parametrize("row", ROWS)
def test_every_row_names_its_certainty_here_and_its_source_in_the_readme(row: str) -> None:
    docs = [function.__doc__ or "" for name, function in globals().items() if name.startswith(f"test_row_{row}_")]
    assert docs
    assert all(re.search(r"(?:^|[ .])[ABC?](?:, [^:]*)?:", doc) for doc in docs)
    readme = (REPOSITORY / "simulator/README.md").read_text()
    assert re.search(rf"^\| `sim\.\w+` \| {row.lstrip('0')} \|.*\|[^|]*\w[^|]*\|$|^Row {row}, ", readme, re.MULTILINE)


# ── an answer ──


def test_row_01_window_shifts_and_the_answer_goes_on(runtime: Runtime, make_model: Make) -> None:
    """A: SEAT, 1.3.1, default n_keep: 900 tokens came out of a window of 1024. Other versions: ?"""
    handle = runtime.open(make_model(endless=True, reply="x y", window_shifts=True), context=64, max_new=300)
    run = words(runtime, handle, 40)
    assert (run.status, len(run.tokens), run.states[-1]) == (0, 300, FINISH)
    runtime.close(handle)
    handle = runtime.open(make_model(endless=True, reply="x y", window_shifts=False), context=64, max_new=300)
    assert len(words(runtime, handle, 40).tokens) == 24
    runtime.close(handle)


def test_row_02_end_token_comes_as_an_empty_normal_event(runtime: Runtime, make_model: Make) -> None:
    """A: SEAT, 1.3.1, an empty NORMAL before FINISH. C: that it carries the end token's id. Other versions: ?"""
    handle = runtime.open(make_model(reply="yes", end_event=True))
    run = runtime.ask(handle)
    assert [(event.state, event.text) for event in run.events] == [(NORMAL, b"yes"), (NORMAL, b""), (FINISH, None)]
    assert run.tokens[-1] == END
    runtime.close(handle)
    handle = runtime.open(make_model(reply="yes", end_event=False))
    assert runtime.ask(handle).states == [NORMAL, FINISH]
    runtime.close(handle)


def test_row_02_a_limit_ends_an_answer_without_the_end_token(runtime: Runtime, make_model: Make) -> None:
    """C: the event is the end token's own, so an answer that ends by max_new_tokens has none."""
    handle = runtime.open(make_model(reply="one two three", end_event=True), max_new=2)
    assert END not in runtime.ask(handle).tokens
    runtime.close(handle)


def test_row_03_generated_tokens_are_one_less(counted: Runtime, make_model: Make) -> None:
    """A: SEAT, 1.3.1: n - 1, the first token belongs to the prefill; LUB's 127 tokens (1.2.2 to 1.3.1) fit."""
    handle = counted.open(make_model(endless=True, counts_first=False), max_new=5)
    run = counted.ask(handle)
    assert (len(run.tokens), run.perf.generate_tokens) == (5, 4)
    counted.close(handle)
    handle = counted.open(make_model(endless=True, counts_first=True), max_new=5)
    assert counted.ask(handle).perf.generate_tokens == 5
    counted.close(handle)


def test_row_04_overlong_prompt_returns_without_an_event(
    runtime: Runtime, make_model: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    """A: SEAT, 1.3.1: -1 and no event at all. Other versions: ?"""
    for style, expected in (
        (None, (-1, [])), ("return", (-1, [])), ("both", (-1, [ERROR])), ("callback", (0, [ERROR])),
    ):  # fmt: skip
        handle = runtime.open(make_model(overlong=style), context=64)
        run = words(runtime, handle, 65)
        assert (run.status, run.states) == expected
        assert "E rkllm: the length of prompt is greater than max context" in capfd.readouterr().out
        runtime.close(handle)


# ── prompt cache files ──


def test_row_05_cache_file_is_written_on_abort_too(counted: Runtime, make_model: Make, tmp_path: Path) -> None:
    """A: ORK, 1.2.3, RK3576: aborted after the first token, complete before FINISH."""
    for saves, file in ((None, tmp_path / "yes"), (False, tmp_path / "no")):
        handle = counted.open(make_model(endless=True, saves_on_abort=saves))
        there: list[bool] = []

        def note(event: object, handle: int = handle, file: Path = file, there: list[bool] = there) -> int:
            there.append(file.exists())
            return counted.call("abort", handle)

        counted.on_event = note
        run = counted.ask(handle, save=str(file))
        assert run.states == [NORMAL, FINISH]
        assert there == [False, saves is None]
        counted.close(handle)


def test_row_06_no_cache_file_from_embeddings_or_logits(modern: Runtime, make_model: Make, tmp_path: Path) -> None:
    """A: RKV-UP, 1.2.3, EMBED input. B: RKV, GET_LOGITS. Hidden states: ?, written as before."""
    for anything in (None, True):
        handle = modern.open(make_model(reply="a", saves_any_run=anything))
        embed = tmp_path / f"embed{anything}"
        rows = modern.inputs(embed=[0.5] * 128, rows=2)
        assert modern.run(handle, rows, modern.infer(save=str(embed))).status == 0
        logits, hidden = tmp_path / f"logits{anything}", tmp_path / f"hidden{anything}"
        modern.ask(handle, mode=LOGITS, save=str(logits))
        modern.ask(handle, mode=HIDDEN, save=str(hidden))
        assert [file.exists() for file in (embed, logits, hidden)] == [anything is True, anything is True, True]
        modern.close(handle)


@pytest.mark.parametrize(("version", "saved"), [("1.3.0", False), ("1.3.1", True)])
def test_row_06b_qwen35_saves_no_cache_before_1_3_1(
    load: Load, make_model: Make, tmp_path: Path, version: str, saved: bool
) -> None:
    """A: rknn-llm issue 517, saving fails. C: that 1.3.1, which reuses such caches, saves them."""
    runtime = load(version)
    for switch, expected in ((None, saved), (True, True), (False, False)):
        file = tmp_path / str(switch)
        handle = runtime.open(make_model(architecture="qwen35", reply="a", saves_hybrid=switch))
        assert runtime.ask(handle, save=str(file)).states[-1] == FINISH
        assert file.exists() is expected
        runtime.close(handle)


def test_row_06c_cache_file_holds_the_answer_or_the_prompt_alone(
    counted: Runtime, make_model: Make, tmp_path: Path
) -> None:
    """?: ORK's description says prompt only (C); the callers must work with both."""
    sizes = []
    for answer in (True, False):
        handle = counted.open(make_model(reply="one two three", saves_answer=answer))
        counted.ask(handle, save=str(tmp_path / "p"))
        sizes.append((tmp_path / "p").stat().st_size)
        counted.close(handle)
    assert sizes[0] - sizes[1] == 3 * TOKEN_BYTES


CHILD = """
import sys
from pathlib import Path
from tests.simulator.raw import Runtime

library, version, model, cache = sys.argv[1:]
runtime = Runtime(Path(library), version)
handle = runtime.open(model)
runtime.on_event = lambda _: runtime.call("abort", handle)
runtime.ask(handle, save=cache)
runtime.on_event = lambda _: 0
runtime.call("clear_kv_cache", handle, 0, None, None)
assert runtime.call("load_prompt_cache", handle, cache.encode()) == 0
runtime.ask(handle)
print("alive", flush=True)
"""


@pytest.mark.parametrize(
    ("version", "switch", "crashes"),
    [("1.2.3", None, True), ("1.2.3", False, False), ("1.3.1", None, False), ("1.3.1", True, True)],
)
def test_row_07_loading_a_cache_after_an_abort_crashes(
    library: Library, board_root: Path, make_model: Make, tmp_path: Path, version: str, switch: bool, crashes: bool
) -> None:
    """A: ORK, 1.2.3, RK3576, cured by loading the model anew. Other versions: ?"""
    model = make_model(reply="one two", load_after_abort_crashes=switch)
    command = [sys.executable, "-c", CHILD, library(version), version, model, tmp_path / "cache"]
    done = subprocess.run([*map(str, command)], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert (done.returncode == -11) is crashes, done.stderr
    assert ("alive" in done.stdout) is not crashes


def saved(runtime: Runtime, model: Path, file: Path) -> int:
    """Positions in the file."""
    handle = runtime.open(model)
    run = runtime.ask(handle, "Hello", save=str(file))
    runtime.close(handle)
    return run.perf.prefill_tokens + 1


def test_row_08_loaded_positions_become_the_history(counted: Runtime, make_model: Make, tmp_path: Path) -> None:
    """A: ORK, 1.2.3: 69 prefill tokens became the 9 of the frame, and 0 with an empty prompt. C: the reading."""
    model, file, sizes = make_model(reply="a"), tmp_path / "p", (ctypes.c_int * 1)()
    positions = saved(counted, model, file)
    frame = len(tokenizer.encode(FRAME))

    handle = counted.open(model)
    assert counted.call("load_prompt_cache", handle, str(file).encode()) == 0
    assert counted.ask(handle, "", keep_history=1).perf.prefill_tokens == frame
    counted.call("get_kv_cache_size", handle, sizes)
    assert sizes[0] == positions + frame + 1
    assert counted.ask(handle, "", keep_history=1).perf.prefill_tokens == frame
    counted.close(handle)

    handle = counted.open(model)
    counted.call("set_chat_template", handle, b"", b"", b"")
    assert counted.ask(handle, "", keep_history=1).status == -1  # nothing to go on with
    counted.call("load_prompt_cache", handle, str(file).encode())
    run = counted.ask(handle, "", keep_history=1)
    assert (run.status, run.perf.prefill_tokens) == (0, 0)
    counted.close(handle)


def test_row_08_without_history_a_loaded_cache_is_matched(counted: Runtime, make_model: Make, tmp_path: Path) -> None:
    """A: GZA, RKV: keep_history 0 is ordinary prefix matching; with the switch off, keep_history 1 is, too."""
    for switch, kept in ((None, 0), (False, 1)):
        model, file = make_model(reply="a", appends_to_loaded=switch), tmp_path / str(switch)
        saved(counted, model, file)
        handle = counted.open(model)
        counted.call("load_prompt_cache", handle, str(file).encode())
        assert counted.ask(handle, "Hello", keep_history=kept).perf.prefill_tokens == 1
        counted.close(handle)


def test_row_09_cache_file_holds_the_last_logits(counted: Runtime, make_model: Make, tmp_path: Path) -> None:
    """A: ORK: 615,371 + 147,472 a token for Qwen3-4B. C: 4 bytes a token id, and 7627, are its fixed part."""
    assert 4 * 151_936 + 7627 == 615_371
    for switch, fixed in ((None, 4 * len(tokenizer.pieces()) + 7627), (615 * 1024, 615 * 1024)):
        positions = saved(counted, make_model(reply="a", cache_fixed_bytes=switch), tmp_path / "p")
        assert (tmp_path / "p").stat().st_size == fixed + positions * TOKEN_BYTES


# ── hidden states and logits ──


@pytest.mark.parametrize("mode", [HIDDEN, LOGITS])
def test_row_10_vector_run_may_end_without_finish(modern: Runtime, make_model: Make, mode: int) -> None:
    """A: ORK, 1.2.3, RK3576: one NORMAL with the data, never FINISH. B: issue 278: empty, data, FINISH."""
    handle = modern.open(make_model(vectors_finish=False))
    run = modern.ask(handle, mode=mode)
    assert (run.status, run.states, len(run.rows) > 1) == (0, [NORMAL], True)
    modern.close(handle)
    handle = modern.open(make_model())
    assert modern.ask(handle, mode=mode).states == [NORMAL, NORMAL, FINISH]
    modern.close(handle)


@pytest.mark.parametrize(("version", "soc", "ends"), [("1.2.3", "rk3576", []), ("1.3.0", "rk3576", [NORMAL, FINISH])])
def test_row_10_finish_is_missing_where_it_was_measured(
    load: Load,
    make_board: Callable[..., Path],
    make_model: Make,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    soc: str,
    ends: list[int],
) -> None:
    """A: ORK, for 1.2.3 on RK3576 alone. RK3588 and other versions: ?, as issue 278 saw them."""
    monkeypatch.setenv("RKLLM_SIM_ROOT", str(make_board(soc)))
    runtime = load(version)
    handle = runtime.open(make_model(platform=soc.upper(), npu_cores=2))
    assert runtime.ask(handle, mode=HIDDEN).states == [NORMAL, *ends]
    runtime.close(handle)


def test_row_11_vector_runs_slow_down_until_a_clear(modern: Runtime, make_model: Make) -> None:
    """B: RKA: 0.3 to over 26 s within hours, stable with a clear after each. The amount a run: ?"""
    handle = modern.open(make_model(vector_residue_ms=100.0))
    assert slower(modern, handle) < 0.1
    assert slower(modern, handle) >= 0.1
    assert slower(modern, handle) >= 0.2
    clear(modern, handle)
    assert slower(modern, handle) < 0.1
    modern.close(handle)


def test_row_15_logits_have_all_rows_or_the_last(modern: Runtime, make_model: Make) -> None:
    """?: every consumer reads row num_tokens - 1, nobody prints how many there are (GZA, ORK, RKA)."""
    ids = tokenizer.encode("one two three")
    for last, rows in ((False, 3), (True, 1)):
        handle = modern.open(make_model(reply="yes", logits_last_only=last))
        run = modern.run(handle, modern.inputs(tokens=ids), modern.infer(LOGITS))
        assert len(run.rows) == rows
        assert run.rows[-1].index(max(run.rows[-1])) == tokenizer.token("yes")
        modern.close(handle)


# ── pauses, aborts, ranges ──


def paused(runtime: Runtime, make_model: Make, switch: bool | None) -> Run:
    """What the run after a pause answers, with a prompt of its own."""
    model = make_model(reply="one two three four", rules=(("Other", "new"),), resume_reads=switch)
    handle = runtime.open(model)
    runtime.on_event = lambda event: int(event.text == b" two")
    assert runtime.ask(handle).states == [NORMAL, NORMAL]
    runtime.on_event = lambda _: 0
    run = runtime.ask(handle, "Other")
    runtime.close(handle)
    return run


@pytest.mark.parametrize(("version", "reads"), [("1.2.3", True), ("1.3.0", False), ("1.3.1", False)])
def test_row_12_run_after_a_pause_resumes_the_old_answer(
    load: Load, make_model: Make, version: str, reads: bool
) -> None:
    """A: EOS, 1.3.0: no FINISH ever, and the next run goes on without reading its prompt. 1.3.1: ?, as 1.3.0."""
    runtime = load(version)
    for switch, expected in ((None, reads), (True, True), (False, False)):
        run = paused(runtime, make_model, switch)
        assert run.text == " three four"
        assert (run.perf.prefill_tokens > 0) is expected


def test_row_13_abort_may_wait_for_the_prefill(newest: Runtime, make_model: Make) -> None:
    """B: RKV: prefills below 100 tokens are not cut. Beyond 128: ? (issue 400: about 1.3 s, no length)."""
    for switch, least, most in ((True, 0.0, 0.4), (False, 0.5, 5.0)):
        handle = newest.open(make_model(prefill_tps=2000, abort_in_prefill=switch))
        thread = threading.Timer(0.01, newest.call, ("abort", handle))
        thread.start()
        began = time.monotonic()
        assert words(newest, handle, 1000).states == [FINISH]
        assert least <= time.monotonic() - began < most
        thread.join()
        newest.close(handle)


def test_row_14_range_is_not_cleared_under_a_kept_history(
    counted: Runtime, make_model: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    """A: RKV, 1.2.3, RK3576: -1 and the known line, with keep_system_prompt 1, too."""
    handle = counted.open(make_model(reply="a"))
    counted.ask(handle, keep_history=1)
    for keep_system in (0, 1):
        start, end = (ctypes.c_int * 1)(0), (ctypes.c_int * 1)(3)
        assert counted.call("clear_kv_cache", handle, keep_system, start, end) == -1
        assert "E rkllm: start_pos and end_pos are only valid when keep_history == 0" in capfd.readouterr().out
    counted.close(handle)


# ── pace ──


def test_row_16_decode_slows_down_with_length(newest: Runtime, make_model: Make) -> None:
    """A: RLL, 1.2.1: 17.5 tokens/s at 70 positions, 13.3 at about 1000."""
    took = []
    for slowdown in (None, 0.5):
        handle = newest.open(make_model(endless=True, decode_tps=100, decode_slowdown=slowdown), max_new=11)
        run = words(newest, handle, 1000)
        took.append(run.perf.generate_ms)
        newest.close(handle)
    assert took[0] >= 100
    assert took[1] >= 200


def test_row_16_short_prompt_costs_a_step_and_a_slope(newest: Runtime, make_model: Make) -> None:
    """A: GZA, RK3588, Qwen3-1.7B, 1.2.3: 15:95 26:128 33:140 49:176 ms, a step is 74 to 79 ms."""
    speed = speeds()["measured/rk3588/qwen3-1.7b"]
    for tokens, ms in ((15, 95), (26, 128), (33, 140), (49, 176)):
        assert speed.prefill_base_ms + tokens / speed.prefill_tps * 1000 == pytest.approx(ms, rel=0.06)
    handle = newest.open(make_model(speed="measured/rk3588/qwen3-1.7b", npu_bytes=1, reply="a"))
    assert words(newest, handle, 15).perf.prefill_ms >= 97
    newest.close(handle)


# ── versions ──


@pytest.mark.parametrize("version", ["1.2.3", "1.3.0", "1.3.1"])
@pytest.mark.parametrize("toolkit", ["1.1.4", "1.2.3"])
def test_row_17_1_3_0_misses_unsigned_end_tokens(
    load: Load,
    make_model: Make,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    toolkit: str,
) -> None:
    """A: EOS, files of toolkit 1.2.2 and 1.2.3 on 1.3.0: a nonsense id in the log, and no answer ends."""
    monkeypatch.setenv("RKLLM_LOG_LEVEL", "2")
    runtime = load(version)
    misses = (version, toolkit) == ("1.3.0", "1.2.3")
    handle = runtime.open(make_model(reply="yes", toolkit=toolkit, end_event=True), max_new=50)
    log = capfd.readouterr().out
    assert (f": {END} '<|im_end|>'" in log) is not misses
    run = runtime.ask(handle)
    assert run.tokens[:2] == [tokenizer.token("yes"), END]
    assert (len(run.tokens) == 50) is misses
    runtime.close(handle)


def test_row_17_reading_unsigned_end_tokens_is_a_switch(load: Load, make_model: Make) -> None:
    """A: 1.3.1's list of changes: ids stored as UINT32 are parsed."""
    runtime = load("1.3.0")
    for fields in ({"toolkit": "1.2.3", "reads_unsigned_ends": True}, {"toolkit": "1.2.3", "unsigned_ends": False}):
        handle = runtime.open(make_model(reply="yes", end_event=True, **fields), max_new=50)
        assert len(runtime.ask(handle).tokens) == 2
        runtime.close(handle)


@pytest.mark.parametrize(("version", "warns"), [("1.3.0", True), ("1.3.1", False)])
def test_row_18_qwen35_warns_that_nothing_is_reused(
    load: Load, make_model: Make, capfd: pytest.CaptureFixture[str], version: str, warns: bool
) -> None:
    """A: issues 513 and 519, 1.3.0."""
    runtime = load(version)
    for switch, expected in ((None, warns), (False, False)):
        handle = runtime.open(make_model(architecture="qwen35", reply="a", warns_of_reuse=switch))
        first = runtime.ask(handle)
        capfd.readouterr()
        again = runtime.ask(handle)
        line = "W rkllm: Current model does not support kv cache reuse. clearing all caches."
        assert (line in capfd.readouterr().out) is expected
        assert (again.perf.prefill_tokens == first.perf.prefill_tokens) is warns
        runtime.close(handle)


# ── a second user of the NPU ──

SECOND = """
import sys
from pathlib import Path
from tests.simulator.raw import Runtime

library, version, model = sys.argv[1:]
runtime = Runtime(Path(library), version)
handle = runtime.open(model)
runtime.on_event = lambda _: sys.stderr.write(".") and sys.stderr.flush()
sys.stderr.write(f"status {runtime.ask(handle).status}")
"""


@pytest.mark.parametrize(("conflict", "ends"), [("", ["0", "0"]), ("submit", ["-1", "-1"]), ("hang", [])])
def test_row_19_two_processes_disturb_each_other(
    library: Library, board_root: Path, make_model: Make, tmp_path: Path, conflict: str, ends: list[str]
) -> None:
    """A: issues 306 and 315: `failed to submit`, then a hang, with RKNN as the other. Two language models: they take
    turns (ORK, A), so that the default is no conflict."""
    model = make_model(reply="one two three four five six seven eight", decode_tps=2, conflict=conflict)
    command = [sys.executable, "-c", SECOND, str(library("1.3.1")), "1.3.1", str(model)]
    environment = {**os.environ, "RKLLM_SIM_NPU_FILE": str(tmp_path / "npu")}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    with start() as first:
        assert first.stderr is not None
        assert first.stderr.read(1) == "."
        with start() as second:
            told = []
            for process in (second, first):
                try:
                    told.append(process.communicate(timeout=5 if conflict == "hang" else 30)[1])
                except subprocess.TimeoutExpired:
                    process.kill()
    assert [text.rpartition("status ")[2] for text in told] == ends
