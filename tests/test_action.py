"""Extraction of actions from completions, and their scaffold."""

import ast
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expert_tail.policy.action import candidate_sha256, candidate_source

DIAG = '''
"""A task."""
import math
import torch
import torch.nn as nn

SCALE = 2.0  # a constant that forward may use


class Block(nn.Module):
    def forward(self, x):
        return x * SCALE


class Model(nn.Module):
    """Product with a diagonal matrix."""

    def __init__(self, bias: float = 0.0):
        super(Model, self).__init__()
        self.block, self.bias = Block(), bias

    def forward(self, A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
        """The product."""
        return self.block(torch.diag(A) @ B) + self.bias


N = 4


def get_inputs():
    return [torch.rand(N), torch.rand(N, N)]


def get_init_inputs():
    return [1.0]


if __name__ == "__main__":
    print(Model())
'''
BODY = "return self.block(A.unsqueeze(1) * B) + self.bias"
CANDIDATE = candidate_source(DIAG, BODY, "forward_body")


def run(source: str, *arguments: torch.Tensor, init: tuple[float, ...] = (1.0,)) -> torch.Tensor:
    names: dict = {}
    exec(compile(source, "candidate", "exec"), names)
    return names["ModelNew"](*init)(*arguments)


def test_the_scaffold_keeps_what_forward_needs_and_leaves_out_the_harness():
    a, b = torch.rand(4), torch.rand(4, 4)
    assert torch.allclose(run(CANDIDATE, a, b), 2 * a.unsqueeze(1) * b + 1)
    names = {n.name for n in ast.parse(CANDIDATE).body if isinstance(n, (ast.ClassDef, ast.FunctionDef))}
    assert names == {"Block", "ModelNew"}
    assert "__main__" not in CANDIDATE
    assert "Model)" not in CANDIDATE.replace("ModelNew", "")


def test_functional_is_there_though_the_reference_does_not_import_it():
    source = candidate_source(DIAG, "return F.relu(A)", "forward_body")
    assert torch.equal(run(source, -torch.ones(2), torch.ones(2)), torch.zeros(2))


def test_a_future_import_stays_first():
    source = candidate_source(
        "from __future__ import annotations\n" + DIAG.replace('"""A task."""', ""), BODY, "forward_body"
    )
    compile(source, "candidate", "exec")


WRITTEN = {
    "fence": f"```python\n{BODY}\n```",
    "unclosed fence": f"Sure! Here it is:\n```\n{BODY}",
    "fence closed but not opened": f"{BODY}\n```\nfoo",
    "fence in one line": f"```{BODY}```",
    "tagged fence in one line": f"```python {BODY}```",
    "backticks": f"`{BODY}`",
    "indented, with comment": f"        {BODY}  # faster",
    "crlf": f"\r\n    {BODY}\r\n",
    "expression": BODY.removeprefix("return "),
    "labelled": f"Body: {BODY}",
    "prose before": f"The body is:\n{BODY}",
    "prose after": f"{BODY}\nThis is faster because it's elementwise.",
    "word before": f"Sure\n\n{BODY}",
    "role": f"assistant\n{BODY}",
    "special tokens": f"<|im_start|>assistant\n{BODY}<|im_end|>\n<|im_start|>user\nreturn A",
    "harmony": f"<|channel|>analysis<|message|>return A<|end|><|start|>assistant<|channel|>final<|message|>{BODY}<|return|>",
    "harmony, tokens lost": f"analysisreturn Aassistantfinal{BODY}",
    "thoughts": f"<think>\nreturn A\n</think>\n{BODY}",
    "code after the return": f"{BODY}\n\nclass Other:\n    pass\nyield 3",
    "function": f"def forward(self, A, B):\n    {BODY}",
    "function with annotations": f"def forward(self, A: torch.Tensor, B) -> torch.Tensor:\n        '''doc'''\n        {BODY}",
    "function of another name": f"def f(self, A, B):\n    {BODY}",
    "class Model": f"class Model(nn.Module):\n    def forward(self, A, B):\n        {BODY}",
    "module": DIAG.replace("return self.block(torch.diag(A) @ B) + self.bias", BODY).replace(
        "class Model(", "class ModelNew("
    ),
    "module in a fence": f"Of course.\n```python\nimport torch\nfrom torch import nn\n\nclass ModelNew(nn.Module):\n"
    f"    def forward(self, A, B):\n        {BODY}\n```\nDone.",
}


