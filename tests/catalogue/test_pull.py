"""Pulling from a server that speaks the Hub's HTTP, with everything that a line, a disk or a server does wrong."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exo_rkllm.backends.base import Sampling
from exo_rkllm.catalogue import fetch as fetching
from exo_rkllm.catalogue import hub as hubs
from exo_rkllm.catalogue.companions import front_matter
from exo_rkllm.catalogue.encoders import encoder_among
from exo_rkllm.catalogue.hub import DEFAULT, Access
from exo_rkllm.catalogue.progress import PullProgress
from exo_rkllm.catalogue.pull import PullTarget, pull
from exo_rkllm.catalogue.store import Catalogue
from exo_rkllm.chat.template import compiled
from exo_rkllm.errors import ModelExists, ModelFileError, ModelNotFound, PullError, UsageError
from simulator import encoder_file
from simulator.encoder_file import SimEncoder
from simulator.model_file import SimModel, write
from tests.hub import COMMIT, Large, LocalHub, large


def model(reply: str) -> Large:
    """A small simulated model file."""
    with tempfile.TemporaryDirectory() as folder:
        return large(write(Path(folder) / "m.rkllm", SimModel(reply=reply)).read_bytes())


NEWER = model("a newer version")
ROOT = Path(__file__).parent.parent.parent
WEIGHTS = random.Random(1).randbytes(3_000_001)
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()
FILE = "Qwen2.5-1.5B-Instruct-rk3588-w8a8-opt-0-hybrid-ratio-0.0.rkllm"
TOKENIZER = json.dumps({"eos_token": "<|im_end|>", "chat_template": "{{ messages[0].content }}!"}).encode()
CONFIG = json.dumps(
    {"num_hidden_layers": 28, "hidden_size": 1536, "num_attention_heads": 12, "num_key_value_heads": 2}
).encode()
GENERATION = json.dumps({"temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.1}).encode()


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    async with LocalHub("hf_secret") as server:
        server.add(
            "c01zaut/Qwen2.5-1.5B-Instruct-RK3588-1.1.4",
            {FILE: large(WEIGHTS), "README.md": b"# A model\n", ".gitattributes": b""},
            card={"base_model": "Qwen/Qwen2.5-1.5B-Instruct"},
        )
        server.add(
            "Qwen/Qwen2.5-1.5B-Instruct",
            {
                "tokenizer_config.json": TOKENIZER,
                "config.json": CONFIG,
                "generation_config.json": GENERATION,
                "tokenizer.json": b"{}",
                "modeling.py": b"import os",
                "model.safetensors": large(b"x" * 100),
            },
        )
        yield server


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between tries that a test can wait for."""
    monkeypatch.setattr(fetching, "PAUSE", 0.001)
    monkeypatch.setattr(hubs, "PAUSES", (0.001, 0.001, 0.0))


REPO = PullTarget("c01zaut/Qwen2.5-1.5B-Instruct-RK3588-1.1.4")


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return Catalogue(tmp_path / "models")


async def pulled(hub: LocalHub, catalogue: Catalogue, wanted: PullTarget = REPO, **more: Any) -> list[PullProgress]:
    more.setdefault("soc", "rk3588")
    return [step async for step in pull(catalogue, wanted, Access(hub.endpoint, "hf_secret"), **more)]


def left(catalogue: Catalogue) -> list[str]:
    return sorted(path.name for path in catalogue.directory.iterdir())


def notes(steps: list[PullProgress]) -> str:
    return "\n".join(step.text for step in steps if step.stage == "note")


