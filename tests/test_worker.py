"""What a worker does before it runs anything: the parameters a candidate takes, and the calls that it may not make."""

import platform

import pytest
import torch
from torch import nn

from expert_tail.evaluator import seccomp
from expert_tail.evaluator.worker import _matching


class Norm(nn.Module):
    def __init__(self, gain: str = "weight", shift: str = "bias", axes: int = 0, buffer: str = "") -> None:
        super().__init__()
        shape = (4,) + (1,) * axes
        self.register_parameter(gain, nn.Parameter(torch.ones(shape)))
        self.register_parameter(shift, nn.Parameter(torch.zeros(shape)))
        if buffer:
            self.register_buffer(buffer, torch.zeros(4))


class Tied(nn.Module):
    def __init__(self, is_tied: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        if is_tied:
            self.b.weight = self.a.weight


def matching(candidate: nn.Module, reference: nn.Module) -> dict[str, str] | None:
    own, given = ({name for name, _ in model.named_parameters()} for model in (candidate, reference))
    return _matching(candidate.state_dict(), own, reference.state_dict(), given)


def test_parameters_are_taken_by_name() -> None:
    assert matching(Norm("bias", "weight"), Norm()) == {"bias": "bias", "weight": "weight"}


def test_other_names_are_taken_in_order_and_whatever_axes_of_length_one() -> None:
    assert matching(Norm("gain", "shift", axes=2), Norm()) == {"gain": "weight", "shift": "bias"}


def test_a_candidate_may_have_more_and_lack_buffers() -> None:
    assert matching(Norm(buffer="own"), Norm()) == {"weight": "weight", "bias": "bias"}
    assert matching(Norm("gain", "shift"), nn.BatchNorm2d(4)) == {"gain": "weight", "shift": "bias"}


def test_a_parameter_that_nobody_takes_is_no_fit() -> None:
    assert matching(nn.ReLU(), Norm()) is None
    assert matching(nn.LayerNorm(5), Norm()) is None


def test_tied_parameters_and_untied_ones() -> None:
    untied = {name: name for name in Tied(False).state_dict()}
    assert matching(Tied(False), Tied(True)) == untied
    assert matching(Tied(True), Tied(True)) == untied


def test_a_buffer_of_the_reference_may_be_a_parameter() -> None:
    candidate = Norm()
    candidate.running_mean = nn.Parameter(torch.zeros(4))
    found = matching(candidate, nn.BatchNorm1d(4))
    assert found is not None
    assert found["running_mean"] == "running_mean"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("compiles", [False, True])
def test_there_is_a_program_for_every_architecture(
    machine: str, compiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    code = seccomp.program(1, compiles)
    assert len(code) % 8 == 0
    assert len(code) // 8 < 4096  # the kernel's limit
