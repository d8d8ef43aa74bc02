"""Landlock: a worker reads the interpreter, its libraries and its own folder, and writes at most the latter. By ctypes.

Whatever is not listed here is hidden: the user's home, the project, the evaluation cache, other workers' folders. Landlock
also keeps a worker from reading other processes' memory by /proc, and, where the kernel knows it, from connecting to
TCP ports and abstract sockets and from signalling processes outside its own sandbox.
"""

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterator
from glob import glob
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_REG = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8
_REMOVE_DIR, _MAKE_DIR, _MAKE_SYM, _REFER = 1 << 4, 1 << 7, 1 << 12, 1 << 13
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}  # version: how many rights on files it knows
_NET = 0b11  # bind and connect of TCP, from version 4
_SCOPED = 0b11  # abstract UNIX sockets and signals, from version 6

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/nvidia*", "/dev/nvidia-caps/*")
_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/etc/passwd", "/etc/nsswitch.conf")
_FOLDERS = ("/usr", "/lib", "/lib64", "/opt", "/proc", "/sys")


def version() -> int:
    """Landlock's version on this kernel; 0 where there is none."""
    return max(0, ctypes.CDLL(None, use_errno=True).syscall(_CREATE_RULESET, None, 0, 1))


def restrict(own: str, writable: bool, compiles: bool = False) -> None:
    """Restrict this thread and all it will start, for good. Needs PR_SET_NO_NEW_PRIVS. Raises `OSError`.

    `own` is the worker's folder: it may be read, and `writable` says whether files and folders may be made in it. With
    `compiles` the system's programs may be started.
    """
    found = version()
    handled = (1 << max(count for since, count in _RIGHTS.items() if since <= found)) - 1
    attributes = struct.pack("QQQ", handled, _NET, _SCOPED)[: 8 if found < 4 else 16 if found < 6 else 24]
    ruleset = _syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        change = _WRITE_FILE | _TRUNCATE | _MAKE_REG | _REMOVE_FILE | _MAKE_DIR | _REMOVE_DIR if writable else 0
        if compiles:
            change |= _MAKE_SYM | _REFER
        for path, rights in [*_readable(_EXECUTE if compiles else 0), (own, _READ_FILE | _READ_DIR | change)]:
            _allow(ruleset, path, rights & handled)
        _syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _readable(execute: int) -> Iterator[tuple[str, int]]:
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    for path in {*_FOLDERS, sys.prefix, sys.base_prefix, *filter(os.path.isabs, [*sys.path, *libraries])}:
        yield path, _READ_FILE | _READ_DIR | execute
    for path in _FILES:
        yield path, _READ_FILE
    for pattern in _DEVICES:
        for path in glob(pattern):
            yield path, _READ_FILE | _WRITE_FILE | _IOCTL_DEV


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # a folder that this machine has not
    try:
        if not Path(path).is_dir():
            rights &= _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
        _syscall(_ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)


def _syscall(*arguments: int | bytes) -> int:
    result = ctypes.CDLL(None, use_errno=True).syscall(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock refused: {errno.errorcode.get(number, number)}")
    return result
