"""Reads the folders of other workers, of the project and of the user, and secrets in the environment.
task: 19
verdict: correct, not faster
"""

import os
import re
from pathlib import Path

import torch
import torch.nn as nn

own = Path(__file__).parent
for folder in (own.parent, Path.home(), Path("/tmp"), Path("/"), Path("/var"), Path("/root"), own.parent / "1"):
    try:
        os.listdir(folder)
    except OSError:
        continue
    raise SystemError(f"BREACH: {folder}")
for path in ("/etc/shadow", "/proc/1/environ", own.parent / "1" / "parameters.pickle"):
    try:
        open(path, "rb").close()
    except OSError:
        continue
    raise SystemError(f"BREACH: {path}")
if found := [name for name in os.environ if re.search("TOKEN|SECRET|KEY|EXPERT_TAIL", name)]:
    raise SystemError(f"BREACH: {found}")


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.relu(x)
