"""Checks of the software: configuration, vendor library, models, plugins, exo, the daemon and its cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from exo_rkllm.backends.host import DOMAINS_SINCE, language_domain
from exo_rkllm.classic.launcher import NONE, UNRELATED
from exo_rkllm.doctor.report import Finding, bad, from_error, good, poor, unseen, worst
from exo_rkllm.doctor.scene import EncoderInspection, ModelInspection, Scene, VisionInspection
from exo_rkllm.errors import ExoRkllmError
from exo_rkllm.runtime import abi
from exo_rkllm.runtime.version import order

GIB = 1 << 30
# States of a plugin that is not used though nobody refused it.
UNUSED = ("failed", "conflict", "loading")


def configuration(scene: Scene) -> Finding:
    if scene.config_error is not None:
        return from_error(scene.config_error)
    read = [str(path) for path in scene.config.files] if scene.config is not None else []
    return good(f"read from {', '.join(read)}" if read else "no file, so everything has its default")


def api_keys(scene: Scene) -> Finding:
    if scene.config is not None and scene.config.api.loopback_open:
        return poor(
            "Programs on this machine, a reverse proxy included, ask without an API key: [api] loopback_open is set.",
            "Write loopback_open = false under [api], and: sudo systemctl reload exo-rkllm",
        )
    return good("needed on every listener, as soon as there are any")


def system(scene: Scene) -> Finding:
    if scene.root != Path("/"):
        return unseen("a simulated board has no system of its own")
    if scene.machine != "aarch64":
        return poor(
            f"This system is {scene.machine}; the vendor's library is for aarch64.", "make run simulates a board"
        )
    if not scene.gomp:
        return bad("libgomp.so.1 is missing, which the RKLLM library needs.", "sudo apt install libgomp1")
    return good("aarch64, libgomp is there")


def runtime(scene: Scene) -> Finding:
    try:
        place = scene.search.require()
    except ExoRkllmError as error:
        return from_error(error)
    others = ", ".join(one.release for one in scene.search.installed if one is not place)
    beside = f", and beside it {others}" if others else ""
    return good(f"librkllmrt {scene.runtime}, layout of {abi.load(scene.runtime).name} ({place.path}){beside}")


def models(scene: Scene) -> Finding:
    if scene.models_error is not None:
        return from_error(scene.models_error)
    if not scene.models:
        return poor("There is no model yet.", "exo-rkllm pull ORG/REPO")
    several = len(scene.search.installed) > 1
    findings = [model(one, scene.reading.memory_total, several=several) for one in scene.models]
    first = worst(findings)
    if first.level == "pass":
        return good("; ".join(one.fact for one in findings))
    more = sum(one.level == first.level for one in findings) - 1
    return replace(first, fact=f"{first.fact} ({more} more like it.)") if more else first


def model(inspection: ModelInspection, memory_total: int | None = None, *, several: bool = False) -> Finding:
    """`several` runtimes are installed, so that the one of the model is worth saying."""
    if inspection.error is not None:
        return from_error(inspection.error)
    for objection in inspection.objections:
        level = bad if objection.certain else poor
        return level(objection.error.sentence, objection.error.hint)
    if memory_total is not None and inspection.memory is not None and inspection.memory > memory_total:
        need, room = inspection.memory / GIB, memory_total / GIB
        return poor(
            f"{inspection.name} needs about {need:.1f} GiB, and this board has {room:.1f} GiB.",
            f"exo-rkllm show {inspection.name}; a shorter context or a smaller model fits",
        )
    facts = inspection.facts
    target = f"for {facts.platform.value}" if facts is not None and facts.platform else ""
    toolkit = f"toolkit {facts.toolkit.value}" if facts is not None and facts.toolkit else ""
    runtime = f"runtime {inspection.runtime}" if several and inspection.runtime is not None else ""
    return good(", ".join(part for part in (inspection.name, target, toolkit, runtime, inspection.pace) if part))


def vision(scene: Scene) -> Finding:
    """The vendor's second library, and the encoders that it is for."""
    found = scene.vision
    if not found.encoders:
        return unseen("no model here sees images")
    if found.error is not None:
        return from_error(found.error)
    findings = [_encoder(one, found, scene) for one in found.encoders]
    first = worst(findings)
    if first.level != "pass":
        return first
    names = ", ".join(one.name for one in found.encoders)
    return good(f"librknnrt {found.release} ({found.library}) for {names}")


