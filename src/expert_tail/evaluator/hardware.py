"""What a measurement was made on: part of every cache key, and a column of every evaluation."""

import functools
import os
import platform
import re
from importlib import metadata
from pathlib import Path


@functools.cache
def hardware(device: str) -> str:
    """One line that two machines share only if their timings may be mixed: processor, threads, torch version."""
    return f"{device}: {_processor()}, 1 thread of {os.cpu_count()}, torch {metadata.version('torch')}"


def _processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return " ".join(found[1].split()) if found else platform.machine()
