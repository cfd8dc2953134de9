"""Generate the files of the packages that are not in the tree.

python3 -m tools.package_data FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from exo_rkllm import __version__
from exo_rkllm.config import document
from exo_rkllm.errors import ConfigError
from exo_rkllm.schema import toml
from tools import completion, manual

PROJECT = Path(__file__).parent.parent / "pyproject.toml"
# For pip, so that a plugin installed with it finds its dependency.
METADATA = f"""\
Metadata-Version: 2.1
Name: exo-rkllm
Version: {__version__}
Summary: Local language models on Rockchip NPUs: a daemon, an OpenAI and Ollama API, and an exo node
License: Apache-2.0
Requires-Python: >=3.10
"""


def entry_points() -> str:
    """Those of pyproject.toml for `importlib.metadata`, where classic exo looks for the engine."""
    project = toml.parse(PROJECT.read_text(encoding="utf-8"), PROJECT.name, ConfigError, "")["project"]
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    return "\n".join(
        f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in points.items())
        for group, points in groups.items()
    )


def files(epoch: int) -> dict[str, str]:
    info = f"exo_rkllm-{__version__}.dist-info"
    return {
        f"{info}/METADATA": METADATA,
        f"{info}/INSTALLER": "debian\n",
        f"{info}/entry_points.txt": entry_points(),
        "config.toml": document.default_file(),
        "exo-rkllm.1": manual.program(epoch),
        "exo-rkllm.toml.5": manual.settings(epoch),
        "exo-rkllm-simulator.1": manual.simulator(epoch),
        "bash/exo-rkllm": completion.bash(),
        "zsh/_exo-rkllm": completion.zsh(),
        "fish/exo-rkllm.fish": completion.fish(),
    }


def main(folder: Path) -> None:
    for name, text in files(int(os.environ["SOURCE_DATE_EPOCH"])).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