async def test_pull_makes_a_usable_entry(hub: LocalHub, catalogue: Catalogue) -> None:
    steps = await pulled(hub, catalogue)
    assert steps[-1].stage == "done"
    entry = catalogue.get("qwen2.5-1.5b-instruct")
    assert steps[-1].id == entry.id
    assert entry.path is not None
    assert entry.path.read_bytes() == WEIGHTS
    card = entry.card
    assert card.weights is not None
    assert (card.weights.sha256, card.weights.size) == (DIGEST, len(WEIGHTS))
    assert card.source == f"{REPO.repo}@{COMMIT}:{FILE}"
    assert (card.base_model, card.name) == ("Qwen/Qwen2.5-1.5B-Instruct", "Qwen2.5 1.5B Instruct")
    assert (card.platform, card.quantization, card.runtime_floor) == ("rk3588", "w8a8", "1.1.4")
    assert (card.layers, card.hidden_size) == (28, 1536)
    assert card.sampling == Sampling(temperature=0.7, top_k=20, top_p=0.8, repeat_penalty=1.1)
    assert card.memory == len(WEIGHTS) + 200 * 1024 * 1024 + 2 * 28 * 2 * 128 * 2 * 4096
    assert entry.chat_format().stop == ("<|im_end|>", "<|endoftext|>")
    assert compiled(entry.chat_format().template.text).render(messages=[{"content": "Hi"}]) == "Hi!"
    assert sorted(path.name for path in entry.folder.iterdir()) == [
        FILE, "config.json", "generation_config.json", "model.toml", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert left(catalogue) == ["qwen2.5-1.5b-instruct"]
    assert "the only model file, made for RK3588" in notes(steps)
    assert "from Qwen/Qwen2.5-1.5B-Instruct" in notes(steps)
    shown = [step for step in steps if step.stage == "downloading"]
    assert [step.done for step in shown] == sorted(step.done for step in shown)
    assert shown[-1].done == shown[-1].total == len(WEIGHTS)


async def test_token_is_sent_to_the_hub_only(hub: LocalHub, catalogue: Catalogue) -> None:
    await pulled(hub, catalogue)
    told = {(asked.origin, asked.headers.get("Authorization", "")) for asked in hub.asked}
    assert told == {("hub", "Bearer hf_secret"), ("cdn", "")}


async def test_repeated_pull_fetches_nothing(hub: LocalHub, catalogue: Catalogue) -> None:
    await pulled(hub, catalogue)
    sent = hub.sent
    steps = await pulled(hub, catalogue)
    assert (steps[-1].stage, steps[-1].id, steps[-1].text) == (
        "done", "qwen2.5-1.5b-instruct", "qwen2.5-1.5b-instruct is here already",
    )  # fmt: skip
    assert hub.sent == sent
    await pulled(hub, catalogue, replace=True)
    assert hub.sent == 2 * sent
    assert [entry.id for entry in catalogue.list()] == ["qwen2.5-1.5b-instruct"]


async def test_second_file_of_the_same_name_gets_a_longer_id(hub: LocalHub, catalogue: Catalogue) -> None:
    await pulled(hub, catalogue)
    hub.add("other/Qwen", {FILE: model("other")})
    steps = await pulled(hub, catalogue, PullTarget("other/Qwen"))
    assert steps[-1].id == "qwen2.5-1.5b-instruct-w8a8"
    hub.add("another/Qwen", {FILE: model("another")})
    steps = await pulled(hub, catalogue, PullTarget("another/Qwen"))
    assert steps[-1].id == "qwen2.5-1.5b-instruct-rk3588-w8a8-opt-0-hybrid-ratio-0.0"
    hub.add("mixed/Qwen", {FILE.replace("0.0", "0.5"): model("mixed")})
    assert (await pulled(hub, catalogue, PullTarget("mixed/Qwen")))[-1].id == "qwen2.5-1.5b-instruct-w8a8-hybrid-0.5"
    hub.add("third/Qwen", {FILE: model("third")})
    steps = await pulled(hub, catalogue, PullTarget("third/Qwen"))
    assert steps[-1].id == "third-qwen2.5-1.5b-instruct-rk3588-w8a8-opt-0-hybrid-ratio-0.0"
    hub.add("third/Qwen", {f"again/{FILE}": model("fourth")})
    with pytest.raises(ModelExists, match=r"There is a model 'qwen2\.5-1\.5b-instruct' already"):
        await pulled(hub, catalogue, PullTarget("third/Qwen"))
    with pytest.raises(ModelExists, match="from another file"):
        await pulled(hub, catalogue, PullTarget("third/Qwen"), name="qwen2.5-1.5b-instruct")
    steps = await pulled(hub, catalogue, PullTarget("third/Qwen"), name="mine")
    assert steps[-1].id == "mine"


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".x", "a\0b"])
async def test_pull_refuses_a_name_with_a_path(hub: LocalHub, catalogue: Catalogue, name: str) -> None:
    if name:
        with pytest.raises(UsageError, match="cannot be a model's name"):
            await pulled(hub, catalogue, name=name)
    assert not catalogue.directory.exists()


# ── lines that break ─────────────────────────────────────────────────────────────────────────────


async def test_broken_connection_is_resumed(hub: LocalHub, catalogue: Catalogue, hurried: None) -> None:
    hub.faults.cut = [700_000, 1_400_000, 2_800_000]
    steps = await pulled(hub, catalogue)
    assert steps[-1].stage == "done"
    assert "trying again" in notes(steps)
    asked = [one.headers for one in hub.asked if one.origin == "cdn"]
    assert len(asked) == 4
    assert "Range" not in asked[0]
    assert all(one["Range"].startswith("bytes=") and one["If-Range"].startswith('"') for one in asked[1:])
    assert hub.sent < len(WEIGHTS) + 4 * 200_000


