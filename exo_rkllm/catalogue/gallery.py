"""The gallery: what the Hub has for this board, and short names for conversions that are known."""

from __future__ import annotations

import asyncio
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from exo_rkllm import socs
from exo_rkllm.catalogue import names
from exo_rkllm.catalogue.choice import BoardRoom, best_of, candidates, fits, made_for_others
from exo_rkllm.catalogue.encoders import encoder_among
from exo_rkllm.catalogue.hub import FoundRepository, Hub, repos
from exo_rkllm.errors import ExoRkllmError, ModelNotFound

# Names of conversions that their makers published (rkllm-runtime 3.3, board-facts 6). None of them was fetched or run
# by us, and a repository can be renamed or removed: unverified.
_SHORT_NAMES = """
qwen3-1.7b            rk3588 GatekeeperZA/Qwen3-1.7B-RKLLM-v1.2.3
qwen3-4b              rk3588 dulimov/Qwen3-4B-Instruct-2507-rk3588-1.2.2
qwen3-8b              rk3588 dulimov/Qwen3-8B-rk3588-1.2.1-unsloth-16k
qwen3-8b              rk3576 jerard-dev/Qwen3-8B-Instruct-RK3576
qwen3-vl-2b           rk3588 HanzoHuang/Qwen3-VL-2B-Instruct-RKLLM
qwen3-vl-2b           rk3576 HanzoHuang/Qwen3-VL-2B-Instruct-RKLLM
qwen3-embedding-0.6b  rk3588 GatekeeperZA/Qwen3-Embedding-0.6B-RKLLM-v1.2.3
qwen3.5-0.8b          rk3588 StationPC/Qwen3.5-0.8B-RKLLM-RK3588
qwen3.5-4b            rk3588 Qengineering/Qwen3.5-4B-rk3588
qwen2.5-1.5b          rk3588 c01zaut/Qwen2.5-1.5B-Instruct-RK3588-1.1.4
qwen2.5-3b            rk3588 c01zaut/Qwen2.5-3B-Instruct-RK3588-1.1.4
qwen2-vl-2b           rk3588 3ib0n/Qwen2-VL-2B-rkllm
llama3.1-8b           rk3588 c01zaut/Llama-3.1-8B-Instruct-rk3588-1.1.2
gemma3-1b             rk3588 thanhtantran/gemma-3-1b-it-rk3588-1.2.0
gemma3-4b             rk3588 datakurre/gemma-3-4b-it-rk3588-1.2.0
gemma3n-e4b           rk3588 hajajmaor/gemma-3n-E4B-it-rk3588-1.2.3
gemma4-e2b            rk3588 ndneighbor/gemma-4-E2B-it-RKLLM-RK3588-W8A8-ctx16k
deepseek-r1-1.5b      rk3588 VRxiaojie/DeepSeek-R1-Distill-Qwen-1.5B-RK3588S-RKLLM1.1.4
internvl3.5-2b        rk3588 Qengineering/InternVL3.5-2B-rk3588
minicpm-v-2.6         rk3588 happyme531/MiniCPM-V-2_6-rkllm
tinyllama-1.1b        rk3588 punchnox/Tinnyllama-1.1B-rk3588-rkllm-1.1.4
"""
SHORT_NAMES: Mapping[tuple[str, str], str] = {
    (name, soc): repo for name, soc, repo in (line.split() for line in _SHORT_NAMES.strip().splitlines())
}
SEARCH = "exo-rkllm search WORDS"
# Of so many repositories the sizes are asked for, a few at a time.
MOST_SIZES, AT_ONCE = 12, 4
MOST_ITEMS = 40


@dataclass(frozen=True, slots=True)
class GalleryItem:
    """A model of the Hub. `target` is what `pull` takes; `size` counts the encoder, and is 0 where it is not known.

    `unfit` is why this board cannot run it, `note` what is to be known before it is pulled; `id` is the entry that it
    already is here.
    """

    target: str
    repo: str
    file: str
    quantization: str = ""
    size: int = 0
    downloads: int = 0
    sees: bool = False
    short: str = ""
    unfit: str = ""
    note: str = ""
    id: str = ""


def short_name(repo: str, soc: str) -> str:
    return next((name for (name, own), known in SHORT_NAMES.items() if (own, known) == (soc, repo)), "")


