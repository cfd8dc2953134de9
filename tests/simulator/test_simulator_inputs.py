"""What can be asked: text, tokens, embeddings, images, tools, adapters, batches (reference 2.3, 2.12 and on)."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from simulator import tokenizer
from simulator.model_file import ECHO
from tests.simulator.raw import ERROR, FINISH, NORMAL, Media, Runtime

Make = Callable[..., Path]
Read = Callable[[], str]
END = tokenizer.token("<|im_end|>")
PROMPT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Read:
    return lambda: capfd.readouterr().out


@pytest.fixture(params=["1.2.3", "1.3.0", "1.3.1"])
def tooled(request: pytest.FixtureRequest, load: Callable[[str], Runtime]) -> Runtime:
    """The versions with roles, thinking, tools, batches and cross attention."""
    return load(request.param)


# ── replies ──


def test_the_default_answer_says_what_it_is_and_what_was_asked(runtime: Runtime, make_model: Make) -> None:
    handle = runtime.open(make_model())
    text = runtime.ask(handle, "How are you?").text
    assert "simulated NPU" in text
    assert text.endswith("You asked: How are you?")
    runtime.close(handle)


@pytest.mark.parametrize(
    "text", ["Hi", "🙂 two\nlines", "x" * 500, " <b>{user}</b> [[a|b]] ", "né 世界 <|im_start|", "a<|im_end|>b"]
)
def test_an_echo(runtime: Runtime, make_model: Make, text: str) -> None:
    handle = runtime.open(make_model(reply=ECHO))
    run = runtime.ask(handle, text)
    assert run.text == text
    assert [event.token for event in run.answer] == tokenizer.encode(text, control=False)
    runtime.close(handle)


def test_long_questions_are_shortened_in_the_default_answer(newest: Runtime, make_model: Make) -> None:
    handle = newest.open(make_model())
    assert newest.ask(handle, "é" * 300).text.endswith("You asked: " + "é" * 80 + "...")
    newest.close(handle)


def test_rules_look_at_the_last_message_and_then_at_the_whole_prompt(newest: Runtime, make_model: Make) -> None:
    rules = (("weather", "Sunny."), ("helpful", "I am."), ("name", "Sim {user}"))
    handle = newest.open(make_model(rules=rules, reply="Else"))
    assert newest.ask(handle, "the weather and the name").text == "Sunny."
    assert newest.ask(handle, "your name?").text == "Sim your name?"
    assert newest.ask(handle, "anything").text == "I am."
    newest.close(handle)


@pytest.mark.parametrize(
    "conversation",
    [
        "<|im_start|>user\nold<|im_end|>\n<|im_start|>assistant\nx<|im_end|>\n<|im_start|>user\nnew<|im_end|>\n",
        "<|start_header_id|>user<|end_header_id|>\n\nold<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nnew<|eot_id|>",
        "<start_of_turn>user\nnew<end_of_turn>\n<start_of_turn>model\n",
        "<｜User｜>old<｜Assistant｜>x<｜User｜>new<｜Assistant｜>",
        "[INST]new[/INST]",
        "<|user|>\nnew<|end|>\n<|assistant|>",
        "new",
    ],
)
def test_the_last_user_message_is_found_in_any_common_template(
    newest: Runtime, make_model: Make, conversation: str
) -> None:
    handle = newest.open(make_model(reply=ECHO))
    assert newest.run(handle, newest.inputs(tokens=tokenizer.encode(conversation))).text == "new"
    newest.close(handle)


# ── templates and thinking ──


def test_a_custom_template(modern: Runtime, make_model: Make, said: Read) -> None:
    handle = modern.open(make_model(reply="{prompt}"))
    assert modern.ask(handle, "Hi").text == PROMPT.format("Hi")
    assert modern.call("set_chat_template", handle, b"S:", b"<", b">") == 0
    assert (
        "W rkllm: Calling rkllm_set_chat_template will disable the internal automatic chat template parsing, including "
        "enable_thinking. Make sure your custom prompt is complete and valid." in said()
    )
    assert modern.ask(handle, "Hi").text == "S:<Hi>"
    assert modern.call("set_chat_template", handle, None, None, None) == 0
    assert modern.ask(handle, "Hi").text == "Hi"
    modern.close(handle)


def test_the_model_brings_its_own_template(runtime: Runtime, make_model: Make) -> None:
    handle = runtime.open(make_model(template="gemma", reply="{prompt}"))
    assert runtime.ask(handle, "Hi").text == "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n"
    runtime.close(handle)


def test_tokens_get_no_template(runtime: Runtime, make_model: Make) -> None:
    handle = runtime.open(make_model(reply="{prompt}"))
    assert runtime.run(handle, runtime.inputs(tokens=tokenizer.encode("Hi you"))).text == "Hi you"
    runtime.close(handle)


def test_thinking_is_a_switch(tooled: Runtime, make_model: Make) -> None:
    handle = tooled.open(make_model(thinking="Let me see.", reply="Done."))
    assert tooled.run(handle, tooled.inputs("x", thinking=True)).text == "<think>\nLet me see.\n</think>\n\nDone."
    assert tooled.run(handle, tooled.inputs("x", thinking=False)).text == "Done."
    tooled.call("set_chat_template", handle, b"", b"", b"")
    assert tooled.run(handle, tooled.inputs("x", thinking=False)).text.startswith("<think>")
    assert tooled.run(handle, tooled.inputs("x<think>\n\n</think>\n\n")).text == "Done."
    assert tooled.run(handle, tooled.inputs("x<think>\n")).text == "Let me see.\n</think>\n\nDone."
    tooled.close(handle)


def test_before_the_switch_it_always_thinks(load: Callable[[str], Runtime], make_model: Make) -> None:
    runtime = load("1.2.0")
    handle = runtime.open(make_model(thinking="Hm.", reply="Done."))
    assert runtime.ask(handle).text == "<think>\nHm.\n</think>\n\nDone."
    runtime.close(handle)


# ── tools ──

TOOLS = b'[{"type": "function", "function": {"name": "get_weather", "description": "", "parameters": {}}}]'


def test_a_tool_that_is_asked_for_is_called_and_its_result_told(tooled: Runtime, make_model: Make) -> None:
    handle = tooled.open(make_model())
    assert tooled.call("set_function_tools", handle, b"Be brief.", TOOLS, b"tool_response") == 0
    run = tooled.ask(handle, "use get_weather please")
    assert run.text == '<tool_call>\n{"name": "get_weather", "arguments": {}}\n</tool_call>'
    result = tooled.run(handle, tooled.inputs('{"sky": "blue"}', role=b"tool"))
    assert result.text == 'The tool said: {"sky": "blue"}'
    assert "get_weather" not in tooled.ask(handle, "just talk").text
    tooled.close(handle)


def test_the_tools_stand_in_the_system_section(tooled: Runtime, make_model: Make) -> None:
    handle = tooled.open(make_model(reply="{prompt}", tool_reply="{prompt}"))
    tooled.call("set_function_tools", handle, b"Be brief.", TOOLS, b"")
    text = tooled.ask(handle, "Hi").text
    assert text.startswith("<|im_start|>system\nBe brief.\n")
    assert f"<tools>\n{TOOLS.decode()}\n</tools>" in text
    result = tooled.run(handle, tooled.inputs("5", role=b"tool"))
    assert "<tool_response>\n5\n</tool_response>" in result.text
    tooled.close(handle)


def test_tools_must_be_a_list(tooled: Runtime, make_model: Make, said: Read) -> None:
    handle = tooled.open(make_model())
    for wrong in (None, b"", b"{}"):
        assert tooled.call("set_function_tools", handle, b"", wrong, b"") == -1
    assert said().count("SIMULATOR: tools must be a JSON array") == 3
    tooled.close(handle)


def test_roles(tooled: Runtime, make_model: Make, said: Read) -> None:
    handle = tooled.open(make_model(reply=ECHO))
    assert tooled.run(handle, tooled.inputs("a", role=None)).text == "a"
    assert tooled.run(handle, tooled.inputs("a", role=b"assistant")).text == "a"
    assert 'role is neither "user" nor "tool"' in said()
    tooled.close(handle)


# ── adapters ──


def lora(runtime: Runtime, handle: int, path: Path, name: bytes) -> int:
    adapter = struct.pack("<QQf4x", runtime.keep(str(path).encode() + b"\0"), runtime.keep(name + b"\0"), 1.0)
    return runtime.call("load_lora", handle, runtime.keep(adapter))


def test_an_adapter_answers_in_its_own_way(runtime: Runtime, make_model: Make) -> None:
    handle = runtime.open(make_model(reply="base"))
    assert lora(runtime, handle, make_model(reply="pirate {user}"), b"pirate") == 0
    assert lora(runtime, handle, make_model(reply="poet"), b"poet") == 0
    assert runtime.ask(handle, "x").text == "base"
    assert runtime.ask(handle, "x", lora=b"pirate").text == "pirate x"
    assert runtime.ask(handle, "x", lora=b"poet").text == "poet"
    runtime.close(handle)


def test_the_cache_does_not_ask_whose_adapter_computed(tooled: Runtime, make_model: Make) -> None:
    """Nobody has told what the vendor's does, so whoever relies on it has to clear it."""
    handle = tooled.open(make_model())
    lora(tooled, handle, make_model(reply="x"), b"a")
    assert tooled.ask(handle).perf.prefill_tokens > 1
    assert tooled.ask(handle, lora=b"a").perf.prefill_tokens == 1
    tooled.close(handle)


