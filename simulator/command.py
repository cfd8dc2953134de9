"""`exo-rkllm-simulator`: boards, models and libraries of an installed simulator, and the switch that selects them.

exo-rkllm-simulator boards                   the profiles there are
exo-rkllm-simulator board NAME DIRECTORY     write one board's files
exo-rkllm-simulator model FILE [--reply ..]  write a model file
exo-rkllm-simulator encoder FILE [--size ..] write a vision encoder for a model with --vision --reply {sees}
exo-rkllm-simulator libraries                the stand-in libraries, one a generation, and those for encoders
exo-rkllm-simulator use [--board NAME] [--runtime VERSION]
exo-rkllm-simulator off                      undo it
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from simulator import boards, encoder_file, model_file

LIBRARIES = Path("/usr/lib/exo-rkllm-simulator")
BOARD_ROOT = Path("/var/lib/exo-rkllm-simulator/board")
SETTINGS = Path("/etc/exo-rkllm/conf.d/simulator.toml")
VARIABLES = Path("/etc/exo-rkllm/conf.d/simulator.env")

BOARD = "orangepi-5-plus"
RUNTIME = "1.3.1"
ENCODERS = "2.3.2"  # the release of librknnrt


def settings(board: Path, library: Path, encoder_library: Path) -> str:
    return (
        "# Written by `exo-rkllm-simulator use`; `exo-rkllm-simulator off` takes it away.\n"
        f'[board]\nroot = "{board}"\n\n[runtime]\nlibrary = "{library}"\n'
        f'encoder_library = "{encoder_library}"\n'
    )


def use(argv: Sequence[str]) -> int:
    """The service works on a simulated board from its next start on."""
    own = argparse.ArgumentParser(prog="exo-rkllm-simulator use", description=use.__doc__)
    own.add_argument("--board", default=BOARD, help=f"a profile of `boards`; {BOARD} without")
    own.add_argument("--runtime", default=RUNTIME, help=f"a version of `libraries`; {RUNTIME} without")
    args = own.parse_args(argv)
    library = LIBRARIES / args.runtime / "librkllmrt.so"
    if not library.is_file():
        return _fail(f"There is no {library}.", "exo-rkllm-simulator libraries")
    try:
        tree = boards.build(args.board)
    except KeyError:
        return _fail(f"There is no board {args.board!r}.", "exo-rkllm-simulator boards")
    try:
        shutil.rmtree(BOARD_ROOT, ignore_errors=True)
        tree.write(BOARD_ROOT)
        SETTINGS.parent.mkdir(parents=True, exist_ok=True)
        SETTINGS.write_text(settings(BOARD_ROOT, library, LIBRARIES / f"rknn-{ENCODERS}" / "librknnrt.so"))
        VARIABLES.write_text(f"RKLLM_SIM_ROOT={BOARD_ROOT}\n")
    except OSError as error:
        return _fail(f"{error.filename} cannot be written: {error.strerror}.", "sudo exo-rkllm-simulator use")
    print(f"A simulated {args.board} with the stand-in for librkllmrt {args.runtime}, from the next start on.")
    print("  try: sudo systemctl restart exo-rkllm")
    return 0


def off(argv: Sequence[str]) -> int:
    """The service works on this machine's own NPU again."""
    argparse.ArgumentParser(prog="exo-rkllm-simulator off", description=off.__doc__).parse_args(argv)
    try:
        for file in (SETTINGS, VARIABLES):
            file.unlink(missing_ok=True)
        if BOARD_ROOT.exists():
            shutil.rmtree(BOARD_ROOT)
    except OSError as error:
        return _fail(f"{error.filename} cannot be removed: {error.strerror}.", "sudo exo-rkllm-simulator off")
    print("The simulator is off from the next start on.\n  try: sudo systemctl restart exo-rkllm")
    return 0


def libraries(argv: Sequence[str]) -> int:
    """The stand-in libraries; 1.0.1 and 9.9.0, and rknn-1.5.2 of those for encoders, are there to be refused."""
    argparse.ArgumentParser(prog="exo-rkllm-simulator libraries", description=libraries.__doc__).parse_args(argv)
    print("\n".join(str(path) for path in sorted(LIBRARIES.glob("*/lib*rt.so"))))
    return 0


VERBS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "boards": lambda _argv: boards.main(["--list"]),
    "board": lambda argv: boards.main(list(argv)),
    "model": lambda argv: model_file.main(list(argv)),
    "encoder": encoder_file.main,
    "libraries": libraries,
    "use": use,
    "off": off,
}


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if words else 2
    if words[0] not in VERBS:
        return _fail(f"There is no verb {words[0]!r}.", f"One of {', '.join(VERBS)}")
    return VERBS[words[0]](words[1:])


def _fail(sentence: str, hint: str) -> int:
    print(f"exo-rkllm-simulator: {sentence}\n  try: {hint}", file=sys.stderr)
    return 2
