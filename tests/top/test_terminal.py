"""top in a real terminal: whole bars, no wrapped line, keys, resizing, and a terminal that is as it was afterwards."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.top.terminal import TMUX, terminal

REPOSITORY = Path(__file__).parents[2]
needs_tmux = pytest.mark.skipif(TMUX is None, reason="tmux is not installed: apt install tmux")
BAR = re.compile(r"▕[█▏▎▍▌▋▊▉ ]*▏")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A dispatcher with fourteen requests on three models; the path of its control socket."""
    socket = tmp_path_factory.mktemp("daemon") / "control.sock"
    command = [sys.executable, "-m", "tests.top.daemon", str(socket), "14"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield socket
        finally:
            process.terminate()


@pytest.fixture
def environment(tmp_path: Path, daemon: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "EXO_RKLLM_CONTROL_SOCKET": str(daemon), "PYTHONPATH": str(REPOSITORY)}


def top(root: Path) -> list[str]:
    return [sys.executable, "-m", "exo_rkllm", "top", "--root", str(root)]


def settled(screen: list[str]) -> bool:
    """A whole frame: its last line is there, which the terminal gets after the others, and a request has a rate."""
    drawn = screen[-1].startswith(" q quit")
    return drawn and any("running" in line and re.search(r"\d\.\d *$", line) for line in screen)


@needs_tmux
@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50)])
def test_screen_has_whole_bars_and_no_wrapped_line(
    width: int, height: int, board: Callable[[str], Path], tmp_path: Path, environment: dict[str, str]
) -> None:
    with terminal(tmp_path, width, height, top(board("rk3588-busy")), environment) as screen:
        seen = screen.until(settled)
    assert len(seen) == height
    assert all(len(line) <= width for line in seen)
    for core, percent in enumerate((65, 70, 100)):
        line = seen[1 + core]
        assert line.startswith(f" core {core} ▕")
        assert f" {percent}%" in line
        [bar] = BAR.findall(line)
        assert abs(bar.count("█") / (len(bar) - 2) - percent / 100) < 0.03
    assert seen[4].startswith(" NPU 1000 MHz   temp 44 °C   power on   tok/s ")
    assert len(BAR.findall(seen[5])) == 1
    heads = [number for number, line in enumerate(seen) if line.lstrip().startswith(("MODEL", "REQUEST"))]
    assert heads == [7, 12]
    assert seen[13].split()[3] == "running"
    assert seen[-1].startswith(" q quit")


@needs_tmux
def test_keys_sort_pause_and_quit(board: Callable[[str], Path], tmp_path: Path, environment: dict[str, str]) -> None:
    with terminal(tmp_path, 100, 30, top(board("rk3588-busy")), environment) as screen:
        screen.until(settled)
        screen.type("s")
        screen.until(lambda seen: "sort: model" in seen[-1] and any("MODEL▾" in line for line in seen))
        screen.type("r")
        screen.until(lambda seen: any("MODEL▴" in line for line in seen))
        screen.type("Left")
        screen.type("Space")
        screen.until(lambda seen: "resume" in seen[-1])
        screen.type("q")
        ended = screen.until(lambda seen: "exited 0" in seen[0])
        assert not any("core 0" in line for line in ended), "the terminal's own screen is back"


@needs_tmux
def test_keys_stop_an_answer_and_unload_a_model(
    board: Callable[[str], Path], tmp_path: Path, environment: dict[str, str]
) -> None:
    with terminal(tmp_path, 100, 40, top(board("rk3588-busy")), environment) as screen:
        screen.until(settled)
        for _ in range(4):
            screen.type("Down")
        seen = screen.until(lambda seen: " x stop " in seen[-1])
        [row] = [line for line in seen if line.startswith("›")]
        stopped = row[1:9]
        screen.type("x")
        screen.until(lambda seen: not any(line[1:9] == stopped for line in seen))
        for _ in range(20):
            screen.type("Up")
        screen.until(lambda seen: " u unload " in seen[-1])
        screen.type("u")
        screen.until(lambda seen: "unload " in seen[-1] and ("..." in seen[-1] or "done" in seen[-1]))


@needs_tmux
def test_resized_terminal_is_redrawn_at_once(
    board: Callable[[str], Path], tmp_path: Path, environment: dict[str, str]
) -> None:
    with terminal(tmp_path, 80, 24, top(board("rk3588-busy")), environment) as screen:
        screen.until(settled)
        screen.resize(120, 40)
        seen = screen.until(lambda seen: len(seen) == 40 and seen[-1].startswith(" q quit"), 3)
        assert max(map(len, seen)) == 120
        screen.resize(60, 15)
        seen = screen.until(lambda seen: len(seen) == 15 and seen[-1].startswith(" q quit"), 3)
        assert all(len(line) <= 60 for line in seen)


@needs_tmux
def test_ctrl_c_ends_top_like_quit(board: Callable[[str], Path], tmp_path: Path, environment: dict[str, str]) -> None:
    with terminal(tmp_path, 80, 24, top(board("rk3588-busy")), environment) as screen:
        screen.until(settled)
        screen.type("C-c")
        screen.until(lambda seen: "exited 0" in seen[0])


@needs_tmux
def test_screen_shows_a_driver_that_leaves_and_returns(
    board: Callable[[str], Path], tmp_path: Path, environment: dict[str, str]
) -> None:
    root = board("rk3588-busy")
    links = [root / "sys/devices/platform/fdab0000.npu/driver", root / "sys/bus/platform/drivers/RKNPU/fdab0000.npu"]
    targets = [link.readlink() for link in links]
    load = root / "sys/kernel/debug/rknpu/load"
    line = load.read_bytes()
    with terminal(tmp_path, 80, 24, top(root), environment) as screen:
        screen.until(settled)
        load.unlink()
        for link in links:
            link.unlink()
        screen.until(lambda seen: any("no driver is bound" in line for line in seen), 5)
        load.write_bytes(line)
        for link, target in zip(links, targets, strict=True):
            link.symlink_to(target)
        screen.until(lambda seen: seen[1].startswith(" core 0 ▕"), 5)


def test_top_without_a_terminal_prints_once(board: Callable[[str], Path], environment: dict[str, str]) -> None:
    done = subprocess.run(
        top(board("rk3588-busy")), env=environment, capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert re.search(r"^ core 2 ▕█+▏ 100%$", done.stdout, re.MULTILINE)
    assert sum("running" in line for line in done.stdout.splitlines()) == 2


@needs_tmux
def test_screen_without_colour_keeps_every_line(
    board: Callable[[str], Path], tmp_path: Path, environment: dict[str, str]
) -> None:
    with terminal(tmp_path, 80, 24, top(board("rk3588-busy")), {**environment, "NO_COLOR": "1"}) as screen:
        seen = screen.until(settled)
        raw = "\n".join(screen.screen(colours=True))
    assert seen[1].startswith(" core 0 ▕")
    assert not re.search(r"\x1b\[[0-9;]*\b[34][0-7]m", raw)
    assert "\x1b[1m" in raw, "emphasis is no colour"
