"""debian/changelog out of CHANGELOG.md and `exo_rkllm.__version__`, so that there is one place for each of them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import format_datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent
MAINTAINER = "exo-rkllm developers <exo-rkllm@users.noreply.github.com>"
HEADING = re.compile(r"^## (?P<version>[0-9][^ ]*) \((?P<date>unreleased|\d{4}-\d\d-\d\d)\)$", re.MULTILINE)
VERSION = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Release:
    version: str
    date: str  # of the day, or `unreleased`
    items: tuple[str, ...]


class WrongChangelog(Exception):
    """CHANGELOG.md and the version disagree."""


def releases(text: str) -> tuple[Release, ...]:
    """Newest first, as they stand."""
    found = list(HEADING.finditer(text))
    ends = [later.start() for later in found[1:]] + [len(text)]
    return tuple(
        Release(one["version"], one["date"], tuple(_items(text[one.end() : end])))
        for one, end in zip(found, ends, strict=True)
    )


def _items(section: str) -> Iterator[str]:
    for item in re.split(r"^\* ", section, flags=re.MULTILINE)[1:]:
        yield " ".join(item.split())


def version(root: Path = ROOT) -> str:
    found = VERSION.search((root / "exo_rkllm/__init__.py").read_text())
    if found is None:
        raise WrongChangelog("exo_rkllm/__init__.py has no __version__.")
    return found[1]


def debian(text: str, wanted: str, package_version: str, epoch: int) -> str:
    """The whole file; the newest entry bears `package_version`, and of the epoch's day where it is unreleased."""
    found = releases(text)
    if not found or found[0].version != wanted:
        newest = found[0].version if found else "nothing"
        raise WrongChangelog(f"CHANGELOG.md begins with {newest}, and exo_rkllm.__version__ is {wanted}.")
    return "\n".join(
        _entry(release, package_version if number == 0 else release.version, epoch)
        for number, release in enumerate(found)
    )


def _entry(release: Release, package_version: str, epoch: int) -> str:
    moment = (
        datetime.fromtimestamp(epoch, timezone.utc)
        if release.date == "unreleased"
        else datetime.fromisoformat(f"{release.date}T12:00:00+00:00")
    )
    items = "\n".join(_wrapped(item) for item in release.items)
    return (
        f"exo-rkllm ({package_version}) stable; urgency=medium\n\n{items}\n\n"
        f" -- {MAINTAINER}  {format_datetime(moment)}\n"
    )


def _wrapped(item: str) -> str:
    import textwrap

    plain = item.replace("`", "")
    return textwrap.fill(plain, 78, initial_indent="  * ", subsequent_indent="    ", break_on_hyphens=False)


def main() -> int:
    """SOURCE_DATE_EPOCH [VERSION-OF-THE-PACKAGE]"""
    wanted = version()
    named = sys.argv[2] if len(sys.argv) > 2 and sys.argv[2] else wanted
    sys.stdout.write(debian((ROOT / "CHANGELOG.md").read_text(), wanted, named, int(sys.argv[1])))
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except WrongChangelog as error:
        raise SystemExit(str(error)) from None
