"""A process that has imported torch, and no candidate, and forks a fresh worker in milliseconds on request.

Requests arrive on the socket given as file descriptor: one JSON message with two descriptors attached (the worker's end
of its channel, the file for its output). Answers: `{"pid": …}` at once; `{"exited": pid, "status": wait status}` later.
"""

import gc
import json
import os
import selectors
import signal
import socket
import sys

from expert_tail.evaluator.worker import MAX_MESSAGE, become_worker


def serve(server: socket.socket) -> None:
    children: dict[int, int] = {}  # pidfd -> pid
    gc.collect()
    gc.freeze()  # objects of before the fork stay on shared pages
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == server.fileno():
                    message, descriptors, _, _ = socket.recv_fds(server, MAX_MESSAGE, 2)
                    if not message:
                        return
                    request = json.loads(message)
                    pid = os.fork()
                    if pid == 0:
                        selector.close()
                        become_worker(
                            socket.socket(fileno=descriptors[0]), request["scratch"], descriptors[1], request["limits"]
                        )
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
                    _, status = os.waitpid(pid, 0)
                    server.send(json.dumps({"exited": pid, "status": status}).encode())


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end
    serve(socket.socket(fileno=int(sys.argv[1])))
