"""Writes goldens/*.json: what Hugging Face's renderer makes of each template. Run it where `transformers` is installed.

    python -m tests.chat.make_goldens

The tests do not need it: they compare our renderer with the files.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from exo_rkllm.chat.families import FAMILIES
from exo_rkllm.chat.renderer import plain, tool_value
from exo_rkllm.chat.rendering import message_value
from tests.chat.conversations import SCENARIOS, Scenario

HERE = Path(__file__).parent
TOKENS = {"bos_token": "<BOS>", "eos_token": "<EOS>"}
# Families whose published template may not be copied: ours stands for it.
OWN = ("llama", "gemma", "chatglm", "telechat", "phi4", "internlm", "deepseek-r1")


def sources() -> dict[str, str]:
    published = {path.stem: path.read_text(encoding="utf-8") for path in sorted((HERE / "templates").glob("*.jinja"))}
    return {**published, **{f"own {name}": FAMILIES[name].template for name in OWN}}


def values(scenario: Scenario, *, text: bool) -> dict[str, Any]:
    """What a template is rendered with, besides the special tokens."""
    switches = (
        {} if scenario.thinking is None else {"enable_thinking": scenario.thinking, "thinking": scenario.thinking}
    )
    return {
        "messages": [message_value(plain(message), text=text) for message in scenario.messages],
        "tools": [tool_value(tool) for tool in scenario.tools] or None,
        **switches,
    }


def undated(prompt: str) -> str:
    """Some templates say which day it is."""
    return prompt.replace(datetime.now().strftime("%d %B %Y"), "{TODAY}")


def rendered(source: str, given: Mapping[str, Any]) -> str:
    tool = importlib.import_module("transformers.utils.chat_template_utils")
    switches = {key: value for key, value in given.items() if key not in ("messages", "tools")}
    made = tool.render_jinja_template(
        [given["messages"]],
        tools=given["tools"],
        chat_template=source,
        add_generation_prompt=True,
        **TOKENS,
        **switches,
    )
    return str((made[0] if isinstance(made, tuple) else made)[0])


def outcome(source: str, scenario: Scenario, *, text: bool) -> dict[str, str]:
    try:
        return {"prompt": undated(rendered(source, values(scenario, text=text)))}
    except Exception as error:  # noqa: BLE001 - whatever a template raises is its outcome
        return {"refused": str(error)}


def main() -> None:
    """With a folder as argument: the templates in it are rendered too, for the plain conversations only, into
    published.json; it is how templates that may not be copied here were used (see templates/README.md)."""
    (HERE / "goldens").mkdir(exist_ok=True)
    for name, source in sources().items():
        made = {}
        for title, scenario in SCENARIOS.items():
            made[title] = outcome(source, scenario, text=False)
            if any(message.tool_calls for message in scenario.messages):
                made[f"{title}, arguments as text"] = outcome(source, scenario, text=True)
        path = HERE / "goldens" / f"{name.replace(' ', '-')}.json"
        path.write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if len(sys.argv) > 1:
        plain = {name: SCENARIOS[name] for name in ("plain", "turns", "system")}
        published = {
            path.stem: {
                title: outcome(path.read_text(encoding="utf-8"), one, text=False) for title, one in plain.items()
            }
            for path in sorted(Path(sys.argv[1]).glob("*.jinja"))
        }
        (HERE / "published.json").write_text(
            json.dumps(published, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