@pytest.mark.parametrize("text", WRITTEN.values(), ids=WRITTEN)
def test_one_body_however_it_is_written(text: str):
    assert candidate_source(DIAG, text, "forward_body") == CANDIDATE


def test_several_statements_whose_first_line_lost_its_indentation():
    source = candidate_source(
        DIAG, "x = A.unsqueeze(1)\n        if x.sum() > -1:\n            x = x * B\n        return x", "forward_body"
    )
    a, b = torch.rand(4), torch.rand(4, 4)
    assert torch.equal(run(source, a, b), a.unsqueeze(1) * b)


def test_arguments_of_a_whole_function_may_have_other_names():
    source = candidate_source(DIAG, "def forward(self, B, A):\n    return B.unsqueeze(1) * A", "forward_body")
    a, b = torch.rand(4), torch.rand(4, 4)
    assert torch.equal(run(source, a, b), a.unsqueeze(1) * b)


def test_helpers_and_imports_around_a_whole_function_are_kept():
    text = "import math\nimport cmath\n\ndef double(x):\n    return x * cmath.sqrt(4).real\n\ndef forward(self, A, B):\n    return double(A)"
    assert torch.equal(
        run(candidate_source(DIAG, text, "forward_body"), torch.ones(3), torch.ones(3)), 2 * torch.ones(3)
    )


def test_strings_over_several_lines_keep_their_text():
    source = candidate_source(DIAG, 'x = """a\n  b"""\nreturn A * len(x)', "forward_body")
    assert torch.equal(run(source, torch.ones(1), torch.ones(1)), 5 * torch.ones(1))


@pytest.mark.parametrize(
    "text", ["", "   \n", "# nothing", "return A.unsqueeze(1) * (B", "I cannot do that.", "x = A\nreturn x @ ("]
)
def test_what_is_no_body_is_a_syntax_error_of_the_candidate(text: str):
    source = candidate_source(DIAG, text, "forward_body")
    with pytest.raises(SyntaxError):
        compile(source, "candidate", "exec")
    assert "class ModelNew" in source


def test_a_body_without_return_stays_without():
    assert run(candidate_source(DIAG, "x = A", "forward_body"), torch.ones(1), torch.ones(1)) is None


def test_whitespace_and_comments_make_no_difference():
    one = candidate_source(DIAG, "y = A  *  2 # twice\n\n\nreturn ( y )", "forward_body")
    assert one == candidate_source(DIAG, "  y = A * 2\n  # again\n  return y", "forward_body")
    assert candidate_sha256(one) == candidate_sha256(one)
    assert one != candidate_source(DIAG, "y = A * 3\nreturn y", "forward_body")
    nothing = candidate_source(DIAG, "# a", "forward_body")
    assert nothing == candidate_source(DIAG, "  # b", "forward_body")


MODULE = '''import torch
import torch.nn as nn
from torch.utils.cpp_extension import load_inline

SOURCE = """
__global__ void f() {}  // keep
"""


class ModelNew(nn.Module):
    def forward(self, A, B):
        return A  # here
'''


@pytest.mark.parametrize(
    "text",
    [
        f"```python\n{MODULE}```",
        f"Here:\n\n```python\n{DIAG}```\n\nand better:\n\n```python\n{MODULE}```\nIt uses `A`.",
        f"```python\n{MODULE}",
        MODULE,
        MODULE.replace("ModelNew", "Model"),
        f"{MODULE}\n\ndef get_inputs():\n    return []\n\ndef get_init_inputs():\n    return []\n",
        f"{MODULE}\nThis is faster than it was before.",
        f"Here is the module:\n{MODULE}",
    ],
)
def test_module_action(text: str):
    source = candidate_source(DIAG, text, "module")
    assert source == candidate_source(DIAG, MODULE, "module")
    assert "\\n__global__ void f() {}  // keep\\n" in source


