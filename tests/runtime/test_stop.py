"""Ending a run before its end: from another thread, from inside, by an exception; and only that run."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from exo_rkllm.errors import NotSupported, RunError, UsageError
from exo_rkllm.runtime import session as session_module
from exo_rkllm.runtime.session import PAUSE, PromptInput, RunSpec, RunStats, Session
from tests.runtime.answers import BEFORE_1_2_1, SINCE_1_2_1, Answer, ask
from tests.runtime.conftest import Load
from tests.simulated import VERSIONS

every = pytest.mark.parametrize("release", VERSIONS)
ENDLESS: dict[str, Any] = {"reply": "a b c ", "endless": True, "decode_tps": 500.0}
LIMIT = {"max_new_tokens": 3000}  # six seconds: a stop that does not work fails its test


def after(count: int, act: Any) -> tuple[Any, Answer]:
    """An on_token that acts at its n-th token, and what it heard."""
    heard = Answer()

    def on_token(text: bytes, token: int, waiting: bool) -> Any:
        heard.on_token(text, token, waiting)
        return act() if len(heard.pieces) == count else None

    return on_token, heard


def fail() -> None:
    raise ZeroDivisionError("of the caller")


# ── abort ────────────────────────────────────────────────────────────────────────────────────────


@every
def test_abort_from_another_thread_ends_the_run(load: Load, release: str) -> None:
    session = load(release, LIMIT, **ENDLESS)
    begun = threading.Event()
    thread = threading.Thread(target=lambda: begun.wait() and session.abort())
    thread.start()
    on_token, heard = after(3, begun.set)
    began = time.monotonic()
    stats = session.run(PromptInput("x"), on_token)
    thread.join()
    assert stats.aborted
    assert time.monotonic() - began < 3
    assert 3 <= len(heard.pieces) < 1500


@every
def test_abort_from_inside_the_callback_ends_the_run(load: Load, release: str) -> None:
    """It returns at once there, one FINISH follows, and the next run is clean (1.3.1, certainty A)."""
    session = load(release, LIMIT, **ENDLESS)
    on_token, heard = after(3, session.abort)
    answered: list[RunStats] = []

    def takes_no_answer(*token: Any) -> None:
        on_token(*token)

    answered.append(session.run(PromptInput("x"), takes_no_answer))
    assert answered[0].aborted
    assert len(heard.pieces) == 3


@every
def test_abort_during_prefill_ends_the_run(load: Load, release: str) -> None:
    session = load(release, {"max_context_len": 4096}, prefill_tps=500.0)
    threading.Timer(0.1, session.abort).start()
    began = time.monotonic()
    answer = ask(session, "word " * 2000)
    assert answer.stats.aborted
    assert not answer.pieces
    assert time.monotonic() - began < 2


@every
def test_without_a_run_there_is_nothing_to_abort(load: Load, release: str) -> None:
    session = load(release, reply="whole")
    assert not session.abort()
    assert ask(session, "x").text == "whole"
    assert not session.abort()
    answer = ask(session, "x")
    assert (answer.text, answer.stats.aborted) == ("whole", False)


@every
def test_an_abort_that_comes_before_the_library_has_begun_is_not_lost(load: Load, release: str) -> None:
    """It forgets what it was told before: the first token that comes all the same tells it again."""
    session = load(release, LIMIT, **ENDLESS)
    run: Any = session.library.functions["rkllm_run"]

    def aborted_just_before(*arguments: Any) -> Any:
        early = threading.Thread(target=session.abort)
        early.start()
        early.join()
        return run(*arguments)

    session.library.functions["rkllm_run"] = aborted_just_before  # type: ignore[index]  # a dict
    began = time.monotonic()
    answer = ask(session, "x")
    assert answer.stats.aborted
    assert answer.pieces == []
    assert time.monotonic() - began < 3


@every
def test_a_run_after_an_aborted_one_starts_from_nothing(load: Load, release: str) -> None:
    session = load(release, {"max_new_tokens": 50}, reply="a b c ", endless=True)
    on_token, _ = after(3, session.abort)
    session.run(PromptInput("x"), lambda *token: on_token(*token) and None)
    if session.library.supports("kv_cache_size"):
        assert session.kv_size() == (0,)
    assert len(ask(session, "y").pieces) == 50


@every
def test_tokens_that_come_after_an_abort_are_dropped(load: Load, release: str) -> None:
    """The library honours it late (reference 2.8); nobody wants to hear what it says until then."""
    session = load(release, LIMIT, **ENDLESS, abort_delay_ms=300)
    on_token, heard = after(3, session.abort)
    began = time.monotonic()
    stats = session.run(PromptInput("x"), lambda *token: on_token(*token) and None)
    assert time.monotonic() - began > 0.3
    assert stats.aborted
    assert len(heard.pieces) == stats.generate_tokens == 3


@pytest.mark.parametrize("release", SINCE_1_2_1)
def test_abort_ends_a_batch_and_rows_too(load: Load, release: str) -> None:
    session = load(release, {"n_batch": 2, **LIMIT}, **ENDLESS)
    steps = []

    def on_batch(step: Any, _waiting: bool) -> None:
        steps.append(step)
        if len(steps) == 3:
            session.abort()

    stats = session.run_batch([PromptInput("x"), PromptInput("y")], on_batch)
    assert stats.aborted
    assert len(steps) == 3


# ── exceptions ───────────────────────────────────────────────────────────────────────────────────


@every
@pytest.mark.parametrize("keep", [False, True])
def test_error_of_a_callback_ends_the_run_and_is_raised(load: Load, release: str, keep: bool) -> None:
    session = load(release, LIMIT, **ENDLESS)
    keep = keep and session.library.supports("keep_history")
    on_token, heard = after(3, fail)
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError, match="of the caller"):
        session.run(PromptInput("x"), on_token, RunSpec(keep_history=keep))
    assert time.monotonic() - began < 3
    assert len(heard.pieces) == 3
    session.close()


@every
def test_a_session_answers_after_a_callback_has_raised(load: Load, release: str) -> None:
    session = load(release, {"max_new_tokens": 40}, reply="a b c ", endless=True)
    for _ in range(3):
        on_token, _ = after(3, fail)
        with pytest.raises(ZeroDivisionError):
            session.run(PromptInput("x"), on_token)
        assert len(ask(session, "x").pieces) == 40


@every
def test_exit_raised_in_a_callback_leaves_the_run(load: Load, release: str) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    on_token, _ = after(1, interrupt)
    with pytest.raises(KeyboardInterrupt):
        load(release, LIMIT, **ENDLESS).run(PromptInput("x"), on_token)


@every
def test_what_the_taker_of_rows_raises_comes_out(load: Load, release: str) -> None:
    with pytest.raises(ZeroDivisionError):
        load(release).run(PromptInput("x"), lambda *_: None, RunSpec(mode="hidden"), lambda *_: fail())


@pytest.mark.parametrize("release", SINCE_1_2_1)
def test_what_the_taker_of_a_batch_raises_comes_out(load: Load, release: str) -> None:
    session = load(release, {"n_batch": 2, **LIMIT}, **ENDLESS)
    with pytest.raises(ZeroDivisionError):
        session.run_batch([PromptInput("x"), PromptInput("y")], lambda *_: fail())


# ── pause ────────────────────────────────────────────────────────────────────────────────────────


def paused(session: Session) -> Answer:
    on_token, heard = after(5, lambda: PAUSE)
    heard.stats = session.run(PromptInput("x"), on_token)
    return heard


@pytest.mark.parametrize("release", SINCE_1_2_1)
def test_a_run_is_paused_and_goes_on(load: Load, release: str) -> None:
    session = load(release, {"max_new_tokens": 30}, **ENDLESS)
    heard = paused(session)
    assert heard.stats.paused
    assert not heard.stats.aborted
    assert len(heard.pieces) == 5
    more = ask(session, "and")
    assert len(more.pieces) == 30
    assert not more.stats.paused


@pytest.mark.parametrize("release", SINCE_1_2_1)
def test_a_range_can_be_cut_out_while_paused(load: Load, release: str) -> None:
    session = load(release, {"max_new_tokens": 30}, **ENDLESS)
    paused(session)
    session.clear_kv(ranges=[(2, 6)])
    assert ask(session, "and").pieces


@pytest.mark.parametrize("release", SINCE_1_2_1)
def test_a_range_cannot_be_cut_out_otherwise(load: Load, release: str) -> None:
    session = load(release)
    with pytest.raises(UsageError, match="only while a run without history is paused"):
        session.clear_kv(ranges=[(0, 1)])


@pytest.mark.parametrize("release", BEFORE_1_2_1)
def test_pausing_is_refused_before_1_2_1(load: Load, release: str) -> None:
    session = load(release, LIMIT, **ENDLESS)
    with pytest.raises(NotSupported, match=rf"Pausing .* runtime {release}: needs 1\.2\.1 or newer"):
        paused(session)


@pytest.mark.parametrize("release", SINCE_1_2_1)
def test_a_run_with_history_cannot_be_paused(load: Load, release: str) -> None:
    on_token, _ = after(3, lambda: PAUSE)
    with pytest.raises(UsageError, match="keep_history cannot be paused"):
        load(release, LIMIT, **ENDLESS).run(PromptInput("x"), on_token, RunSpec(keep_history=True))


@every
def test_unknown_answer_of_a_callback_is_an_error(load: Load, release: str) -> None:
    on_token, _ = after(3, lambda: 7)
    with pytest.raises(UsageError, match="A callback answered 7"):
        load(release, LIMIT, **ENDLESS).run(PromptInput("x"), on_token)


# ── one thing at a time ──────────────────────────────────────────────────────────────────────────


@every
def test_a_run_leaves_no_room_for_anything_else(load: Load, release: str) -> None:
    session = load(release, LIMIT, **ENDLESS)
    seen: list[Any] = []

    def meanwhile() -> None:
        for call in (
            lambda: session.run(PromptInput("y"), lambda *_: None),
            session.release_prompt_cache,
            lambda: session.load_prompt_cache("/nowhere"),
        ):
            with pytest.raises(RunError, match="busy with a run"):
                call()
        seen.append(session.is_running())
        session.abort()

    thread = threading.Thread(target=meanwhile)
    on_token, _ = after(3, thread.start)
    assert session.run(PromptInput("x"), on_token).aborted
    thread.join()
    assert seen == [True]
    assert not session.is_running()


@every
def test_closing_ends_a_run_first(load: Load, release: str) -> None:
    session = load(release, LIMIT, **ENDLESS)
    thread = threading.Thread(target=session.close)
    on_token, _ = after(3, thread.start)
    assert session.run(PromptInput("x"), on_token).aborted
    thread.join()
    with pytest.raises(RunError, match="closed"):
        ask(session, "x")


@every
def test_closing_twice_frees_once(load: Load, release: str) -> None:
    session = load(release)
    session.close()
    session.close()
    with pytest.raises(RunError, match="closed"):
        session.is_running()


def test_model_is_not_freed_under_a_run_that_does_not_end(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "CLOSE_SECONDS", 0.05)
    session = load("1.3.0", {"max_new_tokens": 200}, **ENDLESS, ignore_abort=True)
    errors: list[str] = []

    def close() -> None:
        with pytest.raises(RunError) as caught:
            session.close()
        errors.append(caught.value.sentence)

    thread = threading.Thread(target=close)
    on_token, _ = after(3, thread.start)
    session.run(PromptInput("x"), on_token)
    thread.join()
    assert "did not end its run" in errors[0]
