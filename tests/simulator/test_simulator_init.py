"""rkllm_init: its lines on stdout, and every way in which it says no (reference 4.1 to 4.4)."""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.simulator.raw import Runtime

Make = Callable[..., Path]
TOOLKIT_LINE = (
    "I rkllm: rkllm-toolkit version: 1.2.1, max_context_limit: 8192, npu_core_num: 2, target_platform: RK3588, "
    "model_dtype: W8A8"
)
SIMULATOR = "W rkllm: SIMULATOR: this is exo-rkllm's stand-in for librkllmrt, there is no NPU behind it"


@pytest.fixture
def lines(capfd: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """What was printed on stdout since the last call."""

    def read() -> list[str]:
        return capfd.readouterr().out.splitlines()

    return read


Lines = Callable[[], list[str]]


def test_the_first_line_says_that_there_is_no_npu(runtime: Runtime, make_model: Make, lines: Lines) -> None:
    runtime.close(runtime.open(make_model()))
    assert lines()[0] == SIMULATOR


def test_a_load_is_told_in_the_vendors_lines(load: Callable[[str], Runtime], make_model: Make, lines: Lines) -> None:
    model = make_model(toolkit="1.2.1", dtype="W8A8", max_context=8192, npu_cores=2)
    runtime = load("1.2.3")
    runtime.close(runtime.open(model))
    assert lines()[1:] == [
        "I rkllm: rkllm-runtime version: 1.2.3, rknpu driver version: 0.9.8, platform: RK3588",
        f"I rkllm: loading rkllm model from {model}",
        TOOLKIT_LINE,
        "I rkllm: Enabled cpus: [4, 5, 6, 7]",
        "I rkllm: Enabled cpus num: 4",
    ]


def test_older_versions_say_less(load: Callable[[str], Runtime], make_model: Make, lines: Lines) -> None:
    model = make_model()
    for version in ("1.1.4", "1.2.0"):
        runtime = load(version)
        runtime.close(runtime.open(model))
    text = lines()
    assert text[:4] == [
        SIMULATOR,
        "I rkllm: rkllm-runtime version: 1.1.4, rknpu driver version: 0.9.8, platform: RK3588",
        "",
        SIMULATOR,
    ]
    assert text[6].endswith("target_platform: RK3588")
    assert r"I rkllm: prompt_prefix: <|im_start|>user\n" in text


def test_level_two_names_the_special_tokens(
    load: Callable[[str], Runtime], make_model: Make, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RKLLM_LOG_LEVEL", "2")
    for version in ("1.2.3", "1.3.0"):
        runtime = load(version)
        runtime.close(runtime.open(make_model()))
    text = "\n".join(lines())
    assert re.search(r"I rkllm: vocab_size: \d{4}$", text, re.M)
    assert re.search(r"I rkllm: EOS token: \d+ '<\|im_end\|>'", text)
    assert re.search(r"I rkllm: EOS token\[0\]: \d+ '<\|im_end\|>'", text)


# ── the board ──


@pytest.mark.parametrize(("soc", "platform"), [("rk3588", "RK3588"), ("rk3576", "RK3576"), ("rk3562", "RK3562")])
def test_the_platform_comes_from_the_device_tree(
    newest: Runtime, make_model: Make, make_board: Make, lines: Lines, monkeypatch: pytest.MonkeyPatch, soc: str,
    platform: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("RKLLM_SIM_ROOT", str(make_board(soc)))
    newest.close(newest.open(make_model(platform=platform, npu_cores=1), mask=0x0F))
    assert any(line.endswith(f"platform: {platform}") for line in lines())


@pytest.mark.parametrize(
    ("entries", "platform"),
    [
        (b"rockchip,rk3588s-orangepi-5\0rockchip,rk3588\0", "RK3588"),
        (b"radxa,e54c\0rockchip,rk3588s\0rockchip,rk3588\0", "RK3588"),
        (b"radxa,rock-5c\0rockchip,rk3582\0", "RK3588"),
        (b"rockchip,rk3576-evb1\0rockchip,rk3576\0rockchip,Android9\0", "RK3576"),
        (b"radxa,zero3\0rockchip,rk3566\0", "lite"),
        (b"rockchip,rk3399-evb\0rockchip,rk3399\0", "UNKNOWN_PLATFORM"),
        (b"rockchip,rk3588s-orangepi-5\0", "UNKNOWN_PLATFORM"),
        (b"", "UNKNOWN_PLATFORM"),
    ],
)
def test_board_names_are_no_socs(
    newest: Runtime, make_model: Make, board_root: Path, lines: Lines, entries: bytes, platform: str
) -> None:
    (board_root / "sys/firmware/devicetree/base/compatible").write_bytes(entries)
    newest.init(newest.param(make_model()))
    line = lines()[1]
    if platform.startswith("RK"):
        assert line.endswith(f"platform: {platform}")
    else:
        assert line == (
            f"Platform error, must be either RK3588, RK3576, RV1126B or RK3562. Your platform is {platform}"
        )


def test_without_a_driver_nothing_opens(
    newest: Runtime, make_model: Make, make_board: Make, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RKLLM_SIM_ROOT", str(make_board(driver="")))
    assert newest.init(newest.param(make_model())) == (-1, None)
    said = lines()
    assert re.fullmatch(
        r"E RKNN: \[\d\d:\d\d:\d\d\.\d{3}\] failed to open rknpu module, need to insmod rknpu dirver!", said[1]
    )
    assert said[2].endswith("failed to open rknn device!")
    assert said[-1] == "Get device properties failed"


def test_an_old_driver_is_warned_of(
    newest: Runtime, make_model: Make, make_board: Make, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RKLLM_SIM_ROOT", str(make_board(driver="0.9.6")))
    newest.close(newest.open(make_model()))
    assert "W rkllm: Warning: Your rknpu driver version is too low, please upgrade to 0.9.7" in lines()


# ── the file and the settings ──


def refused(runtime: Runtime, lines: Lines, model: Path, **fields: float) -> str:
    """The sentence of a load that fails, and with it that the handle was left alone."""
    assert runtime.init(runtime.param(model, **fields)) == (-1, None)
    return "\n".join(lines())


def test_a_missing_file_and_a_folder(runtime: Runtime, tmp_path: Path, lines: Lines) -> None:
    missing = tmp_path / "none.rkllm"
    expected = f"E rkllm: failed to open '{missing}': 'No such file or directory'"
    assert expected in refused(runtime, lines, missing)
    assert "'Is a directory'" in refused(runtime, lines, tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"GG", b"GGUF\3\0\0\0" + bytes(99), b"version https://git-lfs.github.com/spec/v1\n", b"<!DOCTYPE"]
)
def test_what_is_no_model(load: Callable[[str], Runtime], tmp_path: Path, lines: Lines, content: bytes) -> None:
    path = tmp_path / "bad.rkllm"
    path.write_bytes(content)
    assert "E rkllm: invalid rkllm model!" in refused(load("1.3.0"), lines, path)
    if content:
        assert "invalid magic characters" in refused(load("1.1.4"), lines, path)


@pytest.mark.parametrize(("kept", "sentence"), [
    (30, "invalid rkllm model!"), (2000, "invalid rkllm model!"), (1 << 20, "failed to read tensor data"),
])  # fmt: skip
def test_a_truncated_download(newest: Runtime, make_model: Make, lines: Lines, kept: int, sentence: str) -> None:
    model = make_model()
    model.write_bytes(model.read_bytes()[:kept])
    assert sentence in refused(newest, lines, model)


def test_every_cut_through_the_header_is_refused(newest: Runtime, make_model: Make, tmp_path: Path) -> None:
    whole = make_model(has_tokenizer=False).read_bytes()
    path = tmp_path / "cut.rkllm"
    for kept in range(0, 2400, 7):
        path.write_bytes(whole[:kept])
        assert newest.init(newest.param(path)) == (-1, None)


def test_a_real_model_is_named_as_such(newest: Runtime, tmp_path: Path, lines: Lines) -> None:
    path = tmp_path / "real.rkllm"
    path.write_bytes(bytes.fromhex("daeeb336") + bytes(1000))
    said = refused(newest, lines, path)
    assert "is a real model, the simulator runs simulated ones only" in said
    assert "E rkllm: invalid magic number, got 36b3eeda" in said


def test_a_newer_toolkit(load: Callable[[str], Runtime], make_model: Make, lines: Lines) -> None:
    model = make_model(toolkit="1.3.0")
    expected = (
        "E rkllm: The rkllm-runtime version is lower than the rkllm-toolkit version. "
        "Please update rkllm-runtime to 1.3.0 or higher."
    )
    assert expected in refused(load("1.2.3"), lines, model)
    assert ": invalid magic characters" in refused(load("1.1.4"), lines, model)
    runtime = load("1.3.0")
    runtime.close(runtime.open(model))


def test_a_toolkit_that_is_too_old(load: Callable[[str], Runtime], make_model: Make, lines: Lines) -> None:
    said = refused(load("1.2.3"), lines, make_model(toolkit="1.0.1"))
    assert "W rkllm: the model version is too old" in said
    assert "invalid rknn llm model magic" in said


def test_a_file_without_a_footer_still_loads(newest: Runtime, make_model: Make, lines: Lines) -> None:
    newest.close(newest.open(make_model(toolkit="")))
    assert any("rkllm-toolkit version: unknown" in line for line in lines())


def test_another_socs_file(modern: Runtime, make_model: Make, lines: Lines) -> None:
    said = refused(modern, lines, make_model(platform="RK3576"))
    assert "E rkllm: the model's target_platform does not match the real platform" in said


def test_the_context_limit(runtime: Runtime, make_model: Make, lines: Lines) -> None:
    model = make_model(max_context=1024)
    said = refused(runtime, lines, model, context=1056)
    assert "E rkllm: max_context[1056] must be less than the model's max_context_limit[1024]" in said
    runtime.close(runtime.open(model, context=1024))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"n_keep": 2048}, "The n_keep must be less than the max_context_len"),
        ({"domain": -1}, "base_domain_id must >= 0, but current base_domain_id is -1"),
        ({"domain": 16}, "failed to allocate handle, ret: -1, errno: 14, errstr: Bad address"),
        ({"cpus": 3}, "Mismatch between enabled CPUs mask and expected count. Please check the configuration."),
        ({"cpus": 0}, "Expected The number of enabled CPUs between 1 and 8 for RK3588, but got 0."),
        ({"cpus": 9, "mask": 0x1FF}, "Expected The number of enabled CPUs between 1 and 8 for RK3588, but got 9."),
        ({"cpus": 2, "mask": 3},
         "The number of enabled CPUs must be greater than or equal to the number of NPU cores."),
    ],
)  # fmt: skip
def test_settings_that_are_refused(
    modern: Runtime, make_model: Make, lines: Lines, fields: dict[str, float], sentence: str
) -> None:
    assert sentence in refused(modern, lines, make_model(), **fields)


