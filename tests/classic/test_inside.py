"""26 checks inside each classic exo: plain v0.0.15, the draft wired into it, and the fork; `inside.py` says how to run.

The models' folders have the weights, our card, a tokenizer.json and a tokenizer_config.json; exo's own transformers
reads them.
"""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.classic.inside import CHECKOUTS, PYTHON, Exo, Host, hosts
from tests.exo_cluster.test_node import free_ports

pytestmark = pytest.mark.skipif(
    not PYTHON, reason="EXO_CLASSIC_PYTHON and EXO_CLASSIC name no classic exo (tests/classic/inside.py)"
)
MOST, IDLE = 40, 2.0
SLOW: dict[str, Any] = {"reply": "one two three four five six seven eight nine ten " * 6, "decode_tps": 30.0}


@pytest.fixture(scope="module", params=["released", "draft", "fork"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    if not CHECKOUTS[request.param]:
        pytest.skip(f"no checkout for the host {request.param} is named (tests/classic/inside.py)")
    for one in hosts(request.param, tmp_path_factory.mktemp("h")):
        one.add("parrot", reply="you said {asked}")
        one.add("greeter", reply="Grüße aus Köln, 你好")
        one.add("crasher", reply="one two three four five six seven", decode_tps=20.0, faults=("segv@token:5",))
        one.add("slow", **SLOW)
        one.add("mute", tokens=False)
        words = ("--default-model", "parrot-rkllm", "--max-generate-tokens", str(MOST))
        one.exo = one.start(*words, EXO_RKLLM_CLASSIC_IDLE=str(IDLE))
        yield one


@pytest.fixture
def exo(host: Host) -> Exo:
    return host.exo


def spawned(host: Host, *words: str, until: str, seconds: float = 60.0, **more: Any) -> str:
    """What exo says until a text stands in it."""
    exo = host.spawn(*words, **more)
    end = time.monotonic() + seconds
    while until not in exo.said and time.monotonic() < end and exo.process.poll() is None:
        time.sleep(0.1)
    exo.end()
    return exo.said


# ── what exo shows ───────────────────────────────────────────────────────────────────────────────


def test_the_engine_is_chosen_by_its_name(host: Host, exo: Exo) -> None:
    assert "Using inference engine: RKLLMInferenceEngine" in exo.said
    if host.kind == "draft":
        assert "Detected system: Rockchip NPU" in exo.said
    if host.kind == "fork":  # the only one with metrics, some of which have names that begin as ours do
        assert "\nexo_rkllm_" in exo.call("GET", "/metrics").text


def test_models_are_listed(exo: Exo) -> None:
    listed = {model["id"] for model in exo.call("GET", "/v1/models").json()["data"]}
    assert {"parrot-rkllm", "greeter-rkllm", "crasher-rkllm", "slow-rkllm"} <= listed


def test_a_model_without_a_tokenizer_is_not_listed_and_ends_in_no_error(exo: Exo) -> None:
    listed = {model["id"] for model in exo.call("GET", "/v1/models").json()["data"]}
    assert "mute-rkllm" not in listed
    assert exo.ask("mute-rkllm", "hi").status == 200  # of the default model, as for any name that exo does not know


def test_tinychat_has_names_for_people(exo: Exo) -> None:
    found = exo.call("GET", "/initial_models").json()
    assert found["parrot-rkllm"]["name"] == "parrot (NPU)"


def test_the_model_pool_is_complete_at_once(exo: Exo) -> None:
    began = time.monotonic()
    pool = exo.call("GET", "/modelpool")
    assert time.monotonic() - began < 5
    found = {name: state for chunk in pool.chunks for name, state in chunk.items()}
    assert found["parrot-rkllm"]["downloaded"] is True


def test_the_topology_shows_the_board(exo: Exo) -> None:
    (node,) = exo.call("GET", "/v1/topology").json()["nodes"].values()
    assert node["model"] == "Orange Pi 5 Plus, Rockchip NPU with 6 TOPS"
    assert node["chip"] == "Rockchip NPU (RK3588)"


def test_tokens_are_counted(exo: Exo) -> None:
    body = {"model": "parrot-rkllm", "messages": [{"role": "user", "content": "red apples"}]}
    found = exo.call("POST", "/v1/chat/token/encode", body).json()
    assert found["encoded_prompt"] == "red apples\n"
    assert found["num_tokens"] > 0


def test_a_download_is_done_at_once(exo: Exo) -> None:
    assert exo.call("POST", "/download", {"model": "parrot-rkllm"}).status == 200


def test_deleting_a_model_leaves_its_files(host: Host, exo: Exo) -> None:
    exo.call("DELETE", "/models/greeter-rkllm")
    assert (host.folder / "models/greeter/m.rkllm").is_file()
    assert "Köln" in exo.ask("greeter-rkllm", "hi").content


# ── answers ──────────────────────────────────────────────────────────────────────────────────────


def test_a_chat_is_answered_whole_and_without_the_end_token(exo: Exo) -> None:
    answer = exo.ask("parrot-rkllm", "red apples")
    assert (answer.status, answer.content.strip()) == (200, "you said red apples")
    assert answer.json()["choices"][0]["finish_reason"] == "stop"


def test_a_chat_is_streamed(exo: Exo) -> None:
    chunks = exo.ask("parrot-rkllm", "green pears", stream=True).chunks
    assert "".join(one["choices"][0]["delta"]["content"] for one in chunks).strip() == "you said green pears"
    assert len(chunks) > 2
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_earlier_turns_are_in_the_prompt(exo: Exo) -> None:
    assert exo.ask("parrot-rkllm", "first", "second", "third").content.strip() == "you said first\nsecond\nthird"


def test_characters_of_several_tokens_are_whole(exo: Exo) -> None:
    assert exo.ask("greeter-rkllm", "hi").content.strip() == "Grüße aus Köln, 你好"


def test_another_model_answers_after_one_and_the_first_again(exo: Exo) -> None:
    for model, part in (("parrot", "said"), ("greeter", "Köln"), ("parrot", "said")):
        assert part in exo.ask(f"{model}-rkllm", "hi").content


def test_an_unknown_model_is_the_default_one(exo: Exo) -> None:
    assert "you said hi" in exo.ask("gpt-4o", "hi").content


def test_three_requests_at_once_have_their_own_answers(exo: Exo) -> None:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda text: exo.ask("parrot-rkllm", text).content, ("one", "two", "three")))
    assert [answer.strip() for answer in answers] == ["you said one", "you said two", "you said three"]


