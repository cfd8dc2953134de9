"""What a model is loaded into the NPU with: its card's options and adapters, in the runtime's own terms."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from exo_rkllm.backends.base import Capabilities, Model, Sampling, Vision
from exo_rkllm.backends.host import EngineHost
from exo_rkllm.backends.registry import EngineOption
from exo_rkllm.errors import NotSupported, RuntimeMissing, UsageError
from exo_rkllm.files.stamps import stamp_of
from exo_rkllm.runtime import locate, modelfile, selection, version
from exo_rkllm.runtime.abi.shared import SAMPLING_NAMES
from exo_rkllm.runtime.features import Features
from exo_rkllm.runtime.selection import RuntimeChoice
from exo_rkllm.runtime.values import LoadParams

log = logging.getLogger(__name__)

# Keys of an rkllm model's [options].
OPTIONS: Mapping[str, EngineOption] = {
    "n_keep": EngineOption(int, -1, "prompt tokens that stay when the context is full"),
    "base_domain_id": EngineOption(int, 0, "the IOMMU domain to start in; unset, the daemon chooses one"),
    "embed_flash": EngineOption(bool, True, "read embeddings from storage, not from memory"),
    "cpus": EngineOption(list, [], "CPUs that help the NPU; empty means the big ones"),
    "skip_special_token": EngineOption(bool, True, "leave special tokens out of the text"),
    "ignore_eos_token": EngineOption(bool, False, "go on after the end-of-text token"),
    "end_tokens": EngineOption(list, [], "ids that end an answer, beside those that the model's files name"),
    "loras": EngineOption(dict, {}, "adapters: name to file, or to its path and scale"),
    "lora": EngineOption(str, "", "the adapter that answers are given with; empty means none"),
    "prompt_cache": EngineOption(str, "", "a saved prompt to start from"),
    "runtime": EngineOption(str, "", "the version of librkllmrt to load it with; empty chooses an installed one"),
    "runtime_template": EngineOption(
        bool, False, "the template inside the .rkllm file, for models that come without tokenizer files"
    ),
}
# The vendor's settings: no seed, no min_p, no bias of tokens.
SAMPLING = frozenset(SAMPLING_NAMES)
# What a model is loaded with where neither card nor request says otherwise.
VENDOR_SAMPLING: Mapping[str, float] = {name: getattr(LoadParams(""), name) for name in SAMPLING_NAMES}
LOG_LEVEL = "RKLLM_LOG_LEVEL"
MEASURE_END = "exo-rkllm selftest --model NAME --only end-token measures which id ends an answer"
# Options that are parameters of the load by the same name.
PARAMETERS = ("n_keep", "base_domain_id", "embed_flash", "skip_special_token", "ignore_eos_token")


def sampling_of(sampling: Sampling, model: str) -> dict[str, float]:
    """What is set, in the runtime's terms."""
    values, lost = sampling.for_engine(SAMPLING)
    if lost:
        raise NotSupported(f"{model} runs on librkllmrt, which takes no {lost[0]}.", "Leave it out.")
    if values.get("temperature") == 0:
        values["top_k"] = 1  # the vendor's demos force greedy decoding by this (reference 2.2)
    return values


def log_environment(release: str) -> Mapping[str, str]:
    """A runtime without statistics prints how many tokens it computed, and only from this level on."""
    level = os.environ.get(LOG_LEVEL, "")
    return {} if Features(release).has("perf") or (level.isdecimal() and int(level) > 0) else {LOG_LEVEL: "1"}


def check_file(facts: modelfile.ModelFacts, platform: str, release: str, context: int) -> None:
    """Raises what the file itself says against this SoC and runtime, before minutes of loading say the same."""
    for objection in modelfile.check(facts, platform, release, context):
        if objection.certain:
            raise objection.error


def choose_runtime(model: str, facts: modelfile.ModelFacts, wanted: str, host: EngineHost) -> RuntimeChoice:
    """The library of this load, told in the log together with what is known against it; raises where there is none."""
    choice = selection.choose(host.runtimes or locate.search(), facts, wanted)
    if stamp_of(choice.path) != choice.stamp and version.check(choice.path).release != choice.release:
        raise RuntimeMissing(f"{choice.path} was replaced a moment ago.", f"exo-rkllm load {model}")
    log.info("%s loads with runtime %s: %s.", model, choice.release, choice.reason, extra={"model": model})
    for objection in selection.objections_to(facts, choice, host.platform):
        if objection.harm and not objection.certain:
            log.warning("%s", objection.error, extra={"model": model})
    return choice


def load_params(
    model: Model,
    facts: modelfile.ModelFacts,
    options: Mapping[str, Any],
    host: EngineHost,
    release: str,
    sampling: Mapping[str, float],
) -> LoadParams:
    """The end tokens are our own, since an answer must end where the runtime doesn't know them; the model's process
    adds those of the files beside it (`runtime/ends.py`).

    The board's choice of CPUs is for runtimes that take one; the card's is an order, which an old one refuses.
    """
    for name in ("cpus", "end_tokens"):
        if any(type(one) is not int for one in options[name]):
            raise UsageError(
                f"{name} under [options] in the card of {facts.path.name} must be whole numbers.",
                MEASURE_END if name == "end_tokens" else "exo-rkllm board lists the CPUs that are used without it",
            )
    cpus = host.cpus if Features(release).has("cpus") else ()
    if 0 < len(options["cpus"]) < len(cpus):
        few = "The card of %s gives the vendor's library CPU %s only, and it wants %d threads here."
        log.warning(few, facts.path.name, ", ".join(map(str, options["cpus"])), len(cpus))
    return LoadParams(
        model_path=str(facts.path),
        max_context_len=model.context,
        cpus=tuple(options["cpus"]) or cpus,
        end_tokens=(*options["end_tokens"], *_head_end(facts)),
        **image_tags(model.vision),
        **{name: options[name] for name in PARAMETERS},
        **sampling,  # type: ignore[arg-type]  # integers stay integers
    )


def _head_end(facts: modelfile.ModelFacts) -> tuple[int, ...]:
    return () if facts.end_token is None else (facts.end_token.value,)


def image_tags(vision: Vision | None) -> dict[str, Any]:
    """The tags around a picture: of the load before 1.3.0, and the default of each input since."""
    if vision is None:
        return {}
    return {"img_start": vision.start, "img_end": vision.end, "img_content": vision.content}


def capabilities_of(session_facts: Mapping[str, Any], *, own_template: bool, sees: bool) -> Capabilities:
    """What the loaded model takes; `own_template` is the one inside its file, which knows no tools."""
    features = session_facts["supports"]
    return Capabilities(
        chat=own_template,
        sampling=SAMPLING,
        tools=not own_template,
        sampling_per_run="sampling_per_run" in features,
        hidden=True,
        logits="logits" in features,
        images=sees,
        context=session_facts["context"],
    )
