"""The commands of a conversation one by one, without a terminal: what they change, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from exo_rkllm.backends.base import Image, Message, Sampling
from exo_rkllm.cli.conversation import Conversation, saved
from exo_rkllm.cli.line_input import KEPT, LineInput, unquoted
from exo_rkllm.cli.run_commands import Leave, is_command, perform
from exo_rkllm.errors import ExoRkllmError, UsageError


@dataclass
class Chat:
    """A conversation whose models need no loading."""

    lines: LineInput
    conversation: Conversation = field(default_factory=lambda: Conversation("words"))

    def load(self, model: str) -> None:
        self.conversation.model = model


@pytest.fixture
def chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chat:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    return Chat(LineInput(tmp_path / "history"))


def refused(chat: Chat, line: str) -> str:
    with pytest.raises(ExoRkllmError) as caught:
        perform(chat, line)
    return f"{caught.value.sentence} {caught.value.hint}"


def test_settings_reach_the_next_request(chat: Chat) -> None:
    for line in (
        "/set think",
        "/set parameter top_k 5",
        "/set parameter num_predict -1",
        "/set format json",
        "/set quiet",
    ):
        assert perform(chat, line)
    perform(chat, '/set system """Be\nbrief."""')
    request = chat.conversation.request("hello")
    assert (request.thinking, request.sampling, request.max_tokens) == (True, Sampling(top_k=5), None)
    assert request.messages[0].content.startswith("Be\nbrief.\n\nAnswer with one JSON object")
    perform(chat, "/set noformat")
    assert perform(chat, "/set system") == "There is no system message any more."
    assert perform(chat, "/show system") == "There is no system message but the model's own."
    assert chat.conversation.request("hello").messages == (Message("user", "hello"),)
    assert perform(chat, "/set history") == "What you type is kept."


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/set", "/set takes system, parameter"),
        ("/set format xml", "/set format takes json."),
        ("/set parameter top_k many", "top_k"),
        ("/show", "/show takes info, system"),
        ("/load", "/load takes a model"),
        ("/save", "/save takes a name."),
        ("/save ../x", "cannot be a model's name"),
        ("/image", "/image takes a file."),
        ("/image 'a", "cannot be read"),
        ("/imag", "Did you mean /image?"),
        ("/xyzzy", "/help lists the commands."),
    ],
)
def test_wrong_command_says_what_would_do(line: str, says: str, chat: Chat) -> None:
    assert says in refused(chat, line)


def test_image_goes_with_one_question(chat: Chat, tmp_path: Path) -> None:
    photo = tmp_path / "a photo.jpg"
    photo.write_bytes(b"jpeg")
    for typed in (str(photo), f'"{photo}"'):
        assert perform(chat, f"/image {typed}") == f"{photo} goes with the next question."
    assert [image.data for image in chat.conversation.images] == [b"jpeg", b"jpeg"]
    chat.conversation.add("what is it?", "a photo")
    assert chat.conversation.images == ()
    assert len(chat.conversation.messages[0].images) == 2
    perform(chat, "/save seen")
    perform(chat, "/clear")
    assert not chat.conversation.messages
    perform(chat, "/load seen")
    [question, _] = chat.conversation.messages
    assert question.images == (Image(b"jpeg", ""), Image(b"jpeg", ""))


def test_question_without_answer_leaves_no_trace(chat: Chat) -> None:
    chat.conversation.add("hello?", "")
    assert chat.conversation.messages == ()


@pytest.mark.parametrize("damage", ["", "[]", '{"model": "x"}', '{"messages": [{"role": "user"}]}'])
def test_damaged_file_is_no_conversation(damage: str, chat: Chat) -> None:
    path = chat.conversation.save("mine")
    path.write_text(damage)
    assert saved("mine") is not None
    assert "cannot be read" in refused(chat, "/load mine")
    assert chat.conversation.model == "words"


def test_folder_that_cannot_be_written_is_a_sentence(chat: Chat, tmp_path: Path) -> None:
    (tmp_path / ".local").write_text("a file")
    with pytest.raises(UsageError, match="cannot be written"):
        chat.conversation.save("mine")


def test_end_and_paths_are_told_from_commands(chat: Chat) -> None:
    for word in ("/bye", "/exit", "/quit"):
        with pytest.raises(Leave):
            perform(chat, word)
    assert is_command("/set think")
    assert not is_command("/home/me/x.txt is what?")
    assert unquoted('"""one\ntwo"""') == "one\ntwo"
    assert unquoted("plain") == "plain"


def test_history_stays_short_and_leaves_out_what_is_no_entry(tmp_path: Path) -> None:
    path = tmp_path / "history"
    lines = [json.dumps(f"entry {number}") for number in range(2 * KEPT + 1)]
    path.write_text("\n".join(["no JSON", "7", *lines]) + "\n")
    LineInput(path, ("/help",))
    kept = path.read_text().splitlines()
    assert (len(kept), kept[-1]) == (KEPT, lines[-1])
