"""The models folder: whole entries or none, whoever crashes, and nothing outside it is ever touched."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exo_rkllm.backends.base import Sampling
from exo_rkllm.catalogue import staging, store
from exo_rkllm.catalogue.card import Card, Weights, dump
from exo_rkllm.catalogue.contributions import PluginContributions
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.catalogue.store import Catalogue, Listing
from exo_rkllm.chat.chat_format import ChatSettings
from exo_rkllm.chat.families import FAMILIES, Family
from exo_rkllm.errors import CardError, ConfigError, ExoRkllmError, ModelExists, ModelNotFound
from tests.catalogue.test_names import HARD

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return Catalogue(tmp_path / "models")


def put(catalogue: Catalogue, name: str, text: bytes = b"weights", **more: object) -> Entry:
    with catalogue.stage() as stage:
        (stage / "w.rkllm").write_bytes(text)
        card = Card(name, weights=Weights("w.rkllm", len(text)), **more)  # type: ignore[arg-type]  # fields by name
        return catalogue.publish(stage, card)


def names_of(catalogue: Catalogue) -> list[str]:
    return [entry.id for entry in catalogue.list()]


async def test_entry_that_somebody_takes_away_at_once_is_reported(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A StopIteration is no exception that a future can hold: an import waited for ever."""
    monkeypatch.setattr(Catalogue, "scan", lambda _self: Listing((), ()))
    with pytest.raises(ModelNotFound, match="No model 'a'"):
        await asyncio.wait_for(asyncio.to_thread(put, catalogue, "a"), 5.0)


def test_an_entry_is_a_model(catalogue: Catalogue) -> None:
    made = put(catalogue, "a", context=7, sampling=Sampling(top_k=1), reuse=False, options={"n_keep": 1})
    entry = catalogue.get("a")
    assert entry is made
    assert (entry.id, entry.engine, entry.context, entry.reuse) == ("a", "rkllm", 7, False)
    assert (entry.sampling, entry.options) == (Sampling(top_k=1), {"n_keep": 1})
    assert entry.path == catalogue.directory / "a" / "w.rkllm"
    assert entry.folder.name == "a"
    assert repr(entry) == "Entry('a')"
    assert Entry(Path(), Card("x", engine="openai")).path is None


def test_missing_folder_has_no_models(catalogue: Catalogue) -> None:
    assert catalogue.list() == ()
    catalogue.clean()
    with pytest.raises(ModelNotFound, match="No model 'x'") as error:
        catalogue.resolve("x")
    assert "exo-rkllm models" in error.value.hint


def test_unchanged_entry_is_not_read_again(catalogue: Catalogue) -> None:
    put(catalogue, "a")
    first = catalogue.get("a")
    put(catalogue, "b")
    assert catalogue.get("a") is first
    card = first.folder / "model.toml"
    card.write_text(card.read_text().replace("[weights]", "\n[weights]"))
    assert catalogue.get("a") is not first


def test_name_resolves_or_lists_the_candidates(catalogue: Catalogue) -> None:
    put(catalogue, "qwen3-0.6b", source="org/q@main:x.rkllm", base_model="Qwen/Qwen3-0.6B", quantization="w8a8")
    put(catalogue, "qwen3-1.7b")
    assert catalogue.resolve("qwen3:0.6b").id == "qwen3-0.6b"
    assert catalogue.resolve("org/q").id == "qwen3-0.6b"
    assert catalogue.resolve("Qwen/Qwen3-0.6B:w8a8").id == "qwen3-0.6b"
    with pytest.raises(ModelNotFound, match=r"'qwen3' may mean qwen3-0\.6b, qwen3-1\.7b\."):
        catalogue.resolve("qwen3")
    with pytest.raises(ModelNotFound):
        catalogue.get("QWEN3-0.6b")


def test_names_are_safe_to_print(catalogue: Catalogue) -> None:
    with pytest.raises(ModelNotFound) as error:
        catalogue.resolve("\x1b[31m\n\0" + "x" * 500)
    assert error.value.sentence.isprintable()
    assert len(error.value.sentence) < 300


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Catalogue, Path]]:
    """A models folder with one entry, in a folder that must stay as it is."""
    home = tmp_path_factory.mktemp("home")
    catalogue = Catalogue(home / "models")
    put(catalogue, "a")
    (home / "secret").mkdir()
    (home / "secret" / "model.toml").write_text('id = "secret"\n[weights]\nfile = "w"\n')
    (home / "secret" / "w").write_text("secret")
    yield catalogue, home


