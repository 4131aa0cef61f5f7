"""The arithmetic of a run: dtype, autocast and loss scaling through accelerate, probes.

accelerate keeps its state in process-wide dictionaries, so a second run in the same process
would inherit the first one's precision; :func:`accelerator` gives each run its own.
"""

import importlib.util
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn

from .config import ConfigError
from .config.train import AUTO, FP32

_HELD_AS = {"bf16": torch.bfloat16, "fp16": torch.float16}
_OTHER_ENGINES = ("DEEPSPEED", "FSDP", "MEGATRON_LM", "XLA")  # which cut up the model itself
# RDNA 2 and older, as ComfyUI lists them
_AMD_WITHOUT_BF16 = frozenset(
    {"gfx803", "gfx900", "gfx906", "gfx1010", "gfx1011", "gfx1012", "gfx1030", "gfx1031", "gfx1032",
     "gfx1034", "gfx1035", "gfx1036"}
)  # fmt: skip
# NVIDIA's cards whose fp16 gives values that are no numbers, as ComfyUI lists them
_BROKEN_FP16 = ("1660", "1650", "1630", "T500", "T550", "T600", "MX550", "MX450", "CMP 30HX",
                "T2000", "T1000", "T1200")  # fmt: skip
_INTEL = ("x86_64", "AMD64")  # and AMD
_TO_ACCELERATE = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def resolve_precision(name: str, device: torch.device, weights: str = FP32) -> str:
    """``auto`` → what suits the device and the weights; anything else is checked.

    Raises:
        ConfigError: the device cannot compute in it.
    """
    in_bf16 = has_bf16(device)
    if weights != FP32:
        name = "bf16"
    if name == AUTO:
        if device.type != "cuda":
            return "fp32"
        if in_bf16:
            return "bf16"
        return "fp32" if _has_broken_fp16(device) else "fp16"
    if name == "fp16" and device.type != "cuda":
        raise ConfigError(
            f"precision = fp16 needs a CUDA or ROCm card, this run is on {device.type}:"
            " choose auto, bf16 or fp32"
        )
    if name == "bf16" and not in_bf16:
        raise ConfigError(
            "this card has no bf16 arithmetic: choose precision = auto or fp16, and weights = fp32"
        )
    return name


def has_bf16(device: torch.device) -> bool:
    """Whether it computes in bf16 by itself; a processor always does, however slowly."""
    if device.type != "cuda":
        return True
    if torch.version.hip:  # torch says yes for all of them
        name = torch.cuda.get_device_properties(device).gcnArchName
        return name.split(":")[0] not in _AMD_WITHOUT_BF16
    return torch.cuda.is_bf16_supported(including_emulation=False)


def _has_broken_fp16(device: torch.device) -> bool:
    if torch.version.hip:
        return False
    name = torch.cuda.get_device_properties(device).name
    return any(model in name for model in _BROKEN_FP16)


def slow_because(precision: str, device: torch.device) -> str:
    """Why a run in this precision takes many times longer than it could here; empty if it does not.

    Measured on AVX2: a step in bf16 takes 15 times as long as one in fp32.
    """
    if precision != "bf16" or device.type != "cpu" or platform.machine() not in _INTEL:
        return ""
    if has_bf16_instructions(unknown=True):
        return ""
    return (
        "this processor has no instructions for bf16, so steps take many times longer than in"
        f" fp32: choose precision = {FP32} and weights = {FP32}"
    )


def has_bf16_instructions(unknown: bool) -> bool:
    """Whether an Intel or AMD processor computes in bf16 by itself: AMX, or AVX-512 BF16.

    Args:
        unknown: the answer where this torch cannot tell.
    """
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, lambda: unknown)() for probe in probes)


@contextmanager
def accelerator(precision: str, device: torch.device, processes: int = 1) -> Iterator[Accelerator]:
    """An Accelerator on ``device`` that leaves accelerate's shared state as it found it.

    Raises:
        ConfigError: it is launched as something else than so many plain processes.
    """
    shared = (PartialState._shared_state, AcceleratorState._shared_state)
    shared += (GradientState._shared_state,)
    saved = [dict(state) for state in shared]
    for state in shared:
        state.clear()
    card = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    try:
        with card:
            with _alone_on_its_card(processes):
                made = Accelerator(
                    mixed_precision=_TO_ACCELERATE[precision],
                    cpu=device.type == "cpu",
                    device_placement=False,
                )
            kind = made.distributed_type.value
            if made.num_processes != processes or kind in _OTHER_ENGINES:
                raise ConfigError(
                    f"this run was launched as {made.num_processes} processes of the kind {kind}:"
                    " start one, or several from a shell by accelerate launch --multi_gpu"
                )
            yield made
    finally:
        for state, before in zip(shared, saved, strict=True):
            state.clear()
            state.update(before)


@contextmanager
def _alone_on_its_card(processes: int) -> Iterator[None]:
    """accelerate refuses some cards under old drivers, beside which there is another one.

    That is about what processes tell each other: one alone has nobody to tell.
    """
    names = ("NCCL_P2P_DISABLE", "NCCL_IB_DISABLE") if processes == 1 else ()
    added = [name for name in names if name not in os.environ]
    os.environ.update(dict.fromkeys(added, "1"))
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextmanager
def full_sums() -> Iterator[None]:
    """Inside, cards add up as precisely as torch lets them by default, whatever the host chose.

    ComfyUI lets attention without a fused kernel add up in half precision, and under ``--fast``
    fp16 matrix products, too: well enough for a picture, not for gradients. As it was afterwards.
    """
    backend = torch.backends.cuda
    # younger than torch 2.4, each
    attention = getattr(backend, "allow_fp16_bf16_reduction_math_sdp", lambda allowed: None)
    is_allowed = getattr(backend, "fp16_bf16_reduction_math_sdp_allowed", lambda: False)()
    products = getattr(backend.matmul, "allow_fp16_accumulation", None)
    try:
        attention(False)
        if products:
            backend.matmul.allow_fp16_accumulation = False
        yield
    finally:
        attention(is_allowed)
        if products:
            backend.matmul.allow_fp16_accumulation = True


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """For weights of whatever dtype, as pictures are sampled from them during a run."""
    dtype = _HELD_AS.get(precision)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def hold_frozen(modules: Iterable[nn.Module], precision: str) -> None:
    """Keep frozen linear and convolutional layers in the dtype of the arithmetic.

    Autocast casts them to it in every pass anyway: the same numbers from half the memory. What it
    computes in fp32, such as norms, stays in fp32.
    """
    dtype = _HELD_AS.get(precision)
    for module in modules if dtype else ():
        for layer in module.modules():
            frozen = not any(p.requires_grad for p in layer.parameters(recurse=False))
            if isinstance(layer, (nn.Linear, nn.Conv2d)) and frozen:
                layer.to(dtype)


def check_attention(name: str, device: torch.device) -> None:
    """One real attention call where the choice is not torch's own.

    Raises:
        ConfigError: xformers is missing or does not work on this device.
    """
    if name != "xformers":
        return
    advice = "choose attention = sdpa, which is as fast on current torch"
    if importlib.util.find_spec("xformers") is None:
        raise ConfigError(f"attention = xformers: the package xformers is not installed; {advice}")
    try:
        from xformers.ops import memory_efficient_attention

        x = torch.zeros(1, 16, 1, 40, device=device, requires_grad=True)
        memory_efficient_attention(x, x, x).sum().backward()
    except (ImportError, RuntimeError, NotImplementedError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ConfigError(
            f"attention = xformers does not work on {device}: {reason}; {advice}"
        ) from error
