"""Digest of the code behind a stage: what Snakemake watches, and part of every evaluation's cache key.

Snakemake follows a rule's shell text, never the imports behind it. The digest covers a module and everything in this
package that it imports, transitively, read from the sources without importing them. It is taken over the syntax tree
without docstrings, so that a comment, a docstring, reformatting or another Python re-runs nothing, and a change of behaviour
always does.
Other files in the folder of a stage (templates) count byte for byte.
"""

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

PACKAGE = "expert_tail"
# Modules that move data and never shape it: a new progress bar must not re-run a training.
PLUMBING = ("artifacts", "code_digest", "errors", "progress", "settings")
ROOT = Path(__file__).resolve().parent


def code_digest(module: str, without: Iterable[str] = ()) -> str:
    """First 16 hex digits of SHA-256 over `expert_tail.{module}` and its imports, less `without` and `PLUMBING`."""
    digest = hashlib.sha256()
    for path in import_closure(module, (*without, *PLUMBING)):
        digest.update(path.relative_to(ROOT).as_posix().encode())
        digest.update(_normalised(path).encode())
    for path in _other_files_of(module):
        digest.update(path.relative_to(ROOT).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def import_closure(module: str, without: Iterable[str] = ()) -> list[Path]:
    """Source files that `expert_tail.{module}` (a module, or every module of a package) reaches by imports, sorted.

    Lazy imports inside functions count. Raises `FileNotFoundError` for a module that does not exist.
    """
    excluded = tuple(ROOT / name for name in without)
    waiting, seen = _files_of(module), set()
    while waiting:
        path = waiting.pop()
        if path in seen or any(path == e.with_suffix(".py") or path.is_relative_to(e) for e in excluded):
            continue
        seen.add(path)
        waiting += _imports(path)
    return sorted(seen)


def _files_of(module: str) -> list[Path]:
    place = ROOT.joinpath(*module.split("."))
    if place.is_dir():
        return sorted(place.rglob("*.py"))
    if place.with_suffix(".py").is_file():
        return [place.with_suffix(".py")]
    raise FileNotFoundError(f"no module {PACKAGE}.{module}")


def _other_files_of(module: str) -> list[Path]:
    """What lies in the folder of a package beside its code."""
    files = ROOT.joinpath(*module.split(".")).rglob("*")
    return sorted(path for path in files if path.is_file() and path.suffix not in (".py", ".pyc"))


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


@cache
def _imports(path: Path) -> list[Path]:
    found: list[Path] = []
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == PACKAGE:
                # A package's __init__ runs on the way to its modules.
                found += [f for i in range(1, len(parts) + 1) if (f := _module_file(parts[1:i]))]
    return found


def _module_file(parts: list[str]) -> Path | None:
    place = ROOT.joinpath(*parts)
    for candidate in (place / "__init__.py", place.with_suffix(".py")):
        if candidate.is_file():
            return candidate
    return None


@cache
def _normalised(path: Path) -> str:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(
            node, False
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return _dump(tree)


def _dump(node: object) -> str:
    """Like `ast.dump`, which differs between versions of Python: fields that are empty are left out, new ones among them."""
    if isinstance(node, list):
        return f"[{', '.join(map(_dump, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = ((name, getattr(node, name, None)) for name in sorted(node._fields))
    return f"{type(node).__name__}({', '.join(f'{n}={_dump(v)}' for n, v in fields if v is not None and v != [])})"
