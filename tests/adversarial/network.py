"""Opens sockets of every kind.
task: 19
verdict: correct, not faster
"""

import socket

import torch
import torch.nn as nn

for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK, socket.AF_PACKET, socket.AF_VSOCK):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        try:
            socket.socket(family, kind).close()
        except OSError:
            continue
        raise SystemError(f"BREACH: {family!r} {kind!r}")


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.relu(x)
