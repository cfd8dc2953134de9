"""doctor on every board: nothing to say on a good one, one failure with the right repair on a broken one."""

from __future__ import annotations

import grp
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.board import kernel_log
from exo_rkllm.board.counters import read
from exo_rkllm.board.detect import detect
from exo_rkllm.board.neighbours import Neighbours
from exo_rkllm.board.sources import find_sources
from exo_rkllm.board.states import LOAD_DRIVER
from exo_rkllm.catalogue.store import Catalogue
from exo_rkllm.cli import doctor as verb
from exo_rkllm.cli import main
from exo_rkllm.cli.output import Paint
from exo_rkllm.client.control import DaemonStatus
from exo_rkllm.config import load
from exo_rkllm.doctor.checks import CHECKS, diagnose
from exo_rkllm.doctor.identity import UserIdentity, current_identity, identity_for, identity_of
from exo_rkllm.doctor.report import DoctorReport, Finding
from exo_rkllm.doctor.scene import Scene, look
from exo_rkllm.errors import ConfigError, ExoRkllmError, UsageError
from simulator import boards, encoder_file
from simulator.encoder_file import SimEncoder
from tests.board.udevadm import namespaces
from tests.boards import ordinary_user
from tests.simulated import REPOSITORY, Library, build

Build = Callable[[str], Path]
RUNNING = DaemonStatus(
    {"unavailable_reason": "", "models": [{"name": "qwen3", "state": "ready"}], "cluster": {"phase": "serving"}}
)


@pytest.fixture(scope="session")
def runtime(library: Library) -> Path:
    return library("1.3.1")


@pytest.fixture
def environment(tmp_path: Path, runtime: Path) -> dict[str, str]:
    """A user without configuration, and the simulated runtime."""
    return {"HOME": str(tmp_path / "home"), "EXO_RKLLM_RUNTIME_LIBRARY": str(runtime)}


@pytest.fixture
def model(make_model: Callable[..., Path]) -> str:
    return str(make_model())


Examine = Callable[..., DoctorReport]


def shelf(environment: Mapping[str, str]) -> Catalogue | None:
    try:
        return Catalogue(Path(load(environment).models.directory))
    except ConfigError:
        return None


@pytest.fixture
def examine(board: Build, environment: dict[str, str], model: str) -> Examine:
    """The report on one profile, everything else being in order unless said otherwise."""

    def look_at(profile: str, service: DaemonStatus = RUNNING, model: str = model, **changes: str) -> DoctorReport:
        set_up = environment | changes
        return diagnose(look(set_up, current_identity(), service, shelf(set_up), board(profile), model))

    return look_at


def findings(report: DoctorReport, level: str) -> dict[str, str]:
    """Repairs, by the check that asks for them."""
    return {line.check: line.finding.repair for line in report.lines if line.finding.level == level}


GOOD = (
    "rk3588-vendor",
    "rk3588-busy",
    "rk3588s-vendor",
    "rk3588-dkms-on-mainline",
    "rk3588-headless",
    "rk3588-e54c",
    "rk3588f",
    "rk3582",
    "rk3583",
    "debugfs-bound",
    "devfreq-load-trap",
    "devfreq-missing",
    "model-missing",
    "model-hostile",
    "coprocessor",
)
# What goes on working, with one warning and its repair.
POOR = {
    "driver-0.9.7": {"driver version": "full-upgrade", "runtime and driver": "full-upgrade"},
    "hot": {"NPU clock": "heat sink", "temperature": "heat sink"},
    "ddr-slow": {"memory clock": "performance = true"},
    "ddr-missing": {"memory clock": "bootloader"},
    "debugfs-bind-empty": {"NPU counters": "systemctl restart"},
    "load-truncated": {"NPU counters": "selftest --only load-line"},
    "load-empty": {"NPU counters": "selftest --only load-line"},
    "load-binary": {"NPU counters": "selftest --only load-line"},
    "load-huge": {"NPU counters": "selftest --only load-line"},
    "job-errors": {"kernel log": "dmesg"},
}
BROKEN = {
    "rk3588s-mainline": ("NPU driver", "linux-image-vendor-rk35xx"),
    "rk3588-mainline-disabled": ("NPU driver", "linux-image-vendor-rk35xx"),
    "rk3588-mainline-unbound": ("NPU driver", "linux-image-vendor-rk35xx"),
    "rk3588-disabled": ("NPU driver", "overlay"),
    "deferred": ("NPU driver", "devices_deferred"),
    "deferred-listed": ("NPU driver", "devices_deferred"),
    "no-driver": ("NPU driver", "modprobe rknpu"),
    "rk3568-cma": ("SoC", "exo-rkllm engines"),
    "rk3566-zero3-disabled": ("SoC", "exo-rkllm engines"),
    "raspberry-pi": ("SoC", "exo-rkllm engines"),
    "acpi": ("SoC", "exo-rkllm engines"),
    "container-masked": ("SoC", "systempaths=unconfined"),
    "container-docker": ("device tree", "systempaths=unconfined"),
    "container-no-nodes": ("device nodes", "--device /dev/dri/card1 --device /dev/dri/renderD129"),
    "old-driver": ("driver version", "full-upgrade"),
    "rknpu-symlink-trap": ("/dev/rknpu", "sudo rm /dev/rknpu"),
}


