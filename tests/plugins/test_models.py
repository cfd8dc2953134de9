"""Out-of-tree models as InfiniLM has them: what is registered, once and without contradiction, and what it changes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm import plugins
from exo_rkllm.errors import PluginConflict, PluginError
from exo_rkllm.plugins import ModelSpec
from exo_rkllm.plugins.registry import Registry
from tests.test_house import imported_by


@pytest.mark.seed("4.4", "ModelSpec")
def test_a_spec_needs_a_type_and_knows_each_once_in_lower_case() -> None:
    with pytest.raises(ValueError, match="needs a model_type"):
        ModelSpec().normalized_model_types()
    with pytest.raises(ValueError, match="needs a model_type"):
        ModelSpec(model_type=" ", model_types=["", "  "]).normalized_model_types()
    spec = ModelSpec(model_type="Zorg", model_types=["ZORG", "zorg2 ", "Blip"])
    assert spec.normalized_model_types() == ("zorg", "zorg2", "blip")
    with pytest.raises(ValueError, match="not a list"):
        ModelSpec(model_types="zorg").normalized_model_types()


@pytest.mark.seed("4.4", "register_model")
def test_register_takes_a_spec_or_keywords_and_not_both(registry: Registry) -> None:
    spec = plugins.register_model(ModelSpec(model_type="a"))
    assert plugins.get_model_spec(" A ") is spec
    assert plugins.register_model(model_type="b", backend_model_type="qwen3").backend_model_type == "qwen3"
    assert plugins.registered_model_types() == ("a", "b")
    with pytest.raises(TypeError, match="not both"):
        plugins.register_model(spec, model_type="c")
    with pytest.raises(TypeError, match="colour"):
        plugins.register_model(model_type="c", colour="red")


@pytest.mark.seed("4.4", "register_model")
def test_the_same_spec_again_is_nothing_and_another_for_its_type_an_error(registry: Registry) -> None:
    spec = ModelSpec(model_type="zorg", stop=("<z>",))
    assert plugins.register_model(spec) is plugins.register_model(spec)
    plugins.register_model(model_type="zorg", stop=("<z>",))  # as a function that runs twice makes it
    with pytest.raises(ValueError, match="registered for the model type 'zorg' already, by this program"):
        plugins.register_model(model_types=["blip", "Zorg"])
    assert plugins.get_model_spec("zorg") is spec
    assert plugins.get_model_spec("blip") is None, "of a spec that is refused nothing stays"


@pytest.mark.seed("4.4", "load_plugin")
@pytest.mark.parametrize("as_file", [False, True], ids=["by its name", "by its file"])
def test_load_plugin_runs_a_module_once_and_returns_it(
    as_file: bool, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "house_of_zorg"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "inner.py").write_text("import builtins\nbuiltins.zorg_ran = getattr(builtins, 'zorg_ran', 0) + 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    what: str | Path = folder / "inner.py" if as_file else "house_of_zorg.inner"
    module = plugins.load_plugin(what)
    assert plugins.load_plugin(what) is module
    assert sys.modules[module.__name__] is module
    import builtins

    assert builtins.__dict__.pop("zorg_ran") == 1


@pytest.mark.seed("4.4", "load_plugin")
def test_a_plugin_that_is_not_there_raises(registry: Registry, tmp_path: Path) -> None:
    for missing in ("no_such_zorg", "no_such.zorg", tmp_path / "zorg.py", "./zorg.py"):
        with pytest.raises(ImportError, match="There is no"):
            plugins.load_plugin(missing)
    broken = tmp_path / "broken.py"
    broken.write_text("import no_such_thing_as_this\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_thing_as_this"):
        plugins.load_plugin(broken)
    broken.write_text("found = True\n")
    assert plugins.load_plugin(broken).found, "what failed may be tried again"


@pytest.mark.seed("4.4", "load_plugins")
def test_load_plugins_loads_what_is_listed_besides_the_installed(registry: Registry, tmp_path: Path) -> None:
    for name in ("one", "two"):
        text = f"from exo_rkllm.plugins import register_model\nregister_model(model_type={name!r})\n"
        (tmp_path / f"{name}.py").write_text(text)
    assert plugins.load_plugins(f" {tmp_path / 'one.py'}, {tmp_path / 'two.py'} ,") == (
        str(tmp_path / "one.py"),
        str(tmp_path / "two.py"),
    )
    assert plugins.load_plugins([tmp_path / "one.py"]) == (str(tmp_path / "one.py"),)
    assert plugins.registered_model_types() == ("one", "two")
    with pytest.raises(ImportError):
        plugins.load_plugins(["no_such_zorg"])


def halved(config: dict[str, Any]) -> dict[str, Any]:
    config["layers"] //= 2
    return config


@pytest.mark.seed("4.4", "config adaptation")
@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        (None, {"layers": 8, "wide": 64}),
        (halved, {"layers": 4, "wide": 64}),
        (
            {"num_hidden_layers": "$layers", "hidden_size": lambda config: 2 * config["wide"], "act": "silu"},
            {"layers": 8, "wide": 64, "num_hidden_layers": 8, "hidden_size": 128, "act": "silu"},
        ),
    ],
    ids=["none", "a function", "a mapping"],
)
def test_adapt_config(registry: Registry, adapter: Any, expected: Mapping[str, Any]) -> None:
    plugins.register_model(
        model_type="zorg", backend_model_type="Qwen3", config_adapter=adapter, backend_plugin=Path("/z.so")
    )
    given = {"model_type": "Zorg", "layers": 8, "wide": 64}
    before = dict(given)
    assert plugins.adapt_config(given) == {
        **expected,
        "model_type": "qwen3",
        "_exo_rkllm_original_model_type": "Zorg",
        "_exo_rkllm_backend_model_type": "qwen3",
        "_exo_rkllm_backend_plugins": ["/z.so"],
    }
    assert given == before, "what was given stays as it was"


@pytest.mark.seed("4.4", "config adaptation")
def test_an_adapter_that_returns_nothing_or_takes_what_is_not_there_is_an_error(registry: Registry) -> None:
    plugins.register_model(model_type="a", config_adapter=lambda _config: None)
    plugins.register_model(model_type="b", config_adapter={"x": "$y"})
    with pytest.raises(ValueError, match="config_adapter for 'a' returned NoneType"):
        plugins.adapt_config({"model_type": "a"})
    with pytest.raises(ValueError, match="takes 'x' from 'y', which is not there"):
        plugins.adapt_config({"model_type": "b"})


class Chosen:
    def __init__(self, folder: Path) -> None:
        self.folder = folder


class Named(Chosen):
    pass


class OfTheBackend(Chosen):
    pass


class OfTheType(Chosen):
    pass


@pytest.mark.seed("4.4", "processor selection")
@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"processor_cls": Chosen, "processor": "named"}, Chosen),
        ({"processor": "named", "backend_model_type": "qwen9"}, Named),
        ({"processor": f"{__name__}:Named"}, Named),
        ({"backend_model_type": "qwen9"}, OfTheBackend),
        ({}, OfTheType),
    ],
    ids=["the class", "a name", "a name with its module", "the backend's type", "the own type"],
)
def test_which_processor_is_selected(registry: Registry, spec: Mapping[str, Any], expected: type) -> None:
    for name, make in (("named", Named), ("qwen9", OfTheBackend), ("zorg", OfTheType)):
        plugins.register_processor(name, make)
        plugins.register_processor(name, make)
    plugins.register_model(model_type="zorg", **spec)
    assert plugins.select_processor("zorg") is expected


@pytest.mark.seed("4.4", "processor selection")
def test_processors_that_contradict_or_are_not_there_are_errors(registry: Registry) -> None:
    plugins.register_processor("named", Named)
    with pytest.raises(PluginConflict, match="'named' already"):
        plugins.register_processor("Named", Chosen)
    plugins.register_model(model_type="a", processor="nmaed")
    plugins.register_model(model_type="b", processor="no_such_zorg:Class")
    with pytest.raises(PluginError, match="no processor 'nmaed'"):
        plugins.select_processor("a")
    with pytest.raises(PluginError, match="cannot be imported"):
        plugins.select_processor("b")


def prefixed(tensors: Mapping[str, int]) -> Mapping[str, int]:
    return {f"model.{name}": value for name, value in tensors.items()}


def scaled(tensors: Mapping[str, int], *, config: Mapping[str, int]) -> Mapping[str, int]:
    return {name: value * config["scale"] for name, value in tensors.items()}


def positional(tensors: Mapping[str, int], settings: Mapping[str, int]) -> Mapping[str, int]:
    return {f"{name}.{settings['scale']}": value for name, value in tensors.items()}


def anything(tensors: Mapping[str, int], **more: Any) -> Mapping[str, int]:
    return {**tensors, "config": len(more["config"])}


@pytest.mark.seed("4.4", "weight remapping")
def test_weights_are_remapped_by_the_remapper_and_then_by_the_rules_in_order(registry: Registry) -> None:
    plugins.register_model(model_type="zorg", weight_remapper=prefixed, weight_rules=(scaled, positional, anything))
    assert plugins.apply_weight_remapping("zorg", {"w": 2}, {"scale": 3}) == {"model.w.3": 6, "config": 1}


@pytest.mark.seed("4.4", "defaults unchanged when no plugin is loaded")
def test_without_a_plugin_nothing_changes(registry: Registry) -> None:
    config, tensors = {"model_type": "qwen3", "layers": 3}, {"w": 1}
    assert plugins.adapt_config(config) == config
    assert plugins.adapt_config(config) is not config
    assert plugins.apply_weight_remapping("qwen3", tensors, config) is tensors
    assert plugins.select_processor("qwen3") is None
    assert plugins.adapt_config({}) == {}


@pytest.mark.seed("4.4", "lazy import of heavy objects")
def test_importing_the_plugin_api_brings_nothing_heavy() -> None:
    here = imported_by("import exo_rkllm.plugins")
    heavy = {"asyncio", "numpy", "aiohttp", "ctypes", "jinja2", "torch", "exo", "importlib.metadata"}
    assert not here & heavy
    assert not {name for name in here if name.startswith("exo_rkllm.") and "backends" in name}


# ── native libraries ─────────────────────────────────────────────────────────────────────────────

SOURCE = """\
static int times;
int zorg_begin(void) { times += 1; return 0; }
int zorg_times(void) { return times; }
int zorg_refuse(void) { return 7; }
"""


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library as the author of a plugin would compile it."""
    folder = tmp_path_factory.mktemp("native")
    (folder / "zorg.c").write_text(SOURCE)
    command = ["gcc", "-shared", "-fPIC", "-o", str(folder / "libzorg.so"), str(folder / "zorg.c")]
    subprocess.run(command, check=True)
    return folder / "libzorg.so"