def test_adapters_that_are_refused(runtime: Runtime, make_model: Make, tmp_path: Path, said: Read) -> None:
    handle = runtime.open(make_model())
    adapter = make_model(reply="x")
    assert lora(runtime, handle, tmp_path / "none.rkllm", b"a") == -1
    assert "E rkllm: Lora adapter path does not exist!" in said()
    assert lora(runtime, handle, adapter, b"a") == 0
    assert lora(runtime, handle, adapter, b"a") == -1
    assert "E rkllm: Lora adapter 'a' is already initialized!" in said()
    (tmp_path / "bad").write_bytes(b"nothing")
    assert lora(runtime, handle, tmp_path / "bad", b"b") == -1
    run = runtime.ask(handle, lora=b"b")
    assert (run.status, run.states) == (-1, [ERROR])
    assert "E rkllm: Not Found Lora adapter named: b" in said()
    runtime.close(handle)


# ── images, video, audio ──


def image(tokens: int = 4, items: int = 1, seed: float = 0.5, pixels: int = 0) -> Media:
    return Media([seed] * (tokens * items * 64), tokens, items, width=pixels, height=pixels)


def test_an_image(runtime: Runtime, make_model: Make) -> None:
    handle = runtime.open(make_model(vision=True, reply="{media} image: {user}"))
    run = runtime.run(handle, runtime.inputs("<image>What is it?", media=(image(),)))
    assert run.text == "1 image: <image>What is it?"
    runtime.close(handle)


