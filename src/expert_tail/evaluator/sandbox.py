"""What a worker is confined by: every layer that the machine offers, found once, named in each row.

Hand-written over ctypes, for three reasons. A worker is a fork of a process that has imported torch, so it must confine
itself in place; libraries that start a program of their own, or supervise it, would cost its import again. Those that do
confine in place cover Landlock alone, or need the system's libseccomp. And it is short: a table of calls and one of paths.

| layer | what it is for |
|---|---|
| userns, netns, ipcns | no privileges, no network interfaces, no System V objects: once, in the fork server |
| nocaps | a worker of root has no capability left |
| landlockN | files that may be read and written; no other process's memory (N: the version) |
| seccomp | system calls, see `seccomp` |
| rlimits | memory, size of files, open files, core dumps: also where the sandbox is off |
"""

import contextlib
import ctypes
import os
import resource
import struct
from dataclasses import dataclass
from pathlib import Path

from expert_tail.evaluator import landlock, seccomp

MIN_LAYERS = ("landlock", "seccomp")  # what `evaluator.sandbox: required` insists on
_OPEN_FILES = 256
_PROCESSES = 2000  # and threads, of all workers of a fork server together; the kernel does not hold root to it
_NEWUSER, _NEWIPC, _NEWNET = 0x10000000, 0x08000000, 0x40000000
_SET_DUMPABLE, _SET_NO_NEW_PRIVS = 4, 38  # options of prctl
_LIBC = ctypes.CDLL(None, use_errno=True)
_PAGE = resource.getpagesize()


@dataclass(frozen=True)
class Limits:
    """What one worker may use. Sent to it as JSON."""

    memory_bytes: int  # address space beyond that of an idle worker
    file_bytes: int  # size of any file it writes, its output among them
    core: int  # processor core it runs on; -1: any
    writable: bool  # whether it may make files in its folder
    sandbox: bool  # whether to confine it by more than these limits
    device: str = "cpu"  # what its module runs on: cpu or cuda
    compiles: bool = False  # whether it may start programs, as compilers do, and make folders in its own


def enter_namespaces() -> list[str]:
    """Move this process, and all it forks, into namespaces of its own; the names of those that there are."""
    user, group = os.getuid(), os.getgid()
    entered = []
    if _LIBC.unshare(_NEWUSER) == 0:
        entered.append("userns")
        with contextlib.suppress(OSError):
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        _LIBC.prctl(_SET_DUMPABLE, 1, 0, 0, 0)  # else the evaluator could not read outputs
    entered += [name for name, flag in (("netns", _NEWNET), ("ipcns", _NEWIPC)) if _LIBC.unshare(flag) == 0]
    return entered


def layers() -> list[str]:
    """The layers that `confine` applies on this machine, apart from namespaces."""
    found = ["nocaps"]
    if version := landlock.version():
        found.append(f"landlock{version}")
    if seccomp.is_available():
        found.append("seccomp")
    return found


def missing(used: str) -> list[str]:
    """Layers of `MIN_LAYERS` that are not among `used`, a description as in the evaluations' column `sandbox`."""
    return [name for name in MIN_LAYERS if not any(layer.startswith(name) for layer in used.split("+"))]


def confine(own: str, limits: Limits) -> None:
    """Confine this process for good, by every layer. `own`: its folder. Raises `OSError`."""
    _limit(limits)
    if not limits.sandbox:
        return
    found = layers()
    # struct __user_cap_header: version 3, this process; twice the effective, permitted and inheritable ones
    if _LIBC.capset(struct.pack("II", 0x20080522, 0), bytes(24)):
        raise OSError(ctypes.get_errno(), "capabilities could not be dropped")
    if _LIBC.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS refused")
    if any(layer.startswith("landlock") for layer in found):
        landlock.restrict(own, limits.writable, limits.compiles)
    if "seccomp" in found:
        seccomp.install(seccomp.program(os.getpid(), limits.compiles))


def _has_own_user_namespace() -> bool:
    """Whether this process is in one that `enter_namespaces` made, where it is counted apart from all else of its user."""
    return Path("/proc/self/uid_map").read_text().split()[2:] == ["1"]


def _limit(limits: Limits) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE
    for kind, most in (
        (resource.RLIMIT_AS, used + limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        *([(resource.RLIMIT_NPROC, _PROCESSES)] if _has_own_user_namespace() else []),
    ):
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    if limits.core >= 0:
        os.sched_setaffinity(0, {limits.core})
