"""From a completion to a candidate: extract the action, put it into its scaffold, in canonical form.

Nothing here raises, whatever the policy wrote: an action that is no Python is spliced in as text, so that the candidate
is a SyntaxError for the evaluator. Candidates that differ only in whitespace or comments of the action get one source.
Standard library only; no code of the policy is run.
"""

import ast
import hashlib
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

REFERENCE_CLASS = "Model"
CANDIDATE_CLASS = "ModelNew"

# Longer text is neither repaired nor normalised: parsing costs time and stack, and no sensible action is so long.
MAX_PARSED_CHARS = 200_000
MAX_REPAIRED_CHARS = 20_000
_MAX_STARTS = 20
_MAX_SEGMENTS = 8

_PLACEHOLDER = "__action__"
_NOT_IN_A_CANDIDATE = {"get_inputs", "get_init_inputs"}
_STANDARD_IMPORTS = {"torch": "import torch", "nn": "import torch.nn as nn", "F": "import torch.nn.functional as F"}
_FALLBACK_SCAFFOLD = (
    "\n".join(_STANDARD_IMPORTS.values())
    + f"""

class {CANDIDATE_CLASS}(nn.Module):

    def forward(self, *args):
        {_PLACEHOLDER}"""
)

_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[ \t]*[\w+#-]*[ \t]*$|```(?:python3?\b|py\b)?", re.M | re.I)
_SPECIAL_TOKEN = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?s>|<(?:start|end)_of_turn>")
_LEADING_TOKENS = re.compile(rf"(?:\s*(?:{_SPECIAL_TOKEN.pattern}))+")
_FINAL_CHANNEL = re.compile(r"<\|channel\|>final[^<]{0,40}<\|message\|>|assistantfinal(?=\S)")
_ROLE = re.compile(r"\s*(?:assistant|answer|output)\s*(?::|\n)", re.I)
_CODE_LINE = re.compile(
    r"\s*(?:return\b|import \w|from [\w.]+ import|def \w+\(|class \w+|@\w|(?:if|for|while|with) .*:|"
    r"[A-Za-z_][\w.]*(?:\[[^\]]*\]|\s*,\s*[A-Za-z_]\w*)*\s*[-+*/@|&]?=[^=])"
)
_CALL_LINE = re.compile(r"\s*[A-Za-z_]\w*(?:\.\w+)*\(")
_LABELLED_RETURN = re.compile(r"^[ \t]*\w[\w ]{0,40}:[ \t]*(?=return\b)", re.M)

# What ast raises on text: bad syntax, null bytes or surrogates, nesting beyond the parser's or Python's stack.
_PARSE_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError)


def candidate_source(reference_source: str, completion: str, action: str) -> str:
    """The action (`forward_body` or `module`) that `completion` holds, as a module that defines ModelNew."""
    text = _clean(completion)
    try:
        if action == "module":
            return _module_candidate(text)
        return _forward_body_candidate(reference_source, text)
    except _PARSE_ERRORS:
        return text if action == "module" else _splice(_scaffold(reference_source), text)


def candidate_sha256(source: str) -> str:
    return hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()


def class_of_reference(module: ast.Module) -> ast.ClassDef | None:
    """The class `Model` of a KernelBench-format module."""
    return _class_named(module.body, REFERENCE_CLASS)


