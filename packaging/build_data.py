"""What the packages hold that no file of the tree is: made from the code that it describes."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from exo_rkllm import __version__  # noqa: E402
from exo_rkllm.config import document  # noqa: E402

METADATA = f"""\
Metadata-Version: 2.1
Name: exo-rkllm
Version: {__version__}
Summary: Local language models on Rockchip NPUs: a daemon, an OpenAI and Ollama API, and an exo node
License: Apache-2.0
Requires-Python: >=3.10
"""


def main(folder: Path) -> None:
    info = folder / f"exo_rkllm-{__version__}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(METADATA)
    (info / "INSTALLER").write_text("debian\n")
    (folder / "config.toml").write_text(document.default_file())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
