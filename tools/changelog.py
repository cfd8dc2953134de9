"""Generate debian/changelog from CHANGELOG.md and `exo_rkllm.__version__`."""

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
    """Newest first, in the order of the file."""
    headings = list(HEADING.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    return tuple(
        Release(heading["version"], heading["date"], tuple(_items(text[heading.end() : end])))
        for heading, end in zip(headings, ends, strict=True)
    )


def _items(section: str) -> Iterator[str]:
    for item in re.split(r"^\* ", section, flags=re.MULTILINE)[1:]:
        yield " ".join(item.split())


def version(root: Path = ROOT) -> str:
    match = VERSION.search((root / "exo_rkllm/__init__.py").read_text())
    if match is None:
        raise WrongChangelog("exo_rkllm/__init__.py has no __version__.")
    return match[1]


def debian(text: str, expected: str, package_version: str, epoch: int) -> str:
    """The whole file. The newest entry gets `package_version`; an unreleased one gets the epoch's date."""
    entries = releases(text)
    if not entries or entries[0].version != expected:
        newest = entries[0].version if entries else "nothing"
        raise WrongChangelog(f"CHANGELOG.md begins with {newest}, and exo_rkllm.__version__ is {expected}.")
    return "\n".join(
        _entry(release, package_version if number == 0 else release.version, epoch)
        for number, release in enumerate(entries)
    )


def _entry(release: Release, package_version: str, epoch: int) -> str:
    moment = (
        datetime.fromtimestamp(epoch, timezone.utc)
        if release.date == "unreleased"
        else datetime.fromisoformat(f"{release.date}T12:00:00+00:00")
    )
    items = "\n".join(_wrap(item) for item in release.items)
    return (
        f"exo-rkllm ({package_version}) stable; urgency=medium\n\n{items}\n\n"
        f" -- {MAINTAINER}  {format_datetime(moment)}\n"
    )


def _wrap(item: str) -> str:
    import textwrap

    plain = item.replace("`", "")
    return textwrap.fill(plain, 78, initial_indent="  * ", subsequent_indent="    ", break_on_hyphens=False)


def main() -> int:
    """SOURCE_DATE_EPOCH [VERSION-OF-THE-PACKAGE]"""
    current = version()
    package_version = sys.argv[2] if len(sys.argv) > 2 and sys.argv[2] else current
    sys.stdout.write(debian((ROOT / "CHANGELOG.md").read_text(), current, package_version, int(sys.argv[1])))
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except WrongChangelog as error:
        raise SystemExit(str(error)) from None
