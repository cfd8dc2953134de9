"""The daemon's side of the clocks: one connection to the privileged unit, open while a model is loaded."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

from exo_rkllm.board.clocks import ClocksOutcome
from exo_rkllm.errors import ClocksError

SOCKET = Path("/run/exo-rkllm-clocks.sock")
ENABLE = "sudo systemctl enable --now exo-rkllm-clocks.socket"
# Setting a dozen governors takes milliseconds; a regulator that hangs must not hold a load back.
TIMEOUT = 5.0


class Performance:
    """`up` and `down` are idempotent; the next `up` replaces a lost connection."""

    def __init__(self, socket: Path = SOCKET) -> None:
        self._socket = socket
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def connected(self) -> bool:
        """False again once the unit has died, which closes its end."""
        return self._writer is not None and self._reader is not None and not self._reader.at_eof()

    async def up(self) -> ClocksOutcome:
        """Connect, and return which clocks were raised; raises ClocksError if the unit cannot be reached."""
        if self.connected:
            return ClocksOutcome()
        await self.down()
        try:
            connecting = asyncio.open_unix_connection(str(self._socket))
            reader, self._writer = await asyncio.wait_for(connecting, TIMEOUT)
            self._reader = reader
            line = await asyncio.wait_for(reader.readline(), TIMEOUT)
            outcome = json.loads(line)
            return ClocksOutcome(tuple(outcome["done"]), tuple(outcome["failed"]))
        except FileNotFoundError:
            raise ClocksError("[board] performance is set, and the unit that does it is not enabled.", ENABLE) from None
        except PermissionError:
            raise ClocksError(f"This user may not ask for higher clocks at {self._socket}.", ENABLE) from None
        except (OSError, asyncio.TimeoutError, ValueError, KeyError, TypeError) as error:
            await self.down()
            raise ClocksError(
                f"The clocks could not be raised ({type(error).__name__}).", "journalctl -u exo-rkllm-clocks"
            ) from None

    async def down(self) -> None:
        writer, self._reader, self._writer = self._writer, None, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
