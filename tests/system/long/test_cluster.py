"""Several boards on one wire, each a machine with a kernel and a network stack of its own, in one exo cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.system.substrate import host, owner
from tests.system.substrate.machine import Machine, free_port
from tests.system.substrate.releases import Release
from tests.system.substrate.workshop import Workshop

FITS = "--npu-cores 2"
LIBRARY = "/usr/lib/exo-rkllm-simulator/1.3.1/librkllmrt.so"
STANDIN = host.REPOSITORY / "tests" / "exo_cluster" / "standin"
PATHS = "/srv/exo:/usr/lib/exo-rkllm/vendor"
EXO = f"systemd-run --quiet --unit exo --setenv PYTHONPATH={PATHS} python3 -m tests.exo_cluster.standin.exo --name exo"
API = 52415
LOG = "journalctl --no-pager -n 30 -u exo"
STORY = "exo-rkllm cluster; journalctl --no-pager -n 30 -u exo-rkllm"


def put(machine: Machine, folder: Path, to: str) -> None:
    for path in sorted(folder.glob("*.py")):
        machine.run(f"mkdir -p {to} && cat > {to}/{path.name}", stdin=path.read_text())


@pytest.fixture(params=[2, 3], ids=["two boards", "three boards"])
def cluster(workshop: Workshop, release: Release, request: pytest.FixtureRequest) -> Iterator[Sequence[Machine]]:
    """The first machine is exo's master and no board, the others are boards."""
    wire = free_port()
    machines: list[Machine] = []
    try:
        for number in range(1, request.param + 1):
            hardware = workshop.hardware(release, wire=wire, number=number, megabytes=768)
            machine = workshop.machine(f"{release} {number} of {request.param} on a wire", hardware)
            machines.append(machine)
            machine.run(
                f"link=$(grep -l '52:54:00:00:01:{number:02x}' /sys/class/net/*/address | cut -d/ -f5);"
                f"ip addr add 10.78.0.{number}/24 dev $link; ip link set $link up; hostnamectl hostname board{number}"
            )
            owner.add_repository(machine)
            owner.apt(machine, "install exo-rkllm exo-rkllm-simulator")
        yield machines
    finally:
        for machine in machines:
            machine.discard()


def test_boards_join_a_cluster_and_answer_for_it(cluster: Sequence[Machine]) -> None:
    exo, *boards = cluster
    exo.run("systemctl disable --now exo-rkllm")
    put(exo, STANDIN, "/srv/exo/tests/exo_cluster/standin")
    exo.run("touch /srv/exo/tests/__init__.py /srv/exo/tests/exo_cluster/__init__.py")
    exo.run(EXO)
    exo.until("exo serves", lambda: exo.ask(f"curl -sf http://127.0.0.1:{API}/node_id").code == 0, 60, story=LOG)
    for number, board in enumerate(boards, 1):
        board.run(f"exo-rkllm runtime --install {LIBRARY}")
        owner.add_model(board, f"model-{number}", FITS)
    for number, board in enumerate(boards, 1):
        serves(board)
        answers(exo, f"rkllm/model-{number}")


def serves(board: Machine) -> None:
    def phase() -> str:
        series = [name for name, on in board.metrics().items() if name.startswith("rkllm_cluster_phase") and on == 1]
        return series[0].split('"')[1] if series else ""

    board.until("serving", lambda: phase() == "serving", 60, story=STORY)


def answers(exo: Machine, model: str) -> None:
    """By exo's own API, from whichever board has that model."""
    words = json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}]})
    ask = f"curl -sS http://127.0.0.1:{API}/v1/chat/completions -H 'Content-Type: application/json' -d '{words}'"
    exo.until("an answer", lambda: "simulated" in exo.ask(ask, timeout=30).out, 60, story=LOG)
