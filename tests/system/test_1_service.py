"""The installed service in a container with a release's own systemd, from the first answer to its end.

One container a release serves this whole file: the tests stand in the order in which they leave it usable.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from tests.system.conftest import Served
from tests.system.substrate import owner
from tests.system.substrate.computer import Computer
from tests.system.substrate.releases import Release

UNIT = "exo-rkllm.service"
WARNING = 4
DropIn = Callable[[Computer, str], None]


def words(stream: str) -> str:
    """The text of a streamed answer, which has to end as one; while a model is loaded it says so in comments."""
    events = [line.removeprefix("data: ") for line in stream.splitlines() if line and not line.startswith(":")]
    assert events and events[-1] == "[DONE]", stream
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events[:-1]]
    return "".join(delta.get("content") or "" for delta in deltas)


def warnings(computer: Computer) -> list[str]:
    """What the journal holds of ours, or about us, that is a warning or worse."""
    lines = [line for line in computer.journal("--boot") if int(line.get("PRIORITY", 6)) <= WARNING]
    return [str(line["MESSAGE"]) for line in lines if "rkllm" in json.dumps(_named(line))]


def _named(line: Mapping[str, Any]) -> list[Any]:
    return [line.get(name) for name in ("MESSAGE", "UNIT", "_SYSTEMD_UNIT", "SYSLOG_IDENTIFIER")]


def restarts(computer: Computer) -> int:
    return int(computer.show(UNIT, "NRestarts"))


def answers(computer: Computer) -> bool:
    return "data: [DONE]" in computer.ask(owner.chat(), timeout=30).out


# ── a good day ───────────────────────────────────────────────────────────────────────────────────


def test_from_apt_install_to_a_streamed_answer_it_takes_less_than_20_seconds(served: Served) -> None:
    assert "simulated model" in words(served.first_answer)
    assert served.first_answer.count("data: ") > 10, "the answer came in one piece"
    assert served.seconds < 20


def test_the_board_is_known_by_its_device_tree(served: Served) -> None:
    board = json.loads(served.container.run("exo-rkllm board --json"))
    assert board["state"] == "vendor_ready"
    assert "Orange Pi 5 Plus" in json.dumps(board)


def test_the_service_starts_at_boot_and_runs_as_its_own_user(served: Served) -> None:
    container = served.container
    assert container.run(f"systemctl is-enabled {UNIT}").strip() == "enabled"
    pid = container.show(UNIT, "MainPID")
    status = dict(line.split(":", 1) for line in container.run(f"cat /proc/{pid}/status").splitlines())
    user = container.run("id -u exo-rkllm").strip()
    assert set(status["Uid"].split()) == {user} and user != "0"
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"].strip() == "1"
    groups = container.run("id -Gn exo-rkllm").split()
    assert {"video", "render"} <= set(groups)


def test_systemctl_status_says_what_is_ready(served: Served) -> None:
    assert answers(served.container)
    assert served.container.show(UNIT, "StatusText") == "Ready: demo."


def test_a_member_of_the_group_works_with_models(served: Served) -> None:
    container = served.container
    assert "demo" in container.run("exo-rkllm ps", user="member")
    container.run("exo-rkllm unload demo", user="member")
    assert "No model is loaded" in container.run("exo-rkllm ps", user="member")
    container.run("exo-rkllm load demo", user="member")
    assert "demo" in container.run("exo-rkllm models", user="member")


def test_an_outsider_is_told_how_to_become_one_and_may_ask_questions(served: Served) -> None:
    container = served.container
    refused = container.ask("exo-rkllm unload demo", user="outsider")
    assert refused.code == 1
    assert "it is for the group exo-rkllm" in refused.err
    assert "sudo usermod -aG exo-rkllm $USER" in refused.err
    assert "demo" in container.run("exo-rkllm ps", user="member"), "it was unloaded all the same"
    assert "simulated model" in words(container.run(owner.chat(), user="outsider"))
    assert container.ask("cat /etc/exo-rkllm/api-keys", user="outsider").code != 0
    assert container.ask("ls /var/lib/exo-rkllm", user="outsider").code != 0


def test_reload_takes_a_changed_file_over_and_keeps_the_process(served: Served) -> None:
    container = served.container
    pid = container.show(UNIT, "MainPID")
    container.run(
        f"printf '[models]\\nkeep_alive = \"3m\"\\n' > /etc/exo-rkllm/conf.d/test.toml; systemctl reload {UNIT}"
    )
    assert "models.keep_alive" in container.run(f"journalctl --no-pager -u {UNIT} | tail -n 5")
    assert container.show(UNIT, "MainPID") == pid


def test_a_restart_serves_the_same_models(served: Served) -> None:
    container = served.container
    pid = container.show(UNIT, "MainPID")
    container.run(f"systemctl restart {UNIT}")
    assert container.show(UNIT, "MainPID") != pid
    assert answers(container)


def test_entries_of_the_journal_have_levels_and_names(served: Served) -> None:
    lines = served.container.journal("-u", UNIT, "-t", "exo-rkllm")
    assert lines and {line["SYSLOG_IDENTIFIER"] for line in lines} == {"exo-rkllm"}
    assert all(line["LOGGER"].startswith("exo_rkllm.") for line in lines if line["_TRANSPORT"] == "journal")


def test_the_journal_is_clean_of_warnings(served: Served) -> None:
    """Up to here nothing went wrong; that the runtime was missing at first is the one thing to be warned of."""
    complaints = warnings(served.container)
    assert [one for one in complaints if "No librkllmrt.so was found" not in one] == []


def test_systemd_finds_nothing_wrong_with_the_installed_units(served: Served) -> None:
    """Ordering cycles, unknown settings and missing programs; manual pages may be left out of a small system."""
    units = [UNIT, "exo-rkllm.socket", "exo-rkllm-clocks.service", "exo-rkllm-clocks.socket", "run-rkllm-npu.mount"]
    told = served.container.ask(f"systemd-analyze verify --man=no {' '.join(units)} 2>&1")
    assert (told.code, told.out) == (0, "")


def test_systemd_finds_little_exposure(served: Served) -> None:
    told = served.container.run(f"systemd-analyze security --no-pager {UNIT}")
    level = float(told.rpartition("Overall exposure level for exo-rkllm.service:")[2].split()[0])
    assert level <= 1.5, told


# ── bad days ─────────────────────────────────────────────────────────────────────────────────────


def test_a_mistake_in_the_configuration_fails_the_reload_and_changes_nothing(served: Served) -> None:
    container = served.container
    container.run("echo '[models]\nkeep_alife = 1' > /etc/exo-rkllm/conf.d/test.toml")
    failed = container.ask(f"systemctl reload {UNIT}")
    assert failed.code != 0
    assert "keep_alive" in container.run(f"journalctl --no-pager -u {UNIT} | tail -n 5"), "the nearest key is named"
    assert answers(container)
    container.run(f"rm /etc/exo-rkllm/conf.d/test.toml; systemctl reload {UNIT}")


def test_a_daemon_that_hangs_is_killed_and_started_again(served: Served, drop_in: DropIn) -> None:
    container = served.container
    drop_in(container, "WatchdogSec=2")
    container.run(f"systemctl restart {UNIT}")
    assert answers(container)
    before, pid = restarts(container), container.show(UNIT, "MainPID")
    container.run(f"kill -STOP {pid}")
    container.until("a restart", lambda: restarts(container) > before, 30)
    container.until("an answer", lambda: answers(container))
    assert container.show(UNIT, "MainPID") != pid
    assert "Watchdog timeout" in container.run(f"journalctl --no-pager -u {UNIT}")
    assert container.ask(f"kill -0 {pid}").code != 0


def test_children_of_a_killed_daemon_do_not_stay(served: Served) -> None:
    container = served.container
    assert answers(container)
    group = container.show(UNIT, "ControlGroup")

    def processes() -> set[str]:
        return set(container.run(f"cat /sys/fs/cgroup{group}/cgroup.procs").split())

    container.until(
        "a daemon, the processes of its model and of the next one, and that of chat templates",
        lambda: len(processes()) == 4,
    )
    before = processes()
    container.run(f"kill -KILL {container.show(UNIT, 'MainPID')}")
    container.until("an answer", lambda: answers(container))
    assert all(container.ask(f"kill -0 {pid}").code != 0 for pid in before)


def test_a_crash_loop_slows_down_and_never_gives_up(served: Served, release: Release) -> None:
    container = served.container
    container.run("echo '[api]\nport = \"none\"' > /etc/exo-rkllm/conf.d/broken.toml")
    container.run(f"systemctl restart {UNIT} || true")
    before = restarts(container)
    container.until("three restarts", lambda: restarts(container) >= before + 3, 60)
    assert container.show(UNIT, "ActiveState") == "activating"
    lines = container.journal("-u", UNIT, "_PID=1")
    moments = [int(line["__MONOTONIC_TIMESTAMP"]) / 1e6 for line in lines if "Scheduled restart" in line["MESSAGE"]]
    pauses = [later - earlier for earlier, later in zip(moments[-3:], moments[-2:], strict=False)]
    assert min(pauses) > 5
    if release.systemd >= 254:
        assert pauses[1] > pauses[0] + 1, f"the delay does not grow: {pauses}"
    assert "port" in container.run(f"journalctl --no-pager -u {UNIT} -t exo-rkllm | tail -n 3")
    # Whoever repairs the file needs no further command.
    container.run("rm /etc/exo-rkllm/conf.d/broken.toml")
    container.until("an answer", lambda: answers(container), 60)


def test_the_first_request_starts_it_where_the_socket_is_on(served: Served) -> None:
    container = served.container
    container.run("systemctl disable --now exo-rkllm.service && systemctl enable --now exo-rkllm.socket")
    assert container.show(UNIT, "ActiveState") == "inactive"
    assert answers(container)
    assert container.show(UNIT, "ActiveState") == "active"
    container.run("systemctl disable --now exo-rkllm.socket; systemctl enable --now exo-rkllm.service")
    assert answers(container)


def test_it_stops_when_it_is_told_to(served: Served) -> None:
    container = served.container
    container.run(f"systemctl stop {UNIT}")
    assert container.show(UNIT, "Result") == "success"
    assert container.ask("curl -sS http://127.0.0.1:52415/").code == 7, "something listens on"
    container.run(f"systemctl start {UNIT}")
