"""Memory that the library reads: zeroed, with zeroed slack behind it, and kept alive as long as it is used."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from typing import Any, TypeVar

from exo_rkllm.errors import UsageError
from exo_rkllm.runtime.values import Buffer

S = TypeVar("S", bound=ctypes.Structure)

# Behind every struct of ours: a library that reads past the end finds zeros, not our heap (reference 1.10, 7.1).
SLACK = 256
FLOAT = ctypes.sizeof(ctypes.c_float)
READ_ONLY, WRITABLE = 0x100, 0x200
_from_memory = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)(
    ("PyMemoryView_FromMemory", ctypes.pythonapi)
)


def zeroed(kind: type[S], count: int = 1) -> ctypes.Array[S]:
    """Structs at their exact stride, the slack behind the last one."""
    array_type = kind * count
    room = ctypes.create_string_buffer(ctypes.sizeof(array_type) + SLACK)
    return array_type.from_buffer(room)


def text(what: str, value: str | bytes) -> bytes:
    """As the library takes it: UTF-8 up to the first NUL, which must therefore not be inside."""
    try:
        data = value if isinstance(value, bytes) else value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} holds a lone surrogate at {error.start}, which is no text.") from error
    if 0 in data:
        raise UsageError(f"{what} holds a NUL character at {data.index(0)}, where the runtime would cut it off.")
    return data


def assign(target: ctypes.Structure, name: str, value: Any, what: str | None = None) -> None:
    """ctypes cuts an int to the field's width without a word; here it is refused."""
    try:
        setattr(target, name, value)
    except TypeError as error:
        raise UsageError(f"{what or name} cannot be {value!r}.") from error
    if isinstance(value, int) and getattr(target, name) != value:
        raise UsageError(f"{what or name} {value} is out of range.")


def token_ids(ids: Sequence[int]) -> ctypes.Array[ctypes.c_int32]:
    try:
        numbers = array("i", ids)
    except (TypeError, OverflowError) as error:
        raise UsageError(f"Token ids must be 32-bit integers ({error}).") from error
    if not numbers:
        raise UsageError("There are no token ids to run.", "Give at least one.")
    return (ctypes.c_int32 * len(numbers)).from_buffer(numbers)


def floats(what: str, data: Buffer, rows: int) -> Any:
    """A float pointer to the caller's own bytes, which must be whole rows; read-only memory is copied once."""
    view = memoryview(data).cast("B")
    if rows < 1 or not view.nbytes or view.nbytes % (rows * FLOAT):
        raise UsageError(f"{what} has {view.nbytes} bytes, which are not {rows} rows of float32.")
    if view.readonly:
        raw: Any = ctypes.create_string_buffer(view.tobytes(), view.nbytes)
    else:
        raw = (ctypes.c_char * view.nbytes).from_buffer(view)
    return ctypes.cast(raw, ctypes.POINTER(ctypes.c_float))


def view_of(address: int | None, size: int, *, writable: bool = False) -> memoryview:
    """Bytes of the library's memory, not copied; whoever asks must release the view before the library frees them."""
    view: memoryview = _from_memory(address, size, WRITABLE if writable else READ_ONLY)
    return view