@given(HARD | st.sampled_from(["../secret", "a/../../secret", "..", ".", "a/..", "/etc", "~", "a\0", "..\\secret"]))
@settings(max_examples=300, deadline=None)
def test_no_name_leaves_the_folder(guarded: tuple[Catalogue, Path], name: str) -> None:
    catalogue, home = guarded
    for look in (catalogue.resolve, catalogue.get, catalogue.remove):
        if name.casefold() == "a" or name.casefold().startswith(("a:", "a.rkllm")):
            continue
        with pytest.raises(ModelNotFound):
            look(name)
    with pytest.raises((CardError, OSError)), catalogue.stage() as stage:
        (stage / "w").write_text("x")
        catalogue.publish(stage, Card(name if name != "a" else "../a", weights=Weights("w")))
        shutil.rmtree(catalogue.directory / name)  # a valid name: take it away again
        raise CardError("it was valid")
    assert sorted(path.name for path in home.iterdir()) == ["models", "secret"]
    assert sorted(path.name for path in catalogue.directory.iterdir()) == ["a"]
    assert (home / "secret" / "w").read_text() == "secret"


# ── what is no entry ─────────────────────────────────────────────────────────────────────────────


def broken(catalogue: Catalogue) -> str:
    [problem] = catalogue.scan().problems
    assert catalogue.list() == ()
    return problem.error.sentence


def test_symbolic_links_are_not_followed(catalogue: Catalogue, tmp_path: Path) -> None:
    outside = put(Catalogue(tmp_path / "elsewhere"), "a").folder
    catalogue.directory.mkdir()
    (catalogue.directory / "a").symlink_to(outside)
    assert "is a symbolic link" in broken(catalogue)
    with pytest.raises(ModelNotFound):
        catalogue.remove("a")
    (catalogue.directory / "a").unlink()
    (catalogue.directory / "b").symlink_to(tmp_path)
    assert catalogue.scan() == store.Listing((), ())
    catalogue.clean()
    assert outside.exists()


def test_weights_and_cards_are_files_of_their_own(catalogue: Catalogue, tmp_path: Path) -> None:
    folder = put(catalogue, "a").folder
    (folder / "w.rkllm").unlink()
    assert "names w.rkllm, which is not there" in broken(catalogue)
    (folder / "w.rkllm").symlink_to("/etc/passwd")
    assert "is not a plain file" in broken(catalogue)
    (folder / "w.rkllm").unlink()
    (folder / "w.rkllm").write_bytes(b"short")
    assert "has 5 bytes, its card says 7" in broken(catalogue)
    (folder / "model.toml").rename(tmp_path / "card")
    (folder / "model.toml").symlink_to(tmp_path / "card")
    assert "cannot be read: Too many levels of symbolic links" in broken(catalogue)
    (folder / "model.toml").unlink()
    os.mkfifo(folder / "model.toml")
    assert broken(catalogue)


def test_cards_that_lie_or_are_no_text_are_named(catalogue: Catalogue) -> None:
    folder = put(catalogue, "a").folder
    card = folder / "model.toml"
    card.write_text(dump(Card("b", weights=Weights("w.rkllm"))))
    assert "says id = 'b' and lies in the folder 'a'" in broken(catalogue)
    card.write_bytes(b"\xff\xfe")
    assert "is not UTF-8 text" in broken(catalogue)
    card.write_bytes(b"#" * (300 * 1024))
    assert "has more than 256 KiB" in broken(catalogue)
    card.write_text("id = ")
    assert "is not TOML" in broken(catalogue)


def test_foreign_folders_and_files_are_left_alone(catalogue: Catalogue) -> None:
    put(catalogue, "a")
    (catalogue.directory / "notes.txt").write_text("x")
    (catalogue.directory / "empty").mkdir()
    (catalogue.directory / ".hidden").mkdir()
    catalogue.clean()
    assert names_of(catalogue) == ["a"]
    assert sorted(path.name for path in catalogue.directory.iterdir()) == [".hidden", "a", "empty", "notes.txt"]


def test_models_folder_that_is_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CardError, match="cannot be read: Not a directory"):
        Catalogue(tmp_path / "file").list()
    with pytest.raises(ConfigError, match="cannot be changed"), Catalogue(tmp_path / "file").stage():
        pass


# ── making, removing, crashing ───────────────────────────────────────────────────────────────────


