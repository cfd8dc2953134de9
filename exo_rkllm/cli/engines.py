"""`exo-rkllm engines`: what answers here, and which of them a model gets."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from exo_rkllm.backends.base import Model
from exo_rkllm.backends.registry import BUILT_IN, EngineRegistry, EngineSpec
from exo_rkllm.backends.rkllm import RkllmFile
from exo_rkllm.catalogue import card as cards
from exo_rkllm.catalogue.contributions import from_plugins
from exo_rkllm.catalogue.store import Catalogue, Entry
from exo_rkllm.cli import place
from exo_rkllm.cli.extras import plugged
from exo_rkllm.cli.output import table
from exo_rkllm.config import load
from exo_rkllm.errors import CardError, ExoRkllmError
from exo_rkllm.plugins import Plugins
from exo_rkllm.plugins.offers import ENGINES
from exo_rkllm.schema import toml

HEAD = ("ENGINE", "FILES", "PARALLELISM", "FROM", "")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--for", dest="model", metavar="MODEL", help="which one this model gets, and why")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    place.argument(parser)
    parser.epilog = (
        "A model gets the engine that `engine` under [models] (EXO_RKLLM_MODELS_ENGINE) or `run --engine` says, else "
        "the one its card names, else the one that its file's name tells."
    )


def main(args: argparse.Namespace) -> int:
    config = load(os.environ)
    found = plugged()
    kinds = EngineRegistry(found.kinds, config.models.engine)
    if args.model:
        return one(args, Catalogue(args.models or place.configured(), from_plugins(found)), kinds, found)
    rows = [described(kind, found) for name in kinds.names() if (kind := kinds.get(name)) is not None]
    if args.json:
        print(json.dumps({"engines": rows}, indent=2))
    else:
        print(*report(rows), sep="\n")
    return 0


def described(kind: EngineSpec, found: Plugins) -> dict[str, Any]:
    origin = next((row for row in found.rows if (row.group, row.name) == (ENGINES, kind.name)), None)
    return {
        "name": kind.name,
        "says": kind.says,
        "formats": list(kind.formats),
        "parallelism": kind.parallelism,
        "on_npu": kind.on_npu,
        "from": "built in" if kind.name in BUILT_IN or origin is None else f"{origin.package} {origin.version}".strip(),
        "options": {
            name: {"type": option.type.__name__, "default": option.default, "says": option.says}
            for name, option in kind.options.items()
        },
    }


def report(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from table(
        [
            HEAD,
            *(
                (row["name"], " ".join(row["formats"]) or "-", row["parallelism"], row["from"], row["says"])
                for row in rows
            ),
        ]
    )
    for row in rows:
        if row["options"]:
            yield f"\n[options] of {row['name']}"
            yield from table(
                [
                    (f"  {name}", option["type"], json.dumps(option["default"]), option["says"])
                    for name, option in row["options"].items()
                ]
            )


def one(args: argparse.Namespace, catalogue: Catalogue, kinds: EngineRegistry, found: Plugins) -> int:
    model = model_of(args.model, catalogue)
    name, why = kinds.chosen(model), reason(model, kinds)
    trouble: ExoRkllmError | None = None
    try:
        kind = kinds.of(model)
        kind.check_file(model)
        kind.options_of(model)
    except ExoRkllmError as error:
        trouble = error
    if args.json:
        says = None if trouble is None else {"sentence": trouble.sentence, "hint": trouble.hint}
        print(json.dumps({"model": model.id, "engine": name, "why": why, "error": says}, indent=2))
        return 0 if trouble is None else 1
    print(f"{model.id}: {name}, {why}")
    if trouble is not None:
        raise trouble
    return 0


def model_of(name: str, catalogue: Catalogue) -> Model:
    return RkllmFile(Path(name)) if "/" in name or Path(name).is_file() else catalogue.resolve(name)


def reason(model: Model, kinds: EngineRegistry) -> str:
    if kinds.instead:
        return "because `engine` under [models], or EXO_RKLLM_MODELS_ENGINE, says so for every model"
    if isinstance(model, Entry):
        card = model.folder / cards.FILE
        if "engine" in toml.parse(card.read_text(encoding="utf-8"), str(card), CardError, ""):
            return "because its card names it"
    if model.path is None:
        return "because nothing says otherwise"
    return f"because its file is a {model.path.suffix}"
