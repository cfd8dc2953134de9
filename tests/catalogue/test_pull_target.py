"""What people type or paste behind `exo-rkllm pull`."""

from __future__ import annotations

import pytest

from exo_rkllm.catalogue.pull import PullTarget
from exo_rkllm.errors import UsageError

REPO = PullTarget("org/Qwen3-rk3588")
HUB = "https://huggingface.co"
FILE = "Qwen3-rk3588-w8a8.rkllm"


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("org/Qwen3-rk3588", REPO),
        ("org/Qwen3-rk3588@v2:w8a8", PullTarget(REPO.repo, "v2", "w8a8")),
        ("hf.co/org/Qwen3-rk3588:w8a8", PullTarget(REPO.repo, "", "w8a8")),
        (f"{HUB}/org/Qwen3-rk3588", REPO),
        (f"  {HUB}/org/Qwen3-rk3588/ ", REPO),
        ("huggingface.co/org/Qwen3-rk3588", REPO),
        ("HTTP://www.HuggingFace.co/org/Qwen3-rk3588?library=transformers#files", REPO),
        ("https://hf-mirror.com/org/Qwen3-rk3588.git", REPO),
        ("hf://hf.co/org/Qwen3-rk3588", REPO),
        (f"{HUB}/api/models/org/Qwen3-rk3588", REPO),
        (f"{HUB}/org/Qwen3-rk3588/discussions/3", REPO),
        (f"{HUB}/org/Qwen3-rk3588/tree/main", REPO),
        (f"{HUB}/org/Qwen3-rk3588/tree/v2/w8a8", PullTarget(REPO.repo, "v2", "w8a8")),
        (f"{HUB}/org/Qwen3-rk3588/commit/0123abc", PullTarget(REPO.repo, "0123abc")),
        (f"{HUB}/org/Qwen3-rk3588/blob/main/{FILE}", PullTarget(REPO.repo, "", FILE)),
        (f"{HUB}/org/Qwen3-rk3588/resolve/main/a%20b/{FILE}?download=true", PullTarget(REPO.repo, "", f"a b/{FILE}")),
        (f"{HUB}/org/Qwen3-rk3588/blob/main/README.md", REPO),
    ],
)
def test_names_and_pages_are_understood(text: str, target: PullTarget) -> None:
    assert PullTarget.parse(text) == target


@pytest.mark.parametrize(
    "text",
    ["", "qwen3", f"{HUB}/", f"{HUB}/org", "https://example.org/org/repo", "org/../x", f"{HUB}/datasets/org/words"],
)
def test_other_text_is_refused_with_what_would_do(text: str) -> None:
    with pytest.raises(UsageError, match="is no repository") as caught:
        PullTarget.parse(text)
    assert "exo-rkllm pull ORG/REPO" in caught.value.hint
