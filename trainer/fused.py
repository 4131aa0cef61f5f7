"""Whether a UNet's layers can be computed by kernels of ours: tried at its own shapes first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from diffusers.models.activations import GEGLU
from torch import Tensor, nn
from torch.nn import functional

from .trial import is_interpreted, why_not

NEAR = {torch.float32: 1e-4, torch.bfloat16: 0.01, torch.float16: 0.002}
Shape = tuple[int, int, int]


def use_fused_layers(
    unet: nn.Module,
    latents: Iterable[tuple[int, int]],
    device: torch.device,
    dtypes: tuple[torch.dtype, torch.dtype],
) -> str:
    """Give a UNet the kernels of :mod:`fused_layers`; if that can not be, why, in words.

    Args:
        latents: heights and widths that the run has.
        dtypes: of activations, and of weights.
    """
    if device.type != "cuda":
        return f"{device.type} has no such kernels"
    if is_interpreted():
        return "TRITON_INTERPRET is set"

    def distance() -> float:
        return compare(shapes(unet, latents), gates(unet), device, dtypes)

    reason = why_not("a fused layer", device, distance, NEAR[dtypes[0]])
    if not reason:
        from .fused_layers import fuse  # not at the top: Triton may be missing

        fuse(unet)
    return reason


def shapes(unet: nn.Module, latents: Iterable[tuple[int, int]]) -> dict[Shape, nn.GroupNorm]:
    """Channels, height and width of all that residual blocks norm, each with one of the norms."""
    found = {}
    for size in latents:
        sizes = [size]
        for _ in unet.down_blocks[1:]:  # a convolution of stride 2 rounds up
            sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
        blocks = [
            *zip(unet.down_blocks, sizes, strict=True),
            (unet.mid_block, sizes[-1]),
            *zip(unet.up_blocks, reversed(sizes), strict=True),
        ]
        for block, (height, width) in blocks:
            for resnet in block.resnets if block is not None else ():
                for norm in (resnet.norm1, resnet.norm2):
                    found[norm.num_channels, height, width] = norm
    return found


def gates(unet: nn.Module) -> set[int]:
    """The widths of its feed-forward layers."""
    return {m.proj.out_features // 2 for m in unet.modules() if isinstance(m, GEGLU)}


def compare(
    norms: Mapping[Shape, nn.GroupNorm],
    widths: Iterable[int],
    device: torch.device,
    dtypes: tuple[torch.dtype, torch.dtype],
) -> float:
    """How far results and gradients are from torch's in fp32, as the largest share of one."""
    from .fused_layers import gate, norm_and_silu

    g = torch.Generator(device).manual_seed(0)  # the run's own draws are left alone
    kind, weights = dtypes

    def drawn(*shape: int, dtype: torch.dtype = kind) -> Tensor:
        return torch.randn(shape, generator=g, device=device).to(dtype)

    apart = []
    for shape, norm in norms.items():
        options = (norm.num_groups, norm.eps)
        affine = [drawn(shape[0], dtype=weights) for _ in range(2)]
        for layout in (torch.contiguous_format, torch.channels_last):
            x = drawn(2, *shape).contiguous(memory_format=layout)
            apart += _apart(norm_and_silu, _norm_and_silu, [x, *affine], options)
    for width in widths:
        apart += _apart(gate, _gate, [drawn(3, 5, 2 * width)])
    return float(torch.tensor(apart).max())  # no number if one of them is none


Layer = Callable[..., Tensor]


def _apart(ours: Layer, theirs: Layer, inputs: Sequence[Tensor], options: tuple = ()) -> list:
    """Of the result, and of each input's gradient."""
    gradient = None
    found = []
    for layer, dtype in ((theirs, torch.float32), (ours, None)):
        given = [tensor.to(dtype or tensor.dtype).requires_grad_() for tensor in inputs]
        out = layer(*given, *options)
        if gradient is None:
            gradient = out.detach().flip(-1)
        gradients = torch.autograd.grad(out, given, gradient.to(out.dtype))
        found.append([tensor.detach().float() for tensor in (out, *gradients)])
    return [float((b - a).norm() / a.norm()) for a, b in zip(*found, strict=True)]


def _norm_and_silu(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    return functional.silu(functional.group_norm(x, groups, weight, bias, eps))


def _gate(x: Tensor) -> Tensor:
    value, passed = x.chunk(2, dim=-1)
    return value * functional.gelu(passed)
