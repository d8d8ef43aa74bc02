"""The built-in suite runs and has the right shapes; suites load or say what is wrong; the split; no torch at import.

With KERNELBENCH_CHECKOUT naming a KernelBench checkout, the built-in suite is also compared with it, task by task.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import expert_tail.tasks
from expert_tail.tasks import LEVEL1, SCALES, Task, TaskError, level1, load_suite, render, split

TASK_IDS = list(LEVEL1)
CHECKOUT = os.environ.get("KERNELBENCH_CHECKOUT")
MAX_BYTES = 16 * 2**20  # of a task's inputs and outputs at cpu scale

CONVS = [50, *range(54, 88)]
LOSSES = [94, 95, 96, 98, 99, 100]
REDUCTIONS = [47, 48, 49, 51, 52, 53]
PRODUCT_SHAPES = {
    **dict.fromkeys([1, 13], "N, N"),
    **dict.fromkeys([2, 6, 7, 8, 16, 17, 18], "M, N"),
    **dict.fromkeys([9, 15], "M, M"),
    3: "batch_size, m, n",
    4: "M, 1",
    10: "N, M, L",
    11: "b, i, j, k",
    12: "N, M",
    14: "N, N",
}
GOOD = "class Model: pass\ndef get_inputs(): return []\ndef get_init_inputs(): return []\n"
SUBSETS = {"first": [4, 5, 12], "second": [18, 28]}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def load(source: str, name: str = "task") -> SimpleNamespace:
    namespace: dict[str, Any] = {"__name__": name}
    exec(compile(source, name, "exec"), namespace)
    return SimpleNamespace(**namespace)


def run(module: SimpleNamespace, device: str) -> tuple[nn.Module, list[Any], torch.Tensor]:
    torch.manual_seed(0)
    with torch.device(device), torch.no_grad():
        model = module.Model(*module.get_init_inputs())
        inputs = module.get_inputs()
        return model, inputs, model(*inputs)


def layer_shape(layer: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The output shape of a convolution or pooling layer, by the textbook's formula."""
    batch, channels, *extent = shape

    def option(name: str, default: int) -> tuple[int, ...]:
        value = getattr(layer, name, default)
        return value if isinstance(value, tuple) else (value,) * len(extent)

    kernel, stride, padding = option("kernel_size", 1), option("stride", 1), option("padding", 0)
    dilation, output_padding = option("dilation", 1), option("output_padding", 0)
    result = []
    for i, size in enumerate(extent):
        reach = dilation[i] * (kernel[i] - 1) + 1
        if isinstance(layer, nn.modules.conv._ConvTransposeNd):
            result.append((size - 1) * stride[i] - 2 * padding[i] + reach + output_padding[i])
        else:
            result.append((size + 2 * padding[i] - reach) // stride[i] + 1)
    return (batch, getattr(layer, "out_channels", channels), *result)


def expected_shape(task_id: int, module: SimpleNamespace, model: nn.Module, inputs: list[Any]) -> tuple[int, ...]:
    first = tuple(inputs[0].shape)
    if task_id in PRODUCT_SHAPES:
        return eval(f"({PRODUCT_SHAPES[task_id]})", vars(module))
    if task_id in LOSSES:
        return ()
    if task_id in REDUCTIONS:
        return (first[0], 1, first[2]) if task_id == 47 else (first[0], first[2])
    if task_id in CONVS or 41 <= task_id <= 46:
        for layer in model.children():
            first = layer_shape(layer, first)
    return first


def check_output(task_id: int, module: SimpleNamespace, model: nn.Module, inputs: list[Any], output: object) -> None:
    assert isinstance(output, torch.Tensor)
    assert tuple(output.shape) == expected_shape(task_id, module, model, inputs)
    assert output.dtype == (torch.int64 if task_id in (51, 52) else torch.float32)


@pytest.mark.parametrize("task_id", TASK_IDS)
def test_cpu_task_runs(task_id: int) -> None:
    module = load(render(task_id, "cpu"))
    model, inputs, output = run(module, "cpu")
    check_output(task_id, module, model, inputs, output)
    assert torch.isfinite(output).all()
    tensors = [value for value in [*inputs, output] if isinstance(value, torch.Tensor)]
    assert sum(tensor.nbytes for tensor in tensors) <= MAX_BYTES


@pytest.mark.parametrize("task_id", TASK_IDS)
def test_gpu_task_has_consistent_shapes(task_id: int) -> None:
    module = load(render(task_id, "gpu"))
    check_output(task_id, module, *run(module, "meta"))


@pytest.mark.parametrize("scale", SCALES)
def test_level1(scale: str) -> None:
    tasks = level1(scale)
    assert [task.task_id for task in tasks] == list(range(1, 101))
    assert {task.level for task in tasks} == {1}
    assert tasks == load_suite("level1", scale) == level1(scale)
    assert all(task.name.startswith(f"{task.task_id}_") for task in tasks)
    assert len({task.name for task in tasks}) == len({task.source_sha256 for task in tasks}) == 100
    for task in tasks:
        assert task.reference_source == render(task.task_id, scale)
        assert max(map(len, task.reference_source.splitlines())) <= 120
        ast.parse(task.reference_source)


@pytest.mark.parametrize("task_id", TASK_IDS)
def test_scales_differ_in_sizes_only(task_id: int) -> None:
    workload = LEVEL1[task_id]
    lines = [render(task_id, scale).splitlines() for scale in ("gpu", "cpu")]
    changed = {gpu.split(" = ")[0] for gpu, cpu in zip(*lines, strict=True) if gpu != cpu}
    assert changed == {name for name, (gpu, cpu) in workload.sizes.items() if gpu != cpu}
    assert changed
    assert all(gpu >= cpu > 0 for gpu, cpu in workload.sizes.values())


def test_facts() -> None:
    assert "return torch.diag(A) @ B" in render(12, "gpu")
    assert LEVEL1[12].full_name == "12_Matmul_with_diagonal_matrices_"
    model, inputs, _ = run(load(render(75, "gpu")), "meta")
    assert inputs[0].shape == (16, 32, 128, 256)
    assert model.get_parameter("conv_transpose2d.weight").shape == (32, 16, 3, 5)
    model, *_ = run(load(render(73, "cpu")), "meta")
    assert model.get_parameter("conv_transpose3d.weight").shape == (32, 32, 3, 3, 3)  # one group, not four


def test_package_imports_without_torch() -> None:
    code = "import expert_tail.tasks as t, sys; t.level1('cpu'); assert 'torch' not in sys.modules"
    source = str(Path(expert_tail.tasks.__file__).parents[2])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": source})


def test_render_does_not_depend_on_the_process() -> None:
    code = "from expert_tail.tasks import level1; print([t.source_sha256 for s in ('cpu', 'gpu') for t in level1(s)])"
    env = {**os.environ, "PYTHONPATH": str(Path(expert_tail.tasks.__file__).parents[2]), "PYTHONHASHSEED": "7"}
    output = subprocess.run([sys.executable, "-c", code], check=True, env=env, capture_output=True, text=True).stdout
    assert output.strip() == str([task.source_sha256 for scale in ("cpu", "gpu") for task in level1(scale)])


def test_bad_arguments() -> None:
    with pytest.raises(TaskError, match=r"level1 has no task 101.*from 1 to 100"):
        render(101, "cpu")
    for call in (lambda: render(1, "tpu"), lambda: level1("tpu"), lambda: load_suite("level1", "tpu")):
        with pytest.raises(TaskError, match="unknown scale 'tpu': use one of cpu, gpu"):
            call()


def test_split() -> None:
    tasks = level1("cpu")
    found = split(tasks, SUBSETS)
    assert list(found) == TASK_IDS
    assert (found[5], found[28], found[6]) == ("first", "second", "train")
    assert {name: [i for i in TASK_IDS if found[i] == name] for name in SUBSETS} == {
        name: sorted(ids) for name, ids in SUBSETS.items()
    }
    assert sum(name == "train" for name in found.values()) == 95


@pytest.mark.parametrize(
    ("subsets", "message"),
    [
        ({"first": [1, 101]}, "subset 'first' names task 101, which the suite does not have"),
        ({"first": ["1"]}, "subset 'first' names task '1', which"),
        ({"first": [1, 2], "second": [2]}, "task 2 is in subset 'first' and in 'second'"),
        ({"first": [3, 3]}, "task 3 is in subset 'first' and in 'first'"),
        ({"train": [1]}, "cannot be called 'train'"),
    ],
)
def test_bad_split(subsets: Mapping[str, list[int]], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        split(level1("cpu"), subsets)


def write_folder(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    folder.mkdir(exist_ok=True)
    return folder


def write_parquet(path: Path, **columns: list[Any] | None) -> Path:
    table = {"problem_id": [2, 1], "name": ["2_b", "1_a"], "code": [GOOD, GOOD], "level": [1, 1], **columns}
    pq.write_table(pa.table({name: values for name, values in table.items() if values is not None}), path)
    return path


def test_load_one_level(tmp_path: Path) -> None:
    files = {"10_c.py": GOOD, "2_b.py": "\ufeff" + GOOD.replace("\n", "\r\n"), "__init__.py": "", "README.md": "x"}
    folder = write_folder(tmp_path / "KernelBench" / "level3", files)
    expected = [Task(2, "2_b", 3, GOOD), Task(10, "10_c", 3, GOOD)]
    for source in (folder, folder.parent, tmp_path):
        assert load_suite(str(source), "cpu") == expected


def test_load_folder_that_names_no_level(tmp_path: Path) -> None:
    assert load_suite(str(write_folder(tmp_path / "own", {"7_x.py": GOOD})), "gpu") == [Task(7, "7_x", 0, GOOD)]


def test_load_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_folder(tmp_path / "level1", {"7_x.py": GOOD}))
    assert load_suite(".", "gpu") == [Task(7, "7_x", 1, GOOD)]
    monkeypatch.chdir(tmp_path)
    assert load_suite("./level1", "gpu") == [Task(7, "7_x", 1, GOOD)]


def test_load_several_levels(tmp_path: Path) -> None:
    write_folder(tmp_path, {"level1/3_a.py": GOOD, "level4/3_b.py": GOOD})
    assert [(t.task_id, t.name, t.level) for t in load_suite(str(tmp_path), "cpu")] == [
        (1003, "3_a", 1),
        (4003, "3_b", 4),
    ]


def test_load_parquet(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "suite.parquet", extra=["x", "y"])
    assert load_suite(str(path), "cpu") == [Task(1, "1_a", 1, GOOD), Task(2, "2_b", 1, GOOD)]
    path = write_parquet(tmp_path / "levels.parquet", problem_id=[1, 1], level=[2, 1])
    assert [(task.task_id, task.level) for task in load_suite(str(path), "cpu")] == [(1001, 1), (2001, 2)]


def test_rendered_suite_survives_a_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "level1", {f"{task.name}.py": task.reference_source for task in level1("gpu")})
    assert load_suite(str(tmp_path), "cpu") == level1("gpu")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"no problem files \(N_Name.py\)"),
        ({"README.md": "x"}, "no problem files"),
        ({"a.parquet": "x"}, "give a Parquet file by its own path"),
        ({"1_a.py": GOOD + "def f(:\n"}, r"1_a\.py: line 4: not valid Python \("),
        ({"1_a.py": GOOD + "x = '\0'\n"}, r"1_a\.py: line 4: not valid Python"),
        ({"1_a.py": GOOD.encode() + b"# \xff\n"}, r"1_a\.py: line 4: not UTF-8"),
        ({"1_a.py": "-" * 100_000 + "1\n"}, r"1_a\.py: .*(too deeply|not valid Python)"),
        ({"1_a.py": ""}, "defines no class Model"),
        ({"1_a.py": GOOD.replace("Model", "Net")}, r"1_a\.py: defines no class Model"),
        ({"1_a.py": GOOD.replace("get_inputs", "inputs")}, "defines no function get_inputs"),
        ({"1_a.py": GOOD.replace("get_init_inputs", "init")}, "defines no function get_init_inputs"),
        ({"1_a.py": GOOD, "01_b.py": GOOD}, r"problem id 1 of level 0 is already taken by .*01_b\.py"),
        ({"1_a.py": GOOD, "helper.py": GOOD}, r"helper\.py: not named like a problem file: rename it N_Name\.py"),
        ({"level1/1_a.py": GOOD, "level2/1000_b.py": GOOD}, r"1000_b\.py: problem id 1000 is above 999"),
        ({"level1/1_a.py/x": ""}, r"1_a\.py: cannot be read"),
    ],
)
def test_bad_folder(tmp_path: Path, files: Mapping[str, str | bytes], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        load_suite(str(write_folder(tmp_path / "suite", files)), "cpu")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"code": None, "level": None}, "missing column code, level: KernelBench's columns are problem_id, name, code"),
        ({"problem_id": [1, 1]}, r"row 2 \(1_a\): problem id 1 of level 1 is already taken by .*row 1 \(2_b\)"),
        ({"problem_id": [1, None]}, "row 2: column problem_id is None: it must be a whole number"),
        ({"problem_id": [1.0, 2.0]}, "row 1: column problem_id is 1.0"),
        ({"level": [1, -1]}, "row 2: column level is -1: it must not be negative"),
        ({"name": [None, "a"]}, "row 1: column name is None: it must be text"),
        ({"code": [GOOD, "def"]}, r"row 2 \(1_a\): line 1: not valid Python"),
        ({"code": [GOOD, "x = 1"]}, r"row 2 \(1_a\): defines no class Model"),
        ({"problem_id": [], "name": [], "code": [], "level": []}, "has no rows"),
    ],
)
def test_bad_parquet(tmp_path: Path, columns: Mapping[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        load_suite(str(write_parquet(tmp_path / "suite.parquet", **columns)), "cpu")


def without_tail(data: bytes) -> bytes:
    return data[: len(data) // 2]


def without_pages(data: bytes) -> bytes:
    return data[:4] + bytes(len(data) // 2 - 4) + data[len(data) // 2 :]


@pytest.mark.parametrize("damage", [without_tail, without_pages, lambda _: b"", lambda _: GOOD.encode()])
def test_damaged_parquet(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = write_parquet(tmp_path / "suite.parquet", code=[GOOD + "#" + os.urandom(2000).hex()] * 2)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(TaskError, match=r"suite\.parquet: not a whole Parquet file \(.*fetch it again"):
        load_suite(str(path), "cpu")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("levl1", "unknown suite 'levl1'.*did you mean 'level1'"),
        ("level2", "suite 'level2' is not built in and no such folder exists: give level1"),
        ("/no/such/folder", "unknown suite '/no/such/folder'.*give level1"),
    ],
)
def test_unknown_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError, match=message):
        load_suite(source, "cpu")


def with_constants(source: str, values: Mapping[str, Any]) -> str:
    """The module with its size constants replaced by those of the same name in `values`."""
    tree = ast.parse(source)
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in values:
                node.value = ast.Constant(values[name])
            elif name == "input_shape" and "length" in values:
                node.value = ast.Tuple([ast.Constant(values["length"])], ast.Load())
    return ast.unparse(ast.fix_missing_locations(tree))


def described(values: list[Any]) -> list[Any]:
    return [(value.shape, value.dtype) if isinstance(value, torch.Tensor) else value for value in values]


@pytest.mark.skipif(CHECKOUT is None, reason="set KERNELBENCH_CHECKOUT to a KernelBench checkout")
@pytest.mark.parametrize("task_id", TASK_IDS)
def test_same_as_kernelbench(task_id: int) -> None:
    name = LEVEL1[task_id].full_name
    source = (Path(CHECKOUT or "") / "KernelBench" / "level1" / f"{name}.py").read_text()
    theirs, ours = load(source, f"kernelbench.{name}"), load(render(task_id, "cpu"))

    # Their model with our initial inputs, parameters and inputs.
    torch.manual_seed(1)
    model, other = ours.Model(*ours.get_init_inputs()), theirs.Model(*ours.get_init_inputs())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    other.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():
        inputs = ours.get_inputs()
        torch.testing.assert_close(other(*inputs), model(*inputs), rtol=1e-6, atol=1e-6)

    # Their inputs at our sizes, from the same seed; task 50 has its sizes in no constant.
    if task_id != 50:
        resized = load(with_constants(source, {size: cpu for size, (_, cpu) in LEVEL1[task_id].sizes.items()}))
        drawn = []
        for module in (ours, resized):
            torch.manual_seed(2)
            drawn.append(module.get_inputs())
        torch.testing.assert_close(*drawn, rtol=0, atol=0)

    # The sizes at gpu scale, without allocating them.
    large = load(render(task_id, "gpu"))
    assert large.get_init_inputs() == theirs.get_init_inputs()
    (_, inputs, output), (_, other_inputs, other_output) = run(large, "meta"), run(theirs, "meta")
    assert described([*inputs, output]) == described([*other_inputs, other_output])


@pytest.mark.skipif(CHECKOUT is None, reason="set KERNELBENCH_CHECKOUT to a KernelBench checkout")
def test_kernelbench_checkout_loads() -> None:
    folder = Path(CHECKOUT or "") / "KernelBench"
    tasks = load_suite(str(folder / "level1"), "gpu")
    assert [(task.task_id, task.name, task.level) for task in tasks] == [
        (task.task_id, task.name, task.level) for task in level1("gpu")
    ]
    assert {task.task_id // 1000 for task in load_suite(CHECKOUT or "", "gpu")} == {1, 2, 3, 4}
