"""What came with which release, and the one sentence for what a release lacks (reference 1.9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from exo_rkllm.errors import NotSupported
from exo_rkllm.runtime.version import order


@dataclass(frozen=True, slots=True)
class Feature:
    """`what` is the subject of "... not supported by runtime 1.1.4"."""

    since: str
    what: str


FEATURES: Mapping[str, Feature] = {
    "n_keep": Feature("1.2.0", "n_keep is"),
    "cpus": Feature("1.2.0", "Choosing CPUs is"),
    "embed_flash": Feature("1.2.0", "Word embeddings in memory (embed_flash off) are"),
    "keep_history": Feature("1.2.0", "keep_history is"),
    "logits": Feature("1.2.0", "Logits are"),
    "set_chat_template": Feature("1.2.0", "Setting the chat template is"),
    "clear_kv": Feature("1.2.0", "Clearing the KV cache is"),
    "image_sizes": Feature("1.2.1b1", "Several images, or the size of an image, are"),
    "role": Feature("1.2.1", "Any role but user is"),
    "thinking": Feature("1.2.1", "The thinking switch is"),
    "n_batch": Feature("1.2.1", "Batches (n_batch above 1) are"),
    "cross_attention": Feature("1.2.1", "Cross attention is"),
    "function_tools": Feature("1.2.1", "Function tools are"),
    "kv_cache_size": Feature("1.2.1", "The size of the KV cache is"),
    "clear_kv_range": Feature("1.2.1", "Clearing a range of the KV cache is"),
    "pause": Feature("1.2.1", "Pausing a run is"),
    "perf": Feature("1.2.1", "Statistics of a run are"),
    "ignore_eos_token": Feature("1.3.0", "ignore_eos_token is"),
    "sampling_per_run": Feature("1.3.0", "Sampling other than at load is"),
    "max_new_tokens_per_run": Feature("1.3.0", "max_new_tokens other than at load is"),
    "tags_per_input": Feature("1.3.0", "Image tags other than at load are"),
    "video": Feature("1.3.0", "Video is"),
    "tokenizer_callback": Feature("1.3.0", "A tokenizer callback is"),
    "embed_callback": Feature("1.3.0", "An embedding callback is"),
    "release_output": Feature("1.3.0", "Releasing the output buffer is"),
    "audio": Feature("1.3.1", "Audio is"),
}


@dataclass(frozen=True, slots=True)
class Features:
    """Those of one release."""

    release: str

    def has(self, name: str) -> bool:
        return order(self.release) >= order(FEATURES[name].since)

    def require(self, name: str) -> None:
        if not self.has(name):
            feature = FEATURES[name]
            raise NotSupported(
                f"{feature.what} not supported by runtime {self.release}: needs {feature.since} or newer.",
                "exo-rkllm runtime --install FILE puts another librkllmrt.so in place",
            )

    def names(self) -> tuple[str, ...]:
        return tuple(name for name in FEATURES if self.has(name))