def plain(name: str) -> str:
    """`qwen3:1.7b` as a short name of the table."""
    return name.strip().lower().removesuffix(":latest").replace(":", "-")


def is_short_name(name: str) -> bool:
    """Of any SoC."""
    return any(known == plain(name) for known, _ in SHORT_NAMES)


def repository_of(name: str, soc: str) -> str:
    """The repository that a short name means on this SoC; `qwen3:1.7b` is `qwen3-1.7b`.

    Raises ModelNotFound with the nearest names.
    """
    wanted = plain(name)
    soc = socs.family_of(soc) if soc else ""
    if repo := SHORT_NAMES.get((wanted, soc)):
        return repo
    others = sorted(own.upper() for known, own in SHORT_NAMES if known == wanted)
    if others:
        here = f"this board is an {soc.upper()}" if soc else "this machine is no board: --soc says which SoC is meant"
        raise ModelNotFound(f"The short name {wanted!r} is for {' and '.join(others)}, and {here}.", SEARCH)
    close = difflib.get_close_matches(wanted, sorted({known for known, _ in SHORT_NAMES}), n=3)
    near = f" Near it: {', '.join(close)}." if close else ""
    raise ModelNotFound(
        f"There is no short name {name[:60]!a}.{near}", f"{SEARCH}, then exo-rkllm pull ORG/REPO or a short name"
    )


async def search(hub: Hub, words: str, room: BoardRoom, installed: Mapping[str, str]) -> tuple[GalleryItem, ...]:
    """What fits this board first, each group by how often it was fetched. `installed` are ids by `REPO:FILE`.

    A name of a conversion holds `rkllm` or the SoC nearly always (rkllm-runtime 3.3), its tag sometimes.
    """
    words = " ".join(re.findall(r"[\w./-]+", words))[:100]
    queries = [hub.search(f"{words} rkllm".strip()), hub.search(words, "rkllm")]
    if room.soc:
        queries.append(hub.search(f"{words} {room.soc}".strip()))
    answers = await asyncio.gather(*queries)
    found = {one.id: one for answer in answers for one in answer}
    by_downloads = sorted(found.values(), key=lambda one: (-one.downloads, one.id.lower()))
    items = list(_items(by_downloads, room.soc))
    items.sort(key=lambda item: bool(item.unfit))
    limit = asyncio.Semaphore(AT_ONCE)
    fitting = min(MOST_SIZES, sum(not item.unfit for item in items))
    items[:fitting] = await asyncio.gather(*(_sized(hub, limit, item, room) for item in items[:fitting]))
    items.sort(key=lambda item: bool(item.unfit))
    return tuple(replace(item, id=installed.get(item.target, "")) for item in items[:MOST_ITEMS])


def _items(found: Sequence[FoundRepository], soc: str) -> Iterator[GalleryItem]:
    for one in found:
        offers = candidates(one.files)
        if not offers:
            continue
        facts = {file: names.parse_filename(file, one.id) for file in offers}
        fitting = [file for file in offers if fits(facts[file], soc)]
        file = best_of(fitting or offers, one.id, soc)[0]
        yield GalleryItem(
            target=f"{one.id}:{file}",
            repo=one.id,
            file=file,
            quantization=facts[file].quantization,
            downloads=one.downloads,
            sees=bool(encoder_among(one.files, file, one.id)),
            short=short_name(one.id, soc),
            unfit="" if fitting else made_for_others(offers, one.id, soc),
        )


async def _sized(hub: Hub, limit: asyncio.Semaphore, item: GalleryItem, room: BoardRoom) -> GalleryItem:
    """With what its listing says; a repository that cannot be looked at stays as it is."""
    try:
        async with limit:
            listing = (await hub.repository(item.repo)).files
    except ExoRkllmError:
        return item
    parts = [listing.get(path) for path in (item.file, encoder_among(listing, item.file, item.repo))]
    size = sum(part.size or 0 for part in parts if part is not None)
    return replace(item, size=size, unfit=room.unfit(size), note=room.note(size))


def installed_files(sources: Mapping[str, str]) -> dict[str, str]:
    """Ids of entries by `REPO:FILE`, from their cards' sources (`REPO@REVISION:FILE`)."""
    found = {}
    for id_, source in sources.items():
        repo, _, rest = source.partition("@")
        file = rest.partition(":")[2]
        if file and repos([repo]):
            found[f"{repo}:{file}"] = id_
    return found