def test_an_images_tokens_are_counted_and_reused(tooled: Runtime, make_model: Make) -> None:
    handle = tooled.open(make_model(vision=True, reply="a"), img_start=b"<|vision_start|>", img_end=b"<|vision_end|>")
    first = tooled.run(handle, tooled.inputs("<image>Hi", media=(image(10),)))
    assert first.perf.prefill_tokens == len(tokenizer.encode(PROMPT.format("Hi"))) + 10 + 2
    same = tooled.run(handle, tooled.inputs("<image>Hi", media=(image(10),)))
    assert same.perf.prefill_tokens == 1
    other = tooled.run(handle, tooled.inputs("<image>Hi", media=(image(10, seed=0.75),)))
    assert 10 < other.perf.prefill_tokens < first.perf.prefill_tokens
    tooled.close(handle)


def test_several_images(load: Callable[[str], Runtime], make_model: Make) -> None:
    for version in ("1.2.1b1", "1.2.3", "1.3.0", "1.3.1"):
        runtime = load(version)
        handle = runtime.open(make_model(vision=True, reply="{media}"))
        assert runtime.run(handle, runtime.inputs("<image>and<image>", media=(image(items=2),))).text == "2"
        runtime.close(handle)


def test_the_number_of_tags_must_fit(runtime: Runtime, make_model: Make, said: Read) -> None:
    handle = runtime.open(make_model(vision=True))
    for text in ("no tag", "<image> and <image>"):
        assert runtime.run(handle, runtime.inputs(text, media=(image(),))).status == -1
        assert f"the prompt has {text.count('<image>')} <image> tags, but 1 embeddings were given" in said()
    runtime.close(handle)


def test_the_grid_must_fit(load: Callable[[str], Runtime], make_model: Make, said: Read) -> None:
    for version in ("1.2.1b1", "1.2.3", "1.3.1"):
        runtime = load(version)
        handle = runtime.open(make_model(vision=True, reply="a"))
        good = runtime.run(handle, runtime.inputs("<image>", media=(image(196, pixels=392),)))
        assert good.status == 0
        assert runtime.run(handle, runtime.inputs("<image>", media=(image(190, pixels=392),))).status == -1
        assert "E rkllm: patch_h[14] * patch_w[14] != n_image_token[190]!" in said()
        runtime.close(handle)


def test_a_model_without_eyes(runtime: Runtime, make_model: Make, said: Read) -> None:
    handle = runtime.open(make_model())
    assert runtime.run(handle, runtime.inputs("<image>", media=(image(),))).status == -1
    assert "the model takes no images" in said()
    runtime.close(handle)


