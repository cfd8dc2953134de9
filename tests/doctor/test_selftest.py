"""selftest on simulated boards: the whole table runs, and the report holds only what an owner may publish."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.backends.host import engine_host
from exo_rkllm.backends.rkllm import RkllmEngine
from exo_rkllm.backends.rkllm_file import RkllmFile
from exo_rkllm.board.counters import Reading, read
from exo_rkllm.board.detect import detect
from exo_rkllm.board.sources import Sources, find_sources
from exo_rkllm.cli import main
from exo_rkllm.config import load
from exo_rkllm.doctor import measure, selftest
from exo_rkllm.doctor.measure import Bench
from exo_rkllm.doctor.probes import BINDING, PROBES, HardwareProbe
from exo_rkllm.doctor.report import DoctorReport, Finding
from exo_rkllm.doctor.selftest import MEASUREMENTS
from exo_rkllm.runner.parent import Runner
from exo_rkllm.runtime.ends import ends_beside
from exo_rkllm.sampling import Sampling
from simulator import encoder_file, tokenizer
from simulator.encoder_file import SimEncoder
from tests.simulated import Library, build
from tools import hardware_checks

Build = Callable[[str], Path]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def at_home(tmp_path: Path, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EXO_RKLLM_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EXO_RKLLM_RUNTIME_LIBRARY", str(library("1.3.1")))
    monkeypatch.chdir(tmp_path)


def bench(root: Path, model: Path, **changes: object) -> Bench:
    os.environ["RKLLM_SIM_ROOT"] = str(root)
    board = detect(root)
    made = Bench(
        board,
        find_sources(root, board),
        lambda: RkllmEngine(RkllmFile(model, 0), engine_host(load({}), None, lambda _: None, root)),
    )
    made.interval, made.tail = 0.05, 0.5
    return replace(made, **changes)  # type: ignore[arg-type]  # fields of Bench by name


@pytest.fixture
def speaking(make_model: Callable[..., Path]) -> Path:
    return make_model(reply="A lamp turns, and a lens throws its light far over the sea.", decode_tps=40)


@pytest.mark.usefixtures("at_home")
async def test_every_measurement_passes_on_a_good_board(
    board: Build, speaking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RKLLM_SIM_ROOT", "")
    busy, idle = board("rk3588-busy"), board("orangepi-5-plus")
    found = {
        name: await measured(bench(idle if name in ("power-tail", "reading-wakes-nothing") else busy, speaking))  # type: ignore[misc]  # coroutine functions
        for name, measured in MEASUREMENTS.items()
    }
    levels = {name: finding.level for name, finding in found.items()}
    assert levels == {
        "answers": "pass",
        "load-follows": "pass",
        "power-tail": "pass",
        "reading-wakes-nothing": "pass",
        "prefix-reuse": "pass",
        "abort": "pass",
        "end-token": "pass",
        "logits-rows": "pass",
        "temperature-zero": "pass",
        "long-abort": "skip",  # a prompt without a pace is read before it can be cut short
        "prompt-cache": "pass",
        "opened": "skip",
        "memory-freed": "pass",
        "vision": "skip",
    }, found
    pace = re.search(r"answer (\d+\.\d) tokens/s", found["answers"].fact)
    assert pace and float(pace[1]) == pytest.approx(40, rel=0.1), found["answers"].fact
    assert "the vendor: 32.9 tokens/s for Qwen3 0.6B w8a8" in found["answers"].fact
    assert "peak 65%, 70%, 100%, 44 to 44 degrees, 1000 MHz" in found["load-follows"].fact


@pytest.fixture
def measured_of(board: Build, make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Finding and kept answers of one measurement on a board whose model behaves as `fields` say."""
    monkeypatch.setenv("RKLLM_SIM_ROOT", "")
    root = board("orangepi-5-plus")

    async def measure_one(name: str, **fields: Any) -> tuple[Finding, dict[str, Any]]:
        asked = bench(root, make_model(**fields))
        return await MEASUREMENTS[name](asked), asked.answers  # type: ignore[misc]  # coroutine functions

    return measure_one


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("known", [True, False])
async def test_end_token_is_found_whether_the_runtime_knows_it_or_not(
    measured_of: Callable[..., Any], known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not known:
        monkeypatch.setattr("exo_rkllm.backends.rkllm_load._head_end", lambda _: ())
    finding, answers = await measured_of("end-token", reply="Yes.")
    assert finding.level == "pass"
    assert answers == {"runtime": "1.3.1", "end_tokens": [tokenizer.token("<|im_end|>")]}


@pytest.mark.usefixtures("at_home")
async def test_model_that_never_ends_is_named_with_its_card(
    measured_of: Callable[..., Any],
) -> None:
    finding, answers = await measured_of("end-token", reply="on and on", endless=True)
    assert finding.level == "warn"
    assert "end_tokens" in finding.repair
    assert "end_tokens" not in answers
    finding, answers = await measured_of("end-token", reply="Yes.", end_event=False)
    assert (finding.level, "end_tokens" in answers) == ("skip", False)


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize(("last", "rows"), [(False, 8), (True, 1)])
async def test_rows_of_logits_are_counted(measured_of: Callable[..., Any], last: bool, rows: int) -> None:
    finding, answers = await measured_of("logits-rows", logits_last_only=last)
    assert (finding.level, finding.fact) == ("pass", f"{rows} of 8 rows")
    assert answers["logits_rows"] == [rows]


@pytest.mark.usefixtures("at_home")
async def test_sampling_that_does_not_repeat_itself_is_a_warning(
    measured_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    finding, answers = await measured_of("temperature-zero", reply="[[a|b|c|d]] [[a|b|c|d]]")
    assert (finding.level, answers["temperature_zero_is_greedy"]) == ("pass", True)
    monkeypatch.setattr("exo_rkllm.doctor.measure.GREEDY", Sampling(temperature=9.0, top_k=40, top_p=1.0))
    finding, answers = await measured_of("temperature-zero", reply="[[a|b|c|d]] " * 20)
    assert (finding.level, answers["temperature_zero_is_greedy"]) == ("warn", False)


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("cut", [True, False])
async def test_abort_in_a_long_prompt_is_timed(measured_of: Callable[..., Any], cut: bool) -> None:
    finding, answers = await measured_of("long-abort", prefill_tps=300.0, abort_in_prefill=cut)
    assert finding.level == "pass"
    assert (answers["abort_in_prefill_seconds"] < 0.8) is cut


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("crashes", [True, False])
async def test_prompt_cache_is_tried_after_an_abort_where_it_may_crash(
    measured_of: Callable[..., Any], crashes: bool
) -> None:
    finding, answers = await measured_of("prompt-cache", load_after_abort_crashes=crashes, decode_tps=200.0)
    assert finding.level == "pass", finding
    assert answers == {
        "runtime": "1.3.1",
        "prompt_cache_spares": True,
        "prompt_cache_after_abort": not crashes,
    }


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize(
    ("fields", "says"), [({"architecture": "qwen35", "saves_hybrid": False}, "wrote no file"), ({}, "spared nothing")]
)
async def test_prompt_cache_that_spares_nothing_is_told(
    measured_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], says: str
) -> None:
    if not fields:
        monkeypatch.setattr("exo_rkllm.runner.parent.Runner.order", _without_restores(Runner.order))
    finding, answers = await measured_of("prompt-cache", **fields)
    assert (finding.level, answers["prompt_cache_spares"]) == ("warn", False)
    assert says in finding.fact


def _without_restores(order: Callable[..., Any]) -> Callable[..., Any]:
    def without(self: Runner, number: int, job: Any, *more: Any) -> Any:
        return order(self, number, replace(job, load_prompt_cache=""), *more)

    return without


def test_what_was_found_is_kept_beside_the_model_and_ends_its_answers(make_model: Callable[..., Path]) -> None:
    model, other = make_model(file="a.rkllm"), make_model(file="b.rkllm")
    notes = measure.keep(model, {"end_tokens": [7], "runtime": "1.3.1"})
    assert measure.keep(other, {"end_tokens": [8]}) == notes
    measure.keep(model, {"logits_rows": [1]})
    assert json.loads(notes.read_text()) == {
        "a.rkllm": {"end_tokens": [7], "runtime": "1.3.1", "logits_rows": [1]},
        "b.rkllm": {"end_tokens": [8]},
    }
    assert 7 in ends_beside(str(model), 0)
    assert 7 not in ends_beside(str(other), 0)
    for nonsense in ("[]", "{", '{"a.rkllm": 1}', '{"a.rkllm": {"end_tokens": "x"}}'):
        notes.write_text(nonsense)
        assert ends_beside(str(model), 0) == ()
        measure.keep(model, {"end_tokens": [9]})
        assert 9 in ends_beside(str(model), 0)


@pytest.mark.parametrize("probe", [probe for probe in PROBES if probe.command.startswith(BINDING)], ids=lambda p: p.key)
def test_commands_by_hand_run_behind_the_bindings_page(
    probe: HardwareProbe, library: Library, board_root: Path, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    page = (REPOSITORY / "docs/rkllm-binding.md").read_text()
    first = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert first is not None
    script = tmp_path / "probe.py"
    script.write_text(f"{first[1]}\nimport time\nseconds = []\n{probe.command}\n")
    command = [sys.executable, str(script), str(library("1.3.1")), str(make_model(reply="one two three " * 20))]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "qwen3-0.6b_w8a8.rkllm",
            " (expected at full clocks and 500 tokens: 28.8 tokens/s, the vendor's rk3588/qwen3-0.6b/w8a8)",
        ),
        ("own.rkllm", " (the vendor: 32.9 tokens/s for Qwen3 0.6B w8a8)"),
        (
            "own_w8a8_g128.rkllm",
            "; w8a8_g128 costs 28 % of the tokens a second against w8a8 (rknn-llm issues 532 and 409",
        ),
    ],
)
def test_an_answers_pace_is_compared_with_this_model_soc_and_length(board: Build, name: str, says: str) -> None:
    assert says in measure.comparison(detect(board("orangepi-5-plus")), Path("models") / name, 500)