def test_only_four_cpus_on_an_rk3562(
    newest: Runtime, make_model: Make, make_board: Make, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RKLLM_SIM_ROOT", str(make_board("rk3562")))
    said = refused(newest, lines, make_model(platform="RK3562", npu_cores=1))
    assert "E rkllm: For RK3562, only CPUs 0 to 3 can be set, but additional CPUs are enabled." in said


def test_older_runtimes_do_not_know_newer_socs(
    load: Callable[[str], Runtime], make_model: Make, make_board: Make, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RKLLM_SIM_ROOT", str(make_board("rk3562")))
    assert "Your platform is RK3562" in refused(load("1.1.4"), lines, make_model(platform="RK3562"))


def test_the_npus_memory_has_a_limit(
    modern: Runtime, make_model: Make, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RKLLM_SIM_NPU_BYTES", "1000000")
    said = refused(modern, lines, make_model(npu_bytes=1000001))
    assert "failed to allocate handle, ret: -1, errno: 12, errstr: Cannot allocate memory" in said
    assert "failed to malloc npu memory, size: 1000001, flags: 0x2" in said
    assert "load model file error!" in said
    assert said.endswith("E rkllm: rkllm_init failed")
    modern.close(modern.open(make_model(npu_bytes=1000000)))


def test_a_full_domain_and_an_empty_one(modern: Runtime, make_model: Make, lines: Lines) -> None:
    model = make_model(full_domains=(0, 1))
    assert "errno: 12" in refused(modern, lines, model, domain=1)
    modern.close(modern.open(model, domain=2))


def test_memory_of_1_1_fails_only_in_the_first_run(
    load: Callable[[str], Runtime], make_model: Make, lines: Lines
) -> None:
    runtime = load("1.1.4")
    runtime.close(runtime.open(make_model(full_domains=(0,))))
    assert "rknn_init fail! ret=-1" in lines()


def test_success_without_a_handle(runtime: Runtime, make_model: Make) -> None:
    assert runtime.init(runtime.param(make_model(false_success="null"))) == (0, None)


def test_loading_takes_its_time_and_its_memory(newest: Runtime, make_model: Make) -> None:
    handle = newest.open(make_model(load_seconds=0.2, malloc_bytes=32 << 20))
    run = newest.ask(handle)
    assert run.perf.memory_mb > 32
    newest.close(handle)


# ── the caller's structs ──


def test_defaults_are_the_vendors(newest: Runtime) -> None:
    memory = ctypes.create_string_buffer(512)
    newest.lib.rkllm_createDefaultParam.argtypes = [ctypes.c_void_p]
    newest.lib.rkllm_createDefaultParam.restype = ctypes.c_void_p
    newest.lib.rkllm_createDefaultParam(memory)
    names = struct.unpack_from("<Qiiiifffffiff???", memory)
    assert names[:5] == (0, 512, -1, 40, -1)
    assert names[5:13] == pytest.approx((0.9, 0.8, 1.1, 0, 0, 0, 5.0, 0.1))
    assert names[13:] == (True, False, False)
    assert struct.unpack_from("<ibb", memory, 60) == (0, 1, 4)
    assert memory.raw[74:178] == b"\xa5" * 104


def test_null_arguments(runtime: Runtime) -> None:
    assert runtime.init(0) == (-1, None)
    for name in ("destroy", "abort", "is_running", "release_prompt_cache"):
        assert runtime.call(name, None) == -1
    assert runtime.run(None, runtime.inputs("x")).status == -1
    assert runtime.call("load_lora", None, None) == -1
    assert runtime.call("load_prompt_cache", None, b"x") == -1


def test_a_handle_that_is_none(runtime: Runtime, make_model: Make, lines: Lines) -> None:
    handle = runtime.open(make_model())
    runtime.close(handle)
    assert runtime.lib.rkllm_destroy(handle) == -1
    assert runtime.lib.rkllm_is_running(0xDEAD0000) == -1
    assert "is no handle of this library, or it was destroyed" in lines()[-1]


def sentences(said: Sequence[str]) -> list[str]:
    return [line for line in said if "wrong struct layout?" in line]


@pytest.mark.parametrize(
    "fields",
    [
        {"embed_flash": 2}, {"top_p": 1e9}, {"temperature": -1.0}, {"temperature": float("nan")},
        {"mirostat": 1084227584},
        {"top_k": 1088421888}, {"context": 0}, {"max_new": -2}, {"skip_special": 77}, {"is_async": 9},
    ],
    ids=str,
)  # fmt: skip
def test_values_that_no_caller_means_show_a_wrong_layout(
    modern: Runtime, make_model: Make, lines: Lines, fields: dict[str, float]
) -> None:
    assert modern.init(modern.param(make_model(), **fields)) == (-1, None)
    assert len(sentences(lines())) == 1


@pytest.mark.parametrize("fields", [{"n_batch": 0}, {"n_batch": 65}, {"cross_attention": 2}], ids=str)
def test_batch_and_cross_attention_are_checked_where_they_exist(
    load: Callable[[str], Runtime], make_model: Make, lines: Lines, fields: dict[str, float]
) -> None:
    for version in ("1.2.3", "1.3.0", "1.3.1"):
        runtime = load(version)
        assert runtime.init(runtime.param(make_model(), **fields)) == (-1, None)
        assert len(sentences(lines())) == 1


@pytest.mark.parametrize(
    ("caller", "library_version"),
    [("1.1.4", "1.2.0"), ("1.1.4", "1.3.0"), ("1.2.3", "1.3.0"), ("1.2.0", "1.3.1"), ("1.3.0", "1.2.3"),
     ("1.3.1", "1.1.4"), ("1.2.3", "1.1.4")],
)  # fmt: skip
def test_a_caller_of_another_generation_gets_an_error_and_no_crash(
    load: Callable[[str], Runtime], make_model: Make, lines: Lines, caller: str, library_version: str
) -> None:
    """Parameters and callback the way the caller's generation passes them."""
    runtime = load(library_version)
    runtime.gen = load(caller).gen
    assert runtime.init(runtime.param(make_model())) == (-1, None)
    assert lines()[-1].startswith("E rkllm: ")


@pytest.mark.parametrize(("caller", "library_version"), [("1.2.3", "1.3.0"), ("1.3.0", "1.2.3")])
def test_a_callback_of_another_generation_is_seen(
    load: Callable[[str], Runtime], make_model: Make, lines: Lines, caller: str, library_version: str
) -> None:
    runtime = load(library_version)
    param = runtime.param(make_model())
    runtime.gen = load(caller).gen
    assert runtime.init(param) == (-1, None)
    assert len(sentences(lines())) == 1