def test_the_next_is_answered_after_a_client_that_left_and_a_limit_that_exo_does_not_report(exo: Exo) -> None:
    """exo reads on for the client, up to its own most tokens, and then asks for no more: the idle limit ends that."""
    body = {"model": "slow-rkllm", "stream": True, "messages": [{"role": "user", "content": "count"}]}
    connection = http.client.HTTPConnection("127.0.0.1", exo.port, timeout=20)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    assert b"one" in connection.getresponse().readline()
    connection.close()
    assert "you said hi" in exo.ask("parrot-rkllm", "hi").content
    assert f"for {IDLE:g} s; the answer is ended." in exo.said


# ── what goes wrong ──────────────────────────────────────────────────────────────────────────────


def test_a_prompt_that_is_too_long_is_refused_with_the_sentence(exo: Exo) -> None:
    answer = exo.ask("parrot-rkllm", "word " * 5000)
    assert answer.status == 500
    assert "4096" in answer.text


def test_a_crash_ends_the_answer_and_the_next_is_answered(exo: Exo) -> None:
    assert "one two" in exo.ask("crasher-rkllm", "hi").content
    assert "SIGSEGV" in exo.said
    assert "you said hi" in exo.ask("parrot-rkllm", "hi").content


def test_evaluation_says_why_not(host: Host) -> None:
    data = host.folder / "data"
    data.mkdir()
    for name in ("train", "valid", "test"):
        (data / f"{name}.jsonl").write_text('{"text": "a b"}\n' * 2)
    words = ("eval", "parrot-rkllm", "--data", str(data))
    assert "neither trained nor evaluated" in spawned(host, *words, until="neither trained nor evaluated")


