"""A process that has imported torch, and no candidate, and forks a fresh worker in milliseconds on request.

Its first message on the socket given as file descriptor says what workers are confined by: `{"sandbox": …}`, or
`{"broken": …}` where confining fails. Requests are one JSON message with two descriptors attached (the worker's end of its
channel, the file for its output). Answers: `{"pid": …}` at once; `{"exited": pid, "status": wait status}` later.
"""

import contextlib
import ctypes
import gc
import json
import os
import selectors
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

from expert_tail.evaluator import sandbox
from expert_tail.evaluator.worker import MAX_MESSAGE, become_worker

PR_SET_CHILD_SUBREAPER = 36
ORPHANS_S, FORK_S = 5.0, 5.0


def serve(server: socket.socket) -> None:
    children: dict[int, int] = {}  # pidfd -> pid
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what workers leave behind becomes ours, to be ended
    gc.collect()
    gc.freeze()  # objects of before the fork stay on shared pages
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == server.fileno():
                    try:
                        message, descriptors, _, _ = socket.recv_fds(server, MAX_MESSAGE, 2)
                    except ConnectionResetError:  # the parent is gone, and has not read all that was sent
                        return
                    if not message:
                        return
                    request = json.loads(message)
                    pid = _fork()
                    if pid == 0:
                        selector.close()
                        channel = socket.socket(fileno=descriptors[0])
                        become_worker(channel, request["scratch"], descriptors[1], sandbox.Limits(**request["limits"]))
                    for descriptor in descriptors:
                        os.close(descriptor)
                    pidfd = os.pidfd_open(pid)
                    children[pidfd] = pid
                    selector.register(pidfd, selectors.EVENT_READ)
                    server.send(json.dumps({"pid": pid}).encode())
                else:
                    pid = children.pop(key.fd)
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.killpg(pid, signal.SIGKILL)  # its number is its own until it is waited for
                    _, status = os.waitpid(pid, 0)
                    _end_orphans(set(children.values()))
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # then the next message is its end
                        server.send(json.dumps({"exited": pid, "status": status}).encode())


def _fork() -> int:
    """Fork; for a while again where there are too many processes, since a candidate's threads end soon."""
    deadline = time.monotonic() + FORK_S
    while True:
        try:
            return os.fork()
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _end_orphans(workers: set[int]) -> None:
    """Kill processes that a worker that is gone has started; only those that compile can start any.

    Without a sandbox some may fork faster than they are killed: after a while they are left alone.
    """
    deadline = time.monotonic() + ORPHANS_S
    listed = Path(f"/proc/self/task/{os.getpid()}/children")
    while listed.exists() and (orphans := set(map(int, listed.read_text().split())) - workers):
        if time.monotonic() > deadline:
            return
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def confinement(use_sandbox: bool) -> dict[str, str]:
    """Enter the namespaces; what this process and its workers are confined by, tried out on a child."""
    if not use_sandbox:
        return {"sandbox": "rlimits"}
    names = [*sandbox.enter_namespaces(), *sandbox.layers(), "rlimits"]
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            sandbox.confine(tempfile.gettempdir(), sandbox.Limits(1 << 32, 1 << 20, -1, writable=True, sandbox=True))
        except OSError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        problem = pipe.read().decode()
    os.waitpid(pid, 0)
    return {"broken": problem} if problem else {"sandbox": "+".join(names)}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.send(json.dumps(confinement(sys.argv[2] == "sandbox")).encode())
    serve(channel)
