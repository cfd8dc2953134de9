"""`exo-rkllm inspect FILE`: describe a .rkllm file without loading it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from exo_rkllm.cli.output import error_value, size
from exo_rkllm.cli.runtime import LocalRuntime, local_runtime
from exo_rkllm.rknn import encoderfile
from exo_rkllm.runtime import modelfile, selection
from exo_rkllm.runtime.modelfile import Fact, ModelFacts, Objection
from exo_rkllm.runtime.selection import RuntimeChoice

SOURCES = {"header": "the file's header", "footer": "the file's footer", "name": "the name, so it may be wrong"}
LABELS = {
    "toolkit": "converted with",
    "platform": "platform",
    "npu_cores": "NPU cores",
    "max_context": "context",
    "dtype": "quantisation",
    "optimization": "optimisation",
    "hybrid_ratio": "hybrid ratio",
    "name": "name",
    "architecture": "architecture",
    "parameters": "parameters",
    "vocab_size": "vocabulary",
    "embedding_length": "embedding",
    "layers": "layers",
    "heads": "heads",
    "kv_heads": "KV heads",
    "head_dim": "head size",
    "has_tokenizer": "own tokenizer",
    "has_embedding": "own embedding",
    "vision": "vision",
    "lora": "LoRA adapter",
    "end_token": "end token",
}
WORTH_MISSING = ("toolkit", "platform", "npu_cores", "max_context", "dtype", "architecture", "layers")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="a .rkllm file, or a .rknn one")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(args: argparse.Namespace) -> int:
    if encoderfile.is_encoder_file(args.file):
        return print_encoder(args.file, as_json=args.json)
    facts = modelfile.inspect(args.file)
    here = local_runtime()
    choice = selection.choose(here.search, facts) if here.search.found is not None else None
    objections = selection.objections_to(facts, choice, here.platform)
    if args.json:
        print(json.dumps(as_json(facts, objections, here, choice), indent=2))
    else:
        print(*report(facts, objections, here, choice), sep="\n")
    return 0


def print_encoder(file: Path, *, as_json: bool) -> int:
    """What a `.rknn` file says of itself, whatever its name is."""
    facts = encoderfile.inspect(file)
    if as_json:
        print(json.dumps({**asdict(facts), "path": str(facts.path), "kind": "encoder"}, indent=2))
        return 0
    rows = (
        ("kind", "an encoder for librknnrt, no language model"),
        ("converted with", f"rknn-toolkit2 {facts.toolkit}"),
        ("platform", ", ".join(facts.platforms).upper() or "unknown"),
        ("input", encoderfile.shapes_text(facts.inputs)),
        ("output", encoderfile.shapes_text(facts.outputs)),
    )
    print(f"{facts.path}: {size(facts.size)}", *(f"  {label:<14} {value}" for label, value in rows), sep="\n")
    return 0


def as_json(
    facts: ModelFacts, objections: tuple[Objection, ...], here: LocalRuntime, choice: RuntimeChoice | None
) -> dict[str, Any]:
    return {
        "path": str(facts.path),
        "size": facts.size,
        "known_head": facts.known_head,
        "facts": {name: asdict(fact) for name, fact in facts.known().items()},
        "kv_bytes_per_token": facts.kv_bytes_per_token,
        "runtime": None if choice is None else choice.release,
        "runtime_reason": None if choice is None else choice.reason,
        "platform": here.platform or None,
        "objections": [
            {**(error_value(objection.error) or {}), "certain": objection.certain} for objection in objections
        ],
    }


def report(
    facts: ModelFacts, objections: tuple[Objection, ...], here: LocalRuntime, choice: RuntimeChoice | None
) -> Iterator[str]:
    """The file, its facts with their sources, unknown facts, and whether it can run on this machine."""
    facts_by_name = facts.known()
    yield f"{facts.path}: {size(facts.size)}"
    if not facts.known_head:
        yield "  The header has an unknown layout; only the footer and the name were read."
    rows = [(LABELS[name], value_text(fact), SOURCES[fact.source]) for name, fact in facts_by_name.items()]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    for label, value, source in rows:
        yield f"  {label:<{widths[0]}}  {value:<{widths[1]}}  from {source}"
    if (per_token := facts.kv_bytes_per_token) is not None and facts.max_context is not None:
        context = facts.max_context.value
        yield f"  memory: about {size(facts.memory(context) or 0)} at {context} tokens ({per_token:,} bytes a token)"
    if unknown := [LABELS[name] for name in WORTH_MISSING if name not in facts_by_name]:
        yield f"  unknown: {', '.join(unknown)}"
    if choice is not None and len(here.search.installed) > 1:
        yield f"  runtime: {choice}"
    yield from verdict(objections, here, "" if choice is None else choice.release)


def verdict(objections: tuple[Objection, ...], here: LocalRuntime, release: str) -> Iterator[str]:
    for objection in objections:
        yield f"{'!' if objection.certain else '?'} {objection.error.sentence}"
        yield f"  try: {objection.error.hint}"
    if objections:
        return
    if where := " and ".join(text for text in (here.platform, release and f"runtime {release}") if text):
        yield f"No objections on this machine: {where}."


def value_text(fact: Fact[Any]) -> str:
    return {True: "yes", False: "no"}[fact.value] if isinstance(fact.value, bool) else str(fact.value)
