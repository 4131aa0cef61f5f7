"""The Triton kernel of :mod:`one_pass`: a piece of a weight, each number read and written once."""

import triton
import triton.language as tl

from .eight_bits import SIGNED as _SIGNED
from .eight_bits import UNSIGNED as _UNSIGNED

SIGNED, UNSIGNED = tl.constexpr(_SIGNED), tl.constexpr(_UNSIGNED)
ROWS = 4  # blocks of 8-bit numbers in one program
# where a step's numbers lie, which a group's weights share
NUMBERS = tl.constexpr(4)
DECAY, RATE, ROOT, STEP = (tl.constexpr(n) for n in range(4))
# what the kernel is told of each weight, 64 bits each: addresses, and three numbers
COLUMNS = tl.constexpr(10)
(WEIGHT, REST, GRADIENT, MEAN, MEAN_SCALE, SQUARE, SQUARE_SCALE, COUNT, SEED,
 NUMBERS_AT) = (tl.constexpr(n) for n in range(10))  # fmt: skip


@triton.jit
def _address(entry, column, kind: tl.constexpr, ALIGNED: tl.constexpr):
    """Of a weight's numbers, and whether wide reads may be made of them."""
    pointer = tl.load(entry + column).to(tl.pointer_type(kind))
    return tl.multiple_of(pointer, 16) if ALIGNED else pointer


@triton.jit
def _unpacked(codes, scale, at, row, count, LEVELS: tl.constexpr, BLOCK: tl.constexpr):
    """As ``eight_bits.from_eight_bits``."""
    share = tl.load(codes + at, mask=at < count, other=0).to(tl.float32) / LEVELS
    largest = tl.load(scale + row, mask=row * BLOCK < count, other=0.0)
    return share * tl.abs(share) * largest[:, None]


@triton.jit
def _packed(value, codes, scale, at, row, count, LEVELS: tl.constexpr, BLOCK: tl.constexpr):
    """As ``eight_bits.to_eight_bits``; returns what is kept, in fp32."""
    # nothing outside of the weight: it would count among the largest of its block
    value = tl.where(at < count, value, 0.0)
    largest = tl.max(tl.abs(value), axis=1)
    share = tl.abs(value) / tl.where(largest > 0, largest, 1.0)[:, None]
    code = (tl.sqrt(share) * LEVELS + 0.5).to(tl.int32)
    code = tl.where(value < 0, -code, code)
    tl.store(codes + at, code.to(codes.dtype.element_ty), mask=at < count)
    tl.store(scale + row, largest, mask=row * BLOCK < count)
    share = code.to(tl.float32) / LEVELS
    return share * tl.abs(share) * largest[:, None]


@triton.jit
def adamw(
    table, places, numbers, clip, share1, beta2, share2, eps,
    HALF: tl.constexpr, EIGHT: tl.constexpr, LEAN: tl.constexpr, ALIGNED: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program's ``ROWS × BLOCK`` values of one weight; bf16 comes as int16, the bits it is.

    Args:
        table: int64 ``[weights, COLUMNS]``.
        places: int32 ``[programs, 2]``: which weight, and which of its programs this is.
        share1, share2: 1 − β, which fp32 would round if it were taken here.
    """
    place = places + tl.program_id(0) * 2
    entry = table + tl.load(place).to(tl.int64) * COLUMNS
    weight = _address(entry, WEIGHT, tl.int16, ALIGNED)
    remainder = _address(entry, REST, tl.int16, ALIGNED)
    gradient = _address(entry, GRADIENT, tl.int16 if HALF else tl.float32, ALIGNED)
    mean = _address(entry, MEAN, tl.int8 if EIGHT else tl.float32, ALIGNED)
    mean_scale = _address(entry, MEAN_SCALE, tl.float32, ALIGNED)
    square = _address(entry, SQUARE, tl.uint8 if EIGHT else tl.float32, ALIGNED)
    square_scale = _address(entry, SQUARE_SCALE, tl.float32, ALIGNED)
    count = tl.load(entry + COUNT)
    if ALIGNED:
        count = tl.multiple_of(count, 16)
    numbers += tl.load(entry + NUMBERS_AT) * NUMBERS

    row = tl.load(place + 1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    at = row[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = at < count
    bits = tl.load(weight + at, mask=inside, other=0).to(tl.int32) << 16
    if not LEAN:
        bits += tl.load(remainder + at, mask=inside, other=0).to(tl.int32)
    w = bits.to(tl.float32, bitcast=True)
    g = tl.load(gradient + at, mask=inside, other=0)
    if HALF:
        g = (g.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    g = g * tl.load(clip)

    if EIGHT:
        v = _unpacked(square, square_scale, at, row, count, UNSIGNED, BLOCK)
        m = _unpacked(mean, mean_scale, at, row, count, SIGNED, BLOCK) * v
        v = v * v
    else:
        m = tl.load(mean + at, mask=inside, other=0.0)
        v = tl.load(square + at, mask=inside, other=0.0)
    m = m + (g - m) * share1
    v = v * beta2 + g * g * share2
    root = tl.sqrt(v)
    if EIGHT:
        kept = _packed(root, square, square_scale, at, row, count, UNSIGNED, BLOCK)
        ratio = tl.where(kept > 0, m / tl.where(kept > 0, kept, 1.0), 0.0)
        _packed(ratio, mean, mean_scale, at, row, count, SIGNED, BLOCK)
    else:
        tl.store(mean + at, m, mask=inside)
        tl.store(square + at, v, mask=inside)
    w = w * tl.load(numbers + DECAY)
    w -= tl.load(numbers + RATE) * (m / (root / tl.load(numbers + ROOT) + eps))

    bits = w.to(tl.int32, bitcast=True)
    if LEAN:
        zero = (at * 0).to(tl.uint32)
        step = zero + tl.load(numbers + STEP).to(tl.uint32)
        drawn, _, _, _ = tl.philox(tl.load(entry + SEED), at.to(tl.uint32), step, zero, zero)
        upper = (bits + (drawn >> 16).to(tl.int32)) >> 16
    else:
        upper = (bits + 0x8000) >> 16
        tl.store(remainder + at, (bits - (upper << 16)).to(tl.int16), mask=inside)
    tl.store(weight + at, upper.to(tl.int16), mask=inside)
