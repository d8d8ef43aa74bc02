"""CUDA memory that two processes share, by ctypes over the runtime that torch has loaded: torch's own sharing needs files.

An allocation of `malloc` holds nothing else, so that a handle to it gives away nothing else: torch's allocator packs many
tensors into one.
"""

import ctypes
import functools
from dataclasses import dataclass

import torch


class CudaError(Exception):
    """A call of the CUDA runtime failed; the context may still be sound."""


class _Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_char * 64)]


class _DeviceArray:
    """What torch needs to see memory as a tensor without copying it."""

    def __init__(self, address: int, n_bytes: int) -> None:
        self.__cuda_array_interface__ = {
            "data": (address, False),
            "shape": (n_bytes,),
            "typestr": "|u1",
            "strides": None,
            "version": 3,
        }


@dataclass(frozen=True)
class Range:
    """An allocation: where it begins in this process, and its bytes."""

    base: int
    n_bytes: int


def tensor_at(address: int, n_bytes: int, device: torch.device) -> torch.Tensor:
    """The memory as a uint8 tensor that does not own it."""
    return torch.as_tensor(_DeviceArray(address, n_bytes), device=device)


def malloc(n_bytes: int) -> int:
    address = ctypes.c_void_p()
    _check(_runtime().cudaMalloc(ctypes.byref(address), ctypes.c_size_t(n_bytes)))
    return address.value or 0


def free(address: int) -> None:
    _runtime().cudaFree(ctypes.c_void_p(address))


def export(base: int) -> bytes:
    """A handle by which another process on this machine opens the allocation that begins at `base`."""
    handle = _Handle()
    _check(_runtime().cudaIpcGetMemHandle(ctypes.byref(handle), ctypes.c_void_p(base)))
    return bytes(handle)


def open_handle(handle: bytes) -> int:
    """Where another process's allocation begins in this one. Raises `CudaError` for a handle of nothing."""
    address = ctypes.c_void_p()
    lazily = ctypes.c_uint(1)
    _check(_runtime().cudaIpcOpenMemHandle(ctypes.byref(address), _Handle.from_buffer_copy(handle), lazily))
    return address.value or 0


def close_handle(address: int) -> None:
    _runtime().cudaIpcCloseMemHandle(ctypes.c_void_p(address))


def range_of(address: int) -> Range:
    """The allocation that `address` lies in."""
    base, n_bytes = ctypes.c_void_p(), ctypes.c_size_t()
    if _driver().cuMemGetAddressRange_v2(ctypes.byref(base), ctypes.byref(n_bytes), ctypes.c_void_p(address)):
        raise CudaError("no device memory at this address")
    return Range(base.value or 0, n_bytes.value)


def _check(code: int) -> None:
    if code:
        _runtime().cudaGetLastError()  # else the next call of torch would report it
        describe = _runtime().cudaGetErrorString
        describe.restype = ctypes.c_char_p
        raise CudaError(describe(code).decode())


@functools.cache
def _runtime() -> ctypes.CDLL:
    major = (torch.version.cuda or "").partition(".")[0]
    library = ctypes.CDLL(f"libcudart.so.{major}")  # loaded by torch already, so its soname is enough
    library.cudaIpcOpenMemHandle.argtypes = [ctypes.c_void_p, _Handle, ctypes.c_uint]
    return library


@functools.cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")