def test_a_module_that_builds_on_the_reference_keeps_it():
    text = DIAG + "\n\nclass ModelNew(Model):\n    pass\n"
    a, b = torch.rand(4), torch.rand(4, 4)
    assert torch.allclose(run(candidate_source(DIAG, text, "module"), a, b), 2 * a.unsqueeze(1) * b + 1)


def test_a_module_that_does_not_parse_is_a_syntax_error_of_the_candidate():
    source = candidate_source(DIAG, "```python\nclass ModelNew(nn.Module:\n    pass\n```", "module")
    with pytest.raises(SyntaxError):
        compile(source, "candidate", "exec")


@pytest.mark.parametrize("action", ["forward_body", "module"])
@pytest.mark.parametrize(
    "text",
    [
        "\0return A",
        "return '\ud800'",
        "(" * 10_000,
        "-" * 100_000 + "x",
        "return " + "+".join("x" * 3000),
        "lambda: " * 20_000,
        "a b " * 250_000,
        "`" * 1_000_000,
        "\n" * 1_000_000,
        "<|a|>" * 200_000,
        "if a:\n" * 3000,
        "return (\n" * 2000,
        "return f'{x!r:{\"a\"}}'",
        "```python\n" * 100_000,
    ],
    ids=range(14),
)
def test_hostile_text_gives_a_candidate_in_bounded_time(text: str, action: str):
    start = time.monotonic()
    source = candidate_source(DIAG, text, action)
    assert time.monotonic() - start < 10  # quadratic work on a megabyte would be minutes
    assert len(candidate_sha256(source)) == 64
    assert "\0" not in source
    source.encode()


@pytest.mark.parametrize("reference", ["", "not python (", "x = 1", "class Model:\n    pass", "\0"])
def test_a_reference_that_is_no_task_still_gives_a_candidate(reference: str):
    assert "return x" in candidate_source(reference, "return x", "forward_body")


@settings(max_examples=100)
@given(st.text(max_size=300), st.sampled_from(["forward_body", "module"]))
def test_any_text_gives_a_candidate(text: str, action: str):
    source = candidate_source(DIAG, text, action)
    assert candidate_source(DIAG, text, action) == source
    candidate_sha256(source)


PIECES = st.sampled_from(
    [
        "```python\n",
        "```",
        "return ",
        "def forward(self, A):",
        "\n    ",
        "\n",
        "A",
        " = ",
        "(",
        ")",
        '"""',
        "class Model:",
        "if A:",
        ",",
        ":",
    ]
)


@settings(max_examples=150)
@given(st.lists(PIECES, max_size=30).map("".join), st.sampled_from(["forward_body", "module"]))
def test_any_text_that_looks_like_code_gives_a_candidate(text: str, action: str):
    candidate_source(DIAG, text, action)


EXPRESSIONS = st.recursive(
    st.sampled_from(["A", "B", "2.0", "self.bias"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "*", "@"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        inner.map(lambda x: f"torch.relu({x})"),
    ),
    max_leaves=6,
)
BODIES = st.tuples(st.lists(st.tuples(st.sampled_from("xyz"), EXPRESSIONS), max_size=3), EXPRESSIONS).map(
    lambda t: "\n".join([*(f"{name} = {value}" for name, value in t[0]), f"return {t[1]}"])
)


@settings(max_examples=100)
@given(
    BODIES, st.integers(0, 8), st.sampled_from(["", "Here is the code:\n", "Sure!\n\n"]), st.booleans(), st.booleans()
)
def test_a_body_survives_fences_prose_and_indentation(body: str, margin: int, before: str, fenced: bool, closed: bool):
    indented = "\n".join(" " * margin + line for line in body.split("\n"))
    text = f"{before}```python\n{indented}\n" + "```\nIt is faster." * closed if fenced else before + indented
    assert candidate_source(DIAG, text, "forward_body") == candidate_source(DIAG, body, "forward_body")
