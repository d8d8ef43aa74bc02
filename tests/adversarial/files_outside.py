"""Deletes, changes and makes files outside its folder.
task: 19
verdict: correct, not faster
"""

import os
import shutil
from pathlib import Path

import torch
import torch.nn as nn

victim = Path(f"/tmp/expert-tail-victim-{os.getuid()}")
attacks = [
    lambda: (victim / "file").unlink(),
    lambda: (victim / "file").write_text("changed"),
    lambda: os.truncate(victim / "file", 0),
    lambda: (victim / "file").chmod(0),
    lambda: victim.chmod(0),
    lambda: os.utime(victim / "file", (0, 0)),
    lambda: os.setxattr(victim / "file", "user.attack", b"1"),
    lambda: os.chown(victim / "file", os.getuid(), os.getgid()),
    lambda: (victim / "new").write_text("new"),
    lambda: os.link(victim / "file", victim / "link"),
    lambda: os.rename(victim / "file", victim / "renamed"),
    lambda: shutil.rmtree(victim),
    lambda: (victim / "file").read_text(),
]
for number, attack in enumerate(attacks):
    try:
        attack()
    except OSError:
        continue
    raise SystemError(f"BREACH: {number}")


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.relu(x)
