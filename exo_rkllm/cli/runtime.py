"""`exo-rkllm runtime`: show which versions of librkllmrt.so and which librknnrt.so are installed, or change that."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exo_rkllm.board.detect import detect
from exo_rkllm.cli.output import error_value
from exo_rkllm.config import load
from exo_rkllm.errors import ConfigError, ExoRkllmError, RuntimeMissing, UsageError
from exo_rkllm.rknn import install as encoder_install
from exo_rkllm.rknn import locate as encoder_locate
from exo_rkllm.rknn import version as encoder_version
from exo_rkllm.runtime import abi, locate, vendor_files
from exo_rkllm.runtime.install import Progress, add, copied, elsewhere, remove, set_default
from exo_rkllm.runtime.locate import LibraryPlace, Search
from exo_rkllm.runtime.vendor_files import VendorRelease, remark, remark_on
from exo_rkllm.runtime.version import supported_text

# Why the search looked at one place only.
SEARCH_REASONS = {
    "argument": " (library in section [runtime] of the configuration)",
    "environment": f" (set by {locate.VARIABLE})",
    "system": "",
}


@dataclass(frozen=True, slots=True)
class LocalRuntime:
    """The search for a library, the SoC's name, which is empty on a machine without one of ours, and librknnrt."""

    search: Search
    platform: str
    encoders: EncoderRuntime


@dataclass(frozen=True, slots=True)
class EncoderRuntime:
    """librknnrt, or why there is none that could be used."""

    path: Path | None = None
    release: str = ""
    problem: ExoRkllmError | None = None


def local_runtime() -> LocalRuntime:
    """Works even if the configuration is broken, which `exo-rkllm config check` reports."""
    library, encoder_library, root = None, "", "/"
    try:
        config = load(os.environ)
        root, encoder_library = config.board.root, config.runtime.encoder_library
        # The search reads the variable itself, and reports where the setting came from.
        library = None if os.environ.get(locate.VARIABLE) else config.runtime.library
    except ConfigError:
        pass
    soc = detect(Path(root)).soc
    search = locate.search(Path(library) if library else None)
    return LocalRuntime(search, "" if soc is None else soc.title, encoder_runtime(encoder_library))


def encoder_runtime(named: str) -> EncoderRuntime:
    try:
        path = encoder_locate.find(Path(named) if named else None)
        return EncoderRuntime(path, encoder_version.check(path))
    except ExoRkllmError as error:
        return EncoderRuntime(problem=error)


