"""A model on the NPU is shown pictures: through the HTTP faces, the decoder, librknnrt and librkllmrt, and back."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simulator import encoder_file
from simulator.encoder_file import SimEncoder
from tests.daemon.running import Daemon, House
from tests.simulated import Library, build

Image = pytest.importorskip("PIL.Image")
ImageDraw = pytest.importorskip("PIL.ImageDraw")
SHAPES = "I see white, with red at the top left and blue at the bottom right."


def shapes(size: tuple[int, int] = (800, 600), kind: str = "PNG", mode: str = "RGB", **how: Any) -> bytes:
    """A red disc at the top left and a blue square at the bottom right, on white."""
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    width, height = size
    draw.ellipse((width * 0.05, height * 0.05, width * 0.3, height * 0.3), fill=(255, 0, 0))
    draw.rectangle((width * 0.7, height * 0.7, width * 0.95, height * 0.95), fill=(0, 0, 255))
    data = io.BytesIO()
    picture.convert(mode).save(data, kind, **how)
    return data.getvalue()


def data_url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def parts(*urls: str, text: str = "What is this?") -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}, *({"type": "image_url", "image_url": {"url": url}} for url in urls)]


def seeing(
    house: House,
    make_model: Callable[..., Path],
    encoder: SimEncoder = SimEncoder(),
    reply: str = "{sees}",
    version: str = "1.3.0",
    **model: Any,
) -> str:
    """A vision model in the house, and a librknnrt for its encoder."""
    library = build().joinpath("rknn-2.3.2", "librknnrt.so")
    house.environment["EXO_RKLLM_RUNTIME_ENCODER_LIBRARY"] = str(library)
    house.add("qwen2-vl", '[weights]\nfile = "m.rkllm"\n[vision]\nfile = "m.rknn"\n')
    folder = house.models / "qwen2-vl"
    made = make_model(
        reply=reply, vision=True, embedding_length=encoder.width, embedding_outputs=encoder.outputs, **model
    )
    made.rename(folder / "m.rkllm")
    encoder_file.write(folder / "m.rknn", encoder)
    return "qwen2-vl"


def post(daemon: Daemon, path: str, body: dict[str, Any]) -> dict[str, Any]:
    url = f"http://{daemon.status()['listening'][0]}{path}"
    request = urllib.request.Request(url, json.dumps({"model": "qwen2-vl", **body}).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own daemon
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        with error:
            return {"status": error.code, **json.load(error)}


def get(daemon: Daemon, path: str) -> str:
    with urllib.request.urlopen(f"http://{daemon.status()['listening'][0]}{path}", timeout=60) as answer:
        return str(answer.read().decode())


def chat(daemon: Daemon, *urls: str, text: str = "What is this?") -> dict[str, Any]:
    return post(daemon, "/v1/chat/completions", {"messages": [{"role": "user", "content": parts(*urls, text=text)}]})


def text_of(answer: dict[str, Any]) -> str:
    assert "choices" in answer, answer
    return str(answer["choices"][0]["message"]["content"])


def test_model_names_what_a_picture_shows(board_house: House, make_model: Callable[..., Path]) -> None:
    seeing(board_house, make_model)
    daemon = board_house.start()
    assert text_of(chat(daemon, data_url(shapes()))) == SHAPES


# ── what has to survive on the way ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "encoder",
    [
        SimEncoder(size=448, tokens=256, width=48),
        SimEncoder(size=392, tokens=196, outputs=3),
        SimEncoder(size=560, tokens=400, width=30, outputs=2),
    ],
    ids=("448", "three-outputs", "two-outputs"),
)
@pytest.mark.parametrize("size", [(800, 600), (300, 800)], ids=("wide", "high"))
def test_every_shape_of_encoder_is_served(
    board_house: House, make_model: Callable[..., Path], encoder: SimEncoder, size: tuple[int, int]
) -> None:
    seeing(board_house, make_model, encoder)
    daemon = board_house.start()
    narrow = "I see white, with red at the top and blue at the bottom."
    assert text_of(chat(daemon, data_url(shapes(size)))) == (SHAPES if size[0] > size[1] else narrow)


def test_each_face_shows_pictures(board_house: House, make_model: Callable[..., Path]) -> None:
    seeing(board_house, make_model)
    daemon = board_house.start()
    data = base64.b64encode(shapes()).decode()
    url = data_url(shapes())
    blocks = [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}]
    assert text_of(chat(daemon, url)) == SHAPES
    message = {"role": "user", "content": "What is this?", "images": [data]}
    assert post(daemon, "/api/chat", {"messages": [message], "stream": False})["message"]["content"] == SHAPES
    assert post(daemon, "/api/generate", {"prompt": "?", "images": [data], "stream": False})["response"] == SHAPES
    said = post(daemon, "/v1/messages", {"max_tokens": 99, "messages": [{"role": "user", "content": blocks}]})
    assert said["content"][0]["text"] == SHAPES
    asked = [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]
    assert post(daemon, "/v1/responses", {"input": asked})["output"][-1]["content"][0]["text"] == SHAPES
    file = board_house.folder / "shapes.jpg"
    file.write_bytes(shapes(kind="JPEG", quality=95))
    done = board_house.command("run", "qwen2-vl", "What is this?", "--image", str(file))
    assert done.stdout.strip() == SHAPES, done.stderr
    missing = board_house.command("run", "qwen2-vl", "What?", "--image", "/nowhere/at-all.png")
    assert missing.returncode == 2 and "cannot be read" in missing.stderr


def test_text_between_pictures_keeps_its_place_in_each_language(
    board_house: House, make_model: Callable[..., Path]
) -> None:
    seeing(board_house, make_model, reply="{user}")
    daemon = board_house.start()
    data = base64.b64encode(shapes((40, 30))).decode()
    url = f"data:image/png;base64,{data}"
    order = ("Before", None, "and", None, "Which?")

    def ordered(image: dict[str, Any], text: str = "text") -> list[dict[str, Any]]:
        return [{"type": text, "text": words} if words else image for words in order]

    def user(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"role": "user", "content": content}]

    expected = "Before<image>and<image>Which?"
    part = {"type": "image_url", "image_url": {"url": url}}
    assert text_of(post(daemon, "/v1/chat/completions", {"messages": user(ordered(part))})) == expected
    block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    said = post(daemon, "/v1/messages", {"max_tokens": 99, "messages": user(ordered(block))})
    assert said["content"][0]["text"] == expected
    asked = user(ordered({"type": "input_image", "image_url": url}, "input_text"))
    said = post(daemon, "/v1/responses", {"input": asked})
    assert said["output"][-1]["content"][0]["text"] == expected
    # Ollama's pictures have no place of their own.
    message = {"role": "user", "content": "Which?", "images": [data, data]}
    said = post(daemon, "/api/chat", {"messages": [message], "stream": False})
    assert said["message"]["content"] == "<image><image>Which?"


def test_several_pictures_and_earlier_turns_keep_their_order(
    board_house: House, make_model: Callable[..., Path]
) -> None:
    seeing(board_house, make_model)
    daemon = board_house.start()
    plain = io.BytesIO()
    Image.new("RGB", (64, 64), "green").save(plain, "PNG")
    answer = text_of(chat(daemon, data_url(shapes()), data_url(plain.getvalue())))
    assert answer == f"Picture 1: {SHAPES} Picture 2: I see green."
    turns = [
        {"role": "user", "content": parts(data_url(plain.getvalue()))},
        {"role": "assistant", "content": "I see green."},
        {"role": "user", "content": parts(data_url(shapes()), text="And this?")},
    ]
    answer = text_of(post(daemon, "/v1/chat/completions", {"messages": turns}))
    assert answer == f"Picture 1: I see green. Picture 2: {SHAPES}"


def test_mark_in_a_users_text_is_text(board_house: House, make_model: Callable[..., Path]) -> None:
    seeing(board_house, make_model, reply="{media} {user}")
    daemon = board_house.start()
    answer = text_of(chat(daemon, data_url(shapes()), text="Is <image> a tag?"))
    assert answer.startswith("1 ") and "< image>" in answer


def test_runtime_of_each_generation_is_shown_pictures(
    board_house: House, make_model: Callable[..., Path], library: Library
) -> None:
    seeing(board_house, make_model, SimEncoder(size=392, tokens=196))
    for version in ("1.1.4", "1.2.1b1", "1.2.3", "1.3.1"):
        daemon = board_house.start(EXO_RKLLM_RUNTIME_LIBRARY=str(library(version)))
        assert text_of(chat(daemon, data_url(shapes()))) == SHAPES, version
        several = chat(daemon, data_url(shapes()), data_url(shapes()))
        if version == "1.1.4":
            assert several["status"] == 400 and "takes one image" in several["error"]["message"]
        else:
            assert text_of(several) == f"Picture 1: {SHAPES} Picture 2: {SHAPES}"
        daemon.kill()


# ── what it costs, and what goes wrong ───────────────────────────────────────────────────────────


def children(daemon: Daemon, program: str) -> list[int]:
    listing = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text()
    return [pid for pid in map(int, listing.split()) if program in Path(f"/proc/{pid}/cmdline").read_text()]


def test_picture_is_encoded_once_and_its_tokens_are_counted(
    board_house: House, make_model: Callable[..., Path]
) -> None:
    seeing(board_house, make_model)
    daemon = board_house.start()
    first = chat(daemon, data_url(shapes()))
    assert first["usage"]["prompt_tokens"] > 196
    (encoder,) = children(daemon, "encoder_child")
    os.kill(encoder, signal.SIGKILL)
    again = chat(daemon, data_url(shapes()))
    assert text_of(again) == SHAPES
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 190
    assert not children(daemon, "encoder_child"), "nothing was encoded, so that no encoder was needed"


def test_pictures_are_counted_in_status_ps_and_metrics(board_house: House, make_model: Callable[..., Path]) -> None:
    seeing(board_house, make_model)
    daemon = board_house.start()
    (cold,) = json.loads(get(daemon, "/v1/status"))["models"]
    assert cold["images"] is True, "its card says so before it is loaded"
    for _ in range(2):
        chat(daemon, data_url(shapes()))
    assert chat(daemon, data_url(b"no picture"))["status"] == 400
    tally = daemon.model("qwen2-vl")["pictures"]
    assert (tally["shown"], tally["encoded"], tally["refused"]) == (2, 1, 1) and tally["seconds"] > 0
    assert "qwen2-vl: 2 images, 1 encoded in 0." in (told := board_house.command("ps").stdout), told
    assert "1 refused" in told
    assert "ENCODED" in (told := board_house.command("top", "--once").stdout) and "1 of 2" in told, told
    page = get(daemon, "/metrics")
    assert 'rkllm_images_total{model="qwen2-vl"} 2.0' in page
    assert 'rkllm_images_encoded_total{model="qwen2-vl"} 1.0' in page
    assert 'rkllm_requests_total{finish_reason="picture",model="qwen2-vl"} 1.0' in page


def test_encoder_comes_with_the_first_picture_and_goes_with_its_model(
    board_house: House, make_model: Callable[..., Path]
) -> None:
    seeing(board_house, make_model, reply="Hello")
    daemon = board_house.start()
    assert daemon.answer("qwen2-vl", "hi") == "Hello"
    assert not children(daemon, "encoder_child") and not children(daemon, "decoder_child")
    chat(daemon, data_url(shapes()))
    assert len(children(daemon, "encoder_child")) == 1
    daemon.client.post("/control/unload", model="qwen2-vl")
    assert not children(daemon, "encoder_child")


def test_lost_encoder_costs_one_answer(board_house: House, make_model: Callable[..., Path]) -> None:
    seeing(board_house, make_model, SimEncoder(fault="kill@run"))
    daemon = board_house.start()
    said = chat(daemon, data_url(shapes()))
    assert said["status"] == 502 and "SIGKILL" in said["error"]["message"]
    assert daemon.model("qwen2-vl")["state"] == "ready", "the language model is still there"
    encoder_file.write(board_house.models / "qwen2-vl" / "m.rknn", SimEncoder())
    assert text_of(chat(daemon, data_url(shapes()))) == SHAPES


@pytest.mark.parametrize(
    "data, words",
    [(b"no picture", "in no format"), (shapes()[:300] if hasattr(Image, "new") else b"", "cannot be decoded")],
)
def test_broken_picture_is_refused_before_the_model_is_loaded(
    board_house: House, make_model: Callable[..., Path], data: bytes, words: str
) -> None:
    seeing(board_house, make_model)
    daemon = board_house.start()
    said = chat(daemon, data_url(data))
    assert said["status"] == 400 and words in said["error"]["message"]
    assert daemon.model("qwen2-vl")["state"] == "cold"


def test_pictures_that_do_not_fit_are_refused_before_they_are_encoded(
    board_house: House, make_model: Callable[..., Path]
) -> None:
    seeing(board_house, make_model, max_context=1024)
    card = board_house.models / "qwen2-vl" / "model.toml"
    card.write_text(card.read_text().replace("context = 4096", "context = 512"))
    daemon = board_house.start()
    said = chat(daemon, data_url(shapes()), data_url(shapes()), data_url(shapes()))
    assert said["status"] == 400 and "context of 512" in said["error"]["message"]
    assert not children(daemon, "encoder_child")


def test_model_that_lacks_its_encoder_says_so(board_house: House, make_model: Callable[..., Path]) -> None:
    name = seeing(board_house, make_model)
    card = board_house.models / name / "model.toml"
    card.write_text(card.read_text().partition("[vision]")[0])
    said = chat(board_house.start(), data_url(shapes()))
    assert said["status"] == 400
    assert "does not see images. Put its encoder, a .rknn file, beside it" in said["error"]["message"]


def test_missing_library_is_named(board_house: House, make_model: Callable[..., Path]) -> None:
    seeing(board_house, make_model)
    daemon = board_house.start(EXO_RKLLM_RUNTIME_ENCODER_LIBRARY="/nowhere/librknnrt.so")
    said = chat(daemon, data_url(shapes()))
    assert said["status"] == 503 and "/nowhere/librknnrt.so cannot be read" in said["error"]["message"]
    assert daemon.model("qwen2-vl")["state"] == "ready"


def test_folder_with_an_encoder_is_imported(board_house: House, make_model: Callable[..., Path]) -> None:
    seeing(board_house, make_model)
    source = board_house.folder / "download"
    (board_house.models / "qwen2-vl").rename(source)
    (source / "model.toml").unlink()
    (source / "m.rkllm").rename(source / "Qwen2-VL-2B_W8A8_RK3588.rkllm")
    (source / "m.rknn").rename(source / "qwen2_vl_2b_vision_rk3588.rknn")
    encoder_file.write(source / "qwen2_vl_2b_vision_rk3576.rknn", SimEncoder(platform="rk3576"))
    done = board_house.command("import", str(source), "--name", "qwen2-vl")
    assert done.returncode == 0, done.stderr
    shown = board_house.command("show", "qwen2-vl").stdout
    assert "qwen2_vl_2b_vision_rk3588.rknn" in shown and "it sees images" in shown
    daemon = board_house.start()
    assert text_of(chat(daemon, data_url(shapes()))) == SHAPES
    encoder_file.write(source / "another.rknn", SimEncoder())
    done = board_house.command("import", str(source), "--name", "second")
    assert done.returncode != 0 and "several encoders" in done.stderr
    inspected = board_house.command("inspect", str(source / "another.rknn"))
    assert "no language model" in inspected.stdout and "1x196x64" in inspected.stdout