# Good boards of another SoC, which the model that is examined with them is not for.
OTHER_SOC = ("rk3576-vendor", "rk3576-busy", "rk3576-soc-bus", "rk3576-android", "rk3562-vendor", "rv1126b-misc")
# With a test of their own, or the same tree as one above under another name.
ELSEWHERE = {"rk3576-mainline", "rk3576-slow", "load-single", "debugfs-unreadable"}


def test_every_profile_has_an_expected_result() -> None:
    rows = [*GOOD, *POOR, *BROKEN, *OTHER_SOC, *ELSEWHERE]
    assert sorted(rows) == sorted(boards.PROFILES)


@pytest.mark.parametrize("profile", GOOD)
def test_good_board_passes_every_check(profile: str, examine: Examine) -> None:
    report = examine(profile)
    assert findings(report, "fail") == {}
    assert findings(report, "warn") == {}
    assert report.count("pass") >= 15


@pytest.mark.parametrize("profile", POOR)
def test_slow_board_gets_warnings(profile: str, examine: Examine) -> None:
    report = examine(profile)
    assert findings(report, "fail") == {}
    warnings = findings(report, "warn")
    assert set(warnings) == set(POOR[profile])
    assert all(repair in warnings[check] for check, repair in POOR[profile].items())


@pytest.mark.parametrize("profile", BROKEN)
def test_broken_board_has_one_failure_with_its_repair(profile: str, examine: Examine) -> None:
    check, repair = BROKEN[profile]
    failures = findings(examine(profile), "fail")
    assert list(failures) == [check]
    assert repair in failures[check]


def test_model_for_another_soc_is_the_one_failure(examine: Examine, make_model: Callable[..., Path]) -> None:
    """The profiles of other SoCs are good boards; the demo model is what does not fit."""
    for profile in (*OTHER_SOC, "load-single"):
        failures = findings(examine(profile), "fail")
        assert list(failures) == ["models"], profile
    fitting = str(make_model(platform="RK3576", npu_cores=2))
    assert findings(examine("rk3576-vendor", model=fitting), "fail") == {}
    [(check, repair)] = findings(examine("rk3576-mainline", model=fitting), "fail").items()
    assert (check, "linux-image-vendor-rk35xx" in repair) == ("NPU driver", True)


def test_slow_npu_clock_is_compared_with_the_vendors_figure(examine: Examine, make_model: Callable[..., Path]) -> None:
    report = examine("rk3576-slow", model=str(make_model(platform="RK3576", npu_cores=2)))
    [line] = [line for line in report.lines if line.check == "NPU clock"]
    assert line.finding.level == "warn"
    assert "300 of 950 MHz" in line.finding.fact
    assert "24.9 tokens/s" in line.finding.fact
    assert "performance = true" in line.finding.repair


def test_counters_that_only_the_daemon_reads_pass(examine: Examine) -> None:
    told = DaemonStatus({**(RUNNING.status or {}), "npu": {"load": [0.5, 0, 7]}})
    [line] = [line for line in examine("debugfs-bind-empty", told).lines if line.check == "NPU counters"]
    assert (line.finding.level, line.finding.fact) == ("pass", "the service reads them: 50%, 0%, 100% load")