def without_docstrings(tree: ast.AST) -> None:
    """Remove docstrings in place."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body[:1] = [] if len(node.body) > 1 or isinstance(node, ast.Module) else [ast.Pass()]


# --- text -----------------------------------------------------------------------------------------------------------


def _clean(completion: str) -> str:
    """The completion without chat leftovers (special tokens, channels, roles) and characters no source may hold."""
    text = completion.encode("utf-8", "replace").decode()
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}").replace("\r\n", "\n").replace("\r", "\n")
    if match := _FINAL_CHANNEL.search(text):
        text = text[match.end() :]
    text = text.rpartition("</think>")[2]
    if match := _LEADING_TOKENS.match(text):
        text = text[match.end() :]
    if match := _SPECIAL_TOKEN.search(text):
        text = text[: match.start()]
    if match := _ROLE.match(text):
        text = text[match.end() :]
    return text.strip("\n") if text.strip() else ""


def _segments(text: str) -> list[str]:
    """Where the action may be, best first: inside fences (closed or not), outside, the text without its fences."""
    parts = _FENCE.split(text)
    if len(parts) == 1:
        return [_unquoted(text)]
    inside, outside = parts[1::2][:_MAX_SEGMENTS], parts[::2][:_MAX_SEGMENTS]
    return [s for s in (*inside, *outside, "\n".join(parts)) if s.strip()] or [""]


def _unquoted(text: str) -> str:
    stripped = text.strip()
    single = len(stripped) > 2 and stripped[0] == stripped[-1] == "`" and stripped.count("`") == 2
    return stripped[1:-1] if single else text


def _parse(text: str) -> ast.Module | None:
    if len(text) > MAX_PARSED_CHARS:
        return None
    try:
        return ast.parse(text)
    except _PARSE_ERRORS:
        return None


def _indentations(text: str) -> Iterator[str]:
    """Readings of text whose first line may lack the indentation of the rest (it continues a line of the prompt)."""
    dedented = textwrap.dedent(text)
    yield dedented
    first, _, rest = dedented.lstrip("\n").partition("\n")
    if rest.strip():
        yield f"{first.lstrip()}\n{textwrap.dedent(rest)}"
        for width in (4, 8):
            yield textwrap.dedent(" " * width + first.lstrip() + "\n" + rest)


def _whole(text: str) -> ast.Module | None:
    return next((tree for variant in _indentations(text) if (tree := _parse(variant))), None)


def _parse_prefix(text: str) -> ast.Module | None:
    """The tree of the longest run of leading lines that is Python."""
    lines = text.split("\n")
    while lines:
        try:
            return ast.parse("\n".join(lines))
        except SyntaxError as error:
            # No line after the first error can mend it, except one that an open bracket or string reports early.
            del lines[max(0, min(len(lines), error.lineno or 1) - 1) :]
        except _PARSE_ERRORS:
            return None
    return None


def _readings(text: str) -> Iterator[ast.Module]:
    """Trees that `text` may mean: as it stands, then less what follows the code, then less what comes before it."""
    if tree := _whole(text):
        yield tree
    if len(text) > MAX_REPAIRED_CHARS:
        return
    for variant in _indentations(text):
        if tree := _parse_prefix(variant):
            yield tree
    lines = _LABELLED_RETURN.sub("", text).split("\n")
    for pattern in (_CODE_LINE, _CALL_LINE):
        starts = [i for i, line in enumerate(lines) if pattern.match(line)]
        for start in starts[:_MAX_STARTS]:
            for variant in _indentations("\n".join(lines[start:])):
                if tree := _parse_prefix(variant):
                    yield tree


# --- module action --------------------------------------------------------------------------------------------------


def _module_candidate(text: str) -> str:
    segments = _segments(text)
    segments.sort(key=_module_rank)  # stable: the first of the best
    for segment in segments:
        for tree in _readings(segment):
            if any(_class_named(tree.body, name) for name in (CANDIDATE_CLASS, REFERENCE_CLASS)):
                return _unparse(_as_module(tree)) or segment
    return textwrap.dedent(segments[0]).strip("\n")


def _module_rank(segment: str) -> int:
    for rank, name in enumerate((CANDIDATE_CLASS, REFERENCE_CLASS)):
        if re.search(rf"^[ \t]*class {name}\b", segment, re.M):
            return rank
    return 2


def _as_module(tree: ast.Module) -> ast.Module:
    without_docstrings(tree)
    if not _class_named(tree.body, CANDIDATE_CLASS):
        _rename(tree)
    dropped = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)} & _NOT_IN_A_CANDIDATE
    dropped -= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    tree.body = [n for n in tree.body if not (isinstance(n, ast.FunctionDef) and n.name in dropped)]
    return tree


# --- forward_body action --------------------------------------------------------------------------------------------


def _forward_body_candidate(reference_source: str, text: str) -> str:
    scaffold = _scaffold(reference_source)
    segments = sorted(_segments(text), key=lambda s: CANDIDATE_CLASS not in s)
    # A bare expression may be prose: it counts in the likeliest place only, and after any explicit return.
    for places, returned in ((segments, False), (segments[:1], True)):
        for segment in places:
            for tree in _readings(segment):
                body = _as_body(tree, scaffold, returned)
                if _returns(body):
                    return _fill(scaffold, body) or _splice(scaffold, segment)
    whole = _whole(segments[0])
    body = _as_body(whole, scaffold, returned=True) if whole else []
    if body:
        return _fill(scaffold, body) or _splice(scaffold, segments[0])
    return _splice(scaffold, "" if whole else segments[0])


def _as_body(tree: ast.Module, scaffold: str, returned: bool) -> list[ast.stmt]:
    """The statements of forward that a tree means: those of its `forward` if it has one, else its own.

    With `returned`, a last expression is returned where nothing else is.
    """
    without_docstrings(tree)
    forward, around = _forward_of(tree)
    if forward is None:
        statements = tree.body
    else:
        statements = [*_prelude(around, scaffold), *_renamed_arguments(forward, scaffold), *forward.body]
    body = _to_first_return(statements)
    if returned and body and isinstance(last := body[-1], ast.Expr) and not _returns(body):
        body[-1] = ast.Return(value=last.value)
    return body


def _forward_of(tree: ast.Module) -> tuple[ast.FunctionDef | None, list[ast.stmt]]:
    """The function written in place of a body, and the statements that stand around it."""
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef)]
    for name in (CANDIDATE_CLASS, REFERENCE_CLASS, *(c.name for c in classes)):
        found = _class_named(classes, name)
        if found and (forward := _function_named(found.body, "forward")):
            return forward, [n for n in tree.body if n is not found]
    forward = _function_named(tree.body, "forward")
    others = [n for n in tree.body if not isinstance(n, (ast.Import, ast.ImportFrom))]
    if forward is None and len(others) == 1 and isinstance(others[0], ast.FunctionDef):
        forward = others[0]  # the body under another name
    return forward, [n for n in tree.body if n is not forward]


def _prelude(around: list[ast.stmt], scaffold: str) -> list[ast.stmt]:
    """Imports and helper functions around a whole function or class that its body may need and the scaffold lacks."""
    present = _imported_names(ast.parse(scaffold))
    kept: list[ast.stmt] = []
    for node in around:
        helper = isinstance(node, ast.FunctionDef) and node.name not in _NOT_IN_A_CANDIDATE
        names = _imported_names(ast.Module(body=[node], type_ignores=[]))
        if helper or (names - present and "*" not in names):
            kept.append(node)
    return kept


def _renamed_arguments(forward: ast.FunctionDef, scaffold: str) -> list[ast.stmt]:
    """`a, b = A, B` where the function written names its arguments unlike the reference."""
    own = [a.arg for a in (*forward.args.posonlyargs, *forward.args.args)]
    own = own[1:] if own[:1] == ["self"] else own
    reference = _arguments_of(scaffold)
    pairs = [(a, b) for a, b in zip(own, reference, strict=False) if a != b]
    if len(own) != len(reference) or not pairs:
        return []
    return ast.parse(f"{', '.join(a for a, _ in pairs)} = {', '.join(b for _, b in pairs)}").body


def _to_first_return(statements: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Statements up to the first return, as what follows is dead, less those that only name something (often prose)."""
    kept: list[ast.stmt] = []
    for node in statements:
        named = isinstance(node, ast.Expr) and isinstance(node.value, (ast.Name, ast.Constant))
        if not named or node is statements[-1]:
            kept.append(node)
        if isinstance(node, ast.Return):
            break
    return kept


