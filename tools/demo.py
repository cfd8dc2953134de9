"""`make run`: a daemon on a simulated Orange Pi 5 Plus with a demo model, and one streamed answer.

Everything is created under build/demo; nothing else on the machine is touched. The answer comes from the simulator and
says so: there is no NPU here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
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

from simulator import boards, encoder_file, model_file

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "build" / "demo"
LIBRARY = ROOT / "build" / "simulator" / platform.machine() / "1.3.0" / "librkllmrt.so"
BOARD = "orangepi-5-plus"
ENCODER_LIBRARY = ROOT / "build" / "simulator" / platform.machine() / "rknn-2.3.2" / "librknnrt.so"
MODEL = "qwen2.5-1.5b"
FILE = "Qwen2.5-1.5B_W8A8_RK3588.rkllm"
# It answers from what its encoder shows it, so that a picture that was mangled on the way is described wrongly.
SEEING = "demo-vision"
SEEING_SPEED = "rk3588/qwen2-vl-2b/image"
PICTURE = ROOT / "docs" / "images" / "shapes.png"
ENCODE_SECONDS = 0.9  # kept loaded, on a board (rknn-vision 3)
QUESTION = "What are you, and where do you run?"
PORT = 52415
START_SECONDS = 20.0


def prepare(run_folder: Path) -> Mapping[str, str]:
    """Create a board's tree, a library and a catalogue with one model; returns the variables that point to them."""
    board, models = DEMO / BOARD, DEMO / "models"
    if not board.exists():
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
        source = model_file.write(run_folder / FILE, model_file.SimModel(name=MODEL, speed="rk3588/qwen2.5-1.5b"))
        command(settings, "import", str(source), check=True)
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


def print_addresses(url: str, settings: Mapping[str, str]) -> None:
    print(f"Status page   {url}/")
    print(f"OpenAI        {url}/v1")
    print(f"Ollama        {url}")
    print(f"Prometheus    {url}/metrics")
    print("\nTry it:\n")
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hello"}]})
    print(f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'\n")
    socket_of = f"EXO_RKLLM_CONTROL_SOCKET={settings['EXO_RKLLM_CONTROL_SOCKET']}"
    picture = PICTURE.relative_to(ROOT)
    print(f"  {socket_of} .venv/bin/exo-rkllm run {SEEING} 'What is this?' --image {picture}\n")
    print("Press Ctrl-C to stop.", flush=True)


def main() -> int:
    arguments = argparse.ArgumentParser(description="Serve a model on a simulated board.")
    arguments.add_argument("--once", action="store_true", help="exit after the answer")
    once = arguments.parse_args().once
    folder = Path(tempfile.mkdtemp(prefix="exo-rkllm-"))  # a Unix socket's path has 107 bytes at most
    try:
        settings = prepare(folder)
        url = f"http://127.0.0.1:{settings['EXO_RKLLM_API_PORT']}"
        print(f"Simulating an {BOARD} with {MODEL}, at the speed of the vendor's table.\n", flush=True)
        with daemon(settings) as process:
            wait_until_ready(url, process)
            chat(url)
            if not once:
                print_addresses(url, settings)
                process.wait()
    except KeyboardInterrupt:
        print()
    except (urllib.error.URLError, subprocess.CalledProcessError) as error:
        print(f"The demonstration failed: {error}.", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
