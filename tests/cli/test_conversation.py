"""A conversation as a person types it: editing, history, several lines, commands, thoughts and Ctrl-C."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.cli import main
from exo_rkllm.structure import matcher
from exo_rkllm.structure.matcher import installed
from tests.cli.terminal import Terminal
from tests.daemon.running import House

UP, LEFT = "\x1b[A", "\x1b[D"


def test_person_edits_recalls_and_writes_several_lines(house: House, terminal: Callable[..., Terminal]) -> None:
    house.words()
    house.start()
    chat = terminal("run", "words", environment=house.environment)
    chat.until(">>> ")
    chat.type("helo" + LEFT + "l\r")
    chat.until("\nhello\n>>> ")
    chat.type(UP + " again\r")
    chat.until("\nhello again\n>>> ")
    chat.type('"""one\r')
    chat.until("... ")
    chat.type('two"""\r')
    chat.until("\none\ntwo\n>>> ")
    chat.type("/set nohistory\r")
    chat.until("not kept")
    chat.say("a secret", "\na secret\n")
    chat.type("\x03")
    chat.until("/bye or Ctrl-D ends the conversation.")
    chat.type("/bye\r")
    assert chat.process.wait(10) == 0
    history = house.folder / ".local/share/exo-rkllm/history"
    entries = [json.loads(line) for line in history.read_text().splitlines()]
    assert entries == ["hello", "hello again", '"""one\ntwo"""', "/set nohistory"]
    assert stat.S_IMODE(history.stat().st_mode) == 0o600

    again = terminal("run", "words", environment=house.environment)
    again.until(">>> ")
    again.type(UP + UP + UP + "\r")
    again.until("\nhello again\n>>> ")


def test_commands_change_show_save_and_load(house: House, terminal: Callable[..., Terminal]) -> None:
    house.words()
    house.words("other")
    house.start()
    chat = terminal("run", "words", "--system", "Be brief.", environment=house.environment)
    chat.until(">>> ")
    assert "/set parameter NAME VALUE" in chat.say("/help", "/bye")
    assert chat.say("/show system", "Be brief.")
    chat.say("/set system You speak plainly.", "The system message is set.")
    chat.say("/set parameter temperature 0.5", "temperature is 0.5.")
    chat.say("/set parameter num_predict 2", "max_tokens is 2.")
    assert "temperature 0.5" in chat.say("/show parameters", "num_predict 2")
    chat.say("/set parameter temperature 9", "/set parameter temperature VALUE")
    chat.say("/set parameter warmth 1", "takes num_predict, temperature")
    chat.say("/sett", "Did you mean /set?")
    assert "context" in chat.say("/show info", "engine")
    assert "eval count:" in chat.say("/set verbose", "Figures follow") + chat.say("one two three", "ended by:")
    chat.say("/save first", "/load first")
    chat.say("/clear", "a new conversation")
    chat.say("/load nobody", "No model 'nobody'")
    chat.say("/load other", "Chatting with other.")
    chat.say("/load first", "Chatting with words, 1 answers so far.")
    assert chat.say("/show system", "You speak plainly.")
    chat.say("/image /nowhere.jpg", "cannot be read")
    assert "no command" not in chat.say("/home/me is a path", "/home")
    chat.type("/bye\r")
    assert chat.process.wait(10) == 0
    kept = house.folder / ".local/share/exo-rkllm/conversations/first.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert [one["content"] for one in json.loads(kept.read_text())["messages"]] == ["one two three", "one two"]


# As Qwen3's own, which the family's default template is too plain for.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
)


def thinker(house: House, make_model: Callable[..., Path], **situation: Any) -> str:
    name = house.simulated("qwen3", make_model, **situation)
    (house.models / name / "chat_template.jinja").write_text(TEMPLATE)
    return name


def test_thoughts_are_marked_and_ctrl_c_keeps_the_conversation(
    board_house: House, make_model: Callable[..., Path], terminal: Callable[..., Terminal]
) -> None:
    model = thinker(
        board_house,
        make_model,
        reply="go on " * 300,
        rules=(("short", "you said short"),),
        thinking="Let me see.",
        decode_tps=60,
    )
    chat = terminal("run", model, environment=board_house.environment)
    chat.until(">>> ")
    chat.type("long\r")
    seen = chat.until("go on go on")
    assert "── thinking ──\nLet me see.\n──────────────\n" in seen
    assert "\x1b[2mLet" in chat.screen
    chat.type("\x03")
    began = time.monotonic()
    chat.until("(stopped)")
    chat.until(">>> ")
    assert time.monotonic() - began < 2.0
    chat.say("/save kept", "/load kept")
    chat.say("/set nothink", "without thinking")
    assert "thinking" not in chat.say("short", "you said short")
    kept = board_house.folder / ".local/share/exo-rkllm/conversations/kept.json"
    [question, answer] = json.loads(kept.read_text())["messages"]
    assert (question["content"], answer["content"][:5]) == ("long", "go on")


@pytest.fixture
def local(board_house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process on the simulated board."""
    for name, value in board_house.environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("local")
def test_flags_hide_thoughts_and_ask_for_json(
    board_house: House,
    make_model: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = (("JSON", '```json\n{"a": 1}\n```'),)
    model = thinker(board_house, make_model, reply="hi", thinking="Well.", rules=answer)
    assert main(["run", model, "x"]) == 0
    assert capsys.readouterr().out == "Well.\n\nhi\n"
    assert main(["run", model, "--hidethinking", "x"]) == 0
    assert capsys.readouterr().out == "hi\n"
    for flag in ("--nothink", "--think=false"):
        assert main(["run", model, flag, "x"]) == 0
        assert capsys.readouterr().out == "hi\n"
    assert main(["run", model, "--nothink", "--format", "json", "x"]) == 0
    assert json.loads(capsys.readouterr().out) == {"a": 1}
    board_house.simulated("plain", make_model, reply="no object")
    if installed():
        assert main(["run", "plain", "--format", "json", "x"]) == 0
        assert json.loads(capsys.readouterr().out) == {}
    monkeypatch.setattr(matcher, "installed", lambda: False)
    assert main(["run", "plain", "--format", "json", "x"]) == 1
    assert "is not the JSON that was asked for" in capsys.readouterr().err
