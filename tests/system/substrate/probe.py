"""What a process can do from where it runs: started by the service's own unit, so inside the service's own sandbox.

    ExecReload=/usr/bin/python3 -I /srv/probe.py /run/exo-rkllm/probe.json [--walk]

Run on the computer that is tested, by that release's Python, so it imports the standard library only. Each attempt is
named and ends as "done" or with what stood in its way.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator

libc = ctypes.CDLL(None, use_errno=True)
NEW_USER, NEW_NAMESPACE = 0x10000000, 0x00020000
AMBIENT, RAISE = 47, 2
# Capabilities by number: CAP_DAC_OVERRIDE, CAP_SETUID, CAP_SYS_ADMIN.
WANTED = (1, 7, 21)


def call(name: str, *arguments: object) -> None:
    """A function of libc, whose failure is an exception here."""
    if getattr(libc, name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def ambient(capability: int) -> None:
    call("prctl", AMBIENT, RAISE, capability, 0, 0)


def load_module(state: str) -> None:
    file = os.open(state + "/module.ko", os.O_CREAT | os.O_RDWR)
    try:
        call("syscall", SYSTEM_CALLS["finit_module"], file, b"", 0)
    finally:
        os.close(file)
        os.unlink(state + "/module.ko")


def make_device(state: str) -> None:
    os.mknod(state + "/device", 0o020666, os.makedev(1, 1))


def set_user_id(state: str) -> None:
    path = state + "/program"
    try:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o755))
        os.chmod(path, 0o4755)
    finally:
        os.unlink(path)


def open_file(path: str, flags: int = os.O_RDONLY) -> None:
    os.close(os.open(path, flags))


def create(folder: str) -> None:
    path = os.path.join(folder, ".exo-rkllm-probe")
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    os.unlink(path)


SYSTEM_CALLS = {
    "x86_64": {"init_module": 175, "finit_module": 313},
    "aarch64": {"init_module": 105, "finit_module": 273},
}[os.uname().machine]


def attempts(state: str) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "load a module from a file", lambda: load_module(state)
    yield "load a module from memory", lambda: call("syscall", SYSTEM_CALLS["init_module"], b"", 0, b"")
    yield "become root", lambda: os.setuid(0)
    for number in WANTED:
        yield f"raise capability {number}", functools.partial(ambient, number)
    yield "make a user namespace", lambda: call("unshare", NEW_USER)
    yield "make a mount namespace", lambda: call("unshare", NEW_NAMESPACE)
    yield "mount", lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None)
    yield "make a set-user-id program", lambda: set_user_id(state)
    yield "make a device node", lambda: make_device(state)
    yield "send raw packets", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    yield "run in real time", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    yield "trace another process", lambda: call("ptrace", 16, 1, None, None)
    yield "set the clock", lambda: call("settimeofday", b"\0" * 16, None)
    yield "change the host name", lambda: call("sethostname", b"mine", 4)
    yield "change a kernel parameter", lambda: open_file("/proc/sys/kernel/printk", os.O_WRONLY)
    yield "read the kernel's log", lambda: open_file("/dev/kmsg")
    yield "read passwords", lambda: open_file("/etc/shadow")
    yield "read the keys' file", lambda: open_file("/etc/exo-rkllm/api-keys")
    yield "see other processes", lambda: os.stat("/proc/1")
    yield "read root's debugfs", lambda: os.listdir("/sys/kernel/debug")


def tried(action: Callable[[], object]) -> str:
    try:
        action()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "done"


def device_nodes() -> Iterator[tuple[str, str]]:
    """What can be opened of all that /dev holds."""
    for folder, _, names in os.walk("/dev"):
        for name in names:
            path = os.path.join(folder, name)
            if not path.startswith(("/dev/pts/", "/dev/fd/")) and not os.path.islink(path) and not os.path.isfile(path):
                yield path, tried(functools.partial(open_file, path, os.O_RDWR | os.O_NONBLOCK))


def writable() -> Iterator[str]:
    """Folders of all mounts in which a file can be made. /proc has folders of this very process, which are its own."""
    for folder, folders, _ in os.walk("/"):
        if folder == "/":
            folders.remove("proc")
        if tried(functools.partial(create, folder)) == "done":
            yield folder


def main(to: str, *, walk: bool) -> None:
    state = os.environ["STATE_DIRECTORY"]
    report = {
        "attempts": {name: tried(action) for name, action in attempts(state)},
        "devices": dict(device_nodes()),
        "writable": sorted(writable()) if walk else [],
        "status": dict(line.rstrip("\n").split(":", 1) for line in open("/proc/self/status")),
    }
    with open(to, "w") as file:
        json.dump(report, file)


main(sys.argv[1], walk="--walk" in sys.argv)
