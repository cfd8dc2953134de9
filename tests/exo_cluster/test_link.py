"""The Debian package's own zenoh is for those who have none, and stands last."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ASK = "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; "
IMPORT = "from exo_rkllm.cluster.session.link import available; "


def asked(folder: Path, program: str) -> str:
    """By an interpreter without site-packages, where nobody has installed zenoh."""
    command = [sys.executable, "-I", "-S", "-c", ASK + IMPORT + program, str(ROOT), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_packaged_zenoh_is_found_in_the_vendor_folder(tmp_path: Path) -> None:
    (tmp_path / "zenoh").mkdir()
    (tmp_path / "zenoh/__init__.py").write_text("mine = 1\n")
    there = "print(available('zenoh', Path(sys.argv[2])), available('zenoh', Path(sys.argv[2])), sys.path[-1])"
    assert asked(tmp_path, there) == f"True True {tmp_path}"
    assert asked(tmp_path / "none", "print(available('zenoh', Path(sys.argv[2])))") == "False"
