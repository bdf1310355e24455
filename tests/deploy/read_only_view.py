"""Runs a command as in a read-only container: only /proc and an empty /tmp are written to, and /tmp runs nothing.

Needs a mount namespace of its own: `unshare --mount --map-root-user python read_only_view.py COMMAND...`.
"""

from __future__ import annotations

import ctypes
import os
import sys

# From Linux' headers; Python has no name for them.
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
NO_SETUID_NO_DEVICES_NO_PROGRAMS = 2 | 4 | 8


class MountAttributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns"))


def check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def close_the_view() -> None:
    """Raises OSError where the kernel does not allow it."""
    libc = ctypes.CDLL(None, use_errno=True)
    closed, opened = MountAttributes(set=MOUNT_ATTR_RDONLY), MountAttributes(clear=MOUNT_ATTR_RDONLY)
    size = ctypes.c_size_t(ctypes.sizeof(closed))
    check(libc.syscall(MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, ctypes.byref(closed), size))
    # A process says there which user it is.
    check(libc.syscall(MOUNT_SETATTR, AT_FDCWD, b"/proc", 0, ctypes.byref(opened), size))
    check(libc.mount(b"tmpfs", b"/tmp", b"tmpfs", NO_SETUID_NO_DEVICES_NO_PROGRAMS, b"mode=1777"))


if __name__ == "__main__":
    close_the_view()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606