# ── beside it ────────────────────────────────────────────────────────────────────────────────────


def test_run_prints_the_answer(host: Host) -> None:
    said = spawned(host, "run", "parrot-rkllm", "--prompt", "red apples", until="you said red apples")
    assert "you said red apples" in said.partition("Generated response:")[2]


def test_exos_own_engine_is_left_alone(host: Host) -> None:
    exo = host.start("--inference-engine", "dummy", "--default-model", "dummy", start=("exo.main",))
    answer = exo.ask("dummy", "hi")
    exo.end()
    assert (answer.status, "dummy" in answer.content) == (200, True)


def test_doctor_names_the_host_and_how_to_start_it(host: Host) -> None:
    from exo_rkllm.classic.launcher import KINDS

    kind = KINDS[{"released": "plain", "draft": "seed", "fork": "fork"}[host.kind]]
    said = " ".join(host.ours("doctor").stdout.split())
    assert kind.says in said
    assert kind.start in said


def test_the_boards_daemon_answers_where_one_runs(host: Host) -> None:
    from exo_rkllm.client.control import Client

    command = [PYTHON, "-m", "exo_rkllm", "serve"]
    environment = {**host.environment, "EXO_RKLLM_API_PORT": str(free_ports(1)[0])}
    daemon = subprocess.Popen(command, cwd=host.folder, env=environment, stderr=subprocess.DEVNULL)
    try:
        client = Client(host.folder / "run/exo-rkllm/control.sock", 10.0)
        exo = host.start("--default-model", "parrot-rkllm")
        assert "you said hi" in exo.ask("parrot-rkllm", "hi").content
        loaded = {model["name"]: model["state"] for model in client.get("/control/status")["models"]}
        assert loaded["parrot"] == "ready"
        exo.end()
    finally:
        daemon.terminate()
        daemon.wait()


# ── two nodes ────────────────────────────────────────────────────────────────────────────────────


def two(host: Host, ring: str) -> tuple[Exo, Exo]:
    ports = free_ports(2)
    able = {"model": "board", "chip": "board", "memory": 8000, "flops": {"fp32": 0, "fp16": 0, "int8": 0}}
    peers = {
        name: {"address": "127.0.0.1", "port": port, "device_capabilities": able}
        for name, port in zip(("one", "two"), ports, strict=True)
    }
    path: Path = host.folder / f"ring-{ring}.json"
    path.write_text(json.dumps({"peers": peers}))
    both = [
        host.spawn(
            *("--node-id", name, "--node-port", str(port), "--discovery-config-path", str(path)),
            *("--default-model", "parrot-rkllm"),
            EXO_RKLLM_CLASSIC_RING=ring,
        )
        for name, port in zip(("one", "two"), ports, strict=True)
    ]
    for exo in both:
        exo.until(lambda exo=exo: len(exo.call("GET", "/v1/topology").json()["nodes"]) == 2, 90)  # type: ignore[misc]
    return both[0], both[1]


def test_two_nodes_refuse_with_the_reason(host: Host) -> None:
    both = two(host, "refuse")
    for exo in both:
        answer = exo.ask("parrot-rkllm", "hi")
        assert answer.status == 500
        assert "layers" in answer.text
    for exo in both:
        exo.end()


def test_the_first_of_two_nodes_answers_for_both(host: Host) -> None:
    both = two(host, "first")
    for exo in both:
        assert "you said hi" in exo.ask("parrot-rkllm", "hi").content
    for exo in both:
        exo.end()
