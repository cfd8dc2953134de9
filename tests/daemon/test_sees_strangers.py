"""Pictures of strangers and of several users at once, through the daemon: what each of them costs the others."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from simulator.encoder_file import SimEncoder
from tests.daemon.running import House
from tests.daemon.test_sees import Image, chat, children, data_url, parts, post, seeing, shapes, text_of
from tests.vision.test_pictures import hostile

LONG = bool(os.environ.get("TESTS_LONG"))


def plain(colour: str | tuple[int, int, int], size: int = 64) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(data, "PNG")
    return data.getvalue()


def resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def test_hostile_pictures_are_refused_and_nothing_is_left_of_them(
    board_house: House, make_model: Callable[..., Path]
) -> None:
    seeing(board_house, make_model)
    daemon = board_house.start()
    chat(daemon, data_url(shapes()))
    before = resident(daemon.process.pid)
    for data in hostile(random.Random(7), 1000 if LONG else 16):
        said = chat(daemon, data_url(data))
        assert "choices" in said or said["status"] == 400, said
    assert resident(daemon.process.pid) - before < 40_000
    assert len(children(daemon, "decoder_child")) <= 1 and len(children(daemon, "encoder_child")) == 1
    assert text_of(chat(daemon, data_url(shapes()))).startswith("I see white")


def test_encoder_that_is_killed_mid_encode_costs_one_answer_each_time(
    board_house: House, make_model: Callable[..., Path]
) -> None:
    seeing(board_house, make_model, SimEncoder(run_seconds=0.5 if LONG else 0.3))
    daemon = board_house.start()
    chat(daemon, data_url(plain("white")))
    kills, struck = 100 if LONG else 1, 0
    for number in range(kills):
        (encoder,) = children(daemon, "encoder_child")
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(chat, daemon, data_url(plain((number, 0, 0))))
            daemon.wait_for(lambda status: any(model["running"] for model in status["models"]))
            time.sleep(0.2)  # a request that is running on a busy machine may still be on its way to the encoder
            os.kill(encoder, signal.SIGKILL)
            said = asked.result()
        if "choices" not in said:
            assert said["status"] == 502 and "SIGKILL" in said["error"]["message"], said
            struck += 1
        assert text_of(chat(daemon, data_url(plain("blue", 64 + number)))) == "I see blue."
    assert struck > kills * 0.8, "an encoder that is killed before its encode costs nothing"
    assert daemon.model("qwen2-vl")["state"] == "ready"


def test_users_with_pictures_and_with_text_take_turns_and_are_not_mixed(
    board_house: House, make_model: Callable[..., Path]
) -> None:
    seeing(board_house, make_model, SimEncoder(run_seconds=0.05), reply="{sees} {asked}")
    daemon = board_house.start()
    chat(daemon, data_url(plain("white")))
    order: list[str] = []
    lock = threading.Lock()

    def ask(who: str, number: int) -> None:
        content = [{"type": "text", "text": f"{who}{number}"}]
        if who == "seer":
            content += parts(data_url(plain(("red", "blue")[number % 2], 64 + number)), text="?")[1:]
        body = {"messages": [{"role": "user", "content": content}], "user": who}
        answer = text_of(post(daemon, "/v1/chat/completions", body))
        with lock:
            order.append(who)
        if who == "seer":
            assert f"I see {('red', 'blue')[number % 2]}." in answer and f"seer{number}" in answer, answer
        else:
            assert "red" not in answer and "blue" not in answer and f"reader{number}" in answer, answer

    with ThreadPoolExecutor(4) as pool:
        for asked in [
            pool.submit(ask, who, number) for number in range(8 if LONG else 4) for who in ("seer", "reader")
        ]:
            asked.result()
    assert set(order[: len(order) // 2]) == {"seer", "reader"}, order
    assert daemon.model("qwen2-vl")["pictures"]["encoded"] == len(order) // 2 + 1


def test_three_photographs_of_a_phone_are_taken_and_what_is_too_large_names_its_setting(
    board_house: House, make_model: Callable[..., Path]
) -> None:
    """As data URLs, 2 MB each and then 4 MB each."""
    seeing(board_house, make_model)
    daemon = board_house.start()

    def photograph(seed: int, size: int) -> str:
        """A JPEG with that much behind its end, which no decoder reads."""
        data = shapes((400 + seed, 300), "JPEG", quality=95)
        return data_url(data + random.Random(seed).randbytes(size - len(data)), "jpeg")

    answer = text_of(chat(daemon, *(photograph(number, 1_900_000) for number in range(3))))
    assert answer.count("I see white") == 3
    said = chat(daemon, *(photograph(number, 4_000_000) for number in range(3)))
    assert said["status"] == 413 and "Raise [api] body_bytes." in said["error"]["message"], said


def test_tokens_of_pictures_are_counted_without_a_run(board_house: House, make_model: Callable[..., Path]) -> None:
    seeing(board_house, make_model)
    daemon = board_house.start()
    source = {"type": "base64", "media_type": "image/png", "data": data_url(shapes()).partition(",")[2]}
    blocks = [{"type": "image", "source": source}, {"type": "text", "text": "What is this?"}]
    said = post(daemon, "/v1/messages/count_tokens", {"messages": [{"role": "user", "content": blocks}]})
    assert said.get("input_tokens", 0) > 196, json.dumps(said)
