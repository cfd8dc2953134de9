"""Files of the vendor's libraries that are known by their checksums, and where the newest one is published."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# SHA-256 of what airockchip publishes for aarch64.
VENDOR_FILES: Mapping[str, str] = {
    "f25e9b099db08aaacd0a3ac62b4697d3951d6ae61ae41ea09f6702cfa89eb32c": "librkllmrt 1.3.1",
    "d31fc19c85b85f6091b2bd0f6af9d962d5264a4e410bfb536402ec92bac738e8": "librknnrt 2.3.2",
}


@dataclass(frozen=True, slots=True)
class VendorRelease:
    """A file in the vendor's public repository; it is the vendor's, under the vendor's licence."""

    name: str
    url: str
    sha256: str
    licence: str


# The repository and the file's place in it are those of rkllm-runtime 1.11, the checksum that of rknn-vision. That this
# address still has this file was not seen by us: unverified. Another file is refused by its checksum.
LATEST = VendorRelease(
    "librkllmrt 1.3.1",
    "https://github.com/airockchip/rknn-llm/raw/main/rkllm-runtime/Linux/librkllm_api/aarch64/librkllmrt.so",
    "f25e9b099db08aaacd0a3ac62b4697d3951d6ae61ae41ea09f6702cfa89eb32c",
    "https://github.com/airockchip/rknn-llm/blob/main/LICENSE",
)
OWN_FILE = "the vendor's own file"


def remark(sha256: str) -> str:
    """What is to be said of a file with this checksum; empty where it is not known."""
    return OWN_FILE if sha256 in VENDOR_FILES else ""


def remark_on(path: Path) -> str:
    """The same of a file, whose every byte is read."""
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(1 << 20):
                digest.update(chunk)
            return remark(digest.hexdigest())
    except OSError:
        return ""