def _returns(statements: Iterable[ast.AST]) -> bool:
    """Whether a return is reached without entering a nested function or class."""
    nested = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    waiting = list(statements)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Return):
            return True
        if not isinstance(node, nested):
            waiting += ast.iter_child_nodes(node)
    return False


# --- scaffold -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _scaffold(reference_source: str) -> str:
    """The reference module as ModelNew, with a placeholder where forward's body goes."""
    tree = _parse(reference_source)
    model = class_of_reference(tree) if tree else None
    forward = _function_named(model.body, "forward") if model else None
    if tree is None or forward is None:
        return _FALLBACK_SCAFFOLD
    without_docstrings(tree)
    forward.body = ast.parse(_PLACEHOLDER).body
    _rename(tree)
    tree.body = [node for node in tree.body if not _is_left_out(node)]
    _add_standard_imports(tree)
    return _unparse(tree) or _FALLBACK_SCAFFOLD


def _is_left_out(node: ast.stmt) -> bool:
    if isinstance(node, ast.FunctionDef):
        return node.name in _NOT_IN_A_CANDIDATE
    return isinstance(node, ast.If) and "__name__" in {n.id for n in ast.walk(node.test) if isinstance(n, ast.Name)}


def _add_standard_imports(tree: ast.Module) -> None:
    """torch, nn and F are there for every action, whichever of them the reference needs."""
    bound = _imported_names(tree)
    missing = [line for name, line in _STANDARD_IMPORTS.items() if name not in bound]
    after = 1 + max((i for i, n in enumerate(tree.body) if isinstance(n, (ast.Import, ast.ImportFrom))), default=-1)
    tree.body[after:after] = ast.parse("\n".join(missing)).body