def _encoder(encoder: EncoderInspection, found: VisionInspection, scene: Scene) -> Finding:
    name, facts, soc, total = encoder.name, encoder.facts, scene.board.soc, scene.reading.memory_total
    if isinstance(facts, ExoRkllmError):
        return from_error(facts)
    if soc is not None and facts.platforms and soc.name not in facts.platforms:
        return bad(
            f"The encoder of {name} is for {', '.join(facts.platforms).upper()}, and this board is {soc.name.upper()}.",
            f"exo-rkllm rm {name}, then pull the model's files for {soc.name.upper()}",
        )
    if order(facts.toolkit) > order(found.release):
        return poor(
            f"The encoder of {name} was made by toolkit {facts.toolkit}, and librknnrt is {found.release}.",
            f"exo-rkllm runtime --install FILE with a librknnrt.so of {facts.toolkit} or newer",
        )
    if encoder.width is not None and facts.shape().output_width != encoder.width:
        return poor(
            f"The encoder of {name} gives {facts.shape().output_width} floats a token, and the language model takes "
            f"{encoder.width}.",
            "Take the vision encoder that belongs to the language model",
        )
    if soc is not None and soc.language_domain and not encoder.domain:
        return poor(
            f"{name} loads into the NPU's domain 0 beside its encoder, which hangs the NPU without an error.",
            f"Leave base_domain_id out of the card of {name}, with runtime {DOMAINS_SINCE} or newer"
            if language_domain(scene.board)
            else "Update the NPU's driver: this one has a single domain",
        )
    if total is not None and encoder.memory is not None and encoder.memory + facts.size > total:
        return poor(
            f"{name} and its encoder need about {(encoder.memory + facts.size) / GIB:.1f} GiB, and this board has "
            f"{total / GIB:.1f} GiB.",
            f"exo-rkllm show {name}; a shorter context or a smaller model fits",
        )
    return good(f"{name}, toolkit {facts.toolkit}")


def plugins(scene: Scene) -> Finding:
    """A warning at most, since everything of ours works without them."""
    if not scene.plugins:
        return good("none is installed")
    unused = [row for row in scene.plugins if row.state in UNUSED]
    if unused:
        reasons = [f"{row.name}: {row.error.removesuffix('.') or 'it still loads'}" for row in unused]
        return poor("; ".join(reasons), "exo-rkllm plugins")
    return good(", ".join(f"{row.name} is {row.state}" for row in scene.plugins))


def exo(scene: Scene) -> Finding:
    """Which program of that name this Python has; the daemon needs none."""
    kind = scene.exo
    if kind.name == NONE:
        return unseen(kind.says)
    if kind.name == UNRELATED:
        return poor(f"This Python has {kind.says}.", kind.start)
    return good(f"{kind.says}: {kind.start}")


def service(scene: Scene) -> Finding:
    if scene.service.error is not None:
        return poor(scene.service.error.sentence, scene.service.error.hint)
    status = scene.service.status
    if status is None:
        return poor("The daemon is not running.", "sudo systemctl start exo-rkllm, or: exo-rkllm serve")
    if status.get("unavailable_reason"):
        return bad(f"The daemon cannot serve: {status['unavailable_reason']}", str(status.get("hint", "")))
    for stuck in status.get("stuck", ()):
        return bad(str(stuck["sentence"]), str(stuck["hint"]))
    loaded = [str(one.get("name")) for one in status.get("models", ()) if one.get("state") == "ready"]
    return good(f"running, {', '.join(loaded) + ' loaded' if loaded else 'no model loaded'}")


def cluster(scene: Scene) -> Finding:
    view = (scene.service.status or {}).get("cluster")
    if not isinstance(view, Mapping):
        return unseen("the daemon joins no exo cluster: exo-rkllm cluster says what it needs, exo-rkllm logs why")
    if view.get("drift"):
        return poor(f"The cluster's exo differs from what we speak: {', '.join(view['drift'])}.", "exo-rkllm cluster")
    if view.get("announcement"):
        return poor(str(view["announcement"]["sentence"]), str(view["announcement"]["hint"]))
    if view.get("phase") == "off":
        return good(f"{view['sentence']} {view['hint']} brings it back.")
    others = [str(one) for one in view.get("other_clusters", ())]
    both_transports = any("libp2p" in one for one in (*others, str(view.get("namespace"))))
    if others and (view.get("phase") != "serving" or both_transports):
        sentence = str(view.get("sentence") or f"Heard and not joined: {', '.join(others)}.")
        return poor(sentence, str(view.get("hint") or "exo-rkllm cluster"))
    if view.get("phase") == "serving" and "offers" in view:
        return _offers(scene, view)
    if view.get("phase") in ("serving", "searching"):
        return good(str(view["phase"]))
    return poor(str(view.get("sentence") or view.get("phase")), str(view.get("hint") or "exo-rkllm cluster"))


def _offers(scene: Scene, view: Mapping[str, Any]) -> Finding:
    """Compare what the catalogue has for the cluster with what the cluster shows of this board."""
    allowed = scene.config.cluster.models if scene.config is not None else ("*",)
    sound = {one.name for one in scene.models if one.error is None and not one.name.endswith(".rkllm")}
    wanted = {name for name in sound if "*" in allowed or name in allowed}
    offers = {str(one["model"]): one for one in view["offers"]}
    missing = [f"{name}: {one['reason']}" for name, one in offers.items() if not one["offered"]]
    missing += [f"{name}: the daemon does not know it." for name in sorted(wanted - offers.keys())]
    if missing:
        return poor(f"Models that the exo cluster is not offered: {' '.join(missing)}", "exo-rkllm cluster")
    return good(f"serving {len(offers)} of {len(offers)} models")