def test_existing_entry_is_overwritten_on_request_only(catalogue: Catalogue) -> None:
    put(catalogue, "a", b"first")
    with pytest.raises(ModelExists, match="There is a model 'a' already"):
        put(catalogue, "a", b"second")
    assert (catalogue.directory / "a" / "w.rkllm").read_bytes() == b"first"
    with catalogue.stage() as stage:
        (stage / "w.rkllm").write_bytes(b"third")
        catalogue.publish(stage, Card("a", weights=Weights("w.rkllm")), replace=True)
    assert (catalogue.directory / "a" / "w.rkllm").read_bytes() == b"third"
    assert [path.name for path in catalogue.directory.iterdir()] == ["a"]


def test_failed_stage_is_removed(catalogue: Catalogue) -> None:
    with pytest.raises(RuntimeError), catalogue.stage() as stage:
        (stage / "w.rkllm").write_bytes(b"x")
        assert catalogue.list() == ()
        raise RuntimeError
    assert list(catalogue.directory.iterdir()) == []


def test_unreadable_card_is_never_written(catalogue: Catalogue) -> None:
    with pytest.raises(CardError), catalogue.stage() as stage:
        catalogue.publish(stage, Card("../x", weights=Weights("w")))
    assert list(catalogue.directory.iterdir()) == []


def test_removed_entry_frees_its_bytes(catalogue: Catalogue) -> None:
    put(catalogue, "a")
    put(catalogue, "ab")
    with pytest.raises(ModelNotFound):
        catalogue.remove("a:latest")
    catalogue.remove("a")
    assert [path.name for path in catalogue.directory.iterdir()] == ["ab"]


def test_broken_entry_is_explained_by_name(catalogue: Catalogue) -> None:
    folder = put(catalogue, "a").folder
    (folder / "w.rkllm").unlink()
    for find in (catalogue.resolve, catalogue.get):
        with pytest.raises(CardError, match=r"names w\.rkllm, which is not there") as caught:
            find("a")
        assert "exo-rkllm rm a" in caught.value.hint
    with pytest.raises(CardError):
        catalogue.resolve("A")
    with pytest.raises(ModelNotFound):
        catalogue.resolve("b")
    with pytest.raises(ModelNotFound):
        catalogue.remove("A")
    catalogue.remove("a")
    assert not folder.exists(), "its repair works"


def test_missing_size_is_taken_from_the_file(catalogue: Catalogue) -> None:
    folder = catalogue.directory / "a"
    folder.mkdir(parents=True)
    (folder / "w.rkllm").write_bytes(bytes(1234))
    (folder / "model.toml").write_text('id = "a"\n[weights]\nfile = "w.rkllm"\n')
    weights = catalogue.get("a").card.weights
    assert weights is not None and weights.size == 1234


@pytest.mark.parametrize("text", ["id = ", "id = " + "[" * 5000])
def test_a_sentence_about_a_card_names_it_once(catalogue: Catalogue, text: str) -> None:
    path = put(catalogue, "a").folder / "model.toml"
    path.write_text(text)
    with pytest.raises(CardError) as caught:
        catalogue.get("a")
    assert str(caught.value).count(str(path)) == 1


CRASH = """
import os, signal, sys
from pathlib import Path
from exo_rkllm.catalogue import store
from exo_rkllm.catalogue.card import Card, Weights
catalogue = store.Catalogue(Path(sys.argv[1]))
moment = int(sys.argv[2])
def step(name, real):
    def counted(*args, **keywords):
        global moment
        moment -= 1
        if moment < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **keywords)
    return counted
Path.rename = step("rename", Path.rename)
Path.unlink = step("unlink", Path.unlink)
store.sync = step("sync", store.sync)
store.shutil.rmtree = step("rmtree", store.shutil.rmtree)
with catalogue.stage() as stage:
    (stage / "w.rkllm").write_bytes(b"new")
    catalogue.publish(stage, Card("a", weights=Weights("w.rkllm", 3)), replace=True)
catalogue.remove("a")
"""


def test_crash_at_any_step_leaves_the_old_or_the_new_entry(catalogue: Catalogue) -> None:
    """Replace an entry, then remove it, killed before each step that touches the folder's names."""
    seen = set()
    for moment in range(40):
        shutil.rmtree(catalogue.directory, ignore_errors=True)
        put(catalogue, "a", b"old")
        done = subprocess.run(
            [sys.executable, "-c", CRASH, str(catalogue.directory), str(moment)], cwd=ROOT, timeout=60
        )
        fresh = Catalogue(catalogue.directory)
        fresh.clean()
        assert fresh.scan().problems == ()
        held = [entry.path.read_bytes() for entry in fresh.list() if entry.path]
        assert held in ([b"old"], [b"new"], [])
        seen.add(tuple(held))
        assert [path.name for path in fresh.directory.iterdir()] == (["a"] if held else [])
        if done.returncode == 0:
            break
    assert done.returncode == 0
    assert seen == {(b"old",), (b"new",), ()}


