"""The process a candidate runs in. Nothing here is trusted: the verdict never rests on what this side computes.

One worker holds one module, the candidate or the reference. It takes commands from the parent over a socket and answers
with JSON. For a run it allocates the input buffers, tells their addresses and waits: the parent freezes the process,
writes the inputs into its memory, starts its own clock, lets it go on, and at the answer freezes it again to read the
outputs. So there is no moment in which the candidate knows its inputs and is not on the clock, and none after the answer
in which it could still finish its work.
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
import resource
import signal
import socket
import sys
import traceback
from types import ModuleType
from typing import Any

import torch

MAX_MESSAGE = 1 << 16
ERROR_CHARACTERS = 4000
_PAGE = resource.getpagesize()


def main(channel: socket.socket, scratch: str, limits: dict[str, float]) -> None:
    """Serve commands until the channel closes. `limits`: memory_bytes, file_bytes, core, threads."""
    os.chdir(scratch)
    _limit(limits)
    torch.set_num_threads(int(limits["threads"]))
    gc.disable()
    worker = _Worker()
    while message := channel.recv(MAX_MESSAGE):
        command = json.loads(message)
        try:
            answer = json.dumps(getattr(worker, "do_" + command.pop("do"))(channel, **command))
        except BaseException as error:  # a candidate may raise anything, SystemExit included
            answer = json.dumps({"failed": _kind(error), "error": _describe(error)})
        channel.send(answer.encode())


def _limit(limits: dict[str, float]) -> None:
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * _PAGE
    resource.setrlimit(resource.RLIMIT_AS, (used + int(limits["memory_bytes"]),) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limits["file_bytes"]),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if limits["core"] >= 0:
        os.sched_setaffinity(0, {int(limits["core"])})


class _Worker:
    module: ModuleType
    model: torch.nn.Module
    double: torch.nn.Module

    def __init__(self) -> None:
        self.buffers: list[Any] = []
        self.specs: list[dict[str, Any]] = []
        self.output: Any = None

    # Commands of both sides

    def do_load(self, channel: socket.socket, path: str) -> dict[str, Any]:
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

    def do_construct(self, channel: socket.socket, name: str, blob: str, seed: int) -> dict[str, Any]:
        """Make the model from a file of pickled init inputs and, where its names fit, the reference's parameters."""
        if not isinstance(cls := getattr(self.module, name, None), type):
            return {"failed": "compile_error", "error": f"the module defines no class {name}"}
        with open(blob, "rb") as file:
            init_inputs, state = pickle.load(file)
        torch.manual_seed(seed)
        self.model = cls(*init_inputs)
        own = self.model.state_dict()
        fits = own.keys() == state.keys() and all(own[key].shape == state[key].shape for key in own)
        if fits:
            self.model.load_state_dict(state)
        return {"parameters": "given" if fits else "own"}

    def do_allocate(self, channel: socket.socket, specs: list[dict[str, Any]]) -> dict[str, Any]:
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

    def do_run(self, channel: socket.socket, double: bool = False) -> dict[str, Any]:
        """Answer "ready", wait for "go", run, answer what and where the outputs are."""
        self.output = None
        model = self.double if double else self.model
        arguments = [
            spec["value"] if buffer is None else buffer.view(buffer.shape)
            for spec, buffer in zip(self.specs, self.buffers, strict=True)
        ]
        channel.send(b'{"ready": true}')
        channel.recv(MAX_MESSAGE)
        if double:
            arguments = [a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in arguments]
        with torch.no_grad():
            self.output = model(*arguments)
            return {"outputs": _outputs(self.output)}

    # Commands of the reference alone

    def do_describe(self, channel: socket.socket, blob: str, seed: int) -> dict[str, Any]:
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

    def do_draw(self, channel: socket.socket, seed: int) -> dict[str, Any]:
        """Draw inputs; answers plain values, and where the tensors lie."""
        torch.manual_seed(seed)
        self.held = [x.contiguous() if isinstance(x, torch.Tensor) else x for x in self.module.get_inputs()]
        return {"drawn": [_tensor(x) if isinstance(x, torch.Tensor) else {"value": x} for x in self.held]}


def _outputs(output: Any) -> list[dict[str, Any]]:
    if type(output) is torch.Tensor or type(output) is torch.nn.Parameter:
        return [_tensor(output)]
    if type(output) in (tuple, list):
        return [description for item in output for description in _outputs(item)]
    return [{"type": f"{type(output).__module__}.{type(output).__qualname__}"}]


def _tensor(value: torch.Tensor) -> dict[str, Any]:
    return {
        "dtype": _dtype_name(value),
        "shape": list(value.shape),
        "strides": list(value.stride()),
        "address": value.data_ptr(),
        "device": value.device.type,
    }


def _dtype_name(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "not enough memory" in str(error) or "out of memory" in str(error)


def _kind(error: BaseException) -> str:
    return "out_of_memory" if _is_memory(error) else "runtime_error"


def _describe(error: BaseException) -> str:
    text = "".join(traceback.format_exception_only(error)).strip()
    with contextlib.suppress(Exception):
        own = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith("candidate.py")]
        if own:
            text = f"line {own[-1].lineno}: {own[-1].line}\n{text}"
    return text[-ERROR_CHARACTERS:]


def become_worker(channel: socket.socket, scratch: str, output: int, limits: dict[str, float]) -> None:
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
