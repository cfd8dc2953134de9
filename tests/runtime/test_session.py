"""Everything that the library offers, through the session, on every generation that has it."""

from __future__ import annotations

import array
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.errors import (
    ContextOverflow,
    ExoRkllmError,
    ModelFileError,
    ModelNotFound,
    NotSupported,
    RunError,
    UsageError,
)
from exo_rkllm.runtime.session import (
    RELEASE,
    AudioEmbeds,
    EmbedInput,
    ImageEmbeds,
    Input,
    LoadParams,
    MultimodalInput,
    PromptInput,
    RunSpec,
    SessionFacts,
    TokenInput,
    VideoEmbeds,
)
from tests.runtime.answers import (
    BEFORE_1_2_1,
    BEFORE_1_3_0,
    SINCE_1_2_0,
    SINCE_1_2_1,
    SINCE_1_3_0,
    Answer,
    ask,
)
from tests.runtime.conftest import Load
from tests.simulated import VERSIONS

WIDTH = 64  # the simulated models' embedding length
every = pytest.mark.parametrize("release", VERSIONS)


def floats(count: int, value: float = 0.5) -> memoryview:
    return memoryview(array.array("f", [value]) * count)


# ── answers ──────────────────────────────────────────────────────────────────────────────────────


@every
def test_a_prompt_is_answered_token_by_token(load: Load, release: str) -> None:
    answer = ask(load(release, reply="You said: {user}!"), "Grüße")
    assert answer.text == "You said: Grüße!"
    assert len(answer.pieces) > 3
    assert all(token >= 0 for _, token, _ in answer.pieces)


@every
def test_a_character_that_comes_in_parts_is_announced_by_waiting(load: Load, release: str) -> None:
    answer = ask(load(release, reply="a😀b"), "x")
    assert answer.text == "a😀b"
    waiting = [text for text, _, wait in answer.pieces if wait]
    assert waiting
    assert set(waiting) == {b""}


@every
def test_bytes_that_the_library_splits_are_passed_on_as_they_are(load: Load, release: str) -> None:
    answer = ask(load(release, reply="a😀b", split_multibyte=True), "x")
    assert answer.text == "a😀b"
    assert len(answer.pieces) > 3


@every
def test_token_ids_take_no_template(load: Load, release: str) -> None:
    session = load(release, reply="[{prompt}]")
    ids = [token for _, token, _ in ask(load(release, reply="plain text"), "x").pieces]
    assert ask(session, TokenInput(ids)).text == "[plain text]"
    assert "You are a helpful assistant" in ask(session, "plain text").text


@every
@pytest.mark.parametrize("frozen", [True, False])
def test_embeddings_are_taken_from_any_memory(load: Load, release: str, frozen: bool) -> None:
    data = floats(3 * WIDTH)
    given: Any = bytes(data) if frozen else data
    assert ask(load(release, reply="seen"), EmbedInput(given, 3)).text == "seen"


@every
def test_a_session_answers_again_and_again(load: Load, release: str) -> None:
    session = load(release, reply="You said: {user}")
    assert [ask(session, str(number)).text for number in range(20)] == [f"You said: {number}" for number in range(20)]


@every
def test_sessions_of_one_process_do_not_mix(load: Load, release: str) -> None:
    first, second = load(release, reply="one"), load(release, reply="two")
    assert [ask(session, "x").text for session in (first, second, first)] == ["one", "two", "one"]


# ── figures ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("release", SINCE_1_2_1)
def test_runtime_figures_are_used_where_it_has_them(load: Load, release: str) -> None:
    answer = ask(load(release, reply="one two three", prefill_tps=5000.0, decode_tps=200.0), TokenInput([1, 2, 3, 4]))
    stats = answer.stats
    assert (stats.source, stats.prefill_tokens, stats.generate_tokens) == ("runtime", 4, len(answer.pieces))
    assert stats.prefill_ms is not None
    assert stats.generate_ms is not None
    assert stats.prefill_ms > 0.5
    assert stats.generate_ms > 5
    assert stats.memory_mb is not None
    assert stats.memory_mb > 1