def test_clean_removes_abandoned_stages_only(catalogue: Catalogue) -> None:
    with catalogue.stage() as stage, catalogue.stage("key") as pull:
        Catalogue(catalogue.directory).clean()
        assert stage.exists()
        Catalogue(catalogue.directory).clean(time.time() + 8 * 24 * 3600)
        assert pull.exists()
    assert pull.exists()
    assert not stage.exists()
    (catalogue.directory / ".incoming-dead").mkdir()
    (catalogue.directory / ".incoming-dead" / staging.LOCK).touch()
    (catalogue.directory / ".trash-x").mkdir()
    (catalogue.directory / ".replaced-../x").mkdir(parents=True)
    catalogue.clean()
    assert [path.name for path in catalogue.directory.iterdir()] == [pull.name]
    catalogue.clean(time.time() + 8 * 24 * 3600)
    assert list(catalogue.directory.iterdir()) == []


def test_one_key_has_one_stage_at_a_time(catalogue: Catalogue) -> None:
    with catalogue.stage("key"), pytest.raises(ModelExists, match="just being fetched"), catalogue.stage("key"):
        pass
    with catalogue.stage("key"):
        pass


# ── its voice ────────────────────────────────────────────────────────────────────────────────────


def test_template_is_read_again_when_it_changed(catalogue: Catalogue) -> None:
    entry = put(catalogue, "a", chat=ChatSettings(template="t.jinja"))
    with pytest.raises(CardError, match=r"names the template t\.jinja, which is not there"):
        entry.chat_format()
    (entry.folder / "t.jinja").write_text("one")
    first = entry.chat_format()
    assert entry.chat_format() is first
    (entry.folder / "t.jinja").write_text("another")
    assert entry.chat_format().template.text == "another"


def test_templates_are_found_where_hugging_face_looks(catalogue: Catalogue) -> None:
    entry = put(catalogue, "a")
    assert "<|im_start|>" in entry.chat_format().template.text
    for name, text, source in (
        ("chat_template.json", '{"chat_template": "from json"}', "from json"),
        ("tokenizer_config.json", '{"chat_template": "from config"}', "from config"),
        (
            "tokenizer_config.json",
            '{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}',
            "d",
        ),
        ("tokenizer_config.json", '{"chat_template": [{"name": "only", "template": "o"}, 3]}', "o"),
        ("chat_template.jinja", "from file", "from file"),
    ):
        (entry.folder / name).unlink(missing_ok=True)
        (entry.folder / name).write_text(text)
        assert entry.chat_format().template.text == source
    for name in ("chat_template.jinja", "chat_template.json"):
        (entry.folder / name).unlink()
    for nonsense in ("[]", "{", "[" * 99999, '{"chat_template": 3, "eos_token": 4, "added_tokens_decoder": [1]}'):
        (entry.folder / "tokenizer_config.json").unlink()
        (entry.folder / "tokenizer_config.json").write_text(nonsense)
        assert "<|im_start|>" in entry.chat_format().template.text


@pytest.mark.parametrize(
    ("chat", "says"),
    [
        (ChatSettings(tools="hermse"), "tools = 'hermse'"),
        (ChatSettings(reasoning="thinks"), "reasoning = 'thinks'"),
        (ChatSettings(family="qwen9"), "family = 'qwen9'"),
    ],
)
def test_unknown_chat_setting_is_named(catalogue: Catalogue, chat: ChatSettings, says: str) -> None:
    entry = put(catalogue, "a", chat=chat)
    with pytest.raises(CardError) as error:
        entry.chat_format()
    assert says in error.value.sentence
    assert error.value.hint.startswith("Did you mean")


def test_plugin_family_goes_before_ours(catalogue: Catalogue) -> None:
    put(catalogue, "qwen3-zorg")
    zorg = Family(r"zorg", "{{ messages[0].content }} zorg:", ("<zorg>",), reasoning="think")
    voice = (
        Catalogue(catalogue.directory, PluginContributions(families={"zorg": zorg, **FAMILIES}))
        .get("qwen3-zorg")
        .chat_format()
    )
    assert (voice.template.text, voice.stop, voice.tools) == (zorg.template, ("<zorg>",), None)
    assert "<|im_start|>" in catalogue.get("qwen3-zorg").chat_format().template.text


def test_the_tokenizer_is_optional(catalogue: Catalogue) -> None:
    assert put(catalogue, "a").tokenizer() is None


def test_catalogue_raises_our_errors_only() -> None:
    assert issubclass(CardError, ExoRkllmError)
