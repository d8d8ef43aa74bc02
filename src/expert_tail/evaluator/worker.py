"""The process a candidate runs in. Nothing here is trusted: the verdict never rests on what this side computes.

One worker holds one module, the candidate or the reference. It takes commands from the parent over a socket and answers
with JSON; between an answer and the next command it is frozen. Input buffers are allocated once. For a run the parent
writes the inputs into them while the worker is frozen and waits for a command, starts its own clock, lets it go on, and at
the answer freezes it again and reads the outputs; on a GPU the clock runs until they are copied. So there is no moment in
which the candidate knows its inputs and is not on the clock, and none off the clock in which it could still finish its work.
"""

import contextlib
import copy
import ctypes
import gc
import importlib.util
import io
import json
import math
import os
import pickle
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from expert_tail.errors import is_out_of_memory
from expert_tail.evaluator import cuda
from expert_tail.evaluator.compilers import FOLDER, use_folder
from expert_tail.evaluator.sandbox import Limits, confine

MAX_MESSAGE = 1 << 17
# Not JSON: nothing to parse on the clock. A number of calls follows.
RUN, RUN_KEEPING = b"run", b"run keeping"
RUN_IDLE, RUN_NOTHING = b"run idle", b"run nothing"
RUN_DOUBLE, RUN_PRECISE = b"run double", b"run precise"  # the reference's, in float64, or in float32 but not in TF32
INPUTS = "inputs"  # stands for the handle of the parent's buffer
ERROR_CHARACTERS = 4000
MAX_OUTPUTS = 64


def main(channel: socket.socket, scratch: str, limits: Limits) -> None:
    """Serve commands until the channel closes."""
    os.chdir(scratch)
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)
    gc.disable()
    if limits.device == "cuda":
        _start_cuda()  # a context opens devices and files that the sandbox hides
    confine(scratch, limits)
    # Parts of torch that are imported late look for folders that they can make files in: there is none, and they make none.
    tempfile.tempdir = os.environ["TORCHINDUCTOR_CACHE_DIR"] = scratch
    worker = _Worker(limits.device, limits.compiles)
    channel.send(b"ready")
    while message := channel.recv(MAX_MESSAGE):
        try:
            if message.startswith(RUN):
                answer = worker.run(message)
            else:
                command = json.loads(message)
                answer = json.dumps(getattr(worker, "do_" + command.pop("do"))(**command))
        except BaseException as error:  # a candidate may raise anything, SystemExit included
            answer = json.dumps({"failed": _kind(error), "error": _describe(error)})
        channel.send(answer.encode())


_synchronize = torch.cuda.synchronize  # before a candidate can put another in its place


