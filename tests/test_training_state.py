"""States of small nets: what is kept, in which form, and what comes back."""

import copy
from pathlib import Path

import pytest
import torch
from pack.trainer.checkpoint import CheckpointError
from pack.trainer.training_state import Progress, StateFolder, capture, fits, restore
from torch import nn
from torch.amp import GradScaler


def net() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"unet": nn.Conv2d(3, 4, 3), "text_encoder": nn.Linear(5, 2)}


def adamw(parts: dict[str, nn.Module]) -> torch.optim.AdamW:
    groups = [{"params": list(part.parameters()), "lr": 0.1} for part in parts.values()]
    return torch.optim.AdamW(groups, fused=True)


def train(parts: dict[str, nn.Module], optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        for part in parts.values():
            for parameter in part.parameters():
                parameter.grad = parameter.detach().sin()
        optimizer.step()


def weights(parts: dict[str, nn.Module]) -> list[torch.Tensor]:
    return [p.detach().clone() for part in parts.values() for p in part.parameters()]


def test_the_next_step_is_the_same(tmp_path: Path) -> None:
    """Also where a weight and the file do not agree on the order of its numbers in memory."""
    parts = net()
    parts["unet"].to(memory_format=torch.channels_last)
    optimizer, scaler = adamw(parts), GradScaler("cpu", init_scale=1024.0)
    train(parts, optimizer, 2)
    folder = StateFolder(tmp_path / "state")
    folder.write(Progress(2, 1.5, (9,)), *capture(parts, optimizer, scaler))
    train(parts, optimizer, 1)

    others = net()
    others["unet"].to(memory_format=torch.channels_last)
    other, other_scaler = adamw(others), GradScaler("cpu", init_scale=2.0)
    state = folder.read(2)
    assert state.progress == Progress(2, 1.5, (9,)) and fits(state, others)
    restore(state, others, other, other_scaler)
    assert other_scaler.state_dict() == scaler.state_dict()
    assert len(weights(others)) == 4
    train(others, other, 1)
    for ours, theirs in zip(weights(parts), weights(others), strict=True):
        assert torch.equal(ours, theirs)


def test_what_is_restored_holds_on_to_no_file(tmp_path: Path) -> None:
    parts = net()
    optimizer = adamw(parts)
    train(parts, optimizer, 1)
    folder = StateFolder(tmp_path / "state")
    folder.write(Progress(1), *capture(parts, optimizer, None))
    state = folder.read(1)
    restore(state, parts, optimizer, None)
    mapped = {tensor.untyped_storage().data_ptr() for tensor in state.tensors.values()}
    held = [*weights(parts), *(t for s in optimizer.state.values() for t in s.values())]
    assert not mapped & {tensor.untyped_storage().data_ptr() for tensor in held}


def test_an_optimizer_in_bytes_and_plain_numbers(tmp_path: Path) -> None:
    """As others keep it: a byte a value, a number per block, the steps as an int."""
    parts = net()
    optimizer = torch.optim.SGD([p for part in parts.values() for p in part.parameters()])
    for parameter in optimizer.param_groups[0]["params"]:
        optimizer.state[parameter] = {
            "step": 7,
            "state1": torch.full_like(parameter, 200, dtype=torch.uint8),
            "absmax1": torch.tensor([0.25]),
        }
    folder = StateFolder(tmp_path / "state")
    folder.write(Progress(7), *capture(parts, optimizer, None))
    state = folder.read(7)
    assert state.tensors["optimizer.unet.weight:state1"].dtype == torch.uint8
    assert state.tensors["optimizer.unet.weight:absmax1"].item() == 0.25
    assert state.numbers["optimizer.text_encoder.bias:step"] == 7


def test_other_modules_do_not_fit(tmp_path: Path) -> None:
    parts = net()
    folder = StateFolder(tmp_path / "state")
    folder.write(Progress(1), *capture(parts, adamw(parts), None))
    state = folder.read(1)
    renamed = {"unet": parts["unet"], "encoder": parts["text_encoder"]}
    wider = copy.deepcopy(parts) | {"text_encoder": nn.Linear(6, 2)}
    assert fits(state, parts) and not fits(state, renamed) and not fits(state, wider)
    assert not fits(state, {"unet": parts["unet"]})


def test_pruning(tmp_path: Path) -> None:
    parts = net()
    folder = StateFolder(tmp_path / "state")
    for step in (3, 5, 8, 13):
        folder.write(Progress(step), *capture(parts, adamw(parts), None))
    (tmp_path / "state" / "step000021.safetensors").write_bytes(b"half")
    (tmp_path / "state" / ".step000021.00ff00ff.partial").write_bytes(b"half")
    folder.prune(keep=2, up_to=8)
    assert folder.steps() == [5, 8]
    assert len(list((tmp_path / "state").iterdir())) == 4
    folder.prune(keep=0, up_to=8)
    assert list((tmp_path / "state").iterdir()) == []


def test_a_state_without_its_json_does_not_count(tmp_path: Path) -> None:
    parts = net()
    folder = StateFolder(tmp_path / "state")
    folder.write(Progress(1), *capture(parts, adamw(parts), None))
    (tmp_path / "state" / "step000001.json").unlink()
    assert folder.steps() == []
    with pytest.raises(CheckpointError, match="damaged"):
        folder.read(1)
