"""The child that decodes pictures: what strangers sent becomes the pixels of an encoder, or a sentence why not.

It may be killed at any time, and ends by itself when no picture has come for a while.
"""

from __future__ import annotations

import io
import mmap
import os
import resource
import socket
import warnings
from collections.abc import Mapping
from typing import Any

from exo_rkllm.errors import ExoRkllmError, NotSupported, PictureError
from exo_rkllm.runner import wire
from exo_rkllm.runner.process import SendRows, serve, settle
from exo_rkllm.runtime.blackbox import BlackBox

# By their names in Pillow: what clients send. Each further one is code that strangers can reach.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
FORMATS_HINT = "Send a PNG, JPEG, WebP, GIF, BMP or TIFF picture."
# Twice what a phone's camera takes; 150 MB once decoded.
MOST_PIXELS = 50_000_000
SMALLER_HINT = "Scale it down: an encoder looks at less than a million pixels."
ORIENTATION = 0x0112  # in EXIF data
# Address space above what the modules take: the largest picture decoded, and once more while it is converted.
MEMORY = 1 << 30
IDLE_SECONDS = 60.0


class DecoderChild:
    def load(self, _order: Mapping[str, Any]) -> dict[str, Any]:
        try:
            import numpy as np
            from PIL import Image, UnidentifiedImageError
        except ImportError as error:
            raise NotSupported(
                f"Pictures need Pillow and numpy, and {error.name} is not installed.", "apt install python3-pil"
            ) from error
        from exo_rkllm.vision import preprocess

        self._numpy, self._image, self._preprocess = np, Image, preprocess
        self._unidentified = UnidentifiedImageError
        # Both Pillow's warning and its error come from this figure; ours is checked before anything is decoded.
        Image.MAX_IMAGE_PIXELS = MOST_PIXELS
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.preinit()
        limit = _address_space() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        return {}

    def run(self, job: Mapping[str, Any], fds: list[int], send_rows: SendRows) -> None:
        with mmap.mmap(fds[0], 0, access=mmap.ACCESS_READ) as data:
            found = self._pixels(data, job["height"], job["width"])
        fd = wire.memory_file("pixels", memoryview(found).cast("B"))
        try:
            send_rows({"output": "pixels", "rows": job["height"], "width": job["width"] * 3, "item": 1}, fd)
        finally:
            os.close(fd)

    def _pixels(self, data: mmap.mmap, height: int, width: int) -> Any:
        """Those of a picture as people see it: turned as its EXIF says, without alpha."""
        try:
            with self._image.open(io.BytesIO(data), formats=FORMATS) as picture:
                _check_size(*picture.size)
                seen = _rgb(picture, self._numpy, self._image)
                turn = picture.getexif().get(ORIENTATION, 1)
                return self._preprocess.pixels(seen, turn, height, width)
        except ExoRkllmError:
            raise
        except MemoryError as error:
            raise PictureError("The picture takes too much memory to decode.", SMALLER_HINT) from error
        except (self._image.DecompressionBombWarning, self._image.DecompressionBombError) as error:
            most = MOST_PIXELS // 1_000_000
            raise PictureError(f"The picture has more than {most} million pixels.", SMALLER_HINT) from error
        except self._unidentified as error:
            raise PictureError("The picture is in no format that is read here.", FORMATS_HINT) from error
        except Exception as error:  # Pillow's plugins raise whatever a damaged file makes them stumble over
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise PictureError(f"The picture cannot be decoded: {reason}.", FORMATS_HINT) from error


def _check_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        most = MOST_PIXELS // 1_000_000
        raise PictureError(f"The picture has {width} x {height} pixels, more than {most} million.", SMALLER_HINT)


def _rgb(picture: Any, numpy: Any, module: Any) -> Any:
    """The first frame in RGB. Alpha is dropped, as the vendor's demo does; sixteen bits become eight."""
    if picture.mode.startswith("I") or picture.mode == "F":
        values = numpy.asarray(picture).astype(numpy.float32)
        if picture.mode.startswith("I;16") or values.max(initial=0) > 255:
            values = values / 257
        return module.fromarray(numpy.clip(values, 0, 255).astype(numpy.uint8)).convert("RGB")
    if picture.mode == "P" and "transparency" in picture.info:
        return picture.convert("RGBA").convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _address_space() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123 - as elsewhere in children
        return int(file.read().split()[0]) * mmap.PAGESIZE


def main(sock: int, box: int, parent: int, die_with_parent: int) -> None:
    """Called by the command line that `launch.start_child` builds, with descriptors that it inherited."""
    settle(parent, die_with_parent=bool(die_with_parent))
    serve(socket.socket(fileno=sock), BlackBox(box), DecoderChild(), IDLE_SECONDS)