async def test_server_without_ranges_sends_the_whole_file_again(
    hub: LocalHub, catalogue: Catalogue, hurried: None
) -> None:
    hub.faults.cut, hub.faults.ranges = [700_000], False
    steps = await pulled(hub, catalogue)
    assert steps[-1].stage == "done"
    assert catalogue.get(steps[-1].id).card.weights is not None


async def test_mismatched_range_is_not_used(hub: LocalHub, catalogue: Catalogue, hurried: None) -> None:
    hub.faults.cut, hub.faults.wrong_part = [700_000], True
    with pytest.raises(PullError, match="another part than the one asked for"):
        await pulled(hub, catalogue)
    assert [entry.id for entry in catalogue.list()] == []
    hub.faults.wrong_part = False
    assert (await pulled(hub, catalogue))[-1].stage == "done"


async def test_busy_server_is_retried(hub: LocalHub, catalogue: Catalogue, hurried: None) -> None:
    hub.faults.refuse = 2
    assert (await pulled(hub, catalogue))[-1].stage == "done"


async def test_unreachable_server_ends_with_an_error(catalogue: Catalogue, hurried: None) -> None:
    steps = pull(catalogue, REPO, Access("http://127.0.0.1:9"))
    with pytest.raises(PullError, match=r"cannot be fetched: 127\.0\.0\.1 cannot be reached"):
        [step async for step in steps]


