"""Layers of the UNet between its products, each as one kernel that keeps less for backward.

A residual block's group norm and SiLU, and the gate of a feed-forward layer (GEGLU), each read and
write several tensors of an activation's size one after the other, and keep them. As one kernel each
reads its input and writes its result; backward computes the rest again from the input. Kernels work
in either memory layout: torch's group norm on a card knows one, and copies under channels last.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import MethodType
from typing import Any

import torch
import triton
from diffusers.models.activations import GEGLU
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .fused_kernels import gated, gated_backward, norm_silu, norm_silu_backward
from .trial import is_interpreted

TILE = 4096  # values of an activation that a program holds at once
WARPS = 8
BLOCK = 1024


def fuse(unet: nn.Module) -> None:
    """Let a UNet's layers compute with the kernels where these compute the same."""
    for module in unet.modules():
        forward = _FORWARDS.get(type(module))
        if forward and _is_plain(module):
            module.forward = MethodType(forward, module)


def norm_and_silu(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool = True
) -> Tensor:
    """SiLU of the group norm of ``[N, C, H, W]``; under autocast in its lower precision."""
    return _NormSilu.apply(x, weight, bias, groups, eps, silu)


def gate(x: Tensor) -> Tensor:
    """``[..., 2 F]`` → ``[..., F]``: the first half times the exact GELU of the second."""
    return _Gate.apply(x)


class _NormSilu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
    ) -> Tensor:
        if not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
            x = x.contiguous()
        out = torch.empty_like(x, dtype=_lower(x))
        shape = (len(x) * groups,)
        means, scales = (x.new_empty(shape, dtype=torch.float32) for _ in range(2))
        if not x.is_meta:
            with _on_device(x):
                norm_silu[shape](
                    x, weight, bias, out, means, scales, *_strides(x, groups), eps, silu,
                    *_tile(x, groups), num_warps=WARPS,
                )  # fmt: skip
        ctx.save_for_backward(x, weight, bias, means, scales)
        ctx.groups, ctx.silu = groups, silu
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, means, scales = ctx.saved_tensors
        layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
        gradient = gradient.contiguous(memory_format=layout)
        to_x = torch.empty_like(x)
        to_both = x.new_empty((2, *x.shape[:2]), dtype=torch.float32)
        if not x.is_meta:
            with _on_device(x):
                norm_silu_backward[(len(means),)](
                    x, weight, bias, gradient, means, scales, to_x, to_both[0], to_both[1],
                    *_strides(x, ctx.groups), ctx.silu, *_tile(x, ctx.groups), num_warps=WARPS,
                )  # fmt: skip
        learns = ctx.needs_input_grad[1]
        of_weight, of_bias = to_both.sum(1).to(weight.dtype) if learns else (None, None)
        return to_x, of_weight, of_bias, None, None, None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        width = x.shape[-1] // 2
        out = x.new_empty((*x.shape[:-1], width))
        if not x.is_meta:
            with _on_device(x):
                grid = (triton.cdiv(out.numel(), BLOCK),)
                gated[grid](x, out, width, out.numel(), BLOCK)
        ctx.save_for_backward(x)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gradient = gradient.contiguous()
        to_x = torch.empty_like(x)
        if not x.is_meta:
            with _on_device(x):
                grid = (triton.cdiv(gradient.numel(), BLOCK),)
                width = gradient.shape[-1]
                gated_backward[grid](x, gradient, to_x, width, gradient.numel(), BLOCK)
        return to_x


def _resnet_forward(
    block: ResnetBlock2D, input_tensor: Tensor, temb: Tensor | None, *_: Any, **__: Any
) -> Tensor:
    """As the block's own, of a block that :func:`_is_plain`."""
    hidden = block.conv1(_norm_or_fused(block, block.norm1, input_tensor))
    if block.time_emb_proj is not None:
        hidden = hidden + block.time_emb_proj(block.nonlinearity(temb))[:, :, None, None]
    hidden = block.conv2(block.dropout(_norm_or_fused(block, block.norm2, hidden)))
    if block.conv_shortcut is not None:
        input_tensor = block.conv_shortcut(input_tensor)
    return input_tensor + hidden


def _norm_or_fused(block: ResnetBlock2D, norm: nn.GroupNorm, x: Tensor) -> Tensor:
    if _has_kernels(x):
        return norm_and_silu(x, norm.weight, norm.bias, norm.num_groups, norm.eps)
    return block.nonlinearity(norm(x))


def _geglu_forward(layer: GEGLU, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    hidden_states = layer.proj(hidden_states)
    if _has_kernels(hidden_states):
        return gate(hidden_states)
    value, passed = hidden_states.chunk(2, dim=-1)
    return value * layer.gelu(passed)


def _norm_forward(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """One without SiLU: where pixels lie side by side, torch's own does the same work."""
    if x.dim() != 4 or x.is_contiguous() or not _has_kernels(x):
        return functional.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    return norm_and_silu(x, norm.weight, norm.bias, norm.num_groups, norm.eps, silu=False)


_FORWARDS = {
    ResnetBlock2D: _resnet_forward,
    GEGLU: _geglu_forward,
    nn.GroupNorm: _norm_forward,
}


def _is_plain(module: nn.Module) -> bool:
    """Whether it computes what the forward here does: so it is in every Stable Diffusion."""
    if not isinstance(module, ResnetBlock2D):
        return True
    return (
        module.upsample is None
        and module.downsample is None
        and module.time_embedding_norm == "default"
        and not module.skip_time_act
        and isinstance(module.nonlinearity, nn.SiLU)
        and module.output_scale_factor == 1.0
    )


def _has_kernels(x: Tensor) -> bool:
    """On a processor they run in Triton's interpreter alone, which is for tests."""
    return x.is_cuda or x.is_meta or is_interpreted()


def _lower(x: Tensor) -> torch.dtype:
    kind = x.device.type
    # no device: as the plan of memory has it, whose layers cast what they are given
    is_on = kind != "meta" and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if is_on else x.dtype


def _strides(x: Tensor, groups: int) -> tuple[int, ...]:
    """What the kernels are told of an activation: sizes, and how far the next value lies."""
    _, channels, height, width = x.shape
    pixels = height * width
    steps = (pixels, 1) if x.is_contiguous() else (1, channels)
    return (channels, groups, pixels, *steps)


def _tile(x: Tensor, groups: int) -> tuple[int, int]:
    """Channels and pixels that a program takes at once, the most of what lies side by side."""
    channels, pixels = x.shape[1] // groups, x.shape[2] * x.shape[3]
    if x.is_contiguous():
        p = min(triton.next_power_of_2(pixels), BLOCK)
        return min(triton.next_power_of_2(channels), TILE // p), p
    c = min(triton.next_power_of_2(channels), BLOCK)
    return c, min(triton.next_power_of_2(pixels), TILE // c)


def _on_device(x: Tensor) -> AbstractContextManager:
    """Triton launches on the current card, not on the tensors'."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
