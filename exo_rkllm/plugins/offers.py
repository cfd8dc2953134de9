"""What the installed packages offer, by their metadata alone: nothing of theirs is imported here."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder

log = logging.getLogger(__name__)

MODELS, GENERAL, ENGINES = "exo_rkllm.plugins", "exo_rkllm.general_plugins", "exo_rkllm.backends"
# A function that is run for its effect (the second name is the seeds'), and an EngineSpec.
GROUPS = (MODELS, GENERAL, ENGINES)
LISTED = "load"  # no group: what the configuration lists under [plugins]
ALL = "*"


@dataclass(frozen=True, slots=True, order=True)
class Offer:
    """One entry point and the package that has it."""

    group: str
    name: str
    value: str
    package: str = ""
    version: str = ""


def offers() -> tuple[Offer, ...]:
    """In one order wherever they are asked for, so that the same plugin wins in every process."""
    unique = {(one.group, one.name, one.value): one for one in _entry_points()}
    return tuple(sorted(unique.values(), key=lambda offer: (GROUPS.index(offer.group), offer)))


def _entry_points() -> Iterator[Offer]:
    if not _may_offer(sys.path, sys.meta_path):
        return
    from importlib import metadata  # reads archives and mail headers: a plugin that registers needs none of it

    try:
        points = [one for group in GROUPS for one in metadata.entry_points(group=group)]
    except Exception:  # noqa: BLE001 - one package with a broken file must not hide the others
        points = []
        for package in metadata.distributions():
            try:
                points += [one for one in package.entry_points if one.group in GROUPS]
            except Exception as error:  # noqa: BLE001 - the one it is
                log.warning("The entry points of %s cannot be read: %s", package.name, error)
    for one in points:
        package_name, version = ("", "") if one.dist is None else (one.dist.name, one.dist.version)
        yield Offer(one.group, one.name, one.value, package_name, version)


def _may_offer(folders: Iterable[str], finders: Iterable[object]) -> bool:
    """Whether a package could have entry points of ours. False is certain, and quicker than importlib.metadata's."""
    if any(hasattr(finder, "find_distributions") for finder in finders if finder is not PathFinder):
        return True
    for folder in folders:
        try:
            names = os.listdir(folder or os.curdir)  # noqa: PTH208 - only a tenth of them are looked at
        except FileNotFoundError:
            continue
        except OSError:  # an archive, or what cannot be read
            return True
        for name in names:
            if name.endswith(("-info", ".egg", "EGG-INFO")) and _says_ours(os.path.join(folder, name)):  # noqa: PTH118
                return True
    return False


def _says_ours(package: str) -> bool:
    try:
        with open(f"{package}/entry_points.txt", "rb") as file:  # noqa: PTH123 - a hundred of them at each start
            return b"[exo_rkllm." in file.read()
    except (FileNotFoundError, NotADirectoryError):
        return package.endswith(".egg")
    except OSError:
        return True


def from_configuration(values: Sequence[str]) -> tuple[Offer, ...]:
    """Modules and files that the operator names; to be named is to be allowed."""
    return tuple(Offer(LISTED, value.rpartition("/")[2].removesuffix(".py"), value) for value in dict.fromkeys(values))


def allowed(name: str, allow: Sequence[str]) -> bool:
    """`*` is everything, as nothing at all is nothing."""
    return ALL in allow or name in allow


def names(text: Iterable[str] | str) -> tuple[str, ...]:
    """From a list, or a text with commas; blanks around a name mean nothing."""
    parts = text.split(",") if isinstance(text, str) else text
    return tuple(part.strip() for part in parts if part.strip())