async def test_abandoned_pull_resumes(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.faults.pause = 0.001
    steps = pull(catalogue, REPO, Access(hub.endpoint), soc="rk3588")
    async for step in steps:
        if step.stage == "downloading" and step.done > 1_000_000:
            break
    await steps.aclose()
    assert catalogue.list() == ()
    [kept] = left(catalogue)
    assert kept.startswith(".pull-")
    hub.faults.pause = 0
    before = hub.sent
    again = await pulled(hub, catalogue)
    assert again[-1].stage == "done"
    assert [step.stage for step in again].count("verifying") > 1
    assert hub.sent - before < len(WEIGHTS) - 1_000_000 + 70_000
    assert left(catalogue) == ["qwen2.5-1.5b-instruct"]


async def test_part_of_another_version_is_discarded(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.faults.pause = 0.001
    steps = pull(catalogue, REPO, Access(hub.endpoint), soc="rk3588")
    async for step in steps:
        if step.stage == "downloading":
            break
    await steps.aclose()
    hub.faults.pause = 0
    hub.repos[REPO.repo].files[FILE] = NEWER
    entry = catalogue.get((await pulled(hub, catalogue))[-1].id)
    assert entry.path is not None
    assert entry.path.read_bytes() == NEWER.body


async def test_corrupt_part_is_fetched_again_from_the_beginning(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.faults.pause = 0.001
    steps = pull(catalogue, REPO, Access(hub.endpoint), soc="rk3588")
    async for step in steps:
        if step.stage == "downloading":
            break
    await steps.aclose()
    hub.faults.pause = 0
    [part] = catalogue.directory.glob(".pull-*/*.part")
    with part.open("r+b") as file:
        file.write(b"\0" * 100)
    again = await pulled(hub, catalogue)
    assert again[-1].stage == "done"
    assert "starting over" in notes(again)


async def test_overlong_part_is_fetched_again(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.faults.pause = 0.001
    steps = pull(catalogue, REPO, Access(hub.endpoint), soc="rk3588")
    async for step in steps:
        if step.stage == "downloading":
            break
    await steps.aclose()
    hub.faults.pause = 0
    [part] = catalogue.directory.glob(".pull-*/*.part")
    part.write_bytes(WEIGHTS + b"more")
    again = await pulled(hub, catalogue)
    assert again[-1].stage == "done"
    assert "starting over" in notes(again)


async def test_truncated_answer_without_a_length_is_retried(hub: LocalHub, catalogue: Catalogue, hurried: None) -> None:
    hub.faults.short = 1_000_000
    with pytest.raises(PullError, match="ended after 1000000 of 3000001 bytes"):
        await pulled(hub, catalogue)
    assert catalogue.list() == ()


async def test_file_of_unknown_length_is_accepted(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.faults.sizes = hub.faults.digests = False
    hub.faults.surplus = b"!"
    hub.repos[REPO.repo].files[FILE] = large(WEIGHTS, hashlib.sha256(WEIGHTS + b"!").hexdigest())
    assert (await pulled(hub, catalogue))[-1].stage == "done"


async def test_file_that_changes_during_a_pull_is_refused(hub: LocalHub, catalogue: Catalogue) -> None:
    steps = pull(catalogue, REPO, Access(hub.endpoint), soc="rk3588")
    async for step in steps:
        if step.stage == "note":
            hub.repos[REPO.repo].files[FILE] = large(WEIGHTS[::-1])
            break
    with pytest.raises(PullError, match="changed while it was being fetched"):
        [step async for step in steps]
    hub.faults.digests = False
    steps = pull(catalogue, REPO, Access(hub.endpoint), soc="rk3588")
    async for step in steps:
        if step.stage == "note":
            hub.repos[REPO.repo].files[FILE] = large(WEIGHTS[:100])
            break
    with pytest.raises(PullError, match=r"sends 100 bytes of .*, its listing says 3000001"):
        [step async for step in steps]
    assert left(catalogue) == []


@pytest.mark.parametrize(("status", "says"), [(418, "answers HTTP 418 for"), (416, "fewer bytes than asked for")])
async def test_unexpected_status_is_explained(
    hub: LocalHub, catalogue: Catalogue, hurried: None, status: int, says: str
) -> None:
    hub.faults.answer = status
    with pytest.raises(PullError, match=says):
        await pulled(hub, catalogue)
    assert left(catalogue) == []


async def test_concurrent_pulls_of_one_file_do_not_mix(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.faults.pause = 0.001
    first = pull(catalogue, REPO, Access(hub.endpoint), soc="rk3588")
    async for step in first:
        if step.stage == "downloading":
            break
    with pytest.raises(ModelExists, match="just being fetched"):
        await pulled(hub, catalogue)
    await first.aclose()


# ── what must not be kept ────────────────────────────────────────────────────────────────────────


async def test_wrong_checksum_removes_the_stage(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.repos[REPO.repo].files[FILE] = large(WEIGHTS, "ab" * 32)
    with pytest.raises(PullError, match=r"has the SHA-256 .* not abababababababab.*thrown away"):
        await pulled(hub, catalogue)
    assert left(catalogue) == []


async def test_redirects_checksum_is_used_when_the_listing_has_none(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.faults.digests = False
    hub.repos[REPO.repo].files[FILE] = large(WEIGHTS, "ab" * 32)
    with pytest.raises(PullError, match="thrown away"):
        await pulled(hub, catalogue)
    assert left(catalogue) == []
    hub.repos[REPO.repo].files[FILE] = large(WEIGHTS)
    card = catalogue.get((await pulled(hub, catalogue))[-1].id).card
    assert card.weights is not None
    assert card.weights.sha256 == DIGEST


async def test_mirror_without_sizes_and_digests_works(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.faults.digests = hub.faults.sizes = False
    assert (await pulled(hub, catalogue))[-1].stage == "done"


async def test_surplus_bytes_are_refused(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.faults.surplus = b"x" * 100_000
    with pytest.raises(PullError, match="sends more of"):
        await pulled(hub, catalogue)
    assert catalogue.list() == ()


async def test_companion_with_a_wrong_digest_is_refused(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.repos["Qwen/Qwen2.5-1.5B-Instruct"].files["tokenizer.json"] = large(b"{}", "ab" * 32)
    steps = await pulled(hub, catalogue)
    assert "tokenizer.json of Qwen/Qwen2.5-1.5B-Instruct is not what its listing says" in notes(steps)
    assert "tokenizer.json" not in [path.name for path in catalogue.get(steps[-1].id).folder.iterdir()]


async def test_pull_checks_free_space_first(
    hub: LocalHub, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=60_000_000))
    with pytest.raises(PullError, match=r"needs 0\.00 GB and .* has 0\.06 GB free"):
        await pulled(hub, catalogue)
    assert hub.sent == 0
    assert left(catalogue) == []


async def test_pull_stops_before_the_disk_is_full_and_keeps_the_part(
    hub: LocalHub, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something else fills the disk meanwhile."""
    monkeypatch.setattr("exo_rkllm.catalogue.fetch.REPORT_EVERY", 1)
    free = iter([10_000_000_000, 10_000_000_000])
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=next(free, 60_000_000)))
    with pytest.raises(PullError, match=r"needs 0\.00 GB and .* has 0\.06 GB free"):
        await pulled(hub, catalogue)
    assert catalogue.list() == ()
    monkeypatch.undo()
    sent = hub.sent
    steps = await pulled(hub, catalogue)
    assert steps[-1].stage == "done"
    assert any(step.stage == "verifying" and 0 < step.done < step.total for step in steps), "the part was kept"
    assert sent


async def test_full_disk_is_explained_and_the_part_kept(hub: LocalHub, catalogue: Catalogue) -> None:
    """The kernel's limit on file sizes stands for the disk: the write fails in the middle."""
    child = await begun(hub, catalogue, EXO_TEST_LARGEST="1000000")
    _, said = await child.communicate()
    assert child.returncode == 1
    assert re.search(rb"PullError: .* cannot be written: File too large", said)
    assert catalogue.list() == ()
    assert (await pulled(hub, catalogue))[-1].stage == "done"


@pytest.mark.parametrize(
    "body", [b"version https://git-lfs.github.com/spec/v1\n", b"<!DOCTYPE html>", b"GGUF" + bytes(99)]
)
async def test_file_that_is_no_model_is_not_kept(hub: LocalHub, catalogue: Catalogue, body: bytes) -> None:
    hub.repos[REPO.repo].files[FILE] = large(body)
    with pytest.raises(ModelFileError):
        await pulled(hub, catalogue)
    assert left(catalogue) == []


async def test_card_asks_for_special_tokens_that_are_tags(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.add("org/gemma-4-e2b", {"gemma-4-E2B-it_w8a8_rk3588.rkllm": model("g")})
    entry = catalogue.get((await pulled(hub, catalogue, PullTarget("org/gemma-4-e2b")))[-1].id)
    assert entry.options == {"skip_special_token": False}
    special = {"1": {"content": "<tool_call>", "special": False}, "2": {"content": "<|im_end|>", "special": True}}
    told = json.dumps({"added_tokens_decoder": special}).encode()
    hub.add("org/qwen3-1b", {"qwen3-1b.rkllm": model("q"), "tokenizer_config.json": told})
    assert catalogue.get((await pulled(hub, catalogue, PullTarget("org/qwen3-1b")))[-1].id).options == {}


async def test_missing_repository_leaves_no_stage(hub: LocalHub, catalogue: Catalogue) -> None:
    with pytest.raises(ModelNotFound, match="has no nobody/nothing"):
        await pulled(hub, catalogue, PullTarget("nobody/nothing"))
    with pytest.raises(ModelNotFound, match="has no"):
        await pulled(hub, catalogue, PullTarget(REPO.repo, revision="v9"))
    assert not catalogue.directory.exists()


async def test_gated_repository_is_explained(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.repos[REPO.repo].gated = True
    steps = pull(catalogue, REPO, Access(hub.endpoint), soc="rk3588")
    with pytest.raises(PullError, match="it is private or gated") as refusal:
        [step async for step in steps]
    assert "HF_TOKEN" in refusal.value.hint
    with pytest.raises(PullError, match="refuses this token"):
        [step async for step in pull(catalogue, REPO, Access(hub.endpoint, "hf_wrong"), soc="rk3588")]
    assert (await pulled(hub, catalogue))[-1].stage == "done"


@pytest.mark.parametrize(
    "listing",
    [
        b"<html>",
        b"[]",
        b"{}",
        b'{"siblings": 3}',
        b'{"siblings": [{}]}',
        b'{"siblings": [], "sha": "../x"}',
        b"[" * 99999,
    ],
)
async def test_malformed_listing_is_explained(hub: LocalHub, catalogue: Catalogue, listing: bytes) -> None:
    hub.faults.listing = listing
    with pytest.raises(PullError, match="something that is no listing"):
        await pulled(hub, catalogue)


async def test_listing_cannot_lead_out_of_the_folder(hub: LocalHub, catalogue: Catalogue) -> None:
    evil = ["../evil.rkllm", "/etc/evil.rkllm", "a/../../evil.rkllm", "a\0b.rkllm", "..\\evil.rkllm", "model.toml"]
    hub.faults.listing = json.dumps(
        {"sha": "x", "siblings": [{"rfilename": path, "size": 1} for path in evil]}
    ).encode()
    with pytest.raises(ModelNotFound, match=r"has no \.rkllm file"):
        await pulled(hub, catalogue)
    with pytest.raises(PullError, match=r"a model file named model\.toml"):
        await pulled(hub, catalogue, PullTarget(REPO.repo, file="model.toml"))
    assert left(catalogue) == []


@pytest.mark.parametrize("place", ["ftp://127.0.0.1/x", "file:///etc/passwd", "//"])
async def test_strange_redirects_are_not_followed(hub: LocalHub, catalogue: Catalogue, place: str) -> None:
    hub.faults.redirect = place
    with pytest.raises(PullError, match="which is not followed"):
        await pulled(hub, catalogue)
    assert left(catalogue) == []


async def test_redirects_without_end_are_not_followed(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.faults.redirect = f"{hub.endpoint}/{REPO.repo}/resolve/main/{FILE}"
    with pytest.raises(PullError, match="without end"):
        await pulled(hub, catalogue)


# ── which file ───────────────────────────────────────────────────────────────────────────────────


async def test_pull_chooses_the_file_for_this_board(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.add(
        "org/many",
        {name: model(name) for name in ("m-rk3576-w4a16.rkllm", "m-rk3588-w8a8.rkllm", "m-rk3588-w8a8_g128.rkllm")},
    )
    steps = await pulled(hub, catalogue, PullTarget("org/many"))
    assert catalogue.get(steps[-1].id).card.source.endswith(":m-rk3588-w8a8.rkllm")
    assert "2 of 3 files fit RK3588, w8a8 is what runs best there" in notes(steps)
    steps = await pulled(hub, catalogue, PullTarget("org/many", file="w8a8_g128"))
    assert catalogue.get(steps[-1].id).card.quantization == "w8a8_g128"


async def test_pull_finds_files_in_folders(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.add("org/deep", {"rk3588/w8a8/tiny.rkllm": model("deep"), "tokenizer_config.json": TOKENIZER})
    entry = catalogue.get((await pulled(hub, catalogue, PullTarget("org/deep")))[-1].id)
    assert entry.path is not None
    assert (entry.id, entry.path.name, entry.card.platform) == ("tiny", "tiny.rkllm", "rk3588")


# ── where the tokenizer comes from ───────────────────────────────────────────────────────────────


async def test_base_model_is_read_from_the_readme(hub: LocalHub, catalogue: Catalogue) -> None:
    readme = b"---\nlicense: mit\nbase_model:\n- Qwen/Qwen2.5-1.5B-Instruct\n---\n# Hi\n"
    hub.add("org/readme", {"a.rkllm": model("a"), "README.md": readme})
    assert catalogue.get((await pulled(hub, catalogue, PullTarget("org/readme")))[-1].id).card.base_model == (
        "Qwen/Qwen2.5-1.5B-Instruct"
    )


async def test_base_model_is_read_from_config_json(hub: LocalHub, catalogue: Catalogue) -> None:
    config = json.dumps({"_name_or_path": "Qwen/Qwen2.5-1.5B-Instruct"}).encode()
    hub.add("org/config", {"b.rkllm": model("b"), "config.json": config})
    entry = catalogue.get((await pulled(hub, catalogue, PullTarget("org/config")))[-1].id)
    assert entry.card.base_model == "Qwen/Qwen2.5-1.5B-Instruct"
    assert entry.chat_format().template.text == "{{ messages[0].content }}!"


async def test_base_of_the_base_model_is_asked_too(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.add("org/gguf", {"x.gguf": large(b"x")}, tags=("base_model:quantized:Qwen/Qwen2.5-1.5B-Instruct",))
    hub.add("org/chain", {"c.rkllm": model("c")}, card={"base_model": ["org/gguf", 3, "nonsense"]})
    entry = catalogue.get((await pulled(hub, catalogue, PullTarget("org/chain")))[-1].id)
    assert entry.chat_format().template.text == "{{ messages[0].content }}!"


async def test_complete_repository_asks_no_base_model(hub: LocalHub, catalogue: Catalogue) -> None:
    config = json.dumps({"text_config": {"num_hidden_layers": 3, "hidden_size": 8}, "num_hidden_layers": True}).encode()
    files: dict[str, bytes | Large] = {
        "t.rkllm": model("t"),
        "tokenizer_config.json": TOKENIZER,
        "tokenizer.json": b"{}",
        "config.json": config,
    }
    hub.add("org/whole", files, card={"base_model": "org/whole"})
    card = catalogue.get((await pulled(hub, catalogue, PullTarget("org/whole")))[-1].id).card
    assert (card.layers, card.hidden_size, card.base_model) == (3, 8, "")


async def test_circular_base_models_are_asked_once(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.add("org/a", {"x.rkllm": model("x")}, card={"base_model": ["org/b", "org/c"]})
    hub.add("org/b", {}, card={"base_model": ["org/c", "org/a"]})
    hub.add("org/c", {"config.json": b"[]"}, card={"base_model": "org/b"})
    await pulled(hub, catalogue, PullTarget("org/a"))
    listings = [asked.path for asked in hub.asked if asked.path.startswith("/api")]
    assert len(listings) == len(set(listings)) == 3


async def test_family_template_is_used_without_a_tokenizer(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.add("org/gemma-2-2b", {"gemma-2-2b-it.rkllm": model("g")}, card={"base_model": "google/gated"})
    hub.add("google/gated", {"tokenizer_config.json": TOKENIZER}, gated=True)
    hub.repos["google/gated"].gated = True
    steps = [step async for step in pull(catalogue, PullTarget("org/gemma-2-2b"), Access(hub.endpoint))]
    assert "private or gated" in notes(steps)
    assert "the template of the model's family is used" in notes(steps)
    entry = catalogue.get(steps[-1].id)
    assert not entry.reuse
    assert "<start_of_turn>" in entry.chat_format().template.text


async def test_oversized_companion_is_skipped(
    hub: LocalHub, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.faults.sizes = False
    hub.repos["Qwen/Qwen2.5-1.5B-Instruct"].files["generation_config.json"] = b" " * 300_000
    steps = await pulled(hub, catalogue)
    assert "generation_config.json is larger than 256 KiB" in notes(steps)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("---\nbase_model: org/a\n---\n", ["org/a"]),
        ("---\nbase_model: [org/a, 'org/b']\n---\n", ["org/a", "org/b"]),
        ('---\nbase_model:\n  - "org/a"\n  - org/b\ntags:\n  - c/d\n---\n', ["org/a", "org/b"]),
        ("base_model: org/a\n", []),
        ("", []),
        ("---\ntags: x\n---\nbase_model: org/a", []),
    ],
)
def test_base_model_is_read_from_front_matter(text: str, found: list[str]) -> None:
    assert front_matter(text) == found


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("org/repo", PullTarget("org/repo")),
        ("hf.co/org/repo:w8a8", PullTarget("org/repo", "", "w8a8")),
        ("org/repo@v1:sub/x.rkllm", PullTarget("org/repo", "v1", "sub/x.rkllm")),
    ],
)
def test_pull_target_is_parsed(text: str, wanted: PullTarget) -> None:
    assert PullTarget.parse(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "repo", "a/b/c", "../x", "org/..", "org/re po", "org/repo@../x", "http://x/y", "/etc"]
)
def test_invalid_pull_target_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        PullTarget.parse(text)


def test_environment_names_the_hub() -> None:
    assert Access.of({}) == Access(DEFAULT, "")
    assert Access.of({"HF_ENDPOINT": "http://mirror:8080/hf/", "HF_TOKEN": " t "}) == Access(
        "http://mirror:8080/hf", "t"
    )
    for wrong in ("mirror", "ftp://mirror", "http://", "http://mirror?x=1"):
        with pytest.raises(UsageError, match="HF_ENDPOINT"):
            Access.of({"HF_ENDPOINT": wrong})


# ── killed ───────────────────────────────────────────────────────────────────────────────────────


async def begun(hub: LocalHub, catalogue: Catalogue, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.catalogue.pull_once", hub.endpoint, REPO.repo, str(catalogue.directory),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ROOT, env={**os.environ, **environment},
    )  # fmt: skip


async def killed(child: asyncio.subprocess.Process, stage: bytes, after: float) -> bool:
    """SIGKILL some time after a stage was reached; false where the pull was quicker."""
    assert child.stdout is not None
    while (line := await asyncio.wait_for(child.stdout.readline(), 30)) and line.strip() != stage:
        pass
    await asyncio.wait({asyncio.ensure_future(child.wait())}, timeout=after)
    if child.returncode is None:
        os.kill(child.pid, signal.SIGKILL)
    return await asyncio.wait_for(child.wait(), 30) == -signal.SIGKILL


def whole(catalogue: Catalogue) -> None:
    """Whatever is listed has the right bytes."""
    for entry in catalogue.list():
        assert entry.path is not None
        assert hashlib.sha256(entry.path.read_bytes()).hexdigest() == DIGEST


async def test_pull_killed_at_random_points_ends_with_the_right_checksum(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.faults.pause = 0.02
    moments = random.Random(7)
    for _ in range(10):
        assert await killed(await begun(hub, catalogue), b"resolving", moments.uniform(0, 0.09))
        assert catalogue.list() == ()
    child = await begun(hub, catalogue)
    await asyncio.wait_for(child.communicate(), 30)
    assert child.returncode == 0
    whole(catalogue)
    assert left(catalogue) == ["qwen2.5-1.5b-instruct"]
    assert hub.sent < len(WEIGHTS) + 11 * 600_000, "what had come was kept"


async def test_pull_killed_while_publishing_leaves_no_half_entry(hub: LocalHub, catalogue: Catalogue) -> None:
    """After the download: while it is checked, while the tokenizer comes, while the card is written."""
    hub.faults.linger = 0.05
    moments = random.Random(8)
    kills = 0
    for _ in range(8):
        kills += await killed(await begun(hub, catalogue), b"writing", moments.uniform(0, 0.06))
        whole(catalogue)
    assert kills >= 3
    await pulled(hub, catalogue)
    [entry] = catalogue.list()
    assert entry.chat_format().template.text == "{{ messages[0].content }}!"
    whole(catalogue)
    assert left(catalogue) == ["qwen2.5-1.5b-instruct"]
    assert hub.sent == len(WEIGHTS)


def test_progress_steps_are_rate_limited() -> None:
    """Progress is for people: a step a megabyte, not a step a packet."""
    assert fetching.REPORT_EVERY >= 1 << 20


async def test_gguf_requested_by_name_gets_llama_cpp(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.add("org/small-gguf", {"small-q4_k_m.gguf": large(b"GGUF" + bytes(3000))})
    entry = catalogue.get((await pulled(hub, catalogue, PullTarget("org/small-gguf", file="small-q4_k_m.gguf")))[-1].id)
    assert entry.engine == "llamacpp"
    assert entry.path is not None
    assert entry.path.name == "small-q4_k_m.gguf"


# ── encoders ─────────────────────────────────────────────────────────────────────────────────────


def encoder(platform: str) -> Large:
    with tempfile.TemporaryDirectory() as folder:
        return large(encoder_file.write(Path(folder) / "m.rknn", SimEncoder(platform=platform)).read_bytes())


async def test_pull_brings_the_encoder_for_the_same_soc(hub: LocalHub, catalogue: Catalogue) -> None:
    files: dict[str, bytes | Large] = {
        "Qwen3-VL-2B-Instruct_RK3576_w4a16.rkllm": large(WEIGHTS),
        "Qwen3-VL-2B-Instruct_RK3588_w8a8.rkllm": model("one that sees"),
        "qwen3-vl-2b_vision_rk3576.rknn": encoder("rk3576"),
        "qwen3-vl-2b_vision_rk3588.rknn": encoder("rk3588"),
        "qwen3-vl-2b_vision_rk3588.rknn.alt": b"an unused one",
    }
    hub.add("maker/Qwen3-VL-2B-Instruct-RKLLM", files)
    hub.faults.cut = [1000]
    steps = await pulled(hub, catalogue, PullTarget("maker/Qwen3-VL-2B-Instruct-RKLLM"), soc="rk3588")
    entry = catalogue.get(steps[-1].id)
    assert entry.card.vision is not None and entry.card.vision.file == "qwen3-vl-2b_vision_rk3588.rknn"
    assert entry.card.vision.tags == "qwen"
    assert entry.vision is not None and entry.vision.content == "<|image_pad|>"
    assert hashlib.sha256(entry.vision.file.read_bytes()).hexdigest() == entry.card.vision.sha256
    assert not list(entry.folder.glob(".*")), "nothing of the fetching is left"


async def test_encoder_that_is_none_stops_the_pull(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.add("maker/Sees", {"Sees-1B_RK3588_w8a8.rkllm": model("hm"), "sees_vision_rk3588.rknn": large(b"RKNN or not")})
    with pytest.raises(ModelFileError, match=r"no \.rknn file|cut off"):
        await pulled(hub, catalogue, PullTarget("maker/Sees"), soc="rk3588")
    assert not catalogue.list()


@pytest.mark.parametrize(
    "files, chosen",
    [
        ((), ""),
        (("X-vision-encoder.rknn",), "X-vision-encoder.rknn"),
        (("a_vision_rk3588.rknn", "a_vision_rk3576.rknn"), "a_vision_rk3588.rknn"),
        (("a_vision_rk3576.rknn",), ""),
        (("a_vision.rknn", "b_vision.rknn"), ""),
        (("sub/a_vision_rk3588.rknn", "a_vision_rk3588.rknn"), "a_vision_rk3588.rknn"),
        (("qwen3_asr_audio_encoder_rk3588.rknn",), ""),
        (("whisper.rknn",), ""),
    ],
)
def test_encoder_is_chosen_by_name_and_soc(files: tuple[str, ...], chosen: str) -> None:
    assert encoder_among(files, "A-2B_RK3588_w8a8.rkllm", "maker/A") == chosen