@pytest.mark.usefixtures("at_home")
async def test_answer_without_npu_load_is_a_failure(
    board: Build, speaking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RKLLM_SIM_ROOT", "")
    idle = bench(board("orangepi-5-plus"), speaking)
    assert (await measure.load_follows(idle)).level == "fail"
    busy = bench(board("rk3588-busy"), speaking)
    assert (await measure.power_tail(busy)).level == "warn"
    assert (await measure.reading_wakes_nothing(busy)).level == "skip"


@pytest.mark.usefixtures("at_home")
async def test_unreadable_counters_skip_their_measurements(
    board: Build, speaking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RKLLM_SIM_ROOT", "")
    root = board("debugfs-bind-empty")
    blind = bench(root, speaking)
    assert (await measure.load_follows(blind)).level == "skip"
    (root / "sys/devices/platform/fdab0000.npu/power/runtime_status").unlink()
    (root / "proc/meminfo").unlink()
    assert (await measure.power_tail(blind)).level == "skip"
    assert (await measure.memory_freed(blind)).level == "skip"


class Waking(Bench):
    """A board whose NPU is powered by being looked at."""

    def reading(self) -> Reading:
        seen = read(self.sources)
        path = self.sources.devices[0] / "power/runtime_active_time"
        path.chmod(0o644)
        path.write_text(f"{int(path.read_text()) + 1000}\n")
        return seen


async def test_reading_that_wakes_the_npu_is_a_failure(board: Build) -> None:
    root = board("orangepi-5-plus")
    found = detect(root)
    sources: Sources = find_sources(root, found)
    waking = Waking(found, sources, lambda: pytest.fail("no engine is needed"))
    waking.interval = 0.01
    assert (await measure.reading_wakes_nothing(waking)).level == "fail"


def test_open_devices_of_a_process_are_named() -> None:
    assert measure.device_nodes(os.getpid()) == set()
    assert measure.device_nodes(2**22 + 1) == set()


# ── the table and the report ─────────────────────────────────────────────────────────────────────


def test_hardware_checks_page_matches_the_table() -> None:
    page = (REPOSITORY / "firmware_notes/hardware-checks.md").read_text()
    assert page == hardware_checks.page(), "python3 -m tools.hardware_checks"


def test_probe_table_is_consistent() -> None:
    keys = [probe.key for probe in PROBES]
    assert len(set(keys)) == len(keys)
    assert {probe.key for probe in PROBES if probe.kind == "measured"} == set(MEASUREMENTS)
    assert all(probe.expect and probe.command for probe in PROBES)
    assert all(bool(probe.shows) == (probe.kind == "command") for probe in PROBES)


def test_open_questions_say_where_their_answer_is_read() -> None:
    questions = [probe for probe in PROBES if "nobody says" in probe.expect.lower()]
    assert len([probe for probe in questions if "board-facts" in probe.expect]) == 9, "the last lines of section 14"
    assert all(probe.answer for probe in questions)


def test_probe_commands_name_the_boards_devices(board: Build) -> None:
    found = detect(board("rk3576-vendor"))
    assert selftest.fill_in("{npu} {address} {card} {render}", found) == (
        "27700000.npu 27700000 /dev/dri/card1 /dev/dri/renderD129"
    )
    assert selftest.fill_in("{npu}", detect(board("acpi"))) == "none.npu"


def outcomes(root: Path, *keys: str) -> dict[str, Finding]:
    """Of the commands, as another user than root may run them all on a board of his own."""
    chosen = [probe for probe in PROBES if probe.kind == "command" and (not keys or probe.key in keys)]
    return {one.probe.key: one.finding for one in selftest.run(chosen, detect(root), root, None, lambda _: None)}


@pytest.mark.parametrize(
    "profile", ["rk3588-busy", "orangepi-5-plus", "rk3576-vendor", "rk3576-soc-bus", "rk3562-vendor"]
)
def test_probe_commands_read_below_the_root_and_are_judged(profile: str, board: Build) -> None:
    levels = {key: finding.level for key, finding in outcomes(board(profile)).items()}
    live = {"udev", "classes", "service-view", "kernel-log"}
    assert {key for key, level in levels.items() if level == "skip"} == live
    assert {level for key, level in levels.items() if key not in live} == {"pass"}


@pytest.mark.parametrize(
    ("profile", "strange"),
    [
        ("old-driver", {"driver"}),
        ("rk3588s-mainline", {"driver", "nodes", "devfreq", "load-line"}),
        ("debugfs-bind-empty", {"load-line"}),
        ("load-empty", {"load-line"}),
        ("devfreq-missing", {"devfreq"}),
        ("acpi", {"identity", "driver", "nodes", "devfreq", "thermal", "interrupts", "load-line"}),
    ],
)
def test_unexpected_output_is_a_warning_with_the_expectation(profile: str, strange: set[str], board: Build) -> None:
    found = {key: finding for key, finding in outcomes(board(profile)).items() if finding.level == "warn"}
    assert set(found) == strange
    expected = {probe.key: probe.expect for probe in PROBES}
    assert all(finding.fact == f"Not as expected: {expected[key]}" for key, finding in found.items())


def test_kernel_log_probe_is_judged_by_its_errors() -> None:
    [probe] = [probe for probe in PROBES if probe.key == "kernel-log"]
    benign = "[1.2] RKNPU fdab0000.npu: RKNPU: rknpu iommu is enabled, using iommu mode\n"
    hung = benign + "[9.9] RKNPU: job timeout, flags: 0x5, irq status: 0x0\n" + benign
    machine = detect()
    assert selftest.judge(probe, benign, machine).level == "pass"
    assert selftest.judge(probe, hung, machine).level == "warn"


def test_root_with_blanks_is_one_shell_word(board: Build, tmp_path: Path) -> None:
    odd = board("orangepi-5-plus").rename(tmp_path / "it's a board")
    assert outcomes(odd, "identity", "nodes", "devfreq").keys() == {"identity", "nodes", "devfreq"}
    assert {finding.level for finding in outcomes(odd, "identity", "nodes", "devfreq").values()} == {"pass"}
    assert selftest.paths_below(odd, "cat /sys/x 2>/dev/null") == f"cat {shlex.quote(str(odd))}/sys/x 2>/dev/null"
    assert selftest.paths_below(Path("/"), "cat /sys/x") == "cat /sys/x"


def test_hanging_or_missing_command_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "COMMAND_SECONDS", 0.3)
    assert selftest.command("echo begun; sleep 5").startswith("begun\n")
    assert "(no end after 0 s)" in selftest.command("sleep 5")
    assert "not found" in selftest.command("/no/such/program")


def test_report_hides_addresses_and_escapes_output(board: Build) -> None:
    probe = HardwareProbe("odd", "command", "Odd", "true", "x")
    output = "link 00:e0:4c:68:01:2A at 192.168.1.17\n```\n# head\n\x1b[2J" + "line\n" * 300
    outcomes = [
        selftest.SelftestOutcome(probe, Finding("pass", "a | b\nc"), output),
        selftest.SelftestOutcome(HardwareProbe("bad", "measured", "B", "x", "y"), Finding("fail", "no", "do this")),
    ]
    page = selftest.page(detect(board("model-hostile")), DoctorReport("me", ()), outcomes, ["I rkllm: hello"], 0.0)
    assert "192.168" not in page
    assert "4c:68" not in page
    assert "\x1b" not in page
    assert "    ```" in page
    assert "\n```" not in page
    assert "| odd | pass | a \\| b c |" in page
    assert "| bad | fail | no Try: do this |" in page
    assert "more lines)" in page
    assert "I rkllm: hello" in page


@pytest.mark.usefixtures("at_home")
def test_selftest_runs_every_probe_and_writes_the_report(
    board: Build, speaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = board("rk3588-busy")
    monkeypatch.setenv("RKLLM_SIM_ROOT", str(root))
    report = tmp_path / "report.md"
    flags = ["--root", str(root), "--model", str(speaking), "--output", str(report)]
    assert main(["selftest", *flags, "--only", "answers", "--only", "identity", "--only", "mdwe"]) == 0
    printed = capsys.readouterr().out
    assert "  ok  answers" in printed
    assert f"The report is {report}" in printed
    written = report.read_text()
    assert written.startswith("# exo-rkllm selftest: Orange Pi 5 Plus\n")
    assert "| answers | pass |" in written
    assert "| mdwe | skip |" in written
    assert "SIMULATOR" in written
    assert "| NPU driver | pass |" in written


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize(
    ("reply", "fact"),
    [
        ("{sees}", "| vision | pass | both colours named; first image"),
        ("A cat.", "red square: 'A cat.'"),
    ],
)
def test_selftest_shows_pictures_to_the_first_model_that_sees(
    board: Build,
    make_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reply: str,
    fact: str,
) -> None:
    monkeypatch.setenv("RKLLM_SIM_ROOT", str(root := board("orangepi-5-plus")))
    monkeypatch.setenv("EXO_RKLLM_MODELS_DIRECTORY", str(tmp_path / "models"))
    monkeypatch.setenv("EXO_RKLLM_RUNTIME_ENCODER_LIBRARY", str(build() / "rknn-2.3.2" / "librknnrt.so"))
    flags = ["selftest", "--vision", "--root", str(root), "--output", str(tmp_path / "report.md")]
    assert main(flags) == 2, "no model sees"
    lens = tmp_path / "models" / "lens"
    lens.mkdir(parents=True)
    (lens / "model.toml").write_text('id = "lens"\n[weights]\nfile = "m.rkllm"\n[vision]\nfile = "m.rknn"\n')
    make_model(reply=reply, vision=True, embedding_length=64).rename(lens / "m.rkllm")
    encoder_file.write(lens / "m.rknn", SimEncoder())
    assert main(flags) == 0
    assert fact in (tmp_path / "report.md").read_text()


@pytest.mark.usefixtures("at_home")
def test_selftest_without_a_model_only_reads_files(
    board: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["selftest", "--root", str(board("orangepi-5-plus"))]) == 0
    assert "needs --model NAME" in capsys.readouterr().out
    [report] = tmp_path.glob("exo-rkllm-selftest-*.md")
    assert "## thermal" in report.read_text()


@pytest.mark.usefixtures("at_home")
def test_model_that_does_not_load_fails_with_its_sentence(
    board: Build, make_model: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = board("rock-4d")
    monkeypatch.setenv("RKLLM_SIM_ROOT", str(root))
    model = make_model()
    assert main(["selftest", "--root", str(root), "--model", str(model), "--only", "answers"]) == 1
    assert "is built for RK3588, and this board is RK3576" in capsys.readouterr().out


def test_probes_are_listed_and_unknown_ones_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", "--list"]) == 0
    assert capsys.readouterr().out.count("\n") == len(PROBES)
    assert main(["selftest", "--only", "nonsense"]) == 2
    assert "There is no check 'nonsense'" in capsys.readouterr().err
