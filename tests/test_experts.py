"""Expert solutions: the fastest honest forms that are known, which say where there is something to be won at all.

`experts/forward_body/{task}.py` holds a whole `forward` in plain PyTorch, `experts/module/{task}.py` a module with
kernels for a GPU. Their docstrings say why they are faster, or why nothing is. Nothing here is timed.
"""

import ast
import copy
import importlib.util
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from expert_tail.evaluator.correctness import VARIATIONS, expect, mismatch, vary
from expert_tail.policy.action import candidate_source
from expert_tail.tasks import load_suite

FOLDER = Path(__file__).with_name("experts")
FORWARD_BODIES = {int(path.stem): path for path in sorted(FOLDER.glob("forward_body/*.py"))}
MODULES = {int(path.stem): path for path in sorted(FOLDER.glob("module/*.py"))}
REFERENCES = {task.task_id: task.reference_source for task in load_suite("level1", "cpu")}
EVALUATION = {4, 5, 12, 14, 15, 18, 28, 29, 30, 32, 36, 55, 65, 70, 76, 82, 87, 89, 95, 98}
KERNEL = "@triton.jit", "load_inline("


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As in the evaluator; and where others run, two threads that wait for each other take three times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def executed(source: str) -> types.ModuleType:
    module = types.ModuleType("candidate")
    exec(compile(source, "candidate", "exec"), module.__dict__)
    return module


def perturbed(model: torch.nn.Module) -> torch.nn.Module:
    """With other parameters and statistics than those of a new model: a norm's weight is 1, and its bias 0."""
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.mul_(0.75 + 0.5 * torch.rand_like(value)).add_(0.05 * torch.rand_like(value))
    return model


def one_call(output: torch.Tensor) -> torch.Tensor:
    """The values of one call, as the evaluator compares them."""
    return output.cpu().reshape(1, -1)


def check(task: int, make: Callable[..., torch.nn.Module], device: str = "cpu") -> None:
    """What `make` makes of init inputs computes what the task's reference does, within the evaluator's tolerance.

    On two of the evaluator's variations of inputs: the hardest ones that the task allows.
    """
    torch.manual_seed(1)
    module = executed(REFERENCES[task])
    arguments = module.get_init_inputs()
    reference = perturbed(module.Model(*arguments))
    candidate = make(*arguments)
    candidate.load_state_dict(reference.state_dict())  # the reference's names and shapes
    candidate.to(device)
    checked = 0
    for variation in reversed(VARIATIONS):
        inputs = [x.contiguous() if isinstance(x, torch.Tensor) else x for x in module.get_inputs()]
        vary(inputs, variation, torch.Generator().manual_seed(1))
        with torch.no_grad():
            double = [x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in inputs]
            exact = copy.deepcopy(reference).double()(*double)
            computed = copy.deepcopy(reference)(*inputs)
            if not (exact.isfinite().all() and computed.isfinite().all()):
                continue  # the task does not allow this variation
            given = [x.to(device) if isinstance(x, torch.Tensor) else x for x in inputs]
            before = copy.deepcopy(given)
            output = candidate(*given)
        assert type(output) is torch.Tensor
        assert (output.shape, output.dtype) == (computed.shape, computed.dtype)
        expected = expect(one_call(computed), one_call(exact))
        assert mismatch(one_call(output), expected) == "", variation.__name__
        assert all(a.equal(b) for a, b in zip(given, before, strict=True) if isinstance(a, torch.Tensor))
        checked += 1
        if checked == 2:
            return
    assert checked


def test_every_evaluation_task_has_an_expert_and_so_have_many_training_tasks() -> None:
    assert FORWARD_BODIES.keys() >= EVALUATION
    assert len(FORWARD_BODIES.keys() - EVALUATION) >= 40
    assert FORWARD_BODIES.keys() <= REFERENCES.keys()
    assert len(MODULES) >= 12
    assert MODULES.keys() <= REFERENCES.keys()


@pytest.mark.parametrize("task", FORWARD_BODIES)
def test_a_file_holds_one_forward_of_the_references_arguments_that_says_why(task: int) -> None:
    tree = ast.parse(FORWARD_BODIES[task].read_text())
    *imports, forward = tree.body
    assert all(isinstance(node, ast.Import) for node in imports)
    assert isinstance(forward, ast.FunctionDef)
    assert forward.name == "forward"
    assert ast.unparse(forward.args) == ast.unparse(method_of(REFERENCES[task], "Model", "forward").args)
    docstring = ast.get_docstring(forward)
    assert docstring
    assert len(docstring.splitlines()) <= 4


@pytest.mark.parametrize("task", FORWARD_BODIES)
def test_a_forward_computes_what_the_reference_does(task: int) -> None:
    source = candidate_source(REFERENCES[task], FORWARD_BODIES[task].read_text(), "forward_body")
    ast.parse(source)
    check(task, executed(source).ModelNew)


def method_of(source: str, name: str, method: str) -> ast.FunctionDef:
    """A method of a class, or an empty `__init__` where the class defines none."""
    (found,) = [n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == name]
    methods = [n for n in found.body if isinstance(n, ast.FunctionDef) and n.name == method]
    return methods[0] if methods else ast.parse("def __init__(self): pass").body[0]  # type: ignore[return-value]


@pytest.mark.parametrize("task", MODULES)
def test_a_module_defines_a_model_like_the_reference(task: int) -> None:
    source = MODULES[task].read_text()
    assert ast.get_docstring(ast.parse(source))
    assert any(kernel in source for kernel in KERNEL)
    assert candidate_source(REFERENCES[task], source, "module")
    for method in ("__init__", "forward"):
        own, reference = (
            method_of(source, "ModelNew", method).args,
            method_of(REFERENCES[task], "Model", method).args,
        )
        assert ast.unparse(own) == ast.unparse(reference)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("task", MODULES)
def test_a_module_computes_what_the_reference_does(task: int) -> None:
    spec = importlib.util.spec_from_file_location(f"expert_{task}", MODULES[task])  # Triton reads a kernel's file
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    check(task, module.ModelNew, "cuda")