def counters_of_a_user(scene: Scene, container: str) -> Finding:
    """What somebody else than root is told of a debugfs that is root's."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to other users
        root = Path(folder)
        root.chmod(0o755)
        boards.write("debugfs-unreadable", root)
        with ordinary_user():
            seen = replace(detect(root), container=container)
            found = read(find_sources(root, seen))
    lines = diagnose(replace(scene, board=seen, reading=found)).lines
    return next(line.finding for line in lines if line.check == "NPU counters")


def test_counters_that_only_root_reads_are_skipped(scene: Scene) -> None:
    finding = counters_of_a_user(scene, "")
    assert (finding.level, finding.repair) == ("skip", "")
    assert "only root may read" in finding.fact


def test_container_without_counters_is_told_the_mount(scene: Scene) -> None:
    finding = counters_of_a_user(scene, "docker")
    assert finding.level == "warn"
    assert "this container is not shown /sys/kernel/debug/rknpu/load" in finding.fact
    assert finding.repair == "Start the container with -v /sys/kernel/debug/rknpu:/run/rkllm/npu:ro"


@pytest.mark.parametrize(
    ("neighbours", "level", "says"),
    [
        (Neighbours({"frigate": 2, "serve.py": 1}, complete=False), "warn", "frigate (2 processes), serve.py"),
        (Neighbours({}, complete=False), "skip", "sudo exo-rkllm doctor"),
        (Neighbours({}, complete=True), "pass", "no other program"),
    ],
)
def test_other_programs_on_the_npu_are_named_and_unseen_ones_are_not_nobody(
    scene: Scene, neighbours: Neighbours, level: str, says: str
) -> None:
    lines = diagnose(replace(scene, neighbours=neighbours)).lines
    [finding] = [line.finding for line in lines if line.check == "other programs"]
    assert (finding.level, says in f"{finding.fact} {finding.repair}") == (level, True)


# ── permissions ──────────────────────────────────────────────────────────────────────────────────


def access(scene: Scene, who: UserIdentity) -> tuple[str, str]:
    [line] = [line for line in diagnose(replace(scene, identity=who)).lines if line.check == "device access"]
    return line.finding.level, line.finding.repair


@pytest.fixture
def scene(board: Build, environment: dict[str, str], model: str) -> Scene:
    return look(environment, current_identity(), RUNNING, shelf(environment), board("orangepi-5-plus"), model)


def own(scene: Scene, gid: int, mode: int = 0o660) -> None:
    """Root's nodes in a group of the host's, as udev would have made them; only root can give files away."""
    for name in ("card1", "renderD129"):
        path = scene.root / "dev/dri" / name
        path.chmod(mode)
        if os.geteuid() == 0:
            os.chown(path, 0, gid)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give device nodes to another group")
def test_user_outside_the_group_is_told_to_join_it(scene: Scene) -> None:
    video = grp.getgrnam("video").gr_gid
    own(scene, video)
    level, repair = access(scene, UserIdentity("pi", 1000, frozenset({1000}), own=False))
    assert level == "fail"
    assert "sudo usermod -aG video pi, then log in again" in repair
    assert access(scene, UserIdentity("pi", 1000, frozenset({video}), own=False))[0] == "pass"
    assert "systemctl restart exo-rkllm" in access(scene, UserIdentity("exo-rkllm", 999, frozenset(), own=False))[1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give device nodes to another group")
def test_container_gets_its_groups_by_number(scene: Scene) -> None:
    own(scene, 44)
    inside = replace(scene, board=replace(scene.board, container="docker"))
    assert "--group-add 44" in access(inside, UserIdentity("1000", 1000, frozenset(), own=False))[1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give device nodes to another group")
def test_nodes_of_roots_group_need_the_udev_rules(scene: Scene) -> None:
    own(scene, 0, 0o600)
    assert "udevadm trigger" in access(scene, UserIdentity("pi", 1000, frozenset({1000}), own=False))[1]


def test_file_modes_decide_for_another_user(tmp_path: Path) -> None:
    path = tmp_path / "node"
    path.touch()
    path.chmod(0o606)
    stranger = UserIdentity("x", os.geteuid() + 1, frozenset(), own=False)
    assert stranger.may_use(path)
    assert not UserIdentity("g", os.geteuid() + 1, frozenset({path.stat().st_gid}), own=False).may_use(path)
    assert UserIdentity("o", os.geteuid(), frozenset(), own=False).may_use(path)
    assert not stranger.may_use(tmp_path / "none")
    assert current_identity().may_use(path)


def test_users_are_looked_up() -> None:
    assert identity_of("nobody").own is (os.geteuid() == identity_of("nobody").uid)
    with pytest.raises(UsageError, match="no user"):
        identity_of("no-such-user-here")
    assert identity_for("nobody").name == "nobody"
    assert identity_for(None).name


# ── the software ─────────────────────────────────────────────────────────────────────────────────


def level(report: DoctorReport, check: str) -> str:
    return next(line.finding.level for line in report.lines if line.check == check)


def test_runtime_and_models_are_shown_with_version_and_target(
    examine: Examine, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    for name in ("lamp", "lens"):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.toml").write_text(f'id = "{name}"\ncontext = 2048\n[weights]\nfile = "m.rkllm"\n')
        make_model().rename(folder / name / "m.rkllm")
    report = examine("orangepi-5-plus", model="", EXO_RKLLM_MODELS_DIRECTORY=str(folder))
    facts = {line.check: line.finding.fact for line in report.lines}
    assert facts["models"] == "lamp, for RK3588, toolkit 1.1.4; lens, for RK3588, toolkit 1.1.4"
    assert facts["runtime"].startswith("librkllmrt 1.3.1, layout of 1.3")
    report = examine("rk3576-vendor", model="", EXO_RKLLM_MODELS_DIRECTORY=str(folder))
    assert findings(report, "fail").keys() == {"models"}
    [line] = [line for line in report.lines if line.check == "models"]
    assert line.finding.fact.endswith("(1 more like it.)")


@pytest.mark.parametrize(
    ("profile", "check", "level", "says"),
    [
        ("ddr-slow", "memory clock", "warn", "costs about half the tokens a second (5.5 instead of 11.2 were measured"),
        ("acpi", "memory clock", "skip", "a memory that stays at its low clock costs about half the tokens"),
        ("ddr-missing", "memory clock", "warn", "up to about 45 % of the tokens a second"),
        ("rk3588-vendor", "CPU clock", "pass", "others than performance cost 5 to 8 % of the tokens a second"),
    ],
)
def test_brakes_are_named_with_their_weight_and_source(
    examine: Examine, profile: str, check: str, level: str, says: str
) -> None:
    [line] = [line for line in examine(profile).lines if line.check == check]
    assert (line.finding.level, says in line.finding.fact) == (level, True), line.finding.fact
    assert re.search("rknn-llm issues? (532 and )?409", line.finding.fact)


@pytest.mark.parametrize(
    ("profile", "name", "fact"),
    [
        (
            "orangepi-5-plus",
            "Qwen3-0.6B-w8a8-rk3588.rkllm",
            "32.9 tokens/s at full clocks by the vendor, about 24.7 after 1000 tokens",
        ),
        (
            "rk3576-vendor",
            "Qwen3-0.6B-rk3576-w4a16_g128.rkllm",
            "23.5 tokens/s at full clocks by the vendor, about 17.6 after 1000 tokens",
        ),
        (
            "orangepi-5-plus",
            "qwen2.5-1.5b_w8a8_g128.rkllm",
            "16.7 tokens/s at full clocks by the vendor, about 12.5 after 1000 tokens; w8a8_g128 costs 28 %",
        ),
    ],
)
def test_model_has_the_speed_to_expect_on_this_soc_by_its_length(
    profile: str, name: str, fact: str, examine: Examine, make_model: Callable[..., Path]
) -> None:
    soc = "RK3576" if profile == "rk3576-vendor" else "RK3588"
    report = examine(profile, model=str(make_model(file=name, platform=soc, npu_cores=2)))
    [line] = [line for line in report.lines if line.check == "models"]
    assert line.finding.level == "pass"
    assert fact in line.finding.fact


def test_model_that_nobody_measured_has_no_speed(examine: Examine, make_model: Callable[..., Path]) -> None:
    report = examine("orangepi-5-plus", model=str(make_model(file="own-model.rkllm")))
    [line] = [line for line in report.lines if line.check == "models"]
    assert "tokens/s" not in line.finding.fact


def test_model_larger_than_the_board_is_a_warning(board: Build, environment: dict[str, str], model: str) -> None:
    path = board("orangepi-5-plus") / "proc/meminfo"
    path.chmod(0o644)
    path.write_bytes(b"MemTotal:        200000 kB\nMemAvailable:     150000 kB\n")
    report = diagnose(look(environment, current_identity(), RUNNING, shelf(environment), path.parents[1], model))
    [line] = [line for line in report.lines if line.check == "models"]
    assert line.finding.level == "warn"
    assert "needs about 0.2 GiB, and this board has 0.2 GiB" in line.finding.fact
    assert "exo-rkllm show" in line.finding.repair


@pytest.mark.parametrize(
    "encoder, release, level_, words",
    [
        (SimEncoder(), "2.3.2", "pass", "librknnrt 2.3.2"),
        (SimEncoder(toolkit="2.4.0"), "2.3.2", "warn", "made by toolkit 2.4.0, and librknnrt is 2.3.2"),
        (SimEncoder(platform="rk3576"), "2.3.2", "fail", "is for RK3576, and this board is RK3588"),
        (SimEncoder(width=48), "2.3.2", "warn", "gives 48 floats a token, and the language model takes 64"),
        (SimEncoder(), "1.5.2", "fail", "librknnrt 1.5.2, which is not supported"),
        (SimEncoder(), "none", "fail", "cannot be read"),
        (None, "2.3.2", "fail", "does not begin with RKNN"),
    ],
)
def test_vision_is_checked_with_its_library(
    examine: Examine,
    make_model: Callable[..., Path],
    tmp_path: Path,
    encoder: SimEncoder | None,
    release: str,
    level_: str,
    words: str,
) -> None:
    changes = lens(tmp_path, make_model, encoder, release)
    found = vision_of(examine("orangepi-5-plus", model="", **changes))
    assert (found.level, words in found.fact) == (level_, True), found
    assert level(examine("orangepi-5-plus"), "vision") == "skip"


def lens(
    folder: Path, make_model: Callable[..., Path], encoder: SimEncoder | None, release: str, options: str = ""
) -> dict[str, str]:
    """The variables of a house with a model that sees."""
    model = folder / "models" / "lens"
    model.mkdir(parents=True, exist_ok=True)
    card = f'id = "lens"\ncontext = 2048\n[weights]\nfile = "m.rkllm"\n[vision]\nfile = "m.rknn"\n[options]\n{options}'
    (model / "model.toml").write_text(card)
    make_model().rename(model / "m.rkllm")
    if encoder is None:
        (model / "m.rknn").write_bytes(bytes(100))
    else:
        encoder_file.write(model / "m.rknn", encoder)
    config = folder / "vision.toml"
    place = build() / f"rknn-{release}" / "librknnrt.so"
    config.write_text(f'[runtime]\nencoder_library = "{place}"\n')
    return {"EXO_RKLLM_MODELS_DIRECTORY": str(model.parent), "EXO_RKLLM_CONFIG": str(config)}


def vision_of(report: DoctorReport) -> Finding:
    [line] = [line for line in report.lines if line.check == "vision"]
    return line.finding


def test_domain_and_memory_of_a_model_that_sees_are_checked(
    examine: Examine,
    make_model: Callable[..., Path],
    tmp_path: Path,
    library: Library,
    board: Build,
    environment: dict[str, str],
) -> None:
    found = vision_of(
        examine(
            "orangepi-5-plus", model="", **lens(tmp_path, make_model, SimEncoder(), "2.3.2", "base_domain_id = 0\n")
        )
    )
    assert found.level == "warn" and "loads into the NPU's domain 0 beside its encoder" in found.fact
    changes = lens(tmp_path, make_model, SimEncoder(), "2.3.2")
    old = {**changes, "EXO_RKLLM_RUNTIME_LIBRARY": str(library("1.1.4"))}
    assert "runtime 1.2.0 or newer" in vision_of(examine("orangepi-5-plus", model="", **old)).repair
    path = board("orangepi-5-plus") / "proc/meminfo"
    path.chmod(0o644)
    path.write_bytes(b"MemTotal:        100 kB\nMemAvailable:     100 kB\n")
    set_up = environment | changes
    report = diagnose(look(set_up, current_identity(), RUNNING, shelf(set_up), path.parents[1]))
    assert "lens and its encoder need about" in vision_of(report).fact


def test_missing_runtime_is_one_failure(examine: Examine, tmp_path: Path) -> None:
    failures = findings(examine("orangepi-5-plus", EXO_RKLLM_RUNTIME_LIBRARY=str(tmp_path / "none.so")), "fail")
    assert list(failures) == ["runtime"]


def test_unsupported_runtime_is_one_failure(examine: Examine, library: Library) -> None:
    failures = findings(examine("orangepi-5-plus", EXO_RKLLM_RUNTIME_LIBRARY=str(library("9.9.0"))), "fail")
    assert list(failures) == ["runtime"]


def test_broken_configuration_is_one_failure(examine: Examine, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[api]\nprot = 1\n")
    report = examine("orangepi-5-plus", EXO_RKLLM_CONFIG=str(file))
    assert list(findings(report, "fail")) == ["configuration"]
    assert level(report, "models") == "skip"


def test_broken_model_file_is_one_failure(examine: Examine, tmp_path: Path) -> None:
    broken = tmp_path / "broken.rkllm"
    broken.write_bytes(b"<!DOCTYPE html>")
    assert list(findings(examine("orangepi-5-plus", model=str(broken)), "fail")) == ["models"]
    assert list(findings(examine("orangepi-5-plus", model="no-such-model"), "fail")) == ["models"]


def test_empty_catalogue_is_a_warning(examine: Examine) -> None:
    assert "exo-rkllm pull" in findings(examine("orangepi-5-plus", model=""), "warn")["models"]


def test_unreadable_models_folder_is_a_failure(examine: Examine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    report = examine("orangepi-5-plus", model="", EXO_RKLLM_MODELS_DIRECTORY=str(tmp_path / "file"))
    assert list(findings(report, "fail")) == ["models"]


def serving(**view: Any) -> dict[str, Any]:
    return {"cluster": {"phase": "serving", "offers": [], **view}}


def offer(model: str, *, offered: bool) -> dict[str, Any]:
    return {"id": f"rkllm/{model}", "model": model, "offered": offered, "reason": "" if offered else "Too large."}


def test_difference_between_catalogue_and_cluster_is_named_for_each_model(examine: Examine, tmp_path: Path) -> None:
    """A model whose process was killed once was gone from exo, and everything was right."""
    for name in ("a", "b"):
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        (folder / "model.toml").write_text(f'id = "{name}"\nengine = "dummy"\n')
    service = DaemonStatus(serving(offers=[offer("a", offered=False)]))
    changes = {"EXO_RKLLM_MODELS_DIRECTORY": str(tmp_path / "models")}
    report = examine("orangepi-5-plus", service, "", **changes)
    (fact,) = (line.finding.fact for line in report.lines if line.check == "cluster")
    assert "a: Too large." in fact
    assert "b: the daemon does not know it." in fact
    report = examine("orangepi-5-plus", service, "", **changes, EXO_RKLLM_CLUSTER_MODELS="a")
    (fact,) = (line.finding.fact for line in report.lines if line.check == "cluster")
    assert "b:" not in fact


@pytest.mark.parametrize(
    ("service", "check", "expected", "repair"),
    [
        (DaemonStatus(), "service", "warn", "systemctl start exo-rkllm"),
        (DaemonStatus(error=ExoRkllmError("You may not.", "sudo usermod")), "service", "warn", "usermod"),
        (
            DaemonStatus({"unavailable_reason": "The NPU is gone.", "hint": "exo-rkllm board"}),
            "service",
            "fail",
            "exo-rkllm board",
        ),
        (DaemonStatus({"models": []}), "service", "pass", ""),
        (DaemonStatus({"cluster": {"phase": "passive", "drift": ["state.x"]}}), "cluster", "warn", "exo-rkllm cluster"),
        (DaemonStatus({"cluster": {"phase": "out", "sentence": "Told to stay out."}}), "cluster", "warn", "cluster"),
        (DaemonStatus({"cluster": {"phase": "searching"}}), "cluster", "pass", ""),
        (
            DaemonStatus({"cluster": {"phase": "searching", "other_clusters": ["exo (libp2p) at x"], "hint": "main"}}),
            "cluster",
            "warn",
            "main",
        ),
        (DaemonStatus(serving(other_clusters=["exo (libp2p) at x"])), "cluster", "warn", "exo-rkllm cluster"),
        (DaemonStatus(serving(other_clusters=["lab at x"])), "cluster", "pass", ""),
        (DaemonStatus(serving(offers=[offer("a", offered=True)])), "cluster", "pass", ""),
        (DaemonStatus(serving(offers=[offer("a", offered=False)])), "cluster", "warn", "exo-rkllm cluster"),
        (DaemonStatus({"cluster": {"phase": "off", "sentence": "It left.", "hint": "join"}}), "cluster", "pass", ""),
        (
            DaemonStatus({"cluster": {"phase": "serving", "announcement": {"sentence": "New.", "hint": "leave"}}}),
            "cluster",
            "warn",
            "leave",
        ),
    ],
)
def test_daemons_status_is_judged(
    service: DaemonStatus, check: str, expected: str, repair: str, examine: Examine
) -> None:
    report = examine("orangepi-5-plus", service)
    assert level(report, check) == expected
    assert repair in next(line.finding.repair for line in report.lines if line.check == check)


def test_daemon_without_a_cluster_leads_to_the_reason(examine: Examine) -> None:
    report = examine("orangepi-5-plus", DaemonStatus({"cluster": None}))
    assert level(report, "cluster") == "skip"
    assert "exo-rkllm logs" in next(line.finding.fact for line in report.lines if line.check == "cluster")


def test_pc_without_an_npu_is_told_so(environment: Mapping[str, str]) -> None:
    report = diagnose(look(environment, current_identity(), DaemonStatus(), shelf(environment), Path("/"), ""))
    assert level(report, "system") in ("warn", "pass", "fail")


def test_performance_without_its_unit_is_a_warning(examine: Examine, tmp_path: Path) -> None:
    report = examine("orangepi-5-plus", EXO_RKLLM_BOARD_PERFORMANCE="true")
    assert "systemctl enable --now exo-rkllm-clocks.socket" in findings(report, "warn")["performance"]
    (tmp_path / "orangepi-5-plus/run").mkdir()
    (tmp_path / "orangepi-5-plus/run/exo-rkllm-clocks.sock").touch()
    assert level(examine("orangepi-5-plus", EXO_RKLLM_BOARD_PERFORMANCE="true"), "performance") == "pass"


def test_little_memory_is_a_warning(board: Build, environment: dict[str, str], model: str) -> None:
    path = board("orangepi-5-plus") / "proc/meminfo"
    path.chmod(0o644)
    path.write_bytes(b"MemTotal:        4000000 kB\nMemAvailable:     300000 kB\n")
    report = diagnose(look(environment, current_identity(), RUNNING, shelf(environment), path.parents[1], model))
    assert "exo-rkllm unload" in findings(report, "warn")["memory"]


# ── the kernel's log ─────────────────────────────────────────────────────────────────────────────


def test_kernel_log_counts_npu_errors_and_no_benign_lines(board: Build) -> None:
    state = kernel_log.summarize(kernel_log.read(board("job-errors")))
    assert state.counts == {"hung_job": 2, "soft_reset": 1}


@pytest.mark.parametrize(
    ("lines", "level", "repair"),
    [
        (["RKNPU: switch iommu domain time out"], "fail", "sudo poweroff"),
        (["RKNPU: failed to switch iommu domain"], "fail", "echo fdab0000.npu | sudo tee"),
        (["RKNPU: failed to switch iommu domain", "[drm] Initialized rknpu 0.9.8 20240828"], "warn", "unbind"),
        (["RKNPU: job timeout, flags: 0x0:"], "warn", "exo-rkllm unload NAME"),
        (["RKNPU: failed to allocate IOVA: -12"], "warn", "sudo dmesg | grep -i rknpu"),
        (["RKNPU: switch iommu domain from 0 to 1"], "pass", ""),
    ],
)
def test_kernel_log_check_names_what_helps(scene: Scene, lines: list[str], level: str, repair: str) -> None:
    records = [f"3,{number},{number}00,-;{line}" for number, line in enumerate(lines)]
    [line] = [
        line
        for line in diagnose(replace(scene, kernel_log=kernel_log.summarize(records))).lines
        if line.check == "kernel log"
    ]
    assert line.finding.level == level
    assert repair in line.finding.repair


def test_kernel_log_that_only_the_daemon_reads_is_judged(examine: Examine) -> None:
    value = {"errors": {"submit": 1}, "fault": "submit", "stops": True, "sentence": "It is stuck.", "hint": "Unload."}
    report = examine("orangepi-5-plus", DaemonStatus({**(RUNNING.status or {}), "kernel_log": value}))
    assert findings(report, "fail") == {"kernel log": "Unload."}


@pytest.mark.parametrize("line", ["", "3,1,9,-;RKNPU: failed to submit job\n"])
def test_daemon_knows_more_of_the_kernel_log_than_its_lines(examine: Examine, board: Build, line: str) -> None:
    """The ring has lost the line, or the NPU has worked since the fault."""
    (path := board("orangepi-5-plus") / "dev/kmsg").write_text("3,0,0,-;booted\n" + line)
    fault = {"errors": {"submit": 1}, "fault": "submit", "stops": True, "sentence": "It is stuck.", "hint": "Unload."}
    works = {**fault, "fault": None, "stops": False, "sentence": "", "hint": ""}
    for value, level_of, says in (
        (fault, "fail", "It is stuck."),
        (works, "pass", "jobs that could not be submitted: 1 since boot, and the NPU has worked since" if line else ""),
    ):
        report = examine("orangepi-5-plus", DaemonStatus({**(RUNNING.status or {}), "kernel_log": value}))
        [found] = [one.finding for one in report.lines if one.check == "kernel log"]
        assert found.level == level_of
        assert says in found.fact
    path.unlink()


@pytest.mark.parametrize(
    ("profile", "given", "own", "level", "says"),
    [
        ("orangepi-5-plus", range(8), range(4), "pass", "works on 4, 5, 6, 7, the service itself keeps to 0, 1, 2, 3"),
        ("orangepi-5-plus", range(8), range(8), "pass", "leaves the fast cores while one is loaded"),
        ("orangepi-5-plus", (4, 5), (4, 5), "warn", "wants 4 threads on the RK3588"),
        ("rk3576-vendor", range(8), range(4), "pass", "the vendor's library works on 4, 5,"),
        ("rk3576-vendor", (4, 5), (4, 5), "pass", "models may use CPU 4, 5, the vendor's library works on 4, 5;"),
        ("rk3576-vendor", (4,), (4,), "warn", "wants 2 threads on the RK3576"),
    ],
)
def test_cpus_of_service_and_models_are_named(
    examine: Examine, profile: str, given: Iterable[int], own: Iterable[int], level: str, says: str
) -> None:
    cpus = {"given": list(given), "own": list(own)}
    report = examine(profile, DaemonStatus({**(RUNNING.status or {}), "cpus": cpus}))
    [line] = [line for line in report.lines if line.check == "CPU cores"]
    assert line.finding.level == level
    assert says in line.finding.fact


# ── the verb ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def at_home(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EXO_RKLLM_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("at_home")
def test_exit_code_follows_the_worst_finding(board: Build, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--root", str(board("orangepi-5-plus")), "--model", model]) == 0
    assert "Nothing failed, 1 warning." in capsys.readouterr().out
    assert main(["doctor", "--root", str(board("no-driver")), "--model", model]) == 1
    printed = capsys.readouterr().out
    assert "FAIL  NPU driver" in printed
    assert "1 failed, 1 warning." in printed


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("profile", sorted(boards.PROFILES))
def test_doctor_never_prints_a_stack_trace_or_control_character(
    profile: str, board: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--root", str(board(profile))]) in (0, 1)
    printed = capsys.readouterr().out
    assert "Traceback" not in printed
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", printed)
    assert printed.count("FAIL") <= 2, "no model is loaded, so that can only be the board and the model"


SERVICE = """
mount -t tmpfs tmpfs /var/lib
mkdir -p /var/lib/exo-rkllm/models/lamp
printf 'id = "lamp"\\ncontext = 4096\\nengine = "dummy"\\n' >/var/lib/exo-rkllm/models/lamp/model.toml
exec "$@"
"""


@pytest.mark.usefixtures("at_home")
@pytest.mark.skipif(not namespaces(), reason="a /var/lib of one's own needs user namespaces")
@pytest.mark.parametrize("verb", ["doctor", "selftest"])
def test_root_sees_the_services_models(verb: str, board: Build, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "exo_rkllm", verb, "--root", str(board("orangepi-5-plus"))]
    if verb == "selftest":
        command += ["--only", "mdwe", "--output", str(tmp_path / "report.md")]
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", SERVICE, "sh", *command],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = (tmp_path / "report.md").read_text() if verb == "selftest" else done.stdout
    wanted = "| models | pass | lamp |" if verb == "selftest" else r"  models +lamp$"
    assert re.search(wanted.replace("|", r"\|"), said, re.MULTILINE), said + done.stderr


@pytest.mark.usefixtures("at_home")
def test_doctor_prints_json(board: Build, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--root", str(board("container-no-nodes"))]) == 1
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert printed["ok"] is False
    assert printed["container"] == "docker"
    assert [check["name"] for check in printed["checks"]] == [check.name for check in CHECKS]
    failed = [check for check in printed["checks"] if check["level"] == "fail"]
    assert [check["name"] for check in failed] == ["device nodes"]
    assert failed[0]["repair"].startswith("Start it with --device")


def test_lines_fit_the_terminal_and_commands_stay_whole(scene: Scene) -> None:
    unbound = replace(scene, board=replace(scene.board, state="no_driver", sentence="None is bound.", hint=LOAD_DRIVER))
    printed = list(verb.text(unbound, diagnose(unbound), Paint(io.StringIO()), 80))
    command = "sudo apt install linux-image-vendor-rk35xx linux-dtb-vendor-rk35xx;"
    assert [line.strip() for line in printed if len(line) > 80] == [command], (
        "longer than what is left beside the names"
    )
    at = next(number for number, line in enumerate(printed) if "try: sudo modprobe" in line)
    assert [line[26:] for line in printed[at : at + 6]] == [
        "try: sudo modprobe rknpu;",
        "     where there is no such module:",
        "     Boot a vendor kernel (Armbian:",
        f"     {command}",
        "     others: your board maker's 6.1 image),",
        "     then reboot.",
    ]