def test_video_and_audio(newest: Runtime, make_model: Make) -> None:
    handle = newest.open(make_model(vision=True, reply="{media}", embedding_outputs=2))
    video = Media([0.1] * (3 * 2 * 64 * 2), tokens=2, frames=3)
    audio = Media([0.2] * (5 * 64 * 2), tokens=5)
    picture = Media([0.3] * (4 * 64 * 2), tokens=4)
    run = newest.run(handle, newest.inputs("<video><audio><image>", media=(picture, video, audio)))
    assert run.text == "3"
    assert run.perf.prefill_tokens == len(tokenizer.encode(PROMPT.format(""))) + 6 + 5 + 4 + 6
    newest.close(handle)


# ── what the caller does itself ──


def test_a_model_without_tokenizer_asks_the_caller(load: Callable[[str], Runtime], make_model: Make) -> None:
    for version in ("1.3.0", "1.3.1"):
        runtime = load(version)
        texts: list[bytes] = []

        def tokenize(text: bytes, texts: list[bytes] = texts) -> list[int]:
            texts.append(text)
            return list(text)

        status, handle = runtime.init(runtime.param(make_model(has_tokenizer=False, reply="héé")), tokenizer=tokenize)
        assert (status, handle is not None) == (0, True)
        run = runtime.ask(handle, "Hi")
        assert texts == [PROMPT.format("Hi").encode(), "héé".encode()]
        assert bytes(run.tokens) == "héé".encode()
        assert {event.text for event in run.events} == {None}
        assert handle is not None
        runtime.close(handle)


def test_a_tokenizer_that_fails_or_is_missing(newest: Runtime, make_model: Make, said: Read) -> None:
    def broken(_: bytes) -> list[int]:
        raise ValueError("the test's own")

    model = make_model(has_tokenizer=False)
    _, handle = newest.init(newest.param(model))
    assert newest.ask(handle).states == [ERROR]
    assert "the model has no tokenizer and tokenizer_callback is NULL" in said()
    _, handle = newest.init(newest.param(model), tokenizer=lambda text: [1] * (len(text) + 99))
    assert newest.ask(handle).states == [ERROR]
    assert "E rkllm: tokenizer_callback failed" in said()


def test_before_1_3_a_model_without_tokenizer_takes_tokens_only(
    load: Callable[[str], Runtime], make_model: Make, said: Read
) -> None:
    runtime = load("1.2.3")
    handle = runtime.open(make_model(has_tokenizer=False))
    assert runtime.ask(handle).status == -1
    assert "E rkllm: the model has no tokenizer" in said()
    runtime.close(handle)


def test_a_model_without_embedding_asks_the_caller(newest: Runtime, make_model: Make, said: Read) -> None:
    asked: list[list[int]] = []

    def note(ids: list[int]) -> int:
        asked.append(ids)
        return 0

    model = make_model(has_embedding=False, reply="a b")
    _, handle = newest.init(newest.param(model), embedding=note)
    run = newest.ask(handle, "Hi")
    assert asked == [tokenizer.encode(PROMPT.format("Hi")), *([token] for token in run.tokens)]
    _, handle = newest.init(newest.param(model), embedding=lambda _: 7)
    assert newest.ask(handle).states == [ERROR]
    assert "E rkllm: embed_callback failed, ret: 7" in said()
    _, handle = newest.init(newest.param(model))
    assert newest.ask(handle).states == [ERROR]
    assert "embed_callback is NULL" in said()


# ── batches and cross attention ──


def test_a_batch_answers_together(tooled: Runtime, make_model: Make) -> None:
    handle = tooled.open(make_model(reply=ECHO), n_batch=3)
    run = tooled.run(handle, tooled.inputs(["one", "one two three", "🙂"]))
    assert run.status == 0
    texts = [b"".join(step[lane].text or b"" for step in tooled.lanes).decode() for lane in range(3)]
    assert texts == ["one", "one two three", "🙂"]
    assert [[event.token < 0 for event in step] for step in tooled.lanes] == [
        [False, False, False], [False, False, False], [True, False, False], [True, False, False], [True, True, False],
        [True, True, True],
    ]  # fmt: skip
    ends = [[lane for lane, event in enumerate(step) if event.token == END] for step in tooled.lanes]
    assert ends == [[], [0], [], [1], [2], []], "each answer has an end token of its own"
    assert run.states == [NORMAL, NORMAL, NORMAL, NORMAL, NORMAL, FINISH]
    sizes = (ctypes.c_int * 3)(-1, -1, -1)
    assert tooled.call("get_kv_cache_size", handle, sizes) == 0
    assert list(sizes) == [0, 0, 0]
    tooled.close(handle)