class _Worker:
    module: ModuleType
    model: torch.nn.Module
    double: torch.nn.Module

    def __init__(self, device: str, compiles: bool) -> None:
        self.device, self.compiles = torch.device(device), compiles
        self.arguments: list[list[Any]] = []
        self.outputs: list[Any] = []
        self.previous: list[Any] = []
        self.mapped = 0  # address of the parent's buffer

    # Commands of both sides

    def run(self, command: bytes) -> str:
        """Run the model on the first calls' inputs; what and where their outputs are.

        `RUN_KEEPING` keeps the previous outputs alive; `RUN_IDLE` runs nothing and describes them again; `RUN_NOTHING` no more
        than uses the device.
        """
        kind, _, n_calls = command.rpartition(b" ")
        if kind in (RUN_IDLE, RUN_NOTHING):
            torch.zeros(1, device=self.device)
        else:
            self.previous = self.outputs if kind == RUN_KEEPING else []
            self.outputs = []
            model = self.double if kind == RUN_DOUBLE else self._precise if kind == RUN_PRECISE else self.model
            outputs = []
            with torch.no_grad():
                for inputs in self.arguments[: int(n_calls)]:
                    arguments = [x.view(x.shape) if isinstance(x, torch.Tensor) else x for x in inputs]
                    if kind == RUN_DOUBLE:
                        arguments = [_double(x) for x in arguments]
                    outputs.append(_settled(model(*arguments)))
            self.outputs = outputs
        if self.device.type == "cuda":
            _synchronize()
        answered = [] if kind == RUN_NOTHING else self.outputs
        described = ", ".join(f"[{', '.join(_outputs(output)[:MAX_OUTPUTS])}]" for output in answered)
        return f'{{"outputs": [{described}], "spans": {self._spans(answered)}}}'

    def _spans(self, values: list[Any]) -> str:
        """The device memory that tensors lie in, as JSON: (allocation, its handle, first byte, end)."""
        if self.device.type == "cpu":
            return "[]"
        found: dict[int, list[int]] = {}
        for value in _tensors(values):
            if value.device.type == "cuda" and value.numel():
                base = cuda.range_of(value.data_ptr()).base
                low = value.data_ptr() - base
                extent = 1 + sum((n - 1) * stride for n, stride in zip(value.shape, value.stride(), strict=True))
                span = found.setdefault(base, [low, 0])
                span[:] = [min(span[0], low // 256 * 256), max(span[1], low + extent * value.element_size())]
        return json.dumps([[base, self._handle(base), low, high] for base, (low, high) in found.items()])

    def _handle(self, base: int) -> str:
        return INPUTS if base == self.mapped else cuda.export(base).hex()  # what is not one's own cannot be exported

    def do_load(self, path: str) -> dict[str, Any]:
        if self.compiles or Path(FOLDER).is_dir():
            use_folder(Path(FOLDER).absolute(), self.compiles)
        spec = importlib.util.spec_from_file_location("candidate", path)
        assert spec is not None
        assert spec.loader is not None
        self.module = importlib.util.module_from_spec(spec)
        sys.modules["candidate"] = self.module
        try:
            spec.loader.exec_module(self.module)
        except BaseException as error:
            return {
                "failed": "out_of_memory" if is_out_of_memory(error) else "compile_error",
                "error": _describe(error),
            }
        return {"loaded": True}

    def do_construct(self, name: str, blob: str, seed: int) -> dict[str, Any]:
        """Make the model from a file of pickled init inputs and, where they fit, the reference's parameters."""
        if not callable(cls := getattr(self.module, name, None)):
            return {"failed": "compile_error", "error": f"the module defines no class {name}"}
        with open(blob, "rb") as file:
            init_inputs, state, parameters = pickle.load(file)
        torch.manual_seed(seed)
        self.model = cls(*init_inputs).to(self.device)
        own = self.model.state_dict()
        names = _matching(own, {name for name, _ in self.model.named_parameters()}, state, set(parameters))
        if names is not None:
            given = {name: state[other].reshape(own[name].shape) for name, other in names.items()}
            self.model.load_state_dict(given, strict=False)
        return {"parameters": "own" if names is None else "given"}

    def do_allocate(
        self,
        specs: list[dict[str, Any]],
        offsets: list[int | None],
        call_bytes: int,
        n_calls: int,
        n_bytes: int,
        handle: str | None,
    ) -> dict[str, Any]:
        """The buffer for inputs of `n_calls` calls, one's own or the parent's on a device; answers its address."""
        self.arguments = []
        if handle is None:
            buffer = torch.zeros(n_bytes, dtype=torch.uint8)  # touched, so that the parent can write there
        else:
            if self.mapped:
                cuda.close_handle(self.mapped)
            self.mapped = cuda.open_handle(bytes.fromhex(handle))
            buffer = cuda.tensor_at(self.mapped, n_bytes, self.device)
        for call in range(n_calls):
            arguments: list[Any] = []
            for spec, offset in zip(specs, offsets, strict=True):
                if offset is None:
                    arguments.append(spec["value"])
                    continue
                shape, dtype = spec["shape"], getattr(torch, spec["dtype"])
                start = call * call_bytes + offset
                piece = buffer[start : start + math.prod(shape) * dtype.itemsize]
                arguments.append(
                    piece.view(dtype).view(shape) if piece.numel() else piece.new_empty(shape, dtype=dtype)
                )
            self.arguments.append(arguments)
        return {"address": buffer.data_ptr()}

    def do_rehearse(self, path: str) -> dict[str, Any]:
        """Run the model once on inputs of the task, so that all that it compiles is compiled."""
        spec = importlib.util.spec_from_file_location("reference", path)
        assert spec is not None
        assert spec.loader is not None
        reference = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(reference)
        with self.device:
            drawn = reference.get_inputs()
        with torch.no_grad():
            self.model(*[x.to(self.device) if isinstance(x, torch.Tensor) else x for x in drawn])
        if self.device.type == "cuda":
            _synchronize()
        return {"done": True}

    # Commands of the reference alone

    def do_describe(self, blob: str, seed: int) -> dict[str, Any]:
        """Build the reference, perturb its parameters, and write init inputs and parameters to the file `blob`.

        Perturbed, since a norm with weight 1 and bias 0 hides a candidate that has no affine part.
        """
        torch.manual_seed(seed)
        init_inputs = self.module.get_init_inputs()
        torch.manual_seed(seed)
        self.model = self.module.Model(*init_inputs).to(self.device)
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                if value.is_floating_point():
                    noise = torch.rand_like(value)
                    value.mul_(0.75 + 0.5 * noise)
                    if not name.endswith("running_var"):
                        value.add_(0.1 * (torch.rand_like(value) - 0.5) * value.abs().mean().clamp_min(0.1))
        self.double = copy.deepcopy(self.model).double()
        buffer = io.BytesIO()
        state = {name: value.cpu() for name, value in self.model.state_dict().items()}
        pickle.dump((init_inputs, state, [name for name, _ in self.model.named_parameters()]), buffer)
        with open(blob, "wb") as file:
            file.write(buffer.getvalue())
        return {"done": True}

    def _precise(self, *arguments: Any) -> Any:
        """The model without TF32, which torch takes for convolutions on a GPU, and for products where it is told to."""
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                return self.model(*arguments)
        finally:
            torch.set_float32_matmul_precision(before)

    def do_draw(self, seed: int) -> dict[str, Any]:
        """Draw inputs; answers plain values, and where the tensors lie."""
        torch.manual_seed(seed)
        self.held: list[Any] = []
        with self.device:
            drawn = self.module.get_inputs()
        self.held += [x.to(self.device).contiguous() if isinstance(x, torch.Tensor) else x for x in drawn]
        if self.device.type == "cuda":
            _synchronize()
        described = [json.loads(_tensor(x)) if isinstance(x, torch.Tensor) else {"value": x} for x in self.held]
        return {"drawn": [described, json.loads(self._spans(self.held))]}

    def do_release(self) -> dict[str, Any]:
        """Give back all memory that is not needed for the next command."""
        self.held, self.outputs, self.previous = [], [], []
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return {"done": True}


def _start_cuda() -> None:
    square = torch.ones(64, 64, device="cuda")
    _ = square @ square  # cuBLAS is made ready, too
    torch.cuda.synchronize()


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _settled(output: Any) -> Any:
    """The output, with negations that torch has only noted carried out: in memory its sign would be wrong."""
    if type(output) is torch.Tensor:
        return output.resolve_neg() if output.is_neg() else output
    return type(output)(map(_settled, output)) if type(output) in (tuple, list) else output


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if type(value) is torch.Tensor or type(value) is torch.nn.Parameter:
        yield value
    elif type(value) is tuple or type(value) is list:
        for item in value:
            yield from _tensors(item)


def _matching(
    own: dict[str, torch.Tensor], own_parameters: set[str], given: dict[str, torch.Tensor], parameters: set[str]
) -> dict[str, str] | None:
    """For each own tensor of a state the given one it takes, which may have axes of length one more or less.

    By name; else in order among those of their shape, parameters and buffers each by themselves; then what is left of the
    parameters goes anywhere. A candidate may have more, and need not have the buffers. None: a parameter is left.
    """
    found: dict[str, str] = {}

    def pair(names: Iterable[str], others: Iterable[str], by_name: bool) -> None:
        taken = set(found.values())
        waiting: dict[Any, list[str]] = {}
        for other in others:
            if other not in taken:
                waiting.setdefault((other if by_name else None, given[other].squeeze().shape), []).append(other)
        for name in names:
            fits = waiting.get((name if by_name else None, own[name].squeeze().shape))
            if name not in found and fits:
                found[name] = fits.pop(0)

    own_buffers, buffers = own.keys() - own_parameters, given.keys() - parameters
    pair(own, given, by_name=True)
    pair([n for n in own if n in own_parameters], [n for n in given if n in parameters], by_name=False)
    pair([n for n in own if n in own_buffers], [n for n in given if n in buffers], by_name=False)
    pair(own, [n for n in given if n in parameters], by_name=False)
    return found if parameters <= set(found.values()) else None


def _outputs(output: Any, place: tuple[int, ...] = ()) -> list[str]:
    kind = type(output)
    if kind is torch.Tensor or kind is torch.nn.Parameter:
        return [_tensor(output, place)]
    if kind is tuple or kind is list:
        return [description for i, item in enumerate(output) for description in _outputs(item, (*place, i))]
    return [json.dumps({"type": f"{kind.__module__}.{kind.__qualname__}"[:200]})]


def _tensor(value: torch.Tensor, place: tuple[int, ...] = ()) -> str:
    # Put together by hand, since it is on the clock.
    return (
        f'{{"dtype": "{value.dtype}", "shape": {list(value.shape)}, "strides": {list(value.stride())}, '
        f'"address": {value.data_ptr()}, "device": "{value.device.type}", '
        f'"place": {list(place)}}}'
    )


def _kind(error: BaseException) -> str:
    return "out_of_memory" if is_out_of_memory(error) else "runtime_error"


def _describe(error: BaseException) -> str:
    text = "".join(traceback.format_exception_only(error)).strip()
    with contextlib.suppress(Exception):
        own = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith("candidate.py")]
        if own:
            text = f"line {own[-1].lineno}: {own[-1].line}\n{text}"
    if isinstance(error, PermissionError):
        text += "\n(candidates may start no process, write no file and open no connection)"
    return text[-ERROR_CHARACTERS:]


def become_worker(channel: socket.socket, scratch: str, output: int, limits: Limits) -> None:
    """In a process just forked: own session, no inherited descriptors but the channel; then `main`. Never returns."""
    code = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: die with the fork server
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        keep = channel.fileno()
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            if descriptor > 2 and descriptor != keep:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        main(channel, scratch, limits)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
