"""In a worker: have torch's and Triton's compilers put their output into a folder, or take it from there."""

import contextlib
import hashlib
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

FOLDER = "build"  # in a worker's scratch folder
PROGRAMS = "programs.json"  # in it: what programs that compilers asked have answered


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
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",  # a compiler would be asked each time whether they fit
        # What it bundles with a graph notes where its kernels lay when they were made.
        "TORCHINDUCTOR_BUNDLE_TRITON_INTO_FX_GRAPH_CACHE": "0",
        "TRITON_CACHE_DIR": str(folder / "triton"),
        # Triton asks programs for these each time, also where all is compiled already.
        "TRITON_MOCK_PTX_VERSION": "any",
        **({"TRITON_LIBCUDA_PATH": path} if (path := _libcuda_folder()) else {}),
    }
    platform.architecture = lambda *_, **__: ("64bit", "ELF")  # part of its keys, and found by starting a program
    remember_programs(folder, compiles)
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


def remember_programs(folder: Path, compiles: bool) -> None:
    """Have programs answer as they did when the code was compiled: torch.compile asks its compilers for their versions.

    What stands for `folder` in their arguments may lie elsewhere by now.
    """
    notes = folder / PROGRAMS
    known: dict[str, Any] = {}
    if not compiles:
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(notes.read_text())
    run, call = subprocess.run, subprocess.call

    def key(arguments: Any) -> str:
        words = [str(word) for word in arguments] if isinstance(arguments, list | tuple) else str(arguments)
        return json.dumps(words).replace(str(folder), "")

    def answered(*args: Any, **options: Any) -> Any:
        arguments: Any = args[0] if args else options.get("args")
        if not compiles and (noted := known.get(key(arguments))) is not None:
            as_text = any(options.get(name) for name in ("text", "universal_newlines", "encoding", "errors"))
            output, error = noted if as_text else [text.encode("utf-8", "surrogateescape") for text in noted]
            return subprocess.CompletedProcess(arguments, 0, output, error)
        done = run(*args, **options)
        if compiles and done.returncode == 0:
            known[key(arguments)] = [_text(done.stdout), _text(done.stderr)]
            notes.write_text(json.dumps(known))
        return done

    def called(*args: Any, **options: Any) -> int:
        arguments: Any = args[0] if args else options.get("args")
        if not compiles and key(arguments) in known:
            return 0
        code = call(*args, **options)
        if compiles and code == 0:
            known[key(arguments)] = ["", ""]
            notes.write_text(json.dumps(known))
        return code

    subprocess.run, subprocess.call = answered, called


def _text(output: bytes | str | None) -> str:
    return output.decode("utf-8", "surrogateescape") if isinstance(output, bytes) else output or ""


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
