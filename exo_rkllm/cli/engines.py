"""`exo-rkllm engines`: list the engines, and explain which one a model gets."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from exo_rkllm.assembly import Node
from exo_rkllm.backends.base import Model
from exo_rkllm.backends.registry import BUILT_IN, EngineRegistry, EngineSpec
from exo_rkllm.catalogue import card as cards
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.cli import place
from exo_rkllm.cli.output import error_value, table
from exo_rkllm.errors import CardError, ExoRkllmError
from exo_rkllm.plugins.offers import ENGINES
from exo_rkllm.schema import toml

HEAD = ("ENGINE", "FILES", "PARALLELISM", "FROM", "")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--for", dest="model", metavar="MODEL", help="explain which engine this model gets")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    place.argument(parser)
    parser.epilog = (
        "A model gets the engine set by `run --engine` or by `engine` under [models] (EXO_RKLLM_MODELS_ENGINE), else "
        "its card's, else the one for its file's suffix."
    )


def main(args: argparse.Namespace) -> int:
    node = place.node(args.models)
    if args.model:
        return explain(args, node)
    rows = [as_json(spec, node) for name in node.engines.names() if (spec := node.engines.get(name)) is not None]
    if args.json:
        print(json.dumps({"engines": rows}, indent=2))
    else:
        print(*report(rows), sep="\n")
    return 0


def as_json(spec: EngineSpec, node: Node) -> dict[str, Any]:
    origin = next((row for row in node.plugins.rows if (row.group, row.name) == (ENGINES, spec.name)), None)
    return {
        "name": spec.name,
        "says": spec.says,
        "formats": list(spec.formats),
        "parallelism": spec.parallelism,
        "on_npu": spec.on_npu,
        "from": "built in" if spec.name in BUILT_IN or origin is None else f"{origin.package} {origin.version}".strip(),
        "options": {
            name: {"type": option.type.__name__, "default": option.default, "says": option.says}
            for name, option in spec.options.items()
        },
    }


def report(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    cells = [
        (row["name"], " ".join(row["formats"]) or "-", row["parallelism"], row["from"], row["says"]) for row in rows
    ]
    yield from table([HEAD, *cells])
    for row in rows:
        if options := row["options"].items():
            yield f"\n[options] of {row['name']}"
            yield from table([(f"  {name}", it["type"], json.dumps(it["default"]), it["says"]) for name, it in options])


def explain(args: argparse.Namespace, node: Node) -> int:
    model = node.find(args.model)
    name, why = node.engines.name_for(model), reason(model, node.engines)
    problem: ExoRkllmError | None = None
    try:
        spec = node.engines.of(model)
        spec.check_file(model)
        spec.options_of(model)
    except ExoRkllmError as error:
        problem = error
    if args.json:
        value = {"model": model.id, "engine": name, "why": why, "error": error_value(problem)}
        print(json.dumps(value, indent=2))
        return 0 if problem is None else 1
    print(f"{model.id}: {name}, {why}")
    if problem is not None:
        raise problem
    return 0


def reason(model: Model, engines: EngineRegistry) -> str:
    if engines.instead:
        return "because `engine` under [models], or EXO_RKLLM_MODELS_ENGINE, sets it for every model"
    if isinstance(model, Entry):
        card = model.folder / cards.FILE
        if "engine" in toml.parse(card.read_text(encoding="utf-8"), str(card), CardError, ""):
            return "because its card names it"
    if model.path is None:
        return "because it is the default"
    return f"because its file is a {model.path.suffix}"