def _imported_names(tree: ast.Module) -> set[str]:
    imports = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
    return {alias.asname or alias.name.split(".")[0] for node in imports for alias in node.names}


def _forward_of_candidate(tree: ast.Module) -> ast.FunctionDef:
    model = _class_named(tree.body, CANDIDATE_CLASS)
    forward = _function_named(model.body, "forward") if model else None
    assert forward, "a scaffold defines ModelNew.forward"
    return forward


@lru_cache(maxsize=256)
def _arguments_of(scaffold: str) -> list[str]:
    """Names of forward's positional arguments, less self."""
    arguments = _forward_of_candidate(ast.parse(scaffold)).args
    return [a.arg for a in (*arguments.posonlyargs, *arguments.args)][1:]


def _fill(scaffold: str, body: list[ast.stmt]) -> str | None:
    """The scaffold with `body` in canonical form; None where the body has none."""
    tree = ast.parse(scaffold)
    _forward_of_candidate(tree).body = body
    return _unparse(tree)


def _splice(scaffold: str, text: str) -> str:
    """The scaffold with `text` as it is; without text forward has no body, a SyntaxError like any other."""
    before, _, after = scaffold.partition(_PLACEHOLDER)
    margin = before.rpartition("\n")[2]
    lines = textwrap.dedent(text).strip("\n").split("\n")
    body = "\n".join(margin + line if line.strip() else "" for line in lines)
    return f"{before.removesuffix(margin)}{body}{after}".rstrip("\n") + "\n"


# --- trees ----------------------------------------------------------------------------------------------------------


def _rename(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == REFERENCE_CLASS:
            node.id = CANDIDATE_CLASS
        elif isinstance(node, ast.ClassDef) and node.name == REFERENCE_CLASS:
            node.name = CANDIDATE_CLASS


def _unparse(tree: ast.Module) -> str | None:
    """Source of a tree; None where there is none that parses to it (some f-strings, trees deeper than the stack)."""
    try:
        source = ast.unparse(ast.fix_missing_locations(tree))
        return source + "\n" if ast.dump(ast.parse(source)) == ast.dump(tree) else None
    except _PARSE_ERRORS:
        return None


def _class_named(statements: Iterable[ast.stmt], name: str) -> ast.ClassDef | None:
    return next((n for n in statements if isinstance(n, ast.ClassDef) and n.name == name), None)


def _function_named(statements: Iterable[ast.stmt], name: str) -> ast.FunctionDef | None:
    return next((n for n in statements if isinstance(n, ast.FunctionDef) and n.name == name), None)