def arguments(parser: argparse.ArgumentParser) -> None:
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--install",
        metavar="FILE|URL|latest",
        help="check this librkllmrt.so and add its version, or this librknnrt.so and put it in place; latest downloads "
        "the vendor's newest one that is known here",
    )
    action.add_argument("--default", metavar="VERSION", help="make an installed version the default")
    action.add_argument("--remove", metavar="VERSION", help="remove an installed version")
    parser.add_argument(
        "--accept-licence", action="store_true", help="of the vendor, for --install latest without a question"
    )
    parser.add_argument("--sha256", metavar="HEX", default="", help="the SHA-256 it must have; required for a URL")
    parser.add_argument(
        "--directory", metavar="DIR", type=Path, help=f"where the versions are installed (default: {locate.OURS})"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(args: argparse.Namespace) -> int:
    changes = (args.install, args.default, args.remove) != (None, None, None)
    if (args.sha256 and args.install is None) or (args.directory and not changes):
        raise UsageError(
            "--sha256 and --directory belong to --install; --directory also to --default and --remove.",
            "exo-rkllm runtime --install FILE|URL ...",
        )
    directory = args.directory or locate.OURS
    if args.install == "latest":
        put_latest(vendor_files.LATEST, directory, accepted=args.accept_licence, as_json=args.json)
    elif args.install is not None:
        put(args.install, directory, args.sha256, as_json=args.json)
    elif args.default is not None:
        path = set_default(directory, args.default)
        text = f"The default is librkllmrt {args.default}: {path}"
        print(json.dumps({"default": args.default, "path": str(path)}) if args.json else text)
    elif args.remove is not None:
        remove(directory, args.remove)
        print(json.dumps({"removed": args.remove}) if args.json else f"Removed librkllmrt {args.remove}.")
    else:
        show(local_runtime(), as_json=args.json)
    return 0


def show(runtime: LocalRuntime, *, as_json: bool) -> None:
    """The report, also before the error of a machine without a library."""
    if as_json:
        print(json.dumps({**search_json(runtime.search), "encoders": encoders_json(runtime.encoders)}, indent=2))
    else:
        print(*report(runtime.search), *encoder_report(runtime.encoders), sep="\n")
    runtime.search.require()


def put_latest(release: VendorRelease, directory: Path, *, accepted: bool, as_json: bool) -> None:
    """Downloaded from the vendor by whoever accepts the vendor's licence."""
    print(
        f"{release.name} is Rockchip's, under Rockchip's own licence: {release.licence}\n"
        f"It is downloaded from {release.url}\nand must have the SHA-256 {release.sha256}.",
        file=sys.stderr,
    )
    if not accepted:
        if not sys.stdin.isatty():
            raise UsageError("The licence has to be accepted.", "exo-rkllm runtime --install latest --accept-licence")
        print("Have you read the licence, and do you accept it? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise UsageError("The licence was not accepted, so nothing was downloaded.")
    try:
        put(release.url, directory, release.sha256, as_json=as_json)
    except RuntimeMissing as error:
        if "SHA-256" not in error.sentence:
            raise
        hint = f"The vendor has another version there now: take {release.name} from its releases, --install FILE"
        raise RuntimeMissing(error.sentence, hint) from None


def put(source: str, directory: Path, sha256: str, *, as_json: bool) -> None:
    with copied(source, directory, sha256, bar()) as copy:
        own = remark(copy.sha256)
        note = f" ({own})" if own else ""
        if encoder_version.is_librknnrt(copy.path):
            path, release = encoder_install.replace(copy, directory)
            text = f"Installed librknnrt {release}: {path}{note}"
            print(json.dumps({"path": str(path), "version": release, "vendor": bool(own)}) if as_json else text)
            return
        new = add(copy, directory)
    release = new.version.release
    if as_json:
        values = {"path": str(new.path), "version": release, "evidence": new.version.evidence, "default": new.default}
        print(json.dumps({**values, "vendor": bool(own)}))
        return
    print(f"Installed librkllmrt {release}: {new.path}{note}")
    if not any(place.path.exists() and place.path.samefile(new.path) for place in local_runtime().search.installed):
        print(f"  To use it: export {locate.VARIABLE}={directory / locate.NAME}")
    if new.default != release:
        print(f"  Models that need it are loaded with it; the default stays {new.default}.")
        print(f"  To change that: exo-rkllm runtime --default {release}{elsewhere(directory)}")


def bar() -> Progress:
    """A line that is updated on a terminal, and nothing elsewhere: percentages do not belong in a journal."""
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
        own = remark_on(used.path)
        note = f"; {own}" if own else ""
        yield f"  librkllmrt {release}, according to its {used.version.evidence}; struct layout {layout}{note}"
    if len(search.installed) > 1:
        yield "installed"
        for place in search.installed:
            yield f"  {place.release:<8} {place.path}{'  <- default' if place is used else ''}"
    places = [place for place in search.places if place not in search.versions]
    width = max(len(str(place.path)) for place in (*places, *search.versions))
    yield "searched" + SEARCH_REASONS[search.places[0].origin]
    for place in (*places, *search.versions):
        yield f"  {place.path!s:<{width}}  {finding(place)}{'  <- used' if place is used else ''}"
    yield f"supported: {supported_text()}"


def encoder_report(found: EncoderRuntime) -> Iterator[str]:
    yield "for models that see"
    if found.path is None:
        yield f"  {found.problem}"
        return
    own = remark_on(found.path)
    yield f"  librknnrt {found.release}  {found.path}{f'; {own}' if own else ''}"


def encoders_json(found: EncoderRuntime) -> dict[str, Any]:
    own = found.path is not None and bool(remark_on(found.path))
    path = None if found.path is None else str(found.path)
    return {"path": path, "version": found.release or None, "vendor": own, "problem": error_value(found.problem)}


def finding(place: LibraryPlace) -> str:
    """What was found at a place, without the path and the supported versions, which the report shows anyway."""
    return place.held.removeprefix(f"{place.path} ").partition("; supported are")[0].removesuffix(".")


def search_json(search: Search) -> dict[str, Any]:
    return {
        "used": None if search.found is None else place_json(search.found),
        "installed": [place_json(place) for place in search.installed],
        "places": [place_json(place) for place in search.places],
        "supported": list(abi.RELEASES),
        "python": f"{os.uname().machine} {sys.version_info.major}.{sys.version_info.minor}",
    }


def place_json(place: LibraryPlace) -> dict[str, Any]:
    version = place.version
    return {
        "path": str(place.path),
        "origin": place.origin,
        "version": None if version is None else version.release,
        "evidence": None if version is None else version.evidence,
        "generation": None if version is None else abi.load(version.release).name,
        "problem": error_value(place.problem),
    }
