"""Which engine a model gets, and why; and who may read a model's tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.backends.base import Model, Sampling
from exo_rkllm.backends.dummy import DummyEngine, DummyModel
from exo_rkllm.backends.host import EngineHost
from exo_rkllm.backends.registry import EngineOption, EngineRegistry, EngineSpec
from exo_rkllm.catalogue import describe
from exo_rkllm.catalogue.card import Weights, parse
from exo_rkllm.catalogue.contributions import PluginContributions, family
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.chat.chat_format import ChatSettings, chat_format_of
from exo_rkllm.chat.families import FAMILIES
from exo_rkllm.chat.formats import REASONING, TOOLS, Reasoning
from exo_rkllm.errors import NotSupported, PluginError
from exo_rkllm.plugins import ModelSpec
from tests.daemon.running import House
from tests.plugins import packages
from tests.plugins.packages import Shelf

HOST = EngineHost(lambda _lines: None)
ECHO = EngineSpec(
    "echo",
    "says it again",
    make=lambda model, _host: DummyEngine(model),
    options={"pace": EngineOption(int, 1, "how fast")},
    formats=(".echo",),
)


@pytest.mark.seed("4.3", "engine type in model metadata/config; routing")
@pytest.mark.parametrize(
    ("instead", "card", "file", "engine", "why"),
    [
        ("dummy", 'engine = "echo"\n', "m.echo", "dummy", "for every model"),
        ("", 'engine = "echo"\n', "m.echo", "echo", "because its card names it"),
        ("", 'engine = "dummy"\n', "", "dummy", "because its card names it"),
        ("", "", "m.echo", "echo", "because its file is a .echo"),
        ("", "", "m.ECHO", "echo", "because its file is a .ECHO"),
        ("", "", "m.rkllm", "rkllm", "because its file is a .rkllm"),
    ],
)
def test_the_operator_goes_before_the_card_and_the_card_before_the_file(
    house: House, shelf: Shelf, instead: str, card: str, file: str, engine: str, why: str
) -> None:
    shelf.add("echo", {"exo_rkllm.backends": {"echo": "echo_engine:SPEC"}}, echo_engine=packages.ECHO)
    house.add("m", card + (f'[weights]\nfile = "{file}"\n' if file else ""))
    (house.models / "m" / (file or "nothing")).touch()
    done = house.command("engines", "--for", "m", "--json", EXO_RKLLM_MODELS_ENGINE=instead)
    told = json.loads(done.stdout)
    assert (told["model"], told["engine"], told["error"]) == ("m", engine, None)
    assert why in told["why"]


@pytest.mark.seed("4.3", "phase 2 (engine options)")
@pytest.mark.parametrize(
    ("card", "says"),
    [
        ('engine = "quantum"\n', "m wants the engine 'quantum', which is not installed"),
        ('engine = "dummy"\n[options]\ncolour = "red"\n', "there is no key options.colour"),
        ('engine = "rkllm"\n[weights]\nfile = "m.gguf"\n', "m is a .gguf file; engine rkllm loads .rkllm"),
    ],
)
def test_why_a_model_cannot_have_it_is_said_with_it(house: House, card: str, says: str) -> None:
    house.add("m", card)
    (house.models / "m/m.gguf").touch()
    done = house.command("engines", "--for", "m")
    assert done.returncode in (1, 2)
    assert done.stdout.startswith("m: "), "the choice is told all the same"
    assert says in done.stderr
    told = json.loads(house.command("engines", "--for", "m", "--json").stdout)
    assert says in told["error"]["sentence"]


@pytest.mark.seed("4.3", "engine type in model metadata/config; routing")
def test_a_daemon_with_one_engine_for_all_uses_it(house: House) -> None:
    house.add("m", 'engine = "quantum"\n')
    daemon = house.start(EXO_RKLLM_MODELS_ENGINE="dummy")
    assert daemon.answer("m", "said again") == "said again"


@pytest.mark.seed("4.3", "engine type in model metadata/config; routing")
def test_run_takes_an_engine_for_once(house: House, shelf: Shelf) -> None:
    shelf.add("echo", {"exo_rkllm.backends": {"echo": "echo_engine:SPEC"}}, echo_engine=packages.ECHO)
    house.add("m", 'engine = "quantum"\n')
    done = house.command("run", "m", "said again", "--engine", "echo")
    assert done.stdout == "said again\n", done.stderr
    assert "Still loading" not in house.command("run", "m", "said again").stderr


class File(Model):
    def __init__(self, path: Path, engine: str) -> None:
        self._path, self._engine = path, engine

    id, context = "m", 0

    @property
    def engine(self) -> str:
        return self._engine

    @property
    def path(self) -> Path:
        return self._path


@pytest.mark.seed("4.3", "format conversion if needed")
@pytest.mark.parametrize(
    ("file", "engine", "hint"),
    [
        ("m.safetensors", "rkllm", "rkllm-toolkit"),
        ("m.gguf", "rkllm", "engine = 'llamacpp'"),
        ("m.rkllm", "echo", "engine = 'rkllm'"),
        ("m.xyz", "echo", "exo-rkllm engines"),
    ],
)
def test_a_file_of_another_format_is_refused_with_what_would_help(file: str, engine: str, hint: str) -> None:
    with pytest.raises(NotSupported, match="m is a ") as caught:
        EngineRegistry({"echo": ECHO}).make(File(Path(file), engine), HOST)
    assert hint in caught.value.hint


def test_an_engine_that_still_loads_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotSupported) as caught:
        EngineRegistry({}, "late", coming=["late-plugin"]).make(DummyModel(), HOST)
    assert "Still loading: late-plugin." in caught.value.hint


# ── families ─────────────────────────────────────────────────────────────────────────────────────


def brought_of(**spec: Any) -> PluginContributions:
    one = ModelSpec(model_type="zorg", **spec)
    row = family("zorg", one)
    return PluginContributions({"zorg": one}, {}, {**({} if row is None else {"zorg": row}), **FAMILIES})


def test_a_family_is_like_the_one_it_is_a_kind_of_where_it_says_nothing_itself() -> None:
    row = family("zorg", ModelSpec(model_type="zorg", backend_model_type="Qwen3", stop=["<zorg>"]))
    qwen3 = FAMILIES["qwen3"]
    assert row is not None
    assert (row.template, row.tools, row.reasoning) == (qwen3.template, qwen3.tools, qwen3.reasoning)
    assert row.stop == ("<zorg>",)
    assert family("zorg", ModelSpec(model_type="zorg", metadata={"a": 1})) is None
    gemma = family("zorg", ModelSpec(model_type="zorg", backend_model_type="gemma3_text"))
    assert gemma is not None
    assert gemma.reuse is False


def test_a_type_of_ours_can_be_said_anew() -> None:
    one = ModelSpec(model_type="gemma", template="mine")
    row = family("gemma", one)
    assert row is not None
    brought = PluginContributions(
        {"gemma": one}, {}, {"gemma": row, **{n: r for n, r in FAMILIES.items() if n != "gemma"}}
    )
    assert brought.families[brought.family("gemma", "qwen3-1b")].template == "mine"
    assert brought.families[brought.family("llama", "deepseek-r1-distill")].reasoning == "think", "others go by name"


def test_tools_and_reasoning_may_be_rows_of_ours_or_its_own(tmp_path: Path) -> None:
    card = parse('id = "zorg-1b"\n[weights]\nfile = "w.rkllm"\n')
    named = brought_of(tools="hermes", reasoning="think").chat_format(tmp_path, card)
    assert (named.tools, named.reasoning) == (TOOLS["hermes"], REASONING["think"])
    own = brought_of(tools=TOOLS["phi"], reasoning=("<z>", "</z>")).chat_format(tmp_path, card)
    assert (own.tools, own.reasoning) == (TOOLS["phi"], Reasoning("<z>", "</z>"))
    bare = chat_format_of(File(tmp_path / "zorg.rkllm", "rkllm"), brought_of(template="zorg").families)
    assert bare.template.text == "zorg"


class Letters:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def encode(self, text: str) -> Sequence[int]:
        return [ord(letter) for letter in text]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))


class Broken:
    def __init__(self, folder: Path) -> None:
        raise FileNotFoundError(folder / "letters.txt")


@pytest.mark.seed("4.4", "processor selection")
def test_its_processor_is_the_models_tokenizer(tmp_path: Path) -> None:
    card = parse('id = "zorg-1b"\n[weights]\nfile = "w.rkllm"\n')
    tokenizer = Entry(tmp_path, card, brought_of(processor_cls=Letters, names="zorg")).tokenizer()
    assert tokenizer is not None
    assert tokenizer.decode(tokenizer.encode("abc")) == "abc"
    with pytest.raises(PluginError, match=r"tokenizer for .* does not start: FileNotFoundError"):
        Entry(tmp_path, card, brought_of(processor_cls=Broken, names="zorg")).tokenizer()
    assert Entry(tmp_path, card).tokenizer() is None


@pytest.mark.seed("4.4", "weight remapping")
@pytest.mark.parametrize(
    ("rules", "builtin", "expected"),
    [
        ({}, True, {"config.json": "config.json", "tokenizer.json": "tokenizer.json"}),
        ({"zorg*": "tokenizer.json"}, True, {"config.json": "config.json", "tokenizer.json": "zorg-1.json"}),
        ({"zorg*": "tokenizer.json"}, False, {"tokenizer.json": "zorg-1.json"}),
        ({"zorg-2*": "tokenizer.json", "zorg*": "tokenizer.json"}, False, {"tokenizer.json": "zorg-2.json"}),
        ({"*": "run.py", "zorg?1.json": "config.json"}, False, {"config.json": "zorg-1.json"}),
    ],
    ids=["no rule", "a rule", "only rules", "the first rule", "companions only"],
)
def test_rules_for_the_names_of_files(rules: Mapping[str, str], builtin: bool, expected: Mapping[str, str]) -> None:
    spec = ModelSpec(model_type="zorg", file_names=rules, use_builtin_weight_remapper=builtin)
    files = ["config.json", "run.py", "tokenizer.json", "zorg-1.json", "zorg-2.json"]
    assert describe.usual_names(files, spec) == expected


def test_plugins_engine_is_written_into_the_card(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    make_model().rename(tmp_path / "w.bin")
    card = describe.describe(
        tmp_path,
        Weights("w.bin", 1),
        id="zorg-1b",
        chat=ChatSettings(family="zorg"),
        contributions=brought_of(engine="echo"),
    )
    assert card.engine == "echo"


@pytest.mark.seed("4.3", "engines/<backend>/")
def test_engines_lists_ours_and_those_of_plugins(house: House, shelf: Shelf) -> None:
    shelf.add("echo", {"exo_rkllm.backends": {"echo": "echo_engine:SPEC"}}, version="1.5", echo_engine=packages.ECHO)
    text = house.command("engines").stdout
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    assert ".echo" in lines["echo"]
    assert "echo 1.5" in lines["echo"]
    assert "built in" in lines["rkllm"]
    assert "[options] of dummy" in text
    rows = {row["name"]: row for row in json.loads(house.command("engines", "--json").stdout)["engines"]}
    assert rows["dummy"]["options"]["load_seconds"] == {
        "type": "float",
        "default": 0.0,
        "says": "how long loading takes",
    }
    assert rows["rkllm"]["on_npu"] is True


def test_a_bare_file_is_named_by_its_file(house: House) -> None:
    done = house.command("engines", "--for", "./some.rkllm")
    assert done.stdout == "some: rkllm, because its file is a .rkllm\n"


def test_published_sampling_that_a_plugins_engine_refuses_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "m.echo").write_text("x")
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.3, "top_p": 0.9}')
    echo = replace(ECHO, sampling=frozenset({"temperature"}))
    contributions = PluginContributions(suffixes={".echo": "echo"}, engines={"echo": echo})
    card = describe.describe(tmp_path, Weights("m.echo", 1), contributions=contributions)
    assert card.sampling == Sampling(temperature=0.3)
