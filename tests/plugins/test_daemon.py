"""A daemon among plugins of every sort: it starts, says how each is, and uses those that are well."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from exo_rkllm.client.control import DaemonStatus
from exo_rkllm.doctor.checks import diagnose
from exo_rkllm.doctor.identity import current_identity
from exo_rkllm.doctor.report import Finding
from exo_rkllm.doctor.scene import look
from tests.daemon.running import House
from tests.plugins import packages
from tests.plugins.asking import asked, chat
from tests.plugins.packages import STATES, Shelf, every_sort


@pytest.mark.seed("4.5", "loaded in every process before work")
def test_a_daemon_starts_whatever_its_plugins_do_and_lists_each(house: House, shelf: Shelf) -> None:
    every_sort(shelf)
    house.add("m", 'engine = "slow"\n')
    house.add("e", 'engine = "echo"\n')
    daemon = house.start()
    first = {row["name"]: row["state"] for row in daemon.status()["plugins"]}
    assert first == {**STATES, "slow": "loading"}
    assert daemon.answer("e", "said again") == "said again"
    daemon.wait_for(lambda status: all(row["state"] != "loading" for row in status["plugins"]))
    assert daemon.answer("m", "late but there") == "late but there"
    listed = house.command("plugins", "--json")
    rows = {row["name"]: row for row in json.loads(listed.stdout)}
    assert {name: row["state"] for name, row in rows.items()} == STATES
    assert listed.returncode == 1
    assert "RuntimeError: no such luck" in rows["b-raises"]["error"]
    assert "for the model type 'zorg' already, by the plugin a-zorg" in rows["d-conflicts"]["error"]
    assert daemon.stop() == 0


LATE = """\
import time
from exo_rkllm.plugins import register_model
def register():
    time.sleep(2)
    register_model(model_type="late", template="late({{ messages[-1].content }})")
