"""What a measurement is made on: part of every cache key, and a column of every evaluation."""

import functools
import os
import platform
import re
from importlib import metadata
from pathlib import Path

import torch

from expert_tail.errors import UserError


def choose_device(name: str) -> torch.device:
    """The device that `evaluator.device` names: auto, cpu or cuda. Raises `UserError` for a GPU that is not there."""
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise UserError(
            "evaluator.device is cuda, but torch sees no GPU here: set it to cpu or auto, or install torch for CUDA"
        )
    return torch.device("cuda", torch.cuda.current_device()) if found and name != "cpu" else torch.device("cpu")


@functools.cache
def hardware(device: torch.device) -> str:
    """One line that two machines share only if their timings may be mixed: processor, threads or driver, torch version."""
    if device.type == "cuda":
        driver = Path("/proc/driver/nvidia/version")
        found = re.search(r"(?:Module|for \S+)\s+([\d.]+)", driver.read_text()) if driver.exists() else None
        version = found[1] if found else "unknown"
        return f"cuda: {torch.cuda.get_device_name(device)}, driver {version}, torch {torch.__version__}"
    return f"cpu: {_processor()}, 1 thread of {os.cpu_count()}, torch {metadata.version('torch')}"


def _processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return " ".join(found[1].split()) if found else platform.machine()
