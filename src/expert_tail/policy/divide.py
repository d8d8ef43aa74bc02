"""A policy divided over the processes that train it, by PyTorch's FSDP: one that is larger than a GPU.

Each process holds its part of every layer's frozen weights; a layer is gathered while it runs. So all of them run the same
layers at the same time, and every pass of one must be a pass of all. The embedding, the head and the adapter are small, and
whole in each.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from expert_tail.policy.settings import RuntimeSettings


def divides(runtime: RuntimeSettings) -> bool:
    """Whether this process is one of several that hold a part of the policy each."""
    return runtime.shards > 1 and dist.is_initialized() and dist.get_world_size() > 1


def is_divided(model: Any) -> bool:
    return isinstance(model.get_decoder(), FSDPModule)


def divided(load: Callable[[], Any], outline: Callable[[], Any], device: torch.device) -> Any:
    """The causal LM that `load` makes, divided over all processes. Only the first has it whole, in the host's memory.

    `outline` makes the same model without its weights (on the meta device), for the others. Layers go to `device` one by
    one, so that no device ever holds more than its part and one layer.
    """
    model = (load if dist.get_rank() == 0 else outline)().requires_grad_(False)
    decoder = model.get_decoder()
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in decoder.layers:
        _spread(layer, device)
        fully_shard(layer, mesh=mesh)
    for module in (*model.children(), *decoder.children()):
        if module is not decoder and module is not decoder.layers:
            _spread(module, device)
    model.tie_weights()
    whole = {weight for weight in decoder.parameters() if not weight.is_meta and not hasattr(weight, "placements")}
    fully_shard(
        decoder, mesh=mesh, ignored_params=whole
    )  # which makes a layer's weights arrive while the one before runs
    return model


def _spread(module: nn.Module, device: torch.device) -> None:
    """Give all processes the weights and buffers that `module` has in the first."""
    module.to(device) if dist.get_rank() == 0 else module.to_empty(device=device)
    for tensor in (*module.parameters(), *module.buffers()):
        dist.broadcast(tensor.data, 0)


def without_gradients(model: Any) -> AbstractContextManager[None]:
    """Inference mode; of a divided policy, whose gathered weights an update uses again, no more than gradients off."""
    return torch.no_grad() if is_divided(model) else torch.inference_mode()


def as_the_first(model: Any) -> Callable[[Tensor], Tensor]:
    """What makes a tensor that of the first process where `model` is divided: rounding must not lead processes apart."""

    def received(tensor: Tensor) -> Tensor:
        dist.broadcast(tensor, 0)
        return tensor

    return received if is_divided(model) else lambda tensor: tensor
