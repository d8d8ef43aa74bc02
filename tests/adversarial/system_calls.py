"""Makes system calls that reach beyond its process.
task: 19
verdict: correct, not faster
"""

import ctypes
import os

import torch
import torch.nn as nn

libc = ctypes.CDLL(None, use_errno=True)
zeros, path = ctypes.create_string_buffer(256), b"/proc"
libc.mmap.restype = ctypes.c_void_p
page = ctypes.c_void_p(libc.mmap(None, ctypes.c_size_t(4096), 3, 0x22, -1, 0))
opened = os.open(os.__file__, os.O_RDONLY)
iovec = (ctypes.c_void_p * 2)(ctypes.addressof(zeros), 16)
calls = {
    "ptrace TRACEME": lambda: libc.ptrace(0, 0, 0, 0),
    "unshare NEWUSER": lambda: libc.unshare(0x10000000),
    "mount": lambda: libc.mount(b"none", path, b"tmpfs", 0, None),
    "chroot": lambda: libc.chroot(b"/"),
    "bpf": lambda: libc.syscall(321, 0, zeros, 72),
    "perf_event_open": lambda: libc.syscall(298, zeros, 0, -1, -1, 0),
    "keyctl": lambda: libc.syscall(250, 0, -4, 1),
    "io_uring_setup": lambda: libc.syscall(425, 1, zeros),
    "io_setup": lambda: libc.syscall(206, 1, zeros),
    "userfaultfd": lambda: libc.syscall(323, 1),
    "memfd_secret": lambda: libc.syscall(447, 0),
    "setns": lambda: libc.setns(0, 0),
    "clone3": lambda: libc.syscall(435, zeros, 88),
    "x32 fork": lambda: libc.syscall(0x40000000 + 57),
    "PR_SET_DUMPABLE": lambda: libc.prctl(4, 0, 0, 0, 0),
    "PR_SET_PDEATHSIG": lambda: libc.prctl(1, 0, 0, 0, 0),
    "PR_SET_CHILD_SUBREAPER": lambda: libc.prctl(36, 1, 0, 0, 0),
    "sched_setaffinity": lambda: libc.sched_setaffinity(0, 8, b"\xff" * 8),
    "setpriority": lambda: libc.setpriority(0, 0, 5),
    "shmget": lambda: libc.shmget(0, 4096, 0o1600),
    "settimeofday": lambda: libc.settimeofday(zeros, None),
    "sethostname": lambda: libc.sethostname(b"attacked", 8),
    "prlimit of another": lambda: libc.prlimit(os.getppid(), 7, None, zeros),
    "F_SETSIG": lambda: libc.fcntl(0, 10, 18),
    "mincore": lambda: libc.mincore(page, 4096, zeros),
    "posix_fadvise": lambda: -libc.posix_fadvise(opened, 0, 0, 4),
    "readahead": lambda: libc.readahead(opened, 0, 4096),
    "preadv2 NOWAIT": lambda: libc.preadv2(opened, iovec, 1, 0, 8),
    "MADV_HUGEPAGE": lambda: libc.madvise(page, 4096, 14),
    "PR_SET_MEMORY_MERGE": lambda: libc.prctl(67, 1, 0, 0, 0),
    "timerfd_create": lambda: libc.timerfd_create(1, 0),
    "fallocate KEEP_SIZE": lambda: libc.fallocate(1, 1, ctypes.c_long(0), ctypes.c_long(4096)),
    "FS_IOC_SETFLAGS": lambda: libc.ioctl(opened, 0x40086602, zeros),
    "FIOASYNC": lambda: libc.ioctl(0, 0x5452, zeros),
    "kill SIGCONT": lambda: libc.kill(os.getpid(), 18),
    "tgkill SIGSTOP": lambda: libc.syscall(234, os.getpid(), os.getpid(), 19),
}
for name, call in calls.items():
    if call() >= 0:
        raise SystemError(f"BREACH: {name}")


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.relu(x)