@pytest.mark.parametrize("release", BEFORE_1_2_1)
def test_session_counts_where_the_runtime_cannot(load: Load, release: str) -> None:
    answer = ask(load(release, reply="one two three", prefill_tps=200.0, decode_tps=100.0), TokenInput([1, 2, 3, 4]))
    stats = answer.stats
    assert (stats.source, stats.prefill_tokens, stats.generate_tokens) == ("measured", None, len(answer.pieces))
    assert stats.prefill_ms is not None
    assert stats.generate_ms is not None
    assert stats.prefill_ms > 15
    assert stats.generate_ms > 15
    assert stats.memory_mb is not None
    assert stats.memory_mb > 1


def test_unknown_figures_are_left_out_of_json(load: Load) -> None:
    assert "prefill_tokens" not in ask(load("1.1.4", reply="x"), "x").stats.to_json()
    assert ask(load("1.3.0", reply="x"), "x").stats.to_json()["prefill_tokens"] > 0


# ── facts ────────────────────────────────────────────────────────────────────────────────────────


def test_loaded_model_reports_its_facts(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RKLLM_LOG_LEVEL", "2")
    facts = load("1.3.0", {"cpus": (4, 5, 6, 7), "max_context_len": 2048}, toolkit="1.2.3").facts
    assert (facts.release, facts.generation, facts.context) == ("1.3.0", "1.3.0", 2048)
    assert (facts.driver, facts.platform, facts.target_platform) == ("0.9.8", "RK3588", "RK3588")
    assert (facts.toolkit, facts.max_context_limit, facts.npu_cores, facts.dtype) == ("1.2.3", 4096, 3, "W8A8")
    assert facts.cpus == (4, 5, 6, 7)
    assert facts.vocab_size is not None
    assert facts.bos is not None
    assert len(facts.eos) == 2
    assert any("SIMULATOR" in warning for warning in facts.warnings)
    assert json.loads(json.dumps(facts.to_json()))["context"] == 2048
    assert "sampling_per_run" in facts.supports


@pytest.mark.parametrize("release", ["1.1.4", "1.2.0"])
def test_what_an_old_runtime_does_not_print_is_unknown(load: Load, release: str) -> None:
    facts = load(release).facts
    assert facts.dtype is None
    assert facts.vocab_size is None
    assert isinstance(facts, SessionFacts)
    assert (facts.npu_cores, facts.cpus) == ((None, ()) if release == "1.1.4" else (3, facts.cpus))


@every
def test_a_context_of_0_takes_what_the_file_was_made_for(load: Load, release: str) -> None:
    assert load(release, max_context=1024).facts.context == 1024


def test_a_driver_that_is_too_old_is_a_warning_as_long_as_it_works(
    load: Load, make_board: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = load("1.3.0")
    session.close()
    monkeypatch.setenv("RKLLM_SIM_ROOT", str(make_board(driver="0.9.6")))
    assert any("0.9.7" in warning for warning in load("1.3.0").facts.warnings)


@every
def test_parameters_survive_a_trip_as_json(load: Load, release: str) -> None:
    params = LoadParams("/m.rkllm", top_k=7, cpus=(4, 5), img_start="<img>")
    assert LoadParams.from_json(json.loads(json.dumps(params.to_json()))) == params


# ── limits and sampling ──────────────────────────────────────────────────────────────────────────


@every
def test_the_limit_of_the_load_holds(load: Load, release: str) -> None:
    answer = ask(load(release, {"max_new_tokens": 5}, reply="a b c", endless=True), "x")
    assert len(answer.pieces) == 5


@pytest.mark.parametrize("release", SINCE_1_3_0)
def test_a_limit_of_one_run_holds_for_that_run(load: Load, release: str) -> None:
    session = load(release, {"max_new_tokens": 9}, reply="a b c", endless=True)
    assert [len(ask(session, "x", max_new_tokens=limit).pieces) for limit in (3, None, 4)] == [3, 9, 4]


@pytest.mark.parametrize("release", BEFORE_1_3_0)
def test_session_counts_the_limit_of_one_run_before_1_3_0(load: Load, release: str) -> None:
    session = load(release, {"max_new_tokens": 9}, reply="a b c", endless=True)
    assert [len(ask(session, "x", max_new_tokens=limit).pieces) for limit in (3, None, 4)] == [3, 9, 4]


CHOICES = "[[a|b|c|d|e|f|g|h]]"
HOT = {"temperature": 50.0, "top_p": 1.0, "top_k": 40}


def words(session: Any, **spec: Any) -> set[str]:
    return {ask(session, str(number), **spec).text for number in range(12)}


@every
def test_sampling_of_the_load_is_obeyed(load: Load, release: str) -> None:
    assert words(load(release, {"top_k": 1}, reply=CHOICES)) == {"a"}
    assert len(words(load(release, HOT, reply=CHOICES))) > 2


@pytest.mark.parametrize("release", SINCE_1_3_0)
def test_sampling_of_one_run_holds_for_that_run(load: Load, release: str) -> None:
    session = load(release, HOT, reply=CHOICES)
    assert words(session, sampling={"top_k": 1}) == {"a"}
    assert len(words(session)) > 2


@pytest.mark.parametrize("release", BEFORE_1_3_0)
def test_other_sampling_than_loaded_is_refused_before_1_3_0(load: Load, release: str) -> None:
    session = load(release, {"top_k": 1}, reply=CHOICES)
    with pytest.raises(NotSupported, match=rf"Sampling .* runtime {release}: needs 1\.3\.0 or newer"):
        ask(session, "x", sampling={"temperature": 0.1})
    # The same in other words is no wish that is left out.
    assert ask(session, "x", sampling={"top_k": 1, "temperature": 0.8}).text == "a"


@pytest.mark.parametrize("release", SINCE_1_3_0)
def test_ignoring_the_end_goes_on_until_the_limit(load: Load, release: str) -> None:
    session = load(release, {"ignore_eos_token": True, "max_new_tokens": 40}, reply="a b")
    assert len(ask(session, "x").pieces) == 40


# ── history and the KV cache ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("release", SINCE_1_2_1)
def test_history_stays_when_asked_and_goes_when_cleared(load: Load, release: str) -> None:
    session = load(release, reply="ok")
    ask(session, "first", keep_history=True)
    (kept,) = session.kv_size()
    ask(session, "second", keep_history=True)
    assert session.kv_size()[0] > kept > 0
    session.clear_kv(keep_system_prompt=True)
    assert 0 < session.kv_size()[0] < kept
    session.clear_kv()
    assert session.kv_size() == (0,)


@pytest.mark.parametrize("release", SINCE_1_2_0)
def test_clearing_works_with_two_and_with_four_arguments(load: Load, release: str) -> None:
    session = load(release, reply="ok")
    ask(session, "first", keep_history=True)
    session.clear_kv()
    assert ask(session, "second").text == "ok"


@pytest.mark.parametrize("release", SINCE_1_2_1)
def test_a_prefix_is_not_computed_again(load: Load, release: str) -> None:
    session = load(release, reply="ok")
    counts = [ask(session, TokenInput(list(range(100, 160)))).stats.prefill_tokens for _ in range(2)]
    assert counts == [60, 1]


@every
def test_a_saved_prompt_is_not_computed_again(load: Load, release: str, tmp_path: Path) -> None:
    path = str(tmp_path / "prompt.cache")
    ids = TokenInput(list(range(100, 160)))
    ask(load(release, reply="ok"), ids, save_prompt_cache=path)
    session = load(release, {"model_path": str(tmp_path / "model-0.rkllm")})
    session.load_prompt_cache(path)
    answer = ask(session, ids)
    if session.library.supports("perf"):
        assert answer.stats.prefill_tokens == 1
    session.release_prompt_cache()


@every
@pytest.mark.parametrize(
    ("content", "kind", "says"),
    [
        (None, ModelNotFound, "There is no prompt cache"),
        (b"", ModelFileError, "is empty"),
        (b"nonsense" * 99, ModelFileError, "cannot be read"),
    ],
)
def test_a_bad_prompt_cache_is_told(
    load: Load, release: str, tmp_path: Path, content: bytes | None, kind: type[ExoRkllmError], says: str
) -> None:
    path = tmp_path / "bad.cache"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(kind, match=says) as caught:
        load(release).load_prompt_cache(str(path))
    assert caught.value.hint


@every
def test_the_prompt_cache_of_another_model_is_told(load: Load, release: str, tmp_path: Path) -> None:
    path = str(tmp_path / "prompt.cache")
    ask(load(release, reply="one"), "x", save_prompt_cache=path)
    with pytest.raises(ModelFileError, match="saved with another model"):
        load(release, reply="another").load_prompt_cache(path)


# ── adapters, templates, tools ───────────────────────────────────────────────────────────────────


@every
def test_an_adapter_is_chosen_by_its_name(load: Load, release: str, make_model: Any) -> None:
    session = load(release, reply="plain")
    session.load_lora("pirate", str(make_model(reply="arr")), 0.5)
    assert ask(session, "x", lora="pirate").text == "arr"
    assert ask(session, "x").text == "plain"


@every
def test_adapters_that_are_wrong_are_told(load: Load, release: str, make_model: Any) -> None:
    session = load(release)
    with pytest.raises(ModelNotFound, match="adapter's file"):
        session.load_lora("pirate", "/nowhere.rkllm")
    with pytest.raises(UsageError, match="no LoRA adapter pirate"):
        ask(session, "x", lora="pirate")
    session.load_lora("pirate", str(make_model()))
    with pytest.raises(UsageError, match="pirate is loaded already"):
        session.load_lora("pirate", str(make_model()))


@pytest.mark.parametrize("release", SINCE_1_2_0)
def test_a_template_of_ours_replaces_the_model_s(load: Load, release: str) -> None:
    session = load(release, reply="[{prompt}]")
    session.set_chat_template("S:", "U:", ":A")
    assert ask(session, "hi").text == "[S:U:hi:A]"
    session.clear_kv()
    session.set_chat_template("", "", "")
    assert ask(session, "hi").text == "[hi]"


TOOLS = json.dumps([{"type": "function", "function": {"name": "weather", "description": "", "parameters": {}}}])


@pytest.mark.parametrize("release", SINCE_1_2_1)
def test_a_tool_is_called_and_its_result_is_told(load: Load, release: str) -> None:
    session = load(release, tool_reply="It is {user}.")
    session.set_function_tools("You may call tools.", TOOLS, "tool_response")
    assert '"name": "weather"' in ask(session, "What does weather say?").text
    assert ask(session, PromptInput('"sunny"', role="tool")).text.startswith("It is")


@pytest.mark.parametrize("release", SINCE_1_2_1)
def test_thinking_is_switched(load: Load, release: str) -> None:
    session = load(release, thinking="hmm", reply="yes")
    assert "hmm" in ask(session, PromptInput("x", thinking=True)).text
    session.clear_kv()
    assert "hmm" not in ask(session, PromptInput("x")).text


@pytest.mark.parametrize("release", SINCE_1_2_1)
def test_cross_attention_reaches_the_model(load: Load, release: str) -> None:
    session = load(release, {"use_cross_attn": True}, reply="{encoder} tokens", layers=2, kv_heads=2, head_dim=8)
    size = 5 * 2 * 2 * 8
    session.set_cross_attn(floats(size), bytes(floats(size)), floats(5), range(5))
    assert ask(session, "x").text == "5 tokens"


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────


@every
def test_hidden_states_have_a_row_a_token(load: Load, release: str) -> None:
    answer = ask(load(release), TokenInput([1, 2, 3]), mode="hidden")
    ((kind, rows, width, values),) = answer.rows
    assert (kind, rows, width, len(values)) == ("hidden", 3, WIDTH, 3 * WIDTH)
    assert len(set(values)) > WIDTH


@pytest.mark.parametrize("release", SINCE_1_2_0)
def test_logits_have_a_column_a_word(load: Load, release: str) -> None:
    session = load(release, reply="yes")
    (first, *_) = [token for _, token, _ in ask(session, "x").pieces]
    ((kind, rows, width, values),) = ask(session, TokenInput([1, 2, 3]), mode="logits").rows
    assert (kind, rows) == ("logits", 3)
    last = values[-width:]
    assert last.index(max(last)) == first


@pytest.mark.parametrize("release", SINCE_1_2_0)
def test_the_last_row_alone_is_taken_too(load: Load, release: str) -> None:
    ((_, rows, _, _),) = ask(load(release, logits_last_only=True), TokenInput([1, 2, 3]), mode="logits").rows
    assert rows == 1


@every
def test_rows_are_dead_after_the_call(load: Load, release: str) -> None:
    """The library frees them at its next callback: reading them later must not be possible."""
    kept: list[memoryview[float]] = []
    load(release).run(PromptInput("x"), lambda *_: None, RunSpec(mode="hidden"), lambda *rows: kept.append(rows[3]))
    with pytest.raises(ValueError, match="released"):
        kept[0][0]


@pytest.mark.parametrize("release", SINCE_1_3_0)
def test_the_output_buffer_can_be_released_early(load: Load, release: str) -> None:
    session, seen = load(release), []

    def take(kind: str, _rows: int, _width: int, _view: Any) -> int:
        seen.append(kind)
        return RELEASE

    session.run(PromptInput("x"), lambda *_: None, RunSpec(mode="logits"), take)
    assert seen == ["logits"]


@pytest.mark.parametrize("release", BEFORE_1_3_0)
def test_releasing_it_is_refused_before_1_3_0(load: Load, release: str) -> None:
    session = load(release)
    with pytest.raises(NotSupported, match=rf"runtime {release}: needs 1\.3\.0 or newer"):
        session.run(PromptInput("x"), lambda *_: None, RunSpec(mode="hidden"), lambda *_: RELEASE)


@every
def test_rows_that_nobody_takes_are_not_computed(load: Load, release: str) -> None:
    with pytest.raises(UsageError, match="somebody who takes the rows"):
        load(release).run(PromptInput("x"), lambda *_: None, RunSpec(mode="hidden"))


# ── images, video, audio ─────────────────────────────────────────────────────────────────────────


def image(count: int = 1, **more: Any) -> ImageEmbeds:
    return ImageEmbeds(floats(count * 4 * WIDTH), 4, count, **more)


@every
def test_an_image_is_seen(load: Load, release: str) -> None:
    session = load(release, vision=True, reply="{media} seen")
    assert ask(session, MultimodalInput("What is <image>?", image())).text == "1 seen"


@pytest.mark.parametrize("release", VERSIONS[2:])
def test_several_images_reach_the_model_with_their_size(load: Load, release: str) -> None:
    session = load(release, vision=True, reply="{media} seen")
    two = MultimodalInput("<image> or <image>?", image(2, width=56, height=56))
    assert ask(session, two).text == "2 seen"
    with pytest.raises(UsageError, match="does not have the size that was given"):
        ask(session, MultimodalInput("<image>", image(width=280, height=56)))


@pytest.mark.parametrize("release", BEFORE_1_3_0)
def test_tags_are_set_at_load_before_1_3_0(load: Load, release: str) -> None:
    session = load(release, {"img_start": "<i>", "img_end": "</i>"}, vision=True)
    assert ask(session, MultimodalInput("<image>", image(start="<i>"))).stats
    with pytest.raises(NotSupported, match=rf"Image tags .* runtime {release}: needs 1\.3\.0 or newer"):
        ask(session, MultimodalInput("<image>", image(start="<other>")))


@pytest.mark.parametrize("release", SINCE_1_3_0)
def test_tags_are_the_input_s_since_1_3_0(load: Load, release: str) -> None:
    """More tags make a longer prompt: the load's where the input has none, else the input's."""
    session = load(release, {"img_start": "<i>"}, vision=True)
    plain = ask(session, MultimodalInput("<image>", image(start=""))).stats.prefill_tokens
    session.clear_kv()
    loaded = ask(session, MultimodalInput("<image>", image())).stats.prefill_tokens
    session.clear_kv()
    own = ask(session, MultimodalInput("<image>", image(start="<i><i><i>"))).stats.prefill_tokens
    assert plain is not None
    assert loaded is not None
    assert own is not None
    assert plain < loaded < own


@pytest.mark.parametrize("release", SINCE_1_3_0)
def test_a_video_is_seen(load: Load, release: str) -> None:
    session = load(release, vision=True, reply="{media} seen")
    film = VideoEmbeds(floats(3 * 4 * WIDTH), 4, frames=3, start="<v>", end="</v>")
    assert ask(session, MultimodalInput("What is <video>?", video=film)).text == "1 seen"


def test_audio_is_heard(load: Load) -> None:
    session = load("1.3.1", vision=True, reply="{media} heard")
    assert ask(session, MultimodalInput("<audio>", audio=AudioEmbeds(floats(4 * WIDTH), 4))).text == "1 heard"


# ── batches ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("release", SINCE_1_2_1)
def test_a_batch_advances_together(load: Load, release: str) -> None:
    session = load(release, {"n_batch": 3}, reply="{user}")
    texts = [b"", b"", b""]
    ends: list[int] = []

    def on_batch(step: Sequence[tuple[bytes, int] | None], _waiting: bool) -> None:
        for index, element in enumerate(step):
            if element is None:
                ends.append(index)
            else:
                texts[index] += element[0]

    stats = session.run_batch([PromptInput("a"), PromptInput("b c d e"), PromptInput("f g")], on_batch)
    assert texts == [b"a", b"b c d e", b"f g"]
    assert set(ends) == {0, 2}
    assert stats.generate_tokens > 0
    assert session.kv_size() == (0, 0, 0)
    session.clear_kv()


@pytest.mark.parametrize("release", SINCE_1_2_1)
def test_a_batch_is_as_large_as_it_was_loaded(load: Load, release: str) -> None:
    """One input for a batch of two would be read past its end."""
    with pytest.raises(UsageError, match="loaded for batches of 2, and 1 inputs"):
        ask(load(release, {"n_batch": 2}), "x")
    session = load(release)
    with pytest.raises(UsageError, match="loaded for batches of 1, and 2 inputs"):
        session.run_batch([PromptInput("a"), PromptInput("b")], lambda *_: None)
    with pytest.raises(NotSupported, match="from a batch"):
        session.run_batch([PromptInput("a")], lambda *_: None, RunSpec(mode="logits"))


# ── asynchronous ─────────────────────────────────────────────────────────────────────────────────


@every
def test_an_asynchronous_run_answers_on_a_thread_of_the_library(load: Load, release: str) -> None:
    session, answer, threads = load(release, reply="You said: {user}", decode_tps=400.0), Answer(), set()

    def on_token(*token: Any) -> None:
        threads.add(threading.get_ident())
        answer.on_token(*token)

    run = session.run_async(PromptInput("hi"), on_token)
    with pytest.raises(RunError, match="busy"):
        session.release_prompt_cache()
    stats = run.wait(10)
    assert answer.text == "You said: hi"
    assert stats.generate_tokens == len(answer.pieces)
    assert threads.isdisjoint({threading.get_ident()})
    with pytest.raises(RunError, match="waited for already"):
        run.wait()
    assert ask(session, "again").text == "You said: again"


@every
def test_an_asynchronous_run_can_be_waited_for_in_parts_and_aborted(load: Load, release: str) -> None:
    session = load(release, reply="a b c", endless=True, decode_tps=200.0)
    run = session.run_async(PromptInput("hi"), lambda *_: None)
    with pytest.raises(RunError, match="has not ended yet"):
        run.wait(0.01)
    assert session.abort()
    assert run.wait(10).aborted


@every
def test_what_fails_asynchronously_is_raised_by_wait(load: Load, release: str) -> None:
    session = load(release, {"max_context_len": 64}, max_context=64)
    run = session.run_async(TokenInput([1] * 99), lambda *_: None)
    with pytest.raises(ContextOverflow):
        run.wait(10)
    with pytest.raises(UsageError):
        session.run_async(TokenInput([]), lambda *_: None)
    assert ask(session, TokenInput([1])).pieces


@every
def test_async_vector_run_ends_without_finish(load: Load, release: str) -> None:
    """1.2.3 on RK3576 sends one call with the data (certainty A); waiting for FINISH hung a server."""
    heard = Answer()
    session = load(release, vectors_finish=False)
    run = session.run_async(PromptInput("hello"), heard.on_token, RunSpec(mode="hidden"), heard.on_rows)
    stats = run.wait(10)
    assert [kind for kind, *_ in heard.rows] == ["hidden"]
    assert stats.prefill_tokens == heard.rows[0][1]


# ── models without tokenizer or embeddings ───────────────────────────────────────────────────────


@pytest.mark.parametrize("release", SINCE_1_3_0)
def test_tokenizer_and_embeddings_of_the_caller_are_used(load: Load, release: str) -> None:
    texts: list[bytes] = []
    asked: list[int] = []

    def tokenize(text: bytes) -> list[int]:
        texts.append(text)
        return list(text)

    def embed(ids: Sequence[int], rows: memoryview[float]) -> None:
        asked.extend(ids)
        assert len(rows) == len(ids) * WIDTH
        rows[0] = 1.0

    session = load(
        release, tokenize=tokenize, embed=embed, has_tokenizer=False, has_embedding=False, template="none", reply="x"
    )
    answer = ask(session, "hello")
    assert b"hello" in texts
    assert list(b"hello") == asked[:5]
    assert answer.pieces
    assert all(text == b"" for text, _, _ in answer.pieces)


@pytest.mark.parametrize("release", SINCE_1_3_0)
def test_what_such_a_callback_raises_comes_out_of_the_run(load: Load, release: str) -> None:
    def tokenize(text: bytes) -> list[int]:
        raise KeyError(text)

    def embed(ids: Sequence[int], rows: memoryview[float]) -> None:
        raise ZeroDivisionError(ids, rows)

    words_fail = load(release, tokenize=tokenize, has_tokenizer=False)
    with pytest.raises(KeyError):
        ask(words_fail, "x")
    rows_fail = load(release, embed=embed, has_embedding=False)
    with pytest.raises(ZeroDivisionError):
        ask(rows_fail, "x")
    too_many = load(release, tokenize=lambda text: [1] * (len(text) + 1000), has_tokenizer=False)
    with pytest.raises(RunError, match="room for"):
        ask(too_many, "x")


@pytest.mark.parametrize("release", SINCE_1_3_0)
def test_without_the_callback_the_library_says_what_is_missing(load: Load, release: str) -> None:
    with pytest.raises(RunError, match="tokenizer_callback is NULL"):
        ask(load(release, has_tokenizer=False), "x")


@pytest.mark.parametrize("release", BEFORE_1_3_0)
def test_callbacks_are_refused_before_1_3_0(load: Load, release: str) -> None:
    with pytest.raises(NotSupported, match=rf"tokenizer callback is not supported by runtime {release}"):
        load(release, tokenize=list)
    with pytest.raises(NotSupported, match=rf"embedding callback is not supported by runtime {release}"):
        load(release, embed=lambda _ids, _rows: None)


# ── what a runtime lacks ─────────────────────────────────────────────────────────────────────────

LACKING_CALLS: list[tuple[str, str, Any]] = [
    ("1.1.4", "1.2.0", lambda session: session.clear_kv()),
    ("1.1.4", "1.2.0", lambda session: session.set_chat_template("", "", "")),
    ("1.2.1b1", "1.2.1", lambda session: session.clear_kv(ranges=[(0, 1)])),
    ("1.2.1b1", "1.2.1", lambda session: session.kv_size()),
    ("1.2.1b1", "1.2.1", lambda session: session.set_function_tools("", "[]", "")),
    ("1.2.1b1", "1.2.1", lambda session: session.set_cross_attn(b"", b"", b"", [])),
    ("1.2.1b1", "1.2.1", lambda session: session.run_batch([PromptInput("x")], lambda *_: None)),
]
LACKING_RUNS: list[tuple[str, str, Input, dict[str, Any]]] = [
    ("1.1.4", "1.2.0", PromptInput("x"), {"keep_history": True}),
    ("1.1.4", "1.2.0", PromptInput("x"), {"mode": "logits"}),
    ("1.2.0", "1.2.1b1", MultimodalInput("x", image(2)), {}),
    ("1.2.0", "1.2.1b1", MultimodalInput("x", image(width=56, height=56)), {}),
    ("1.2.1b1", "1.2.1", PromptInput("x", role="tool"), {}),
    ("1.2.1b1", "1.2.1", PromptInput("x", thinking=True), {}),
    ("1.2.1b1", "1.2.1", MultimodalInput("x", image(), role="tool"), {}),
    ("1.2.3", "1.3.0", MultimodalInput("x", video=VideoEmbeds(floats(WIDTH), 1, 1)), {}),
    ("1.3.0", "1.3.1", MultimodalInput("x", audio=AudioEmbeds(floats(WIDTH), 1)), {}),
]
LACKING_PARAMS: list[tuple[str, str, dict[str, Any]]] = [
    ("1.1.4", "1.2.0", {"n_keep": 5}),
    ("1.1.4", "1.2.0", {"cpus": (4, 5)}),
    ("1.1.4", "1.2.0", {"embed_flash": False}),
    ("1.2.1b1", "1.2.1", {"n_batch": 2}),
    ("1.2.1b1", "1.2.1", {"use_cross_attn": True}),
    ("1.2.3", "1.3.0", {"ignore_eos_token": True}),
]


@pytest.mark.parametrize(("release", "needs", "call"), LACKING_CALLS)
def test_a_call_that_a_runtime_lacks_is_refused(load: Load, release: str, needs: str, call: Any) -> None:
    with pytest.raises(NotSupported, match=rf"not supported by runtime {release}: needs {needs} or newer"):
        call(load(release))


@pytest.mark.parametrize(("release", "needs", "given", "spec"), LACKING_RUNS)
def test_a_run_that_a_runtime_lacks_is_refused(
    load: Load, release: str, needs: str, given: Input, spec: dict[str, Any]
) -> None:
    session = load(release, vision=True)
    with pytest.raises(NotSupported, match=rf"not supported by runtime {release}: needs {needs} or newer"):
        ask(session, given, **spec)
    assert ask(session, "still there").pieces


@pytest.mark.parametrize(("release", "needs", "params"), LACKING_PARAMS)
def test_a_parameter_that_a_runtime_lacks_is_refused(
    load: Load, release: str, needs: str, params: dict[str, Any]
) -> None:
    with pytest.raises(NotSupported, match=rf"not supported by runtime {release}: needs {needs} or newer"):
        load(release, params)


# ── what makes no sense ──────────────────────────────────────────────────────────────────────────

SENSELESS: list[tuple[Input, str]] = [
    (PromptInput("a\0b"), "The prompt holds a NUL character at 1"),
    (PromptInput("a\ud800"), "a lone surrogate at 1"),
    (TokenInput([]), "no token ids"),
    (TokenInput([1 << 40]), "32-bit integers"),
    (TokenInput(["a"]), "32-bit integers"),  # type: ignore[list-item]  # what a careless caller gives
    (EmbedInput(b"", 1), "0 bytes, which are not 1 rows"),
    (EmbedInput(bytes(10), 1), "10 bytes, which are not 1 rows"),
    (EmbedInput(bytes(8), 0), "8 bytes, which are not 0 rows"),
    (MultimodalInput("no image"), "without image, video and audio"),
    (MultimodalInput("<image>", ImageEmbeds(bytes(8), -1)), "not -1 rows"),
]


@every
@pytest.mark.parametrize(("given", "says"), SENSELESS)
def test_input_that_makes_no_sense_never_reaches_the_library(load: Load, release: str, given: Input, says: str) -> None:
    session = load(release)
    with pytest.raises(UsageError, match=says):
        ask(session, given)
    assert ask(session, "still there").pieces


@every
@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"top_k": 7.5}, "top_k cannot be 7.5"),
        ({"max_context_len": 1 << 33}, "max_context_len 8589934592 is out of range"),
        ({"base_domain_id": 1 << 40}, "base_domain_id 1099511627776 is out of range"),
        ({"model_path": "/models/a\0b"}, "NUL character"),
        ({"temperature": "hot"}, "temperature cannot be 'hot'"),
    ],
)
def test_a_parameter_that_does_not_fit_its_field_is_refused(
    load: Load, release: str, params: dict[str, Any], says: str
) -> None:
    """ctypes would cut the number, and read 7.0 as 1088421888 where a float is declared (reference 1.10)."""
    with pytest.raises(UsageError, match=says):
        load(release, params)


