"""Images in a rendered prompt: a mark for each, where the vendor's runtime puts the image's tokens."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from exo_rkllm.backends.base import IMAGE_MARK, Image, Message
from exo_rkllm.errors import TemplateError

# What somebody wrote as text: the runtime would take it for one more image, and read past the embeddings.
BROKEN_MARK = "< image>"


@dataclass(frozen=True, slots=True)
class MarkedMessages:
    """A conversation in which a secret stands in the text for each image."""

    messages: tuple[Message, ...]
    images: tuple[Image, ...]
    secret: str

    def finished(self, text: str) -> str:
        """The rendered prompt with a mark for each image and no other; raises TemplateError where one is missing."""
        if text.count(self.secret) != len(self.images):
            raise TemplateError(
                "The model's chat template leaves out a message with images.", "Send images in the user's messages."
            )
        return text.replace(IMAGE_MARK, BROKEN_MARK).replace(self.secret, IMAGE_MARK)


def marked(messages: Sequence[Message]) -> MarkedMessages:
    secret = f"[image {secrets.token_hex(12)}]"
    return MarkedMessages(
        tuple(
            replace(
                message,
                content="".join(part if isinstance(part, str) else secret for part in message.parts()),
                images=(),
            )
            if message.images
            else message
            for message in messages
        ),
        tuple(image for message in messages for image in message.images),
        secret,
    )