@pytest.mark.seed("4.4", "explicit native backend loading")
def test_a_native_library_is_opened_once_a_path_and_its_symbols_are_there_for_others(
    native: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(native.parent)
    plugins.load_backend_plugin(native, "zorg_begin")
    plugins.load_backend_plugin("./libzorg.so", "zorg_begin")
    assert plugins.loaded_backend_plugins() == (str(native),)
    assert registry.native[str(native)].zorg_times() == 1
    import ctypes

    assert ctypes.CDLL(None).zorg_times() == 1, "opened for what comes after, not for Python alone"


@pytest.mark.seed("4.4", "explicit native backend loading")
@pytest.mark.parametrize(
    ("path", "init", "says"),
    [
        ("{folder}/none.so", "", r"none\.so cannot be opened: .*No such file"),
        ("{folder}/zorg.c", "", r"zorg\.c cannot be opened: .*(invalid ELF header|file too short)"),
        ("{folder}/libzorg.so", "zorg_end", r"libzorg\.so has no function zorg_end"),
        ("{folder}/libzorg.so", "zorg_refuse", r"zorg_refuse of the native library .*libzorg\.so returned 7"),
    ],
)
def test_a_native_library_that_cannot_be_used_is_named_with_the_reason(
    path: str, init: str, says: str, native: Path, registry: Registry
) -> None:
    with pytest.raises(PluginError, match=says):
        plugins.load_backend_plugin(path.format(folder=native.parent), init)
    assert plugins.loaded_backend_plugins() == ()


@pytest.mark.seed("4.4", "explicit native backend loading")
def test_the_environment_is_read_for_native_libraries_only_when_asked(native: Path, registry: Registry) -> None:
    environment = {"EXO_RKLLM_BACKEND_PLUGINS": f" {native} , "}
    plugins.load(environment=environment)
    plugins.adapt_config({"model_type": "zorg"})
    assert plugins.loaded_backend_plugins() == ()
    assert plugins.load_backend_plugins_from_env(environment) == (str(native),)
    assert plugins.load_backend_plugins_from_env({}) == (str(native),)
    assert plugins.load_backend_plugins([native, str(native)]) == (str(native),)