"""


def test_the_family_of_a_slow_plugin_counts_when_it_is_there(board_house: House, shelf: Shelf, make_model: Any) -> None:
    """And a model that is to be there from the start is loaded then, where its engine comes late."""
    shelf.add("late", {"exo_rkllm.plugins": {"late": "late:register"}}, late=LATE)
    shelf.add("hangs", {"exo_rkllm.backends": {"slow": "hangs:SPEC"}}, hangs=packages.HANGS)
    board_house.simulated("late-1b", make_model, reply="{prompt}")
    board_house.add("early", 'engine = "slow"\n')
    daemon = board_house.start(EXO_RKLLM_MODELS_PRELOAD="early")
    assert "<|im_start|>" in chat(daemon, "late-1b", "hello"), "served at once, as any model of no known family"
    daemon.wait_for(lambda status: all(row["state"] != "loading" for row in status["plugins"]))
    assert chat(daemon, "late-1b", "hello") == "late(hello)"
    daemon.wait_for(lambda _status: daemon.model("early")["state"] == "ready")


def test_request_for_a_slow_plugins_engine_says_that_it_loads(house: House, shelf: Shelf) -> None:
    shelf.add("hangs", {"exo_rkllm.backends": {"slow": "hangs:SPEC"}}, hangs=packages.HANGS.replace("(2)", "(60)"))
    house.add("m", 'engine = "slow"\n')
    daemon = house.start()
    status, error = asked(daemon, "m", "hello")
    assert status == 400
    assert "Still loading: slow." in error
    assert daemon.stop() == 0, "and nobody waits for it at the end either"


def test_starting_does_not_wait_for_plugins(house: House, shelf: Shelf) -> None:
    """One second in all, however many hang."""
    for number in range(3):
        text = packages.HANGS.replace("(2)", "(60)").replace('"slow"', f'"slow{number}"')
        shelf.add(
            f"hangs{number}",
            {"exo_rkllm.backends": {f"slow{number}": f"hangs{number}:SPEC"}},
            **{f"hangs{number}": text},
        )
    plain = house.start(EXO_RKLLM_PLUGINS="")
    usual = plain.until("READY=1")
    plain.stop()
    assert house.start().until("READY=1") < usual + 5, "180 s of sleep in three modules"


def test_the_configuration_of_the_daemon_chooses(house: House, shelf: Shelf) -> None:
    shelf.add("zorg", {"exo_rkllm.plugins": {"a": "zorg:register"}}, zorg=packages.REGISTERS)
    shelf.add("echo", {"exo_rkllm.backends": {"echo": "echo_engine:SPEC"}}, echo_engine=packages.ECHO)
    file = house.folder / "mine.py"
    file.write_text("from exo_rkllm.plugins import register_model\nregister_model(model_type='mine')\n")
    house.config.write_text(f'[plugins]\nallow = ["echo"]\nload = ["{file}"]\n')
    assert {row["name"]: row["state"] for row in house.start().status()["plugins"]} == {
        "a": "refused",
        "echo": "used",
        "mine": "used",
    }


def test_list_marks_plugins_installed_after_the_daemon_started(house: House, shelf: Shelf) -> None:
    house.start()
    shelf.add("zorg", {"exo_rkllm.plugins": {"a": "zorg:register"}}, zorg=packages.REGISTERS)
    listed = house.command("plugins")
    assert listed.returncode == 0
    assert "waiting" in listed.stdout
    assert "sudo systemctl restart exo-rkllm" in listed.stdout
    assert json.loads(house.command("plugins", "--here", "--json").stdout)[0]["state"] == "used"


def test_empty_list_names_the_entry_point_groups(house: House) -> None:
    assert "exo_rkllm.plugins, exo_rkllm.general_plugins, exo_rkllm.backends" in house.command("plugins").stdout
    assert json.loads(house.command("plugins", "--json").stdout) == []


def test_command_names_the_plugin_that_it_does_without(house: House, shelf: Shelf) -> None:
    shelf.add("raises", {"exo_rkllm.plugins": {"b": "raises:register"}}, raises=packages.RAISES)
    done = house.command("engines", "--json")
    assert (done.returncode, json.loads(done.stdout)["engines"][0]["name"]) == (0, "dummy")
    assert done.stderr == "I talk\nexo-rkllm: the plugin b is not used: RuntimeError: no such luck\n"


def test_command_that_needs_no_plugin_waits_for_none(house: House, shelf: Shelf) -> None:
    shelf.add("hangs", {"exo_rkllm.plugins": {"z": "hangs"}}, hangs="import time; time.sleep(60)")
    house.words()
    house.add("own", 'engine = "dummy"\n')
    began = time.monotonic()
    assert house.command("models").stdout.count("dummy") == 2
    assert house.command("rm", "own").stdout == "removed own\n"
    daemon = house.start()
    assert house.command("run", "words", "hello").stdout == "hello\n"
    assert house.command("plugins").stdout.count("loading") == 1, "the daemon's word"
    daemon.stop()
    assert time.monotonic() - began < 20, "a command that waits for it takes ten seconds"


def finding(service: DaemonStatus, house: House) -> Finding:
    environment = {**house.environment, "EXO_RKLLM_BOARD_ROOT": str(house.folder)}
    lines = diagnose(look(environment, current_identity(), service, None)).lines
    return next(line.finding for line in lines if line.check == "plugins")


def row(name: str, state: str, error: str = "") -> dict[str, str]:
    return {"group": "g", "name": name, "value": "v", "package": "p", "version": "1", "state": state, "error": error}


def test_doctor_warns_of_a_plugin_that_is_not_used(house: House) -> None:
    said: dict[str, Any] = {"unavailable_reason": "", "models": [], "cluster": None}
    good = finding(DaemonStatus({**said, "plugins": [row("a", "used"), row("b", "refused")]}), house)
    assert (good.level, good.fact) == ("pass", "a is used, b is refused")
    poor = finding(DaemonStatus({**said, "plugins": [row("a", "failed", "It broke."), row("b", "loading")]}), house)
    assert (poor.level, poor.repair) == ("warn", "exo-rkllm plugins")
    assert poor.fact == "a: It broke; b: it still loads"
    assert finding(DaemonStatus(), house).fact == "none is installed", "without a daemon it looks itself"
