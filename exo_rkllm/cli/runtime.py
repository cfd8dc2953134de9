"""`exo-rkllm runtime`: which librkllmrt.so is used and why, and putting one in place."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exo_rkllm.cli.here import look
from exo_rkllm.errors import UsageError
from exo_rkllm.runtime import abi, locate
from exo_rkllm.runtime.install import Progress, install
from exo_rkllm.runtime.locate import Place, Search
from exo_rkllm.runtime.version import supported_text

# Why only one place was looked at, where somebody named it.
DECIDED = {
    "argument": " (the configuration's library, in section runtime)",
    "environment": f" (set by {locate.VARIABLE})",
    "system": "",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--install", metavar="FILE|URL", help="check this librkllmrt.so and put it in place")
    parser.add_argument("--sha256", metavar="HEX", default="", help="what it must have; required for a URL")
    parser.add_argument("--directory", metavar="DIR", type=Path, help=f"instead of {locate.OURS}")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def main(args: argparse.Namespace) -> int:
    if args.install is None and (args.sha256 or args.directory):
        raise UsageError("--sha256 and --directory belong to --install.", "exo-rkllm runtime --install FILE|URL ...")
    if args.install is not None:
        put(args.install, args.directory or locate.OURS, args.sha256, as_json=args.json)
        return 0
    found = look().search
    if args.json:
        print(json.dumps(search_json(found), indent=2))
    else:
        print(*report(found), sep="\n")
    found.require()
    return 0


def put(source: str, directory: Path, sha256: str, *, as_json: bool) -> None:
    target, version = install(source, directory, sha256, bar())
    if as_json:
        print(json.dumps({"path": str(target), "version": version.release, "evidence": version.evidence}))
        return
    print(f"librkllmrt {version.release} is in place: {target}")
    used = look().search.found
    if used is None or not used.path.exists() or not used.path.samefile(target):
        print(f"  To use it: export {locate.VARIABLE}={target}")


def bar() -> Progress:
    """One line that grows on a terminal, nothing elsewhere: a journal is no place for percentages."""
    if not sys.stderr.isatty():
        return lambda _done, _total: None

    def show(done: int, total: int) -> None:
        share = f" ({100 * done // total} %)" if total else ""
        print(f"\r{done / 1e6:.1f} MB{share}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show


def report(search: Search) -> Iterator[str]:
    used = search.found
    if used is not None and used.version is not None:
        release = used.version.release
        layout = abi.load(release).name
        yield f"{used.path}"
        yield f"  librkllmrt {release}, by its {used.version.evidence}; layout of {layout}"
    width = max(len(str(place.path)) for place in search.places)
    yield "looked at" + DECIDED[search.places[0].origin]
    for place in search.places:
        yield f"  {place.path!s:<{width}}  {held(place)}{'  <- used' if place is used else ''}"
    yield f"supported: {supported_text()}"


def held(place: Place) -> str:
    """What a report says of a place, without what stands in it anyway: the path, and what is supported."""
    return place.held.removeprefix(f"{place.path} ").partition("; supported are")[0].removesuffix(".")


def search_json(search: Search) -> dict[str, Any]:
    return {
        "used": None if search.found is None else place_json(search.found),
        "places": [place_json(place) for place in search.places],
        "supported": list(abi.RELEASES),
        "python": f"{os.uname().machine} {sys.version_info.major}.{sys.version_info.minor}",
    }


def place_json(place: Place) -> dict[str, Any]:
    version, problem = place.version, place.problem
    return {
        "path": str(place.path),
        "origin": place.origin,
        "version": None if version is None else version.release,
        "evidence": None if version is None else version.evidence,
        "generation": None if version is None else abi.load(version.release).name,
        "problem": None
        if problem is None
        else {"code": problem.code, "sentence": problem.sentence, "hint": problem.hint},
    }