def cross_attention(runtime: Runtime, tokens: int, **gone: int) -> int:
    values = {name: runtime.floats([0.0] * size) for name, size in
      (("k", 2 * tokens * 2 * 4), ("v", 2 * tokens * 2 * 4), ("mask", tokens), ("pos", tokens))}  # fmt: skip
    values.update(gone)
    return runtime.keep(struct.pack("<QQQQi4x", *values.values(), tokens))


def test_cross_attention(tooled: Runtime, make_model: Make, said: Read) -> None:
    model = make_model(layers=2, kv_heads=2, head_dim=4, reply="{encoder}")
    handle = tooled.open(model, cross_attention=1)
    assert tooled.call("set_cross_attn_params", handle, cross_attention(tooled, 7)) == 0
    assert tooled.ask(handle).text == "7"
    assert tooled.call("set_cross_attn_params", handle, cross_attention(tooled, 7, v=0)) == -1
    assert tooled.call("set_cross_attn_params", handle, cross_attention(tooled, 0)) == -1
    assert tooled.call("set_cross_attn_params", handle, None) == -1
    tooled.close(handle)
    handle = tooled.open(model)
    assert tooled.call("set_cross_attn_params", handle, cross_attention(tooled, 7)) == -1
    assert "needs use_cross_attn = 1 at init" in said()
    tooled.close(handle)


# ── inputs that make no sense ──


def test_inputs_that_show_a_wrong_layout(runtime: Runtime, make_model: Make, said: Read) -> None:
    handle = runtime.open(make_model(reply="a"))
    kind = 12 if runtime.gen >= 4 else 0
    union = 16 if runtime.gen >= 4 else 8

    def refused(offset: int, value: bytes, **inputs: object) -> str:
        data = runtime.inputs("x", **inputs)  # type: ignore[arg-type]
        ctypes.memmove(data + offset, value, len(value))
        said()
        run = runtime.run(handle, data)
        assert (run.status, run.events) == (-1, [])
        return said()

    assert "input_type is 9, expected 0 to 3" in refused(kind, struct.pack("<I", 9))
    assert "prompt_input points to" in refused(union, struct.pack("<Q", 0x1234))
    assert "input_ids points to" in refused(union, bytes(8), tokens=[1])
    assert "n_tokens is 0" in refused(union + 8, bytes(8), tokens=[1])
    assert "embed points to" in refused(union, bytes(8), embed=[1.0], rows=1)
    assert "outside the vocabulary" in token_refused(runtime, handle, said)
    assert runtime.lib.rkllm_run(handle, None, None, None) == -1
    assert runtime.lib.rkllm_run(handle, runtime.inputs("x"), None, None) == 0
    if runtime.gen >= 4:
        assert "role points to" in refused(0, struct.pack("<Q", 0x77))
        assert "enable_thinking is 200" in refused(8, b"\xc8")
    runtime.close(handle)


def token_refused(runtime: Runtime, handle: int, said: Read) -> str:
    assert runtime.run(handle, runtime.inputs(tokens=[1 << 20])).states == [ERROR]
    return said()


def test_run_parameters_that_show_a_wrong_layout(modern: Runtime, make_model: Make, said: Read) -> None:
    handle = modern.open(make_model(reply="a"))

    def refused(offset: int, value: bytes) -> str:
        data = modern.infer()
        ctypes.memmove(data + offset, value, len(value))
        said()
        assert modern.run(handle, modern.inputs("x"), data).status == -1
        return said()

    assert "mode is 9" in refused(0, struct.pack("<I", 9))
    assert "prompt_cache_params points to" in refused(16, struct.pack("<Q", 1))
    swapped = modern.keep(struct.pack("<QQ", modern.keep(b"path\0"), 1))
    assert "save_prompt_cache is" in refused(16, struct.pack("<Q", swapped))
    if modern.gen >= 5:
        # a 1.2.x caller's keep_history = 1 stands where the pointer to the sampling parameters is
        assert "sampling_params points to 0x1" in refused(24, struct.pack("<i", 1))
        assert "max_new_tokens is" in refused(36, struct.pack("<i", -9))
    else:
        # and a 1.3.x caller's pointer where keep_history is
        assert "keep_history is" in refused(24, struct.pack("<Q", modern.keep(bytes(64))))
    modern.close(handle)
