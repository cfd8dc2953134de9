"""What a plugin registers changes what is served: how a model is spoken to, read, described and loaded."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemon.running import House
from tests.plugins.asking import asked, chat
from tests.plugins.packages import Shelf

MakeModel = Callable[..., Path]

FAMILY = """\
import os
from exo_rkllm.plugins import ModelSpec, register_model

def note(what):
    with open(os.environ["ZORG_NOTES"], "a") as notes:
        notes.write(what + "\\n")

class Words:
    chat_template = "zorg-of-the-class[{{ messages[-1].content }}]"
    def __init__(self, folder):
        note("tokenizer")
        self.folder = folder
    def encode(self, text):
        return [len(word) for word in text.split()]
    def decode(self, tokens):
        return " ".join("z" * token for token in tokens)

def adapted(config):
    note("adapted")
    return {**config, "num_hidden_layers": 3 * config["thirds"]}

def child():
    note(f"child {os.getpid()}")

SPEC = ModelSpec(
    model_types=("zorg", "zorg2"),
    template="zorg({{ messages[-1].content }})",
    stop=("<zorg>",),
    reasoning=("<z>", "</z>"),
    reuse=False,
    config_adapter=adapted,
    processor_cls=Words,
    file_names={"zorg_tok*.json": "tokenizer_config.json"},
    PLACEHOLDER
)

def register():
    note("registered")
    register_model(SPEC)
"""
POINTS = {"exo_rkllm.plugins": {"zorg": "zorg:register"}}


@pytest.fixture
def notes(house: House, tmp_path: Path) -> Callable[[], list[str]]:
    path = tmp_path / "notes"
    path.touch()
    house.environment["ZORG_NOTES"] = str(path)
    return lambda: path.read_text().splitlines()


@pytest.fixture
def zorg(shelf: Shelf, notes: Callable[[], list[str]]) -> Callable[..., None]:
    """The plugin on the shelf, with more fields."""
    return lambda more="": shelf.add("zorg", POINTS, zorg=FAMILY.replace("PLACEHOLDER", more))


def folder_of(path: Path, file: Path, config: dict[str, object], **others: str) -> Path:
    """A model's folder as somebody publishes it."""
    path.mkdir()
    os.link(file, path / "model-w8a8-rk3588.rkllm")
    (path / "config.json").write_text(json.dumps(config))
    for name, text in others.items():
        (path / f"{name}.json").write_text(text)
    return path


def imported(house: House, path: Path, name: str) -> None:
    done = house.command("import", str(path), "--name", name, "--offline")
    assert done.returncode == 0, done.stderr


def answered(house: House, model: str, prompt: str) -> str:
    daemon = house.start()
    try:
        return chat(daemon, model, prompt)
    finally:
        daemon.stop()


@pytest.mark.seed("4.4", "processor selection")
def test_its_template_and_stop_strings_are_used_for_a_model_whose_configuration_has_its_type(
    board_house: House, make_model: MakeModel, zorg: Callable[..., None], tmp_path: Path
) -> None:
    zorg()
    file = make_model(reply="{prompt} is all<zorg> that was said")
    imported(board_house, folder_of(tmp_path / "m", file, {"model_type": "Zorg2", "thirds": 2}), "m")
    assert answered(board_house, "m", "hello") == "zorg(hello) is all"


def test_a_card_may_name_its_family_and_a_name_may_tell_it(
    board_house: House, make_model: MakeModel, zorg: Callable[..., None]
) -> None:
    zorg()
    board_house.simulated("by-card", make_model, reply="{prompt}")
    (board_house.models / "by-card/model.toml").write_text(
        'id = "by-card"\n[weights]\nfile = "m.rkllm"\n[chat]\nfamily = "zorg"\n'
    )
    board_house.simulated("my-zorg-7b", make_model, reply="{prompt}")
    board_house.simulated("zorgling", make_model, reply="{prompt}")
    daemon = board_house.start()
    assert chat(daemon, "by-card", "hello") == "zorg(hello)"
    assert chat(daemon, "my-zorg-7b", "hello") == "zorg(hello)"
    assert "zorg(" not in chat(daemon, "zorgling", "hello"), "a type is a word of its own"


