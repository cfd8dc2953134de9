"""The daemon's side of the clocks: one connection, open while a model is loaded; it asks for nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

from exo_rkllm.board.clocks import ClocksOutcome
from exo_rkllm.errors import ClocksError

SOCKET = Path("/run/exo-rkllm-clocks.sock")
ENABLE = "sudo systemctl enable --now exo-rkllm-clocks.socket"
# Setting a dozen governors takes milliseconds; a regulator that does not come up must not hold a load back.
PATIENCE = 5.0


class Performance:
    """`up` and `down` may be called at any time and twice; a lost connection is made anew by the next `up`."""

    def __init__(self, socket: Path = SOCKET) -> None:
        self._socket = socket
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def held(self) -> bool:
        """A unit that died has closed its end."""
        return self._writer is not None and self._reader is not None and not self._reader.at_eof()

    async def up(self) -> ClocksOutcome:
        """What was set and what was not; raises a sentence where the unit is not there."""
        if self.held:
            return ClocksOutcome()
        await self.down()
        try:
            connecting = asyncio.open_unix_connection(str(self._socket))
            reader, self._writer = await asyncio.wait_for(connecting, PATIENCE)
            self._reader = reader
            line = await asyncio.wait_for(reader.readline(), PATIENCE)
            told = json.loads(line)
            return ClocksOutcome(tuple(told["done"]), tuple(told["failed"]))
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
