"""The Triton kernels of :mod:`fused_layers`: group norm with SiLU, and a feed-forward gate.

All arithmetic is fp32, whatever is read and written. Sums run in a fixed order: the same bits each
time.
"""

import triton
import triton.language as tl


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _places(base, c, p, width, pixels, over_channel, over_pixel):
    """``[C, P]``: offsets of a tile in its group, and which of it are inside."""
    inside = (c < width)[:, None] & (p < pixels)[None, :]
    return base + c[:, None] * over_channel + p[None, :] * over_pixel, inside


@triton.jit
def _per_channel(values, first, c, width):
    return tl.load(values + first + c, mask=c < width, other=0.0).to(tl.float32)[:, None]


@triton.jit
def norm_silu(
    x, weight, bias, out, means, scales, channels, groups, pixels, over_channel, over_pixel, eps,
    SILU: tl.constexpr, C: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """A group of one picture: ``SiLU(weight · (x − mean) · scale + bias)``, in tiles ``C × P``.

    Args:
        means, scales: fp32 ``[N · groups]``; a scale is 1 / √(variance + eps).
        over_channel, over_pixel: how far the next one lies in x and out.
    """
    group = tl.program_id(0)
    width = channels // groups  # channels of a group
    first = (group % groups) * width
    base = (group // groups).to(tl.int64) * channels * pixels + first.to(tl.int64) * over_channel
    # less what one of the values is, so that squares of values far from zero lose nothing
    shift = tl.load(x + base).to(tl.float32)
    sums = tl.zeros((C, P), tl.float32)
    squares = tl.zeros((C, P), tl.float32)
    for c0 in range(0, width, C):
        for p0 in range(0, pixels, P):
            at, inside = _places(
                base, c0 + tl.arange(0, C), p0 + tl.arange(0, P), width, pixels,
                over_channel, over_pixel,
            )  # fmt: skip
            value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
            value = tl.where(inside, value - shift, 0.0)
            sums += value
            squares += value * value
    count = width * pixels
    mean = tl.sum(tl.sum(sums, 1), 0) / count
    variance = tl.maximum(tl.sum(tl.sum(squares, 1), 0) / count - mean * mean, 0.0)
    mean += shift
    scale = 1.0 / tl.sqrt(variance + eps)
    tl.store(means + group, mean)
    tl.store(scales + group, scale)
    for c0 in range(0, width, C):
        c = c0 + tl.arange(0, C)
        w, b = _per_channel(weight, first, c, width), _per_channel(bias, first, c, width)
        for p0 in range(0, pixels, P):
            at, inside = _places(
                base, c, p0 + tl.arange(0, P), width, pixels, over_channel, over_pixel
            )
            value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
            value = (value - mean) * scale * w + b
            if SILU:
                value = value * _sigmoid(value)
            tl.store(out + at, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _through_silu(x, gradient, at, inside, mean, scale, w, b, SILU: tl.constexpr):
    """(normed, gradient of the affine map's result), zero outside."""
    normed = (tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - mean) * scale
    g = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
    if SILU:
        y = normed * w + b
        s = _sigmoid(y)
        g = g * s * (1.0 + y * (1.0 - s))
    return normed, g


@triton.jit
def norm_silu_backward(
    x, weight, bias, gradient, means, scales, to_x, to_weight, to_bias,
    channels, groups, pixels, over_channel, over_pixel,
    SILU: tl.constexpr, C: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """A group of one picture: the gradients of x, and this picture's of weight and bias.

    Args:
        gradient, to_x: laid out as x.
        to_weight, to_bias: fp32 ``[N, channels]``.
    """
    group = tl.program_id(0)
    width = channels // groups
    first = (group % groups) * width
    picture = (group // groups).to(tl.int64)
    base = picture * channels * pixels + first.to(tl.int64) * over_channel
    mean, scale = tl.load(means + group), tl.load(scales + group)
    along_normed = 0.0
    along_one = 0.0
    for c0 in range(0, width, C):
        c = c0 + tl.arange(0, C)
        w, b = _per_channel(weight, first, c, width), _per_channel(bias, first, c, width)
        of_weight = tl.zeros((C, P), tl.float32)
        of_bias = tl.zeros((C, P), tl.float32)
        for p0 in range(0, pixels, P):
            at, inside = _places(
                base, c, p0 + tl.arange(0, P), width, pixels, over_channel, over_pixel
            )
            normed, g = _through_silu(x, gradient, at, inside, mean, scale, w, b, SILU)
            of_weight += g * normed
            of_bias += g
        by_weight, by_bias = tl.sum(of_weight, 1), tl.sum(of_bias, 1)
        place = picture * channels + first + c
        tl.store(to_weight + place, by_weight, mask=c < width)
        tl.store(to_bias + place, by_bias, mask=c < width)
        along_normed += tl.sum(tl.sum(of_weight * w, 1), 0)
        along_one += tl.sum(tl.sum(of_bias * w, 1), 0)
    count = width * pixels
    along_normed = along_normed / count
    along_one = along_one / count
    for c0 in range(0, width, C):
        c = c0 + tl.arange(0, C)
        w, b = _per_channel(weight, first, c, width), _per_channel(bias, first, c, width)
        for p0 in range(0, pixels, P):
            at, inside = _places(
                base, c, p0 + tl.arange(0, P), width, pixels, over_channel, over_pixel
            )
            normed, g = _through_silu(x, gradient, at, inside, mean, scale, w, b, SILU)
            back = scale * (g * w - along_one - normed * along_normed)
            tl.store(to_x + at, back.to(to_x.dtype.element_ty), mask=inside)


@triton.jit
def _gelu(gate):
    """(Φ, gate · Φ) of the normal distribution's Φ: the exact GELU."""
    share = 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
    return share, gate * share


@triton.jit
def gated(x, out, width, count, BLOCK: tl.constexpr):
    """``[rows, 2 · width]`` → ``[rows, width]``: the first half times GELU of the second.

    Args:
        count: rows · width.
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    place = (at // width) * 2 * width + at % width
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    _, gate = _gelu(tl.load(x + place + width, mask=inside, other=0.0).to(tl.float32))
    tl.store(out + at, (value * gate).to(out.dtype.element_ty), mask=inside)


@triton.jit
def gated_backward(x, gradient, to_x, width, count, BLOCK: tl.constexpr):
    """The gradient of both halves, laid out as x."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    place = (at // width) * 2 * width + at % width
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(x + place + width, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
    share, passed = _gelu(gate)
    slope = share + gate * tl.exp(-0.5 * gate * gate) * 0.3989422804014327
    tl.store(to_x + place, (g * passed).to(to_x.dtype.element_ty), mask=inside)
    tl.store(to_x + place + width, (g * value * slope).to(to_x.dtype.element_ty), mask=inside)