def test_the_models_own_template_goes_before_the_family_as_with_our_families(
    board_house: House, make_model: MakeModel, zorg: Callable[..., None], tmp_path: Path
) -> None:
    zorg()
    template = json.dumps({"chat_template": "own:{{ messages[-1].content }}"})
    file = make_model(reply="{prompt}<zorg>.")
    config = {"model_type": "zorg", "thirds": 1}
    imported(board_house, folder_of(tmp_path / "m", file, config, tokenizer_config=template), "m")
    assert answered(board_house, "m", "hello") == "own:hello", "and its stop strings are the family's all the same"


def test_a_spec_that_says_nothing_of_speaking_leaves_that_to_the_names(
    board_house: House, make_model: MakeModel, shelf: Shelf
) -> None:
    plain = "from exo_rkllm.plugins import register_model\ndef register():\n    register_model(model_type='zorg')\n"
    shelf.add("zorg", POINTS, zorg=plain)
    board_house.simulated("qwen3-zorg", make_model, reply="{prompt}")
    with (board_house.models / "qwen3-zorg/model.toml").open("a") as card:
        card.write('[chat]\nfamily = "zorg"\n')
    assert "<|im_start|>user" in answered(board_house, "qwen3-zorg", "hello")


@pytest.mark.parametrize(
    ("own", "first"), [(True, "zorg("), (False, "zorg-of-the-class[")], ids=["the spec's", "the class's"]
)
def test_the_template_of_its_processor_serves_where_the_spec_has_none(
    house: House,
    make_model: MakeModel,
    shelf: Shelf,
    notes: Callable[[], list[str]],
    tmp_path: Path,
    own: bool,
    first: str,
) -> None:
    text = FAMILY.replace("PLACEHOLDER", "")
    shelf.add("zorg", POINTS, zorg=text if own else text.replace("    template=", "    backend_init="))
    imported(house, folder_of(tmp_path / "m", make_model(), {"model_type": "zorg", "thirds": 1}), "m")
    assert house.command("show", "m", "--template").stdout.startswith(first)


@pytest.mark.seed("4.4", "config adaptation")
def test_config_is_adapted_and_files_are_known_by_their_names_when_a_model_is_imported(
    house: House, make_model: MakeModel, zorg: Callable[..., None], notes: Callable[[], list[str]], tmp_path: Path
) -> None:
    zorg()
    tokens = json.dumps({"eos_token": "<end-of-zorg>"})
    file = make_model()
    imported(house, folder_of(tmp_path / "m", file, {"model_type": "ZORG", "thirds": 5}, zorg_tokens=tokens), "m")
    card = house.command("show", "m", "--card").stdout
    assert "layers = 15" in card
    assert "reuse = false" in card
    assert json.loads((house.models / "m/tokenizer_config.json").read_text()) == {"eos_token": "<end-of-zorg>"}
    assert json.loads(house.command("show", "m", "--json").stdout)["stop"] == ["<end-of-zorg>", "<zorg>"]
    assert notes().count("adapted") == 1


def test_an_adapter_that_fails_is_a_sentence_and_leaves_no_model(
    house: House, make_model: MakeModel, zorg: Callable[..., None], tmp_path: Path
) -> None:
    zorg()
    path = folder_of(tmp_path / "m", make_model(), {"model_type": "zorg"})
    done = house.command("import", str(path), "--offline")
    assert done.returncode == 1
    assert "config_adapter failed on config.json: KeyError: 'thirds'" in done.stderr
    assert json.loads(house.command("models", "--json").stdout) == []


def test_an_adapter_that_contradicts_itself_says_so_in_its_own_words(
    house: House, make_model: MakeModel, shelf: Shelf, tmp_path: Path
) -> None:
    text = "from exo_rkllm.plugins import register_model\ndef register():\n"
    shelf.add("zorg", POINTS, zorg=f"{text}    register_model(model_type='zorg', config_adapter={{'a': '$b'}})\n")
    path = folder_of(tmp_path / "m", make_model(), {"model_type": "zorg"})
    done = house.command("import", str(path), "--offline")
    assert done.returncode == 1
    assert "takes 'a' from 'b', which is not there" in done.stderr


