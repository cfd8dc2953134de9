"""How a model on the NPU sees: pictures of a request as the rows that the vendor's runtime takes beside the prompt."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from exo_rkllm.backends.base import IMAGE_MARK, Finish, GenerationRequest, Image, Message, Model, Vision
from exo_rkllm.backends.host import EngineHost
from exo_rkllm.backends.ledger import MOST_BYTES
from exo_rkllm.errors import NotSupported
from exo_rkllm.files.stamps import Stamp, stamp_of
from exo_rkllm.rknn import encoderfile
from exo_rkllm.rknn.values import EncoderShape
from exo_rkllm.runner.jobs import RunnerJob
from exo_rkllm.vision.encoder import Encoder
from exo_rkllm.vision.pictures import Pictures, digest
from exo_rkllm.vision.values import Encoding


@dataclass(frozen=True, slots=True)
class ShownPictures:
    """The encoded pictures of one request, in the order of the prompt's marks."""

    shape: EncoderShape
    encodings: tuple[Encoding, ...]
    encoded: int  # so many of them just now
    seconds: float

    def beside(self, job: RunnerJob, *, sizes: bool) -> tuple[RunnerJob, tuple[memoryview, ...]]:
        """The job with the pictures' figures, and their rows; runtimes before 1.2.1b1 take one, without its size."""
        figures: dict[str, Any] = {"kind": "image", "n_tokens": self.shape.tokens}
        if sizes:
            figures |= {"count": len(self.encodings), "width": self.shape.width, "height": self.shape.height}
        return replace(job, arrays=(figures,)), (self._rows(),)

    def _rows(self) -> memoryview:
        if len(self.encodings) == 1:
            return self.encodings[0].data
        return memoryview(b"".join(encoding.data for encoding in self.encodings))

    def counted(self, finish: Finish) -> Finish:
        """The finish of the answer to them; what they took is no waiting in a queue."""
        usage = replace(finish.usage, images=len(self.encodings), encoded=self.encoded)
        queued = max(0.0, finish.timings.queued - self.seconds)
        return replace(finish, usage=usage, timings=replace(finish.timings, queued=queued, encode=self.seconds))


class EngineVision:
    """What one loaded model sees with."""

    def __init__(self, model: Model, vision: Vision, host: EngineHost, pictures: Pictures) -> None:
        self.shape, self._key = described(vision.file)
        self._model = model.id
        self._pictures = pictures
        mask = (1 << host.cores) - 1 if host.cores > 1 else 0
        self._encoder = Encoder(model.id, vision.file, host.encoder_library, mask, host.report)

    async def show(self, images: Sequence[Image]) -> ShownPictures:
        """Raises what keeps a picture from being decoded or encoded."""
        began, before = time.monotonic(), self._encoder.runs
        encodings = tuple([await self._encoding(image) for image in images])
        return ShownPictures(self.shape, encodings, self._encoder.runs - before, time.monotonic() - began)

    async def _encoding(self, image: Image) -> Encoding:
        image = await decoded(image, self.shape, self._key, self._pictures)
        key = (self._key, image.digest)
        if (kept := self._pictures.encodings.get(key)) is not None:
            return kept
        if image.pixels is None:  # its encoding was dropped since it was looked up
            pixels = await self._pictures.reader.pixels(image.data, self.shape.height, self.shape.width)
        else:
            pixels = image.pixels
        encoding = await self._encoder.encode(pixels)
        self._pictures.encodings.keep(key, encoding)
        return encoding

    def measured(self, prompt: str, images: Sequence[Image], *, several: bool) -> str:
        """The prompt with each picture as text that the ledger counts as its tokens, and no other picture shares.

        Raises NotSupported for more than one where the runtime does not take `several`.
        """
        if len(images) > 1 and not several:
            raise NotSupported(
                f"{self._model} runs on a runtime that takes one image a request.", "Install runtime 1.2.1 or newer."
            )
        for image in images:
            length = self.shape.tokens * MOST_BYTES
            prompt = prompt.replace(IMAGE_MARK, (image.digest * (length // 64 + 1))[:length], 1)
        return prompt

    @property
    def memory(self) -> int:
        return self._encoder.memory

    async def settled(self) -> None:
        await self._encoder.settled()

    async def close(self) -> None:
        await self._encoder.close()
        await self._pictures.reader.close()  # which other models that see start again


def engine_vision(model: Model, host: EngineHost) -> EngineVision:
    """Raises NotSupported for a model that does not see."""
    if model.vision is None or host.pictures is None:
        raise NotSupported(f"{model.id} does not see images.", "Ask without images, or use a model that does.")
    return EngineVision(model, model.vision, host, host.pictures())


def described(file: Path) -> tuple[EncoderShape, str]:
    """The shape of an encoder's file, and a key that changes with the file; raises what is wrong with it."""
    stamp = stamp_of(file)
    return _shape(file, stamp), f"{file}:{stamp}"


@lru_cache(maxsize=64)
def _shape(file: Path, _stamp: Stamp) -> EncoderShape:
    return encoderfile.inspect(file).shape()


async def decoded(image: Image, shape: EncoderShape, key: str, pictures: Pictures) -> Image:
    """The image with its digest, and with its pixels where its encoding is not kept."""
    if not image.digest:
        image = replace(image, digest=await digest(image.data))
    if image.pixels is None and (key, image.digest) not in pictures.encodings:
        image = replace(image, pixels=await pictures.reader.pixels(image.data, shape.height, shape.width))
    return image


async def with_pixels(request: GenerationRequest, model: Model, pictures: Pictures) -> GenerationRequest:
    """The request with its pictures decoded, so that a broken one is refused before it waits or a model is loaded."""
    if model.vision is None:
        raise NotSupported(f"{model.id} does not see images.", "Ask without images, or use a model that does.")
    shape, key = described(model.vision.file)
    messages: list[Message] = []
    for message in request.messages:
        images = [await decoded(image, shape, key, pictures) for image in message.images]
        messages.append(replace(message, images=tuple(images)) if images else message)
    return replace(request, messages=tuple(messages))
