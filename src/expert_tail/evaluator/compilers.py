"""In a worker: have torch's and Triton's compilers put their output into a folder, or take it from there."""

import contextlib
import hashlib
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

FOLDER = "build"  # in a worker's scratch folder


def use_folder(folder: Path, compiles: bool) -> None:
    """From now on code is compiled into `folder`, or, unless this process `compiles`, only loaded from there."""
    if compiles:
        (folder / "tmp").mkdir(parents=True)
    else:
        relocate_triton(folder / "triton")
    os.environ |= {
        "TMPDIR": str(folder / "tmp"),
        "HOME": str(folder),
        "TORCH_EXTENSIONS_DIR": str(folder / "extensions"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "TRITON_CACHE_DIR": str(folder / "triton"),
        # Triton asks programs for these each time, also where all is compiled already.
        "TRITON_MOCK_PTX_VERSION": "any",
        **({"TRITON_LIBCUDA_PATH": path} if (path := _libcuda_folder()) else {}),
    }
    platform.architecture = lambda *_, **__: ("64bit", "ELF")  # part of its keys, and found by starting a program
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        os.environ["TORCH_CUDA_ARCH_LIST"] = "{}.{}".format(*torch.cuda.get_device_capability())
    from torch.utils import cpp_extension

    compile_inline = cpp_extension.load_inline

    def load_inline(name: str, *args: Any, **options: Any) -> Any:
        options.pop("build_directory", None)
        digest = hashlib.sha256(json.dumps([name, args, options], default=str, sort_keys=True).encode()).hexdigest()
        target = folder / "extensions" / digest[:16]
        if compiles:
            target.mkdir(parents=True, exist_ok=True)
            return compile_inline(name, *args, **(options | {"build_directory": str(target)}))
        if not (target / f"{name}.so").exists():
            raise RuntimeError(f"extension {name} was not compiled ahead: load_inline must be called on import")
        is_module = options.get("is_python_module", True)
        return cpp_extension._import_module_from_library(name, str(target), is_module)

    cpp_extension.load_inline = load_inline


def relocate_triton(cache: Path) -> None:
    """Triton notes where its files lay when they were made. Note where they lie now, in a copy of its cache."""
    for group in cache.glob("*/__grp__*.json"):
        noted = json.loads(group.read_text())
        noted["child_paths"] = {
            name: str(group.with_name(Path(path).name)) for name, path in noted["child_paths"].items()
        }
        group.write_text(json.dumps(noted))


def _libcuda_folder() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"(/\S+)/libcuda\.so", Path("/proc/self/maps").read_text())
        return found[1] if found else ""
    return ""
