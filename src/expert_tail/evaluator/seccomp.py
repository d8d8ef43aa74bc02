"""The system calls a worker may not make: the table, and the classic-BPF program that the kernel runs for it.

A deny list, since torch and GPU drivers use too many calls, of too many versions, to list those that are allowed. What it
denies is what can reach beyond the process (other processes, the network, mounts, permissions, clocks), what can undo the
freezing (SIGCONT, also from timers and descriptors), and calls newer than this list. A denied call fails with EPERM.
"""

import ctypes
import errno
import platform
import struct

# Name: number on (x86_64, aarch64); -1 where the architecture has no such call.
_DENIED = {
    # other programs and processes
    **{"fork": (57, -1), "vfork": (58, -1), "execve": (59, 221), "execveat": (322, 281)},
    **{"ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272)},
    **{"pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "tkill": (200, 130)},
    **{"process_madvise": (440, 440), "process_mrelease": (448, 448)},
    # signals to oneself while frozen; memory that others fill; work that the kernel does meanwhile
    **{
        "timer_create": (222, 107),
        "timerfd_create": (283, 85),
        "mq_open": (240, 180),
        "mq_notify": (244, 184),
        "userfaultfd": (323, 282),
    },
    **{"io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427)},
    **{"io_setup": (206, 0), "io_submit": (209, 2), "memfd_secret": (447, 447)},
    # network and System V IPC
    **{"socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202)},
    **{"accept4": (288, 242), "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186)},
    # share of the processor
    **{"sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119), "sched_setparam": (142, 118)},
    **{"sched_setattr": (314, 274), "setpriority": (141, 140), "ioprio_set": (251, 30)},
    # the page cache, which outlives a process: what is in it, and what is to be; space on disk beyond a file's size
    **{"mincore": (27, 232), "fadvise64": (221, 223), "preadv2": (327, 286), "readahead": (187, 213)},
    **{"cachestat": (451, 451), "fallocate": (285, 47)},
    # permissions, owners and times of files, which Landlock does not cover
    **{"chmod": (90, -1), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, -1)},
    **{"fchown": (93, 55), "lchown": (94, -1), "fchownat": (260, 54), "utime": (132, -1), "utimes": (235, -1)},
    **{"futimesat": (261, -1), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6)},
    **{"fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16)},
    # the kernel and the machine
    **{"perf_event_open": (298, 241), "bpf": (321, 280), "keyctl": (250, 219), "add_key": (248, 217)},
    **{"request_key": (249, 218), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41)},
    **{"chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430)},
    **{"fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442)},
    **{"unshare": (272, 97), "setns": (308, 268), "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142)},
    **{"kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105)},
    **{"finit_module": (313, 273), "delete_module": (176, 106), "acct": (163, 89), "quotactl": (179, 60)},
    **{"quotactl_fd": (443, 443), "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171)},
    **{"clock_adjtime": (305, 266), "sethostname": (170, 161), "setdomainname": (171, 162), "syslog": (103, 116)},
    **{"iopl": (172, -1), "ioperm": (173, -1), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265)},
    **{"vhangup": (153, 58), "fanotify_init": (300, 262), "fanotify_mark": (301, 263)},
}
_COMPILERS_NEED = {"fork", "vfork", "execve", "execveat", "fallocate"}  # what a worker that runs compilers may
# Without effect for such a worker, and without error, since compilers and ninja call them. None knows where a file lies or
# whose a process is. And whatever it starts stays in its group, to which one signal goes at once: who forks faster than
# others kill would escape otherwise.
_IGNORED = {
    **{"setsid": (112, 157), "setpgid": (109, 154)},
    **{name: _DENIED[name] for name in ("chmod", "fchmod", "fchmodat", "fchmodat2", "utime", "utimes", "futimesat")},
    **{name: _DENIED[name] for name in ("utimensat", "sched_setaffinity", "setpriority")},
}
_NEWER = 463  # first call that this list does not know; x32 calls lie above it too
_CLONE, _CLONE3 = (56, 220), (435, 435)
_CLONE_THREAD = 0x10000
# Calls that send a signal, to this process alone: numbers, and which argument the signal is.
_SIGNALS = (((62, 129), 1), ((234, 131), 2), ((129, 138), 1), ((297, 240), 2))  # kill, tgkill, rt_(tg)sigqueueinfo
_FREEZING = (18, 19, 20, 21, 22)  # SIGCONT and SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU: the evaluator's alone
_PRLIMIT = (302, 261)
# Call: (number, which argument, its values that are denied).
_DENIED_VALUES = (
    # PR_SET_PDEATHSIG, _DUMPABLE, _MM, _CHILD_SUBREAPER, _PTRACER: whether the parent can read it, and when it dies;
    # PR_SET_MEMORY_MERGE: pages shared with others that hold the same; PR_SCHED_CORE: nobody else on the same core
    ((157, 167), 0, (1, 4, 35, 36, 0x59616D61, 67, 62)),
    # MADV_MERGEABLE likewise; MADV_HUGEPAGE, _COLLAPSE: larger pages than the baseline's, by which the same code is faster
    ((28, 233), 2, (12, 14, 25)),
    # F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY: signals when something happens to a descriptor
    ((72, 25), 1, (8, 10, 15, 1024, 1026)),
    # FIOASYNC, FIOSETOWN, SIOCSPGRP likewise; TIOCSTI types into a terminal; FS_IOC_SETFLAGS, _SETVERSION, _FSSETXATTR,
    # _ENABLE_VERITY and _SET_ENCRYPTION_POLICY change files that are open for reading
    (
        (16, 29),
        1,
        (0x5452, 0x8901, 0x8902, 0x5412, 0x40086602, 0x40087602, 0x401C5820, 0x40806685, 0x800C6613),
    ),
)

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the tables, AUDIT_ARCH
_LOAD, _EQUAL, _AT_LEAST, _BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_DENY = _ERRNO | errno.EPERM


def is_available() -> bool:
    """Whether this kernel filters system calls on an architecture that the tables know."""
    action = ctypes.c_uint32(_ERRNO)
    libc = ctypes.CDLL(None, use_errno=True)
    seccomp = {"x86_64": 317, "aarch64": 277}.get(platform.machine())
    return seccomp is not None and libc.syscall(seccomp, 2, 0, ctypes.byref(action)) == 0


def program(pid: int, compiles: bool = False) -> bytes:
    """The filter for the process `pid`, which may signal nobody but itself, and start others only if it `compiles`."""
    column, architecture = _ARCHITECTURES[platform.machine()]
    code = [
        _instruction(_LOAD, _ARCH),
        _instruction(_EQUAL, architecture, 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
        *_if(_AT_LEAST, _NEWER, [_instruction(_RETURN, _ERRNO | errno.ENOSYS)]),
        # glibc falls back to clone, whose flags can be seen.
        *_if(_EQUAL, _CLONE3[column], [_instruction(_RETURN, _ERRNO | errno.ENOSYS)]),
    ]
    for name, numbers in _DENIED.items():
        if numbers[column] >= 0 and not (compiles and name in _COMPILERS_NEED | _IGNORED.keys()):
            code += _if(_EQUAL, numbers[column], [_instruction(_RETURN, _DENY)])
    if compiles:
        for numbers in _IGNORED.values():
            if numbers[column] >= 0:
                code += _if(_EQUAL, numbers[column], [_instruction(_RETURN, _ERRNO)])
    else:
        code += _if(_EQUAL, _CLONE[column], _allow_only(0, _BITS, (_CLONE_THREAD,)))
    for numbers, argument in _SIGNALS:
        code += _if(_EQUAL, numbers[column], _signals_to(pid, argument))
    code += _if(_EQUAL, _PRLIMIT[column], _allow_only(0, _EQUAL, (0, pid)))
    for numbers, argument, values in _DENIED_VALUES:
        body = [_argument(argument)]
        for value in values:
            body += _if(_EQUAL, value, [_instruction(_RETURN, _DENY)])
        code += _if(_EQUAL, numbers[column], [*body, _instruction(_RETURN, _ALLOW)])
    return b"".join([*code, _instruction(_RETURN, _ALLOW)])


def install(code: bytes) -> None:
    """Apply a program to this thread and all it will start, for good. Needs PR_SET_NO_NEW_PRIVS. Raises `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: number of instructions, pointer to them
    fprog = struct.pack("HP", len(code) // 8, ctypes.addressof(buffer))
    if libc.prctl(22, 2, fprog, 0, 0):  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp filter refused: {errno.errorcode.get(number, number)}")


def _instruction(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, k)


def _argument(index: int) -> bytes:
    return _instruction(_LOAD, _ARGUMENTS + 8 * index)  # the low half, on these little-endian architectures


def _if(test: int, value: int, body: list[bytes]) -> list[bytes]:
    return [_instruction(test, value, 0, len(body)), *body]


def _signals_to(pid: int, argument: int) -> list[bytes]:
    """Of a call that signals the process in its first argument: allow those to `pid`, but for those that freeze."""
    refused = [_argument(argument)]
    for number in _FREEZING:
        refused += _if(_EQUAL, number, [_instruction(_RETURN, _DENY)])
    to_pid = [*refused, _instruction(_RETURN, _ALLOW)]
    return [_argument(0), *_if(_EQUAL, pid, to_pid), _instruction(_RETURN, _DENY)]


def _allow_only(argument: int, test: int, values: tuple[int, ...]) -> list[bytes]:
    body = [_argument(argument)]
    for value in values:
        body += _if(test, value, [_instruction(_RETURN, _ALLOW)])
    return [*body, _instruction(_RETURN, _DENY)]