@pytest.mark.parametrize("release", SINCE_1_2_1)
def test_a_batch_beyond_its_byte_is_refused(load: Load, release: str) -> None:
    with pytest.raises(UsageError, match="n_batch 300 is out of range"):
        load(release, {"n_batch": 300})
    with pytest.raises(UsageError, match="mask of CPUs"):
        load(release, {"cpus": (0, 40)})


@every
def test_a_batch_of_none_is_refused(load: Load, release: str) -> None:
    with pytest.raises(UsageError, match="n_batch 0"):
        load(release, {"n_batch": 0})


def test_ranges_are_as_many_as_the_batch_has_elements(load: Load) -> None:
    with pytest.raises(UsageError, match="1 ranges are needed"):
        load("1.3.0").clear_kv(ranges=[(0, 1), (0, 1)])


def test_texts_of_other_calls_are_looked_at_too(load: Load) -> None:
    session = load("1.3.0")
    with pytest.raises(UsageError, match="The template holds a NUL"):
        session.set_chat_template("a\0", "", "")
    with pytest.raises(UsageError, match="holds a NUL"):
        session.load_prompt_cache("/a\0b")
    with pytest.raises(UsageError, match="holds a NUL"):
        ask(session, "x", save_prompt_cache="/a\0b")
    with pytest.raises(UsageError, match="The keys has 3 bytes"):
        session.set_cross_attn(bytes(3), bytes(4), bytes(4), [1])


def test_a_tool_list_that_is_none_is_told(load: Load) -> None:
    with pytest.raises(RunError, match=r"setting the function tools: .*JSON array"):
        load("1.3.0").set_function_tools("", "no array", "")
