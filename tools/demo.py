"""`make run`: a daemon on a simulated Orange Pi 5 Plus with a demo model, and one streamed answer.

The board's figures move with the answers (tools/demo_board.py). Everything is created under build/demo; nothing else on
the machine is touched. The answers come from the simulator and say so (tools/demo_words.py): there is no NPU here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from exo_rkllm.client.control import Client
from simulator import boards, encoder_file, model_file
from tools import demo_words
from tools.demo_board import DemoBoard, follows
from tools.demo_words import OTHER_ANSWER, QUESTION, RULES

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "build" / "demo"
LIBRARY = ROOT / "build" / "simulator" / platform.machine() / "1.3.0" / "librkllmrt.so"
COMMAND = DEMO / "exo-rkllm"
BOARD = "orangepi-5-plus"
ENCODER_LIBRARY = ROOT / "build" / "simulator" / platform.machine() / "rknn-2.3.2" / "librknnrt.so"
MODEL = "qwen2.5-1.5b"
FILE = "Qwen2.5-1.5B_W8A8_RK3588.rkllm"
# It answers from what its encoder shows it, so that a picture that was mangled on the way is described wrongly.
SEEING = "demo-vision"
SEEING_SPEED = "rk3588/qwen2-vl-2b/image"
PICTURE = ROOT / "docs" / "images" / "shapes.png"
ENCODE_SECONDS = 0.9  # kept loaded, on a board (rknn-vision 3)
PORT = 52415
START_SECONDS = 20.0


def prepare(run_folder: Path) -> Mapping[str, str]:
    """Create a board's tree, a library and a catalogue with one model; returns the variables that point to them."""
    board = DEMO / BOARD
    models = (
        DEMO / f"models-{hashlib.sha256(Path(demo_words.__file__).read_bytes()).hexdigest()[:8]}"
    )  # what they say may change
    for folder in (board, *(old for old in DEMO.glob("models*") if old != models)):
        shutil.rmtree(folder, ignore_errors=True)
    boards.write(BOARD, board)
    settings = {
        "RKLLM_SIM_ROOT": str(board),
        "EXO_RKLLM_BOARD_ROOT": str(board),
        "EXO_RKLLM_RUNTIME_LIBRARY": str(LIBRARY),
        "EXO_RKLLM_RUNTIME_ENCODER_LIBRARY": str(ENCODER_LIBRARY),
        "EXO_RKLLM_MODELS_DIRECTORY": str(models),
        "EXO_RKLLM_CONTROL_SOCKET": str(run_folder / "control.sock"),
        "EXO_RKLLM_API_PORT": str(free_port()),
        # Log lines would interrupt the answer.
        "EXO_RKLLM_LOG_LEVEL": "warning",
        # A simulated board must not join a real cluster.
        "EXO_RKLLM_CLUSTER_ENABLED": "false",
    }
    if not (models / MODEL).exists():
        models.mkdir(parents=True, exist_ok=True)
        says = model_file.SimModel(name=MODEL, reply=OTHER_ANSWER, rules=RULES, speed="rk3588/qwen2.5-1.5b")
        command(settings, "import", str(model_file.write(run_folder / FILE, says)), check=True)
    if not (models / SEEING).exists():
        folder = run_folder / SEEING
        folder.mkdir()
        sees = model_file.SimModel(name=SEEING, reply="{sees}", vision=True, speed=SEEING_SPEED)
        model_file.write(folder / "Qwen2-VL-2B_W8A8_RK3588.rkllm", sees)
        encoder = encoder_file.SimEncoder(run_seconds=ENCODE_SECONDS, width=sees.embedding_length)
        encoder_file.write(folder / "qwen2_vl_2b_vision_rk3588.rknn", encoder)
        command(settings, "import", str(folder), "--name", SEEING, check=True)
    return settings


def free_port() -> int:
    """exo's own port, or any free one if that is in use."""
    for port in (PORT, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise SystemExit("No port is free on 127.0.0.1.")


def command(settings: Mapping[str, str], *argv: str, check: bool) -> None:
    program = [sys.executable, "-m", "exo_rkllm", *argv]
    subprocess.run(program, cwd=ROOT, env={**os.environ, **settings}, check=check)


@contextmanager
def daemon(settings: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """In its own session, so that Ctrl-C reaches it only once, through us."""
    program = [sys.executable, "-m", "exo_rkllm", "serve"]
    process = subprocess.Popen(program, cwd=ROOT, env={**os.environ, **settings}, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(process.returncode)
        with suppress(OSError), urllib.request.urlopen(f"{url}/readyz", timeout=1):  # noqa: S310 - loopback, our own
            return
        time.sleep(0.05)
    raise SystemExit(f"The daemon did not become ready within {START_SECONDS:.0f} s.")


def chat(url: str) -> None:
    body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": QUESTION}]}
    request = urllib.request.Request(  # noqa: S310 - loopback, our own
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    print(f"\n> {QUESTION}", flush=True)
    with urllib.request.urlopen(request) as answer:  # noqa: S310 - as above
        for line in answer:
            text = line.decode().removeprefix("data: ").strip()
            if text.startswith("{"):
                for choice in json.loads(text)["choices"]:
                    print(choice["delta"].get("content") or "", end="", flush=True)
    print("\n", flush=True)


def write_command(settings: Mapping[str, str]) -> Path:
    """`exo-rkllm` with the demo's settings, to be typed in a second terminal."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
    COMMAND.write_text("\n".join(["#!/bin/sh", *lines, f'exec {shlex.quote(sys.executable)} -m exo_rkllm "$@"', ""]))
    COMMAND.chmod(0o755)
    return COMMAND.relative_to(ROOT)


def print_places(url: str, typed: Path) -> None:
    print(f"Watch it answer   {url}/ in a browser, or in a second terminal: {typed} top")
    print(f"Its metrics       curl {url}/metrics", flush=True)


def print_addresses(url: str, typed: Path) -> None:
    print(f"OpenAI        {url}/v1")
    print(f"Ollama        {url}")
    print("\nTry it:\n")
    print(f"  {typed} run {MODEL}")
    print(f"  {typed} run {SEEING} 'What is this?' --image {PICTURE.relative_to(ROOT)}")
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "a table"}]})
    print(f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'\n")
    print("Press Ctrl-C to stop.", flush=True)


def main() -> int:
    arguments = argparse.ArgumentParser(description="Serve a model on a simulated board.")
    arguments.add_argument("--once", action="store_true", help="exit after the answer")
    once = arguments.parse_args().once
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its daemon ends with it, as at Ctrl-C
    folder = Path(tempfile.mkdtemp(prefix="exo-rkllm-"))  # a Unix socket's path has 107 bytes at most
    try:
        settings = prepare(folder)
        url = f"http://127.0.0.1:{settings['EXO_RKLLM_API_PORT']}"
        print(f"Simulating an {BOARD} with {MODEL}, at the speed of the vendor's table.", flush=True)
        board = DemoBoard(Path(settings["EXO_RKLLM_BOARD_ROOT"]))
        board.set(busy=False, memory=0)
        with daemon(settings) as process:
            wait_until_ready(url, process)
            with follows(board, Client(Path(settings["EXO_RKLLM_CONTROL_SOCKET"]))):
                typed = write_command(settings)
                print_places(url, typed)
                chat(url)
                if not once:
                    print_addresses(url, typed)
                    process.wait()
    except KeyboardInterrupt:
        print()
    except (urllib.error.URLError, subprocess.CalledProcessError) as error:
        print(f"The demonstration failed: {error}.", file=sys.stderr)
        return 1
    finally:
        COMMAND.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
