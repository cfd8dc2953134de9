"""Entry points as vLLM's: found by group, chosen by name, run once in every process, and none stops another."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import pytest

from exo_rkllm import plugins
from exo_rkllm.backends.registry import EngineRegistry
from exo_rkllm.catalogue.contributions import from_plugins
from exo_rkllm.plugins import ModelSpec
from exo_rkllm.plugins.offers import offers
from exo_rkllm.plugins.registry import Registry
from tests.daemon.running import REPOSITORY
from tests.plugins import packages
from tests.plugins.packages import STATES, Shelf, every_sort


@pytest.fixture
def here(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, registry: Registry) -> Iterator[Shelf]:
    """The shelf, seen by this process; what it imports of it is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(shelf.folder))
    known = set(sys.modules)
    yield shelf
    for name in set(sys.modules) - known:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == shelf.folder:
            del sys.modules[name]


def states(found: plugins.LoadedPlugins) -> dict[str, str]:
    return {row.name: row.state for row in found.rows}


def settled(found: plugins.LoadedPlugins) -> plugins.LoadedPlugins:
    ends = time.monotonic() + 20
    while found.loading and time.monotonic() < ends:
        time.sleep(0.02)
    return found


@pytest.mark.seed("4.5", "group, name, value")
def test_group_name_value_package_and_version_are_known_before_anything_is_imported(
    here: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("raises", "zorg"):  # which another test of this process may have imported
        monkeypatch.delitem(sys.modules, name, raising=False)
    here.add("raises", {"exo_rkllm.plugins": {"b": "raises:register"}}, version="2.1", raises=packages.RAISES)
    here.add("zorg", {"exo_rkllm.general_plugins": {"a": "zorg:register"}}, zorg=packages.REGISTERS)
    assert [(one.group, one.name, one.value, one.package, one.version) for one in offers()] == [
        ("exo_rkllm.plugins", "b", "raises:register", "raises", "2.1"),
        ("exo_rkllm.general_plugins", "a", "zorg:register", "zorg", "1.0"),
    ]
    assert not {"raises", "zorg"} & set(sys.modules)


@pytest.mark.seed("4.5", "general plugin group")
def test_both_names_of_the_general_group_are_run_for_their_effect(here: Shelf) -> None:
    here.add("zorg", {"exo_rkllm.plugins": {"a": "zorg:register"}}, zorg=packages.REGISTERS)
    here.add("twice", {"exo_rkllm.general_plugins": {"c": "twice:register"}}, twice=packages.TWICE)
    assert states(plugins.load(("*",))) == {"a": "used", "c": "used"}
    assert plugins.registered_model_types() == ("twin", "zorg")


@pytest.mark.seed("4.5", "filter")
@pytest.mark.parametrize(
    ("variable", "used"),
    [(None, {"a", "b"}), ("b", {"b"}), (" b , other ", {"b"}), ("a,b", {"a", "b"}), ("*", {"a", "b"}), ("", set())],
    ids=["unset is all", "one", "blanks mean nothing", "two", "a star is all", "empty is none"],
)
def test_the_variable_chooses_by_name(here: Shelf, variable: str | None, used: set[str], tmp_path: Path) -> None:
    here.add("zorg", {"exo_rkllm.plugins": {"a": "zorg:register"}}, zorg=packages.REGISTERS)
    here.add(
        "echo", {"exo_rkllm.backends": {"b": "echo_engine:SPEC"}}, echo_engine=packages.ECHO.replace('"echo"', '"b"')
    )
    environment = {"HOME": str(tmp_path)} | ({} if variable is None else {"EXO_RKLLM_PLUGINS": variable})
    found = plugins.load(environment=environment)
    assert {name for name, state in states(found).items() if state == "used"} == used
    assert {name for name, state in states(found).items() if state == "refused"} == {"a", "b"} - used
    assert set(found.engines) == used & {"b"}


@pytest.mark.seed("4.5", "filter")
def test_the_configuration_says_the_same_and_the_variable_goes_before_it(here: Shelf, tmp_path: Path) -> None:
    here.add("zorg", {"exo_rkllm.plugins": {"a": "zorg:register"}}, zorg=packages.REGISTERS)
    config = tmp_path / "config.toml"
    config.write_text("[plugins]\nallow = []\n")
    environment = {"HOME": str(tmp_path), "EXO_RKLLM_CONFIG": str(config)}
    assert states(plugins.load(environment=environment)) == {"a": "refused"}
    assert states(plugins.load(environment={**environment, "EXO_RKLLM_PLUGINS": "a"})) == {"a": "used"}
    config.write_text("[plugins]\nalow = []\n")
    assert states(plugins.load(environment={**environment, "EXO_RKLLM_PLUGINS": "b"})) == {"a": "refused"}
    assert states(plugins.load(environment=environment)) == {"a": "used"}, "a configuration with a mistake says nothing"


@pytest.mark.seed("4.5", "a failing plugin is logged, the rest load")
def test_a_plugin_that_fails_conflicts_or_hangs_stops_no_other(here: Shelf) -> None:
    every_sort(here)
    heard: list[None] = []
    began = time.monotonic()
    found = plugins.load(("*",), patience=0.5, on_change=lambda: heard.append(None))
    assert states(found) == {**STATES, "slow": "loading"}
    assert time.monotonic() - began < 1.9, "nobody waits for the slow one"
    assert found.loading == ("slow",)
    assert set(found.engines) == {"echo"}
    before = len(heard)
    assert states(settled(found)) == STATES
    ends = time.monotonic() + 20
    while len(heard) == before and time.monotonic() < ends:  # the state is there a moment before it is told
        time.sleep(0.02)
    assert len(heard) == before + 1
    assert set(found.engines) == {"echo", "slow"}
    assert set(found.specs) == {"zorg", "twin"}


def test_plugins_that_hang_take_no_time_from_the_others(here: Shelf) -> None:
    """The first one used up the time of all, and the one behind it looked as if it hung, too."""
    for name in ("a", "b", "c"):
        here.add(
            f"hangs{name}",
            {"exo_rkllm.plugins": {name: f"hangs{name}"}},
            **{f"hangs{name}": "import time; time.sleep(8)"},
        )
    here.add("slow", {"exo_rkllm.plugins": {"d": "slow"}}, slow="import time; time.sleep(1)")
    began = time.monotonic()
    loaded = plugins.load(("*",), patience=2.5)
    assert states(loaded) == {"a": "loading", "b": "loading", "c": "loading", "d": "used"}
    assert time.monotonic() - began < 4, "they are waited for beside each other"
    began = time.monotonic()
    plugins.load(("*",), patience=2.5)
    assert time.monotonic() - began < 1, "one that has had its time gets no more"


@pytest.mark.seed("4.5", "a failing plugin is logged, the rest load")
@pytest.mark.parametrize(
    ("group", "value", "module", "state", "says"),
    [
        ("exo_rkllm.plugins", "m:register", "raise SystemExit('bye')", "failed", "SystemExit: bye"),
        ("exo_rkllm.plugins", "m:register", "import no_such_zorg", "failed", "No module named 'no_such_zorg'"),
        ("exo_rkllm.plugins", "m:register", "def register(): 1 / 0", "failed", "ZeroDivisionError"),
        ("exo_rkllm.plugins", "m:nothing", "", "failed", "no attribute 'nothing'"),
        ("exo_rkllm.plugins", "gone:register", "", "failed", "No module named 'gone'"),
        ("exo_rkllm.plugins", "m:register", "register = 3", "failed", "m:register is int, not a function"),
        ("exo_rkllm.plugins", "m", "found = True", "used", ""),
        ("exo_rkllm.plugins", "m:House.register", "class House:\n  register = list", "used", ""),
        ("exo_rkllm.backends", "m:SPEC", "SPEC = 3", "failed", "m:SPEC is no exo_rkllm.backends.registry.EngineSpec"),
        ("exo_rkllm.backends", "m", "", "failed", "is no exo_rkllm.backends.registry.EngineSpec"),
        ("exo_rkllm.backends", "m:SPEC", packages.ECHO, "failed", "'x' has an EngineSpec named 'echo'"),
    ],
)
def test_what_is_wrong_with_one_is_a_sentence(
    here: Shelf, group: str, value: str, module: str, state: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    here.add("x", {group: {"x": value}}, m=module)
    (row,) = plugins.load(("*",)).rows
    assert row.state == state
    assert says in row.error
    assert "\n" not in row.error
    assert [record.levelname for record in caplog.records] == (["WARNING"] if says else [])


def test_an_engine_may_not_take_the_name_of_one_of_ours_or_of_another_plugin(here: Shelf) -> None:
    here.add("a", {"exo_rkllm.backends": {"rkllm": "a:SPEC"}}, a=packages.ECHO.replace('"echo"', '"rkllm"'))
    here.add("b", {"exo_rkllm.backends": {"echo": "b:SPEC"}}, b=packages.ECHO)
    here.add("c", {"exo_rkllm.backends": {"echo": "c:SPEC"}}, c=packages.ECHO)
    found = plugins.load(("*",))
    assert [(row.value, row.state) for row in found.rows] == [
        ("b:SPEC", "used"),
        ("c:SPEC", "conflict"),
        ("a:SPEC", "conflict"),
    ]
    assert "of ours" in found.rows[2].error
    assert "Another package" in found.rows[1].error
    assert EngineRegistry(found.engines).names().count("echo") == 1


def test_a_package_with_unreadable_entry_points_hides_no_other(here: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    here.add("zorg", {"exo_rkllm.plugins": {"a": "zorg:register"}}, zorg=packages.REGISTERS)
    here.add("worse", {})
    (here.folder / "worse-1.0.dist-info/entry_points.txt").write_bytes(b"[x\n\xff\nno equals sign\n")
    assert states(plugins.load(("*",))) == {"a": "used"}
    assert "The entry points of worse cannot be read" in caplog.text


COUNTS = """\
import builtins
from exo_rkllm.plugins import register_model
builtins.counted = getattr(builtins, "counted", 0) + 1
def register():
    builtins.counted += 100
    register_model(model_type="counted")
"""


@pytest.mark.seed("4.5", "re-entrant")
def test_loading_twice_is_as_good_as_once(here: Shelf) -> None:
    """Two names of one value, two calls of load, and the function itself once more: nothing is doubled."""
    import builtins

    here.add(
        "counts",
        {"exo_rkllm.plugins": {"a": "counts:register"}, "exo_rkllm.general_plugins": {"a": "counts:register"}},
        counts=COUNTS,
    )
    here.add("echo", {"exo_rkllm.backends": {"echo": "echo_engine:SPEC"}}, echo_engine=packages.ECHO)
    first = plugins.load(("*",))
    again = plugins.load(("*",))
    assert builtins.__dict__.pop("counted") == 101
    assert first.rows == again.rows
    assert first.engines["echo"] is again.engines["echo"]
    assert from_plugins(first) == from_plugins(again)
    builtins.__dict__["counted"] = 0
    sys.modules["counts"].register()
    builtins.__dict__.pop("counted")
    assert plugins.registered_model_types() == ("counted",)


def test_what_is_allowed_later_is_loaded_then(here: Shelf) -> None:
    here.add("zorg", {"exo_rkllm.plugins": {"a": "zorg:register"}}, zorg=packages.REGISTERS)
    assert states(plugins.load(())) == {"a": "refused"}
    assert plugins.registered_model_types() == ()
    assert states(plugins.load(("a",))) == {"a": "used"}


@pytest.mark.seed("4.5", "register only if not present")
def test_a_plugin_may_register_only_what_is_not_there(here: Shelf) -> None:
    polite = """\
from exo_rkllm.plugins import register_model, registered_model_types
def register():
    if "zorg" not in registered_model_types():
        register_model(model_type="zorg", template="another")
"""
    here.add("zorg", {"exo_rkllm.plugins": {"a": "zorg:register"}}, zorg=packages.REGISTERS)
    here.add("polite", {"exo_rkllm.plugins": {"b": "polite:register"}}, polite=polite)
    found = plugins.load(("*",))
    assert states(found) == {"a": "used", "b": "used"}
    assert found.specs["zorg"].stop == ("<zorg>",)


def test_modules_and_files_of_the_configuration_are_plugins_too(here: Shelf, tmp_path: Path) -> None:
    text = "from exo_rkllm.plugins import register_model\nregister_model(model_type='{}')\n"
    file = tmp_path / "by-file.py"
    file.write_text(text.format("f"))
    (here.folder / "by_name.py").write_text(text.format("n"))
    found = plugins.load((), more=("by_name", str(file), str(tmp_path / "gone.py")))
    assert states(found) == {"by_name": "used", "by-file": "used", "gone": "failed"}
    assert "There is no plugin" in found.rows[2].error
    assert plugins.registered_model_types() == ("f", "n")


# ── every process ────────────────────────────────────────────────────────────────────────────────


SPAWNS = """\
import multiprocessing
from exo_rkllm import plugins

def work(queue):
    plugins.load(("*",))
    queue.put(plugins.registered_model_types())

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=work, args=(queue,))
    process.start()
    print(queue.get(timeout=60), plugins.registered_model_types())
    process.join(60)
"""


@pytest.mark.seed("4.5", "loaded in every process before work")
def test_a_spawned_process_loads_them_again(shelf: Shelf, tmp_path: Path) -> None:
    """From a program of its own: multiprocessing leaves a process behind that goes with its program only."""
    shelf.add("zorg", {"exo_rkllm.plugins": {"a": "zorg:register"}}, zorg=packages.REGISTERS)
    (tmp_path / "spawns.py").write_text(SPAWNS)
    environment = {"HOME": str(tmp_path), "PYTHONPATH": f"{REPOSITORY}:{shelf.folder}"}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "spawns.py")], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "('zorg',) ()\n", done.stderr


@pytest.mark.seed("4.5", "loaded in every process before work")
def test_a_child_process_of_another_program_loads_them_by_its_environment(shelf: Shelf, tmp_path: Path) -> None:
    every_sort(shelf)
    program = "import json; from exo_rkllm import plugins; "
    program += "print(json.dumps({row.name: row.state for row in plugins.load(patience=10).rows}))"
    environment: Mapping[str, str] = {"HOME": str(tmp_path), "PYTHONPATH": f"{REPOSITORY}:{shelf.folder}"}
    for variable, expected in ((None, STATES), ("echo", dict.fromkeys(STATES, "refused") | {"echo": "used"})):
        chosen = {**environment} if variable is None else {**environment, "EXO_RKLLM_PLUGINS": variable}
        done = subprocess.run(
            [sys.executable, "-c", program], env=chosen, capture_output=True, text=True, check=True, timeout=60
        )
        assert json.loads(done.stdout.splitlines()[-1]) == expected, "after what a plugin prints"


@pytest.mark.seed("4.5", "compatibility guarantee")
def test_what_the_documents_name_is_there() -> None:
    """The interface that plugins may rely on."""
    documented = (REPOSITORY / "docs/writing-plugins.md").read_text()
    for name in plugins.__all__:
        assert f"`{name}" in documented, f"docs/writing-plugins.md does not say what {name} is"
        assert getattr(plugins, name) is not None


def test_the_code_of_the_manual_runs(here: Shelf) -> None:
    """Its blocks are the modules of two packages, and both are used."""
    text = (REPOSITORY / "docs/writing-plugins.md").read_text()
    family, engine = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    here.add("family", {"exo_rkllm.plugins": {"zorg": "manual_family:register"}}, manual_family=family)
    here.add("engine", {"exo_rkllm.backends": {"echo": "manual_engine:SPEC"}}, manual_engine=engine)
    found = plugins.load(("*",))
    assert states(found) == {"zorg": "used", "echo": "used"}, found.rows
    config = plugins.adapt_config({"model_type": "zorg", "n_blocks": 3, "n_heads": 2})
    assert (config["num_hidden_layers"], config["hidden_size"], config["model_type"]) == (3, 128, "qwen3")
    assert from_plugins(found).families["zorg"].stop == ("<end>",)


def test_the_manual_names_every_field_of_a_spec() -> None:
    documented = (REPOSITORY / "docs/writing-plugins.md").read_text()
    for field in fields(ModelSpec):
        assert f"`{field.name}`" in documented
