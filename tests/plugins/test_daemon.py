"""A daemon among plugins of every sort: it starts, says how each is, and uses those that are well."""

from __future__ import annotations

import json

from tests.daemon.running import House
from tests.plugins.packages import STATES, Shelf, every_sort


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
    assert "'zorg'" in rows["d-conflicts"]["error"]
    assert daemon.stop() == 0
