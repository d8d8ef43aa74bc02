"""The process a candidate runs in. Nothing here is trusted: the verdict never rests on what this side computes.

One worker holds one module, the candidate or the reference. It takes commands from the parent over a socket and answers
with JSON; between an answer and the next command it is frozen. Input buffers are allocated once. For a run the parent
writes the inputs into them while the worker is frozen and waits for a command, starts its own clock, lets it go on, and at
the answer freezes it again to read the outputs. So there is no moment in which the candidate knows its inputs and is not
on the clock, and none after the answer in which it could still finish its work.
"""

import contextlib
import copy
import ctypes
import gc
import importlib.util
import io
import json
import os
import pickle
import signal
import socket
import sys
import traceback
from types import ModuleType
from typing import Any

import torch

from expert_tail.evaluator.sandbox import Limits, confine

MAX_MESSAGE = 1 << 16
RUN, RUN_KEEPING, RUN_DOUBLE = b"run", b"run keeping", b"run double"  # not JSON: nothing to parse on the clock
ERROR_CHARACTERS = 4000
MAX_OUTPUTS = 64


def main(channel: socket.socket, scratch: str, limits: Limits) -> None:
    """Serve commands until the channel closes."""
    os.chdir(scratch)
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)
    gc.disable()
    confine(scratch, limits)
    worker = _Worker()
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


class _Worker:
    module: ModuleType
    model: torch.nn.Module
    double: torch.nn.Module

    def __init__(self) -> None:
        self.buffers: list[Any] = []
        self.specs: list[dict[str, Any]] = []
        self.output: Any = None
        self.previous: Any = None

    # Commands of both sides

    def run(self, command: bytes) -> str:
        """Run the model once; what and where the outputs are. `RUN_KEEPING`: keep the previous outputs alive."""
        self.previous = self.output if command == RUN_KEEPING else None
        self.output = None
        arguments = [
            spec["value"] if buffer is None else buffer.view(buffer.shape)
            for spec, buffer in zip(self.specs, self.buffers, strict=True)
        ]
        model = self.model
        if command == RUN_DOUBLE:
            model = self.double
            arguments = [a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in arguments]
        with torch.no_grad():
            self.output = model(*arguments)
            return f'{{"outputs": [{", ".join(_outputs(self.output)[:MAX_OUTPUTS])}]}}'

    def do_load(self, path: str) -> dict[str, Any]:
        spec = importlib.util.spec_from_file_location("candidate", path)
        assert spec is not None
        assert spec.loader is not None
        self.module = importlib.util.module_from_spec(spec)
        sys.modules["candidate"] = self.module
        try:
            spec.loader.exec_module(self.module)
        except BaseException as error:
            return {"failed": "out_of_memory" if _is_memory(error) else "compile_error", "error": _describe(error)}
        return {"loaded": True}

    def do_construct(self, name: str, blob: str, seed: int) -> dict[str, Any]:
        """Make the model from a file of pickled init inputs and, where they fit, the reference's parameters."""
        if not isinstance(cls := getattr(self.module, name, None), type):
            return {"failed": "compile_error", "error": f"the module defines no class {name}"}
        with open(blob, "rb") as file:
            init_inputs, state = pickle.load(file)
        torch.manual_seed(seed)
        self.model = cls(*init_inputs)
        names = _matching(self.model.state_dict(), state)
        if names is not None:
            self.model.load_state_dict({own: state[name] for own, name in names.items()})
        return {"parameters": "own" if names is None else "given"}

    def do_allocate(self, specs: list[dict[str, Any]]) -> dict[str, Any]:
        """Input buffers for the tensors in `specs`; answers their addresses (null for plain values)."""
        self.specs = specs
        self.buffers = [
            torch.empty(spec["shape"], dtype=getattr(torch, spec["dtype"])) if "dtype" in spec else None
            for spec in specs
        ]
        for buffer in self.buffers:
            if buffer is not None and buffer.numel():
                buffer.zero_()  # touched, so that the parent can write there
        return {"addresses": [None if buffer is None else buffer.data_ptr() for buffer in self.buffers]}

    # Commands of the reference alone

    def do_describe(self, blob: str, seed: int) -> dict[str, Any]:
        """Build the reference, perturb its parameters, and write init inputs and parameters to the file `blob`.

        Perturbed, since a norm with weight 1 and bias 0 hides a candidate that has no affine part.
        """
        torch.manual_seed(seed)
        init_inputs = self.module.get_init_inputs()
        torch.manual_seed(seed)
        self.model = self.module.Model(*init_inputs)
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                if value.is_floating_point():
                    noise = torch.rand_like(value)
                    value.mul_(0.75 + 0.5 * noise)
                    if not name.endswith("running_var"):
                        value.add_(0.1 * (torch.rand_like(value) - 0.5) * value.abs().mean().clamp_min(0.1))
        self.double = copy.deepcopy(self.model).double()
        buffer = io.BytesIO()
        pickle.dump((init_inputs, self.model.state_dict()), buffer)
        with open(blob, "wb") as file:
            file.write(buffer.getvalue())
        return {"done": True}

    def do_draw(self, seed: int) -> dict[str, Any]:
        """Draw inputs; answers plain values, and where the tensors lie."""
        torch.manual_seed(seed)
        self.held = [x.contiguous() if isinstance(x, torch.Tensor) else x for x in self.module.get_inputs()]
        return {"drawn": [json.loads(_tensor(x)) if isinstance(x, torch.Tensor) else {"value": x} for x in self.held]}


def _matching(own: dict[str, torch.Tensor], given: dict[str, torch.Tensor]) -> dict[str, str] | None:
    """For each own parameter the given one it takes: by name, else in order among those of its shape. None: no fit."""
    if own.keys() == given.keys():
        return {name: name for name in own} if all(own[n].shape == given[n].shape for n in own) else None
    waiting: dict[torch.Size, list[str]] = {}
    for name, value in given.items():
        waiting.setdefault(value.shape, []).append(name)
    try:
        names = {name: waiting[value.shape].pop(0) for name, value in own.items()}
    except (KeyError, IndexError):
        return None
    return None if any(waiting.values()) else names


def _outputs(output: Any) -> list[str]:
    kind = type(output)
    if kind is torch.Tensor or kind is torch.nn.Parameter:
        return [_tensor(output)]
    if kind is tuple or kind is list:
        return [description for item in output for description in _outputs(item)]
    return [json.dumps({"type": f"{kind.__module__}.{kind.__qualname__}"[:200]})]


def _tensor(value: torch.Tensor) -> str:
    # Put together by hand, since it is on the clock.
    return (
        f'{{"dtype": "{value.dtype}", "shape": {list(value.shape)}, "strides": {list(value.stride())}, '
        f'"address": {value.data_ptr()}, "device": "{value.device.type}"}}'
    )


def _is_memory(error: BaseException) -> bool:
    phrases = ("not enough memory", "out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in phrases)


def _kind(error: BaseException) -> str:
    return "out_of_memory" if _is_memory(error) else "runtime_error"


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