@pytest.mark.seed("4.4", "hooks not in the token path")
def test_the_hooks_are_not_in_the_path_of_tokens(
    board_house: House, make_model: MakeModel, zorg: Callable[..., None], notes: Callable[[], list[str]], tmp_path: Path
) -> None:
    zorg()
    file = make_model(reply="word " * 300)
    imported(board_house, folder_of(tmp_path / "m", file, {"model_type": "zorg", "thirds": 1}), "m")
    daemon = board_house.start()
    chat(daemon, "m", "first")
    before = notes()
    assert before.count("adapted") == 1, "when it was imported"
    for _ in range(3):
        assert len(chat(daemon, "m", "again").split()) == 300
    assert notes() == before


# ── the model's own process ──────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two libraries; one writes down in which process it began."""
    folder = tmp_path_factory.mktemp("native")
    (folder / "zorg.c").write_text(
        """\
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int zorg_begin(void) {
  FILE *notes = fopen(getenv("ZORG_NOTES"), "a");
  fprintf(notes, "native %d\\n", getpid());
  fclose(notes);
  return 0;
}
"""
    )
    for name in ("libzorg.so", "libhouse.so"):
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(folder / name), str(folder / "zorg.c")], check=True)
    return folder


@pytest.mark.seed("4.4", "explicit native backend loading")
def test_its_libraries_and_modules_are_in_the_models_process_and_nowhere_else(
    board_house: House, make_model: MakeModel, zorg: Callable[..., None], notes: Callable[[], list[str]], native: Path
) -> None:
    zorg(f"backend_plugin={str(native / 'libzorg.so')!r}, backend_init='zorg_begin', runner_modules=('zorg:child',)")
    board_house.simulated("zorg-1b", make_model, reply="fine")
    board_house.simulated("plain-1b", make_model, reply="fine")
    daemon = board_house.start(EXO_RKLLM_BACKEND_PLUGINS=str(native / "libhouse.so"))
    assert chat(daemon, "plain-1b", "how are you?") == "fine"
    assert not [line for line in notes() if line.startswith(("native", "child"))]
    assert chat(daemon, "zorg-1b", "how are you?") == "fine"
    began = [line.split() for line in notes() if line.startswith(("native", "child"))]
    assert [word for word, _ in began] == ["native", "child"]
    pids = {pid for _, pid in began}
    assert len(pids) == 1
    assert pids != {str(daemon.process.pid)}
    maps = Path(f"/proc/{pids.pop()}/maps").read_text()
    assert "libzorg.so" in maps
    assert "libhouse.so" in maps, "what the operator wants is in every model's process"
    assert "libzorg.so" not in Path(f"/proc/{daemon.process.pid}/maps").read_text()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("backend_plugins=['/no/such/libzorg.so']", "The native library /no/such/libzorg.so cannot be opened"),
        ("runner_modules=['zorg:nothing']", "A plugin's zorg:nothing failed in the model's process: AttributeError"),
        ("runner_modules=['no_such_zorg']", "A plugin's no_such_zorg failed in the model's process"),
    ],
)
def test_unloadable_runner_module_fails_the_load_and_not_the_daemon(
    board_house: House, make_model: MakeModel, zorg: Callable[..., None], more: str, says: str
) -> None:
    zorg(more)
    board_house.simulated("zorg-1b", make_model, reply="fine")
    board_house.simulated("plain-1b", make_model, reply="fine")
    daemon = board_house.start()
    status, error = asked(daemon, "zorg-1b", "how are you?")
    assert (status, says in error) == (500, True), error
    assert chat(daemon, "plain-1b", "how are you?") == "fine"


# ── without a daemon ─────────────────────────────────────────────────────────────────────────────


def test_run_renders_a_plugins_template_as_the_daemon_does(
    board_house: House, make_model: MakeModel, zorg: Callable[..., None]
) -> None:
    zorg()
    board_house.simulated("zorg-1b", make_model, reply="<z>I see.</z>{prompt}<zorg> never said")
    done = board_house.command("run", "zorg-1b", "hello")
    assert done.stdout == "I see.\n\nzorg(hello)\n", done.stderr


def test_run_renders_a_conversation_with_a_model_of_the_catalogue(board_house: House, make_model: MakeModel) -> None:
    """Without any plugin: an entry has a template of ours, which somebody has to apply."""
    board_house.simulated("qwen3-1b", make_model, reply="{prompt}")
    done = board_house.command("run", "qwen3-1b", "hello")
    assert "<|im_start|>user\nhello" in done.stdout, done.stderr
