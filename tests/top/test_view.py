"""What top shows, without a terminal: rates from two looks, order, and lines that fit whatever stands in them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exo_rkllm.board.counters import read
from exo_rkllm.board.detect import detect
from exo_rkllm.board.sources import find_sources
from exo_rkllm.cli.top.changes import Changes
from exo_rkllm.cli.top.draw import actions, bar, cells, fit, hour, lines, plain, spark
from exo_rkllm.cli.top.view import SORTS, ModelOrder, PastPoint, RequestRow, Snapshot, View, load_of, neighbour, view
from exo_rkllm.client.control import DaemonStatus, DaemonUnreachable
from exo_rkllm.errors import ExoRkllmError
from simulator import boards

NOW = 1_700_000_000.0


def request(name: str, since: float = 10.0, **more: object) -> dict[str, object]:
    return {"id": name, "client": "10.0.0.1", "since": NOW - since, "tokens": 0, "ahead": 0, **more}


def status(**more: Any) -> dict[str, Any]:
    return {
        "unavailable_reason": "",
        "models": [
            {
                "name": "qwen3",
                "state": "ready",
                "memory": 2 << 30,
                "context": 4096,
                "running": [request("a", 20, tokens=100), request("b", 5, tokens=30)],
                "waiting": [request("c", 50, ahead=2)],
                "unload_at": NOW + 90,
                "error": "",
            },
            {"name": "gemma", "state": "cold", "running": [], "waiting": [], "error": "It died four times."},
        ],
        **more,
    }


@pytest.fixture
def seen(board: Callable[[str], Path]) -> Snapshot:
    return snapshot(board("rk3588-busy"), DaemonStatus(status()))


def snapshot(root: Path, service: DaemonStatus, at: float = 100.0) -> Snapshot:
    found = detect(root)
    return Snapshot(at, NOW, found, read(find_sources(root, found)), service)


def later(before: Snapshot, seconds: float, tokens: int) -> Snapshot:
    models = [dict(model) for model in (before.service.status or {})["models"]]
    models[0]["running"] = [request("a", 20 + seconds, tokens=tokens)]
    return replace(before, at=before.at + seconds, service=DaemonStatus({"models": models}))


# ── the view ─────────────────────────────────────────────────────────────────────────────────────


def test_speed_covers_the_last_second_and_starts_as_the_mean(seen: Snapshot) -> None:
    first = view(seen)
    assert [row.speed for row in first.requests if row.id == "a"] == [5.0]
    after = view(later(seen, 2.0, 130), seen)
    assert [row.speed for row in after.requests if row.id == "a"] == [15.0]
    assert after.speed == 15.0
    assert [row.speed for row in after.models] == [15.0, None]


def test_ready_models_come_first(seen: Snapshot) -> None:
    rows = view(seen).models
    assert [(row.name, row.running, row.waiting) for row in rows] == [("qwen3", 2, 1), ("gemma", 0, 0)]
    assert rows[0].unload_in == 90
    assert rows[1].error == "It died four times."
    assert view(seen).memory_models == 2 << 30


@pytest.mark.parametrize(
    ("column", "down", "expected"),
    [
        ("since", True, ["a", "b", "c"]),
        ("since", False, ["b", "a", "c"]),
        ("tokens", True, ["a", "b", "c"]),
        ("tokens", False, ["b", "a", "c"]),
        ("speed", True, ["b", "a", "c"]),
    ],
)
def test_running_requests_come_before_waiting_ones(
    column: str, down: bool, expected: list[str], seen: Snapshot
) -> None:
    assert [row.id for row in view(seen, order=ModelOrder(column, down)).requests] == expected


def test_sort_key_cycles_and_reverses() -> None:
    order = ModelOrder()
    seen = [order.column]
    for _ in SORTS:
        order = order.next()
        seen.append(order.column)
    assert seen == [*SORTS, SORTS[0]]
    assert ModelOrder().reversed() == ModelOrder(down=False)


def test_load_comes_from_the_daemon_if_the_user_cannot_read_it(board: Callable[[str], Path]) -> None:
    root = board("debugfs-bind-empty")
    told = snapshot(root, DaemonStatus(status(npu={"load": [0.5, 0.25, 7]})))
    assert load_of(told) == (0.5, 0.25, 1.0)
    nonsenses: tuple[object, ...] = ({}, {"load": []}, {"load": "x"}, {"load": [None]}, {"load": 3}, [])
    for nonsense in nonsenses:
        assert load_of(snapshot(root, DaemonStatus(status(npu=nonsense)))) is None


@pytest.mark.parametrize(
    "nonsense",
    [
        {},
        {"models": None},
        {"models": [None, 3, "x"]},
        {"models": [{"name": 7, "running": 3, "waiting": [None], "memory": "much", "unload_at": "soon"}]},
        {"models": [{"running": [{"since": "x", "tokens": None, "id": None}]}]},
        {"unavailable_reason": None},
    ],
)
def test_view_accepts_a_status_of_another_version(nonsense: dict[str, Any], board: Callable[[str], Path]) -> None:
    shown = view(snapshot(board("orangepi-5-plus"), DaemonStatus(nonsense)))
    assert all(cells(text(line)) <= 80 for line in lines(shown, 80, 24))


# ── the lines ────────────────────────────────────────────────────────────────────────────────────


def text(line: list[tuple[str, str]]) -> str:
    return "".join(part for part, _ in line)


def screen(shown: View, width: int, height: int) -> list[str]:
    return [text(line) for line in lines(shown, width, height)]


@given(part=st.floats(0, 1), width=st.integers(3, 300))
def test_bar_is_whole_at_any_width(part: float, width: int) -> None:
    drawn = text(bar(part, width))
    assert cells(drawn) == width
    assert (drawn[0], drawn[-1]) == ("▕", "▏")


def test_bar_shows_its_fraction() -> None:
    assert text(bar(0.5, 12)) == "▕█████     ▏"
    assert text(bar(1.7, 12)) == "▕██████████▏"
    assert text(bar(0.01, 12)) == "▕▏         ▏"
    assert text(bar(0.0, 12)) == "▕          ▏"


@given(st.text(max_size=40), st.integers(1, 30))
def test_text_is_cut_or_padded_to_its_columns(content: str, width: int) -> None:
    content = "".join(character for character in content if character.isprintable())
    assert cells(fit(content, width)) in (width, width - 1)  # a wide character may not fit the last column
    assert cells(fit("你好世界", 5)) <= 5


def test_history_ends_with_the_newest_second() -> None:
    assert spark([0.0, 0.5, 1.0], 5) == "  ▁▅█"
    assert spark([0.1] * 50, 4) == "▁▁▁▁"
    assert spark([1.0], 0) == ""


NAMES = st.text(max_size=50)


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(20, 240),
    height=st.integers(1, 70),
    names=st.lists(NAMES, max_size=9),
    profile=st.sampled_from(["rk3588-busy", "hot", "no-driver", "rk3576-busy", "model-hostile", "acpi"]),
)
def test_screen_never_exceeds_the_terminal(
    width: int, height: int, names: list[str], profile: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp() / "boards" / profile
    if not root.exists():
        boards.write(profile, root)
    running = [request(name, client=name, tokens=7) for name in names]
    service = DaemonStatus(
        {"models": [{"name": name, "state": "ready", "running": running, "error": name} for name in names[:4]]}
    )
    drawn = screen(view(snapshot(root, service), history=[(0.5, 0.2, 1.0)] * 99), width, height)
    assert len(drawn) == height
    for line in drawn:
        assert cells(line) <= width
        assert line.isprintable()


def test_hidden_rows_are_counted(seen: Snapshot) -> None:
    models = (seen.service.status or {})["models"]
    models[0]["waiting"] = [request(f"w{number}", ahead=number) for number in range(40)]
    drawn = screen(view(seen), 80, 24)
    assert drawn[-2].strip() == "and 32 more"
    assert drawn[-1].startswith(" q quit")


def test_narrow_terminal_drops_the_least_important_columns(seen: Snapshot) -> None:
    wide, narrow = "\n".join(screen(view(seen), 100, 24)), "\n".join(screen(view(seen), 50, 24))
    assert "UNLOADS" in wide
    assert "UNLOADS" not in narrow
    assert "qwen3" in narrow


def test_throttled_clock_shows_its_limit(board: Callable[[str], Path]) -> None:
    drawn = screen(view(snapshot(board("hot"), DaemonStatus(status()))), 80, 24)
    assert any("NPU 800 MHz (limit 800)   temp 87 °C" in line for line in drawn)


def test_screen_shows_reasons_and_repairs(board: Callable[[str], Path]) -> None:
    gone = snapshot(
        board("no-driver"), DaemonStatus(error=ExoRkllmError("You may not ask the daemon.", "sudo usermod x"))
    )
    said = " ".join(" ".join(screen(view(gone), 80, 24)).split())
    assert "no driver is bound to it" in said
    assert said.count("no driver is bound") == 1
    assert "Try: sudo modprobe rknpu; where there is no such module:" in said
    assert "You may not ask the daemon. Try: sudo usermod x" in said
    assert "tok/s" not in said, "nobody knows it"
    both = snapshot(
        board("no-driver"), DaemonStatus(status(unavailable_reason=gone.board.sentence, hint="exo-rkllm board"))
    )
    assert " ".join(screen(view(both), 80, 24)).count("no driver is bound") == 1
    other = snapshot(
        board("orangepi-5-plus"),
        DaemonStatus(status(unavailable_reason="There is no library.", hint="exo-rkllm runtime")),
    )
    assert any("There is no library. Try: exo-rkllm runtime" in line for line in screen(view(other), 80, 24))
    rocket = snapshot(board("debugfs-bind-empty"), DaemonStatus())
    assert "NPU load is not available: the service was started before the driver" in " ".join(
        screen(view(rocket), 200, 24)
    )


def test_plain_output_shows_every_row(seen: Snapshot) -> None:
    models = (seen.service.status or {})["models"]
    models[0]["waiting"] = [request(f"w{number:02d}", ahead=number) for number in range(40)]
    printed = list(plain(view(seen)))
    assert sum(line.startswith(" w") for line in printed) == 40
    assert not any(line.endswith(" ") for line in printed)


def test_long_times_use_minutes_and_hours(seen: Snapshot) -> None:
    models = (seen.service.status or {})["models"]
    models[0]["running"] = [request("a", 400, tokens=1), request("b", 9000, tokens=1)]
    printed = "\n".join(plain(view(seen)))
    assert "7 min" in printed
    assert "2 h" in printed


def test_request_without_tokens_has_no_speed(seen: Snapshot) -> None:
    waiting = [row for row in view(seen).requests if row.state != "running"]
    assert [row.speed for row in waiting] == [None]
    assert isinstance(waiting[0], RequestRow)


# ── narrow, wide and low ─────────────────────────────────────────────────────────────────────────

PAST = [(0.5, 0.2, 1.0)] * 99
NODES = [
    {"id": "a" * 40, "name": "studio", "model": "Mac Studio", "chip": "M4", "master": True},
    {"id": "b" * 40, "name": "", "model": "Orange Pi 5 Plus", "chip": "RK3588", "me": True},
]


def test_low_terminal_shows_all_cores_in_one_line_and_whole_figures(seen: Snapshot) -> None:
    drawn = screen(view(seen, history=PAST), 40, 12)
    assert drawn[0].startswith(" Orange Pi 5 Plus · RK3588  ")
    assert drawn[1].startswith(" cores ▕")
    assert drawn[1].endswith("  65%  70% 100% ")
    assert not any("…" in line for line in (drawn[0], drawn[2], drawn[-1]))
    assert any(line.startswith(" a ") for line in drawn), "an answer has room"


def test_tall_terminal_shows_cluster_and_past(seen: Snapshot) -> None:
    full = replace(seen, service=DaemonStatus(status(cluster={"nodes": NODES})))
    drawn = screen(view(full, history=PAST), 160, 50)
    [head] = [number for number, line in enumerate(drawn) if line.startswith(" CLUSTER NODE")]
    assert drawn[head + 1].split() == ["studio", "master", "Mac", "Studio", "M4"]
    assert drawn[head + 2].split() == ["b" * 30, "this", "board", "Orange", "Pi", "5", "Plus", "RK3588"]
    [title] = [number for number, line in enumerate(drawn) if "NPU load of the last 99 s" in line]
    assert drawn[title + 9].count("█") == 99
    assert drawn[-1].startswith(" q quit")
    assert not any("NPU load of" in line for line in screen(view(full, history=PAST), 80, 20)), "no room for it"


def test_selection_moves_over_models_and_answers_and_names_what_keys_do(seen: Snapshot) -> None:
    selected = ""
    offered = []
    for _ in range(6):
        selected = neighbour(view(seen, selected=selected), 1)
        offered.append(actions(view(seen, selected=selected)))
    assert offered == [
        {"u": ("unload", "qwen3")},
        {"l": ("load", "gemma")},
        {"x": ("stop", "a")},
        {"x": ("stop", "b")},
        {"x": ("stop", "c")},
        {"x": ("stop", "c")},
    ]
    drawn = screen(view(seen, selected=selected), 80, 24)
    assert [line[:2] for line in drawn if line.startswith("›")] == ["›c"]
    assert "x stop c" in drawn[-1]
    assert neighbour(view(seen, selected=selected), -1) == "request b"
    assert actions(view(seen, selected="request gone")) == {}
    assert neighbour(view(replace(seen, service=DaemonStatus())), 1) == ""


def test_refusal_of_a_key_is_shown_for_some_seconds() -> None:
    def nobody() -> Any:
        raise DaemonUnreachable("The daemon is not running.", "start it")

    now = [0.0]
    changes = Changes(nobody, lambda: now[0])
    changes.ask("unload", "qwen3")
    deadline = time.monotonic() + 5
    while changes.message != "The daemon is not running.":
        assert time.monotonic() < deadline
    now[0] = 10.0
    assert changes.message == ""


def test_other_programs_are_a_table_with_their_turns(seen: Snapshot) -> None:
    told = status(
        npu={"neighbours": {"names": {"frigate": 2, "llama-server": 1}}},
        lease={"name": "frigate", "since": NOW, "waiting": ["darknet"]},
    )
    drawn = "\n".join(screen(view(replace(seen, service=DaemonStatus(told))), 100, 40))
    for row in (
        r"OTHER PROGRAM +PROCESSES NPU",
        r" frigate +2 has it by a lease",
        r" darknet +waits for its turn",
        r" llama-server +1 has it open",
    ):
        assert re.search(row, drawn), drawn
    assert "frigate has the NPU by a lease, and models wait." in drawn
    own = view(replace(seen, service=DaemonStatus(told), neighbours={"mine": 3}))
    assert [(row.name, row.processes) for row in own.neighbours] == [("frigate", 0), ("darknet", 0), ("mine", 3)]
    assert "llama-server" in "\n".join(plain(view(replace(seen, service=DaemonStatus(told)))))


def test_daemons_hour_is_drawn_in_as_many_columns_as_there_are(seen: Snapshot) -> None:
    past = tuple(PastPoint(NOW - 3600 + second, 1.0 if second < 1800 else None) for second in range(0, 3600, 5))
    bins = hour(past, NOW, 10)
    assert bins == [1.0] * 5 + [0.0] * 5
    drawn = screen(view(replace(seen, past=past)), 100, 40)
    (head,) = [number for number, line in enumerate(drawn) if "NPU load of the last hour" in line]
    assert set(drawn[head + 1][1:50]) == {"█"} and set(drawn[head + 1][51:99]) == {" "}
    assert "h seconds" in drawn[-1]
    empty = screen(view(replace(seen, past=())), 100, 40)
    assert any("the daemon remembers none" in line for line in empty)
    assert "h hour" in screen(view(seen), 120, 40)[-1]
