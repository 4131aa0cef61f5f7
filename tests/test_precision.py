"""Precision, probes, and accelerate without its process-wide state."""

import os
import platform
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from pack.trainer.config import ConfigError
from pack.trainer.precision import (
    accelerator,
    check_attention,
    resolve_precision,
    slow_because,
)
from toy import CPU, make_job, run

STATES = (PartialState, AcceleratorState, GradientState)


def test_auto_is_fp32_on_a_cpu() -> None:
    assert resolve_precision("auto", CPU) == "fp32"
    assert resolve_precision("bf16", CPU) == "bf16"
    with pytest.raises(ConfigError, match="fp16.*card"):
        resolve_precision("fp16", CPU)


def test_bf16_without_instructions_for_it_is_said(monkeypatch) -> None:
    card, cpu = torch.device("cuda"), torch.cpu
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    for tiles, wide, slow in ((False, False, True), (True, False, False), (False, True, False)):
        monkeypatch.setattr(cpu, "_is_amx_tile_supported", lambda it=tiles: it, raising=False)
        monkeypatch.setattr(cpu, "_is_avx512_bf16_supported", lambda it=wide: it, raising=False)
        assert ("choose precision = fp32" in slow_because("bf16", CPU)) is slow
    assert slow_because("fp32", CPU) == slow_because("bf16", card) == ""


@pytest.mark.parametrize(
    ("name", "resolved"),
    [("gfx1030", "fp16"), ("gfx906:sramecc+:xnack-", "fp16"), ("gfx1100", "bf16")],
)
def test_old_amd_cards_compute_in_fp16(monkeypatch, name: str, resolved: str) -> None:
    """torch says of all of them that they have bf16."""
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    properties = SimpleNamespace(gcnArchName=name)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert resolve_precision("auto", torch.device("cuda")) == resolved


@pytest.mark.parametrize(
    ("name", "resolved"),
    [("NVIDIA GeForce GTX 1660 Ti", "fp32"), ("NVIDIA T1000 8GB", "fp32"),
     ("NVIDIA GeForce RTX 2060", "fp16"), ("Tesla T4", "fp16")],
)  # fmt: skip
def test_cards_with_broken_fp16_compute_in_fp32(monkeypatch, name: str, resolved: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    properties = SimpleNamespace(name=name)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert resolve_precision("auto", torch.device("cuda")) == resolved


def test_cards_that_accelerate_refuses_beside_others_may_train_alone(monkeypatch) -> None:
    """It asks that of one process, too, but about what processes tell each other."""
    monkeypatch.delenv("NCCL_P2P_DISABLE", raising=False)
    monkeypatch.setenv("NCCL_IB_DISABLE", "0")  # a user's own
    seen = []

    class Made:
        distributed_type, num_processes = SimpleNamespace(value="NO"), 1

        def __init__(self, **_: object) -> None:
            seen.append([os.environ.get(f"NCCL_{name}_DISABLE") for name in ("P2P", "IB")])

    monkeypatch.setattr("pack.trainer.precision.Accelerator", Made)
    with accelerator("fp32", CPU):
        assert "NCCL_P2P_DISABLE" not in os.environ
    assert seen == [["1", "0"]] and os.environ["NCCL_IB_DISABLE"] == "0"
    Made.num_processes = 2
    with accelerator("fp32", CPU, processes=2):
        assert seen[1] == [None, "0"]


def test_a_host_that_adds_up_in_halves_does_so_again_afterwards(tmp_path) -> None:
    backend, seen = torch.backends.cuda, []

    def flags() -> tuple[bool, bool]:
        attention = backend.fp16_bf16_reduction_math_sdp_allowed()
        return attention, backend.matmul.allow_fp16_accumulation

    before = flags()
    backend.allow_fp16_bf16_reduction_math_sdp(True)  # as ComfyUI with --fast
    backend.matmul.allow_fp16_accumulation = True
    try:
        run(make_job(tmp_path, steps=1), control=lambda: seen.append(flags()))
        assert set(seen) == {(False, False)} and flags() == (True, True)
    finally:
        backend.allow_fp16_bf16_reduction_math_sdp(before[0])
        backend.matmul.allow_fp16_accumulation = before[1]


def test_accelerate_is_left_as_it_was() -> None:
    before = [dict(state._shared_state) for state in STATES]
    with accelerator("bf16", CPU) as first:
        assert first.mixed_precision == "bf16" and first.device == CPU
        with first.autocast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        with accelerator("fp32", CPU) as inner:
            assert inner.mixed_precision == "no"
        assert AcceleratorState().mixed_precision == "bf16"
    assert [dict(state._shared_state) for state in STATES] == before


def test_state_is_restored_after_an_error() -> None:
    before = [dict(state._shared_state) for state in STATES]
    with pytest.raises(ZeroDivisionError), accelerator("fp32", CPU):
        raise ZeroDivisionError
    assert [dict(state._shared_state) for state in STATES] == before


def test_xformers_works_or_is_refused_by_name() -> None:
    check_attention("sdpa", CPU)
    with pytest.raises(ConfigError, match="attention = xformers.*sdpa"):
        check_attention("xformers", CPU)  # it has no CPU kernels, installed or not
