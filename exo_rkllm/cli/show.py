"""`exo-rkllm show`: show what is known about a model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping

from exo_rkllm.assembly import Node
from exo_rkllm.catalogue import card as cards
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.chat.chat_format import ChatFormat
from exo_rkllm.chat.formats import REASONING, TOOLS
from exo_rkllm.cli import models, place
from exo_rkllm.cli.output import size
from exo_rkllm.errors import ExoRkllmError
from exo_rkllm.runtime import modelfile, selection
from exo_rkllm.runtime.ends import AFTER_ABORT, SPARES, findings

FROM_PLUGIN = "defined by a plugin"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="NAME", help="a name from `exo-rkllm models`, or its beginning")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object")
    form.add_argument("--card", action="store_true", help="print its model.toml")
    form.add_argument("--template", action="store_true", help="print its chat template")
    place.argument(parser)


def main(args: argparse.Namespace) -> int:
    node = place.node(args.models)
    entry = node.catalogue.resolve(args.model)
    if args.card:
        print(cards.dump(entry.card), end="")
    elif args.template:
        print(entry.chat_format().template.text)
    elif args.json:
        values = {"runtime": _runtime(node, entry), **_conventions(entry.chat_format())}
        print(json.dumps({**models.as_json(entry), **values}, indent=2))
    else:
        print("\n".join(f"{label:<13} {value}" for label, value in lines(entry, _runtime(node, entry)) if value))
    return 0


def _runtime(node: Node, entry: Entry) -> str:
    """The vendor library that it is loaded with here, why, and what is known against it; or why with none."""
    if entry.engine != "rkllm" or entry.path is None or not node.search().installed:
        return ""
    try:
        choice = node.runtime_of(entry)
        doubts = selection.objections_to(modelfile.inspect(entry.path), choice, "")
    except ExoRkllmError as error:
        return error.sentence
    return ". ".join([str(choice or ""), *(str(doubt.error) for doubt in doubts if doubt.harm)])


# What selftest measures of a model, as a phrase around the value.
MEASURED: Mapping[str, str] = {
    "end_tokens": "answers end by token {}",
    "logits_rows": "rows of logits for 8 tokens: {}",
    "temperature_zero_is_greedy": "temperature 0 is greedy: {}",
    "abort_in_prefill_seconds": "an abort in a long prompt took {} s",
    SPARES: "a saved prompt spares its prefill: {}",
    AFTER_ABORT: "also after an abort: {}",
}


def _measured(entry: Entry) -> str:
    """What `exo-rkllm selftest --model` found out about the model's file, and with which runtime."""
    known = {} if entry.path is None else findings(entry.path)
    parts = [phrase.format(_value(known[key])) for key, phrase in MEASURED.items() if key in known]
    return ", ".join(parts) + (f" (runtime {known['runtime']})" if parts and "runtime" in known else "")


def _value(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _conventions(chat_format: ChatFormat) -> dict[str, object]:
    tools = next((name for name, row in TOOLS.items() if row is chat_format.tools), "")
    reasoning = next((name for name, row in REASONING.items() if row is chat_format.reasoning), "")
    return {
        "tools": tools or (FROM_PLUGIN if chat_format.tools else ""),
        "reasoning": reasoning or (FROM_PLUGIN if chat_format.reasoning else ""),
        "stop": list(chat_format.stop),
    }


def lines(entry: Entry, runtime: str = "") -> list[tuple[str, str]]:
    card = entry.card
    chat = _conventions(entry.chat_format())
    sampling = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in card.sampling.explicit().items())
    return [
        ("name", f"{card.id}" + (f" ({card.name})" if card.name not in ("", card.id) else "")),
        ("file", str(entry.path or "")),
        ("size", size(card.weights.size) if card.weights else ""),
        ("sha256", card.weights.sha256 if card.weights else ""),
        ("encoder", f"{card.vision.file} ({size(card.vision.size)}): it sees images" if card.vision else ""),
        ("from", card.source),
        ("base model", card.base_model),
        ("engine", card.engine),
        ("made for", " ".join(word for word in (card.platform, card.quantization) if word)),
        ("needs runtime", f"{card.runtime_floor} or newer" if card.runtime_floor else ""),
        ("runtime", runtime),
        ("memory", f"about {size(card.memory)}" if card.memory else ""),
        ("measured", _measured(entry)),
        ("context", str(card.context or "")),
        ("shape", f"{card.layers} layers, {card.hidden_size} wide" if card.layers and card.hidden_size else ""),
        ("sampling", sampling),
        ("tools", str(chat["tools"]) or "described in a system message"),
        ("reasoning", str(chat["reasoning"])),
        ("stops at", " ".join(entry.chat_format().stop)),
        ("system", card.chat.system),
        ("prefix reuse", "" if card.reuse else "off: it corrupts this model's answers"),
        ("options", ", ".join(f"{key} = {json.dumps(value)}" for key, value in card.options.items())),
    ]
