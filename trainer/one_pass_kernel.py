"""The Triton kernel of :mod:`one_pass`: a piece of a weight, each number read and written once."""

import triton
import triton.language as tl

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
def _nearest(value, table):
    """Index of the nearest of 256 rising numbers."""
    low = tl.zeros_like(value).to(tl.int32)
    for bit in tl.static_range(8):
        middle = low + (128 >> bit)
        low = tl.where(value >= tl.load(table + middle), middle, low)
    high = tl.minimum(low + 1, 255)
    is_nearer = tl.load(table + high) - value < value - tl.load(table + low)
    return tl.where(is_nearer, high, low)


@triton.jit
def _read(moment, scale, table, at, row, count, BLOCK: tl.constexpr, EIGHT: tl.constexpr):
    """A moment in fp32."""
    if EIGHT:
        code = tl.load(moment + at, mask=at < count, other=0).to(tl.int32)
        largest = tl.load(scale + row, mask=row * BLOCK < count, other=0.0)
        # nothing outside of the weight: it would count among the largest of its block
        value = tl.load(table + code, mask=at < count, other=0.0) * largest[:, None]
    else:
        value = tl.load(moment + at, mask=at < count, other=0.0)
    return value


@triton.jit
def _write(value, moment, scale, table, at, row, count, BLOCK: tl.constexpr, EIGHT: tl.constexpr):
    if EIGHT:
        largest = tl.max(tl.abs(value), axis=1)
        share = value / tl.where(largest > 0, largest, 1.0)[:, None]
        tl.store(moment + at, _nearest(share, table).to(tl.uint8), mask=at < count)
        tl.store(scale + row, largest, mask=row * BLOCK < count)
    else:
        tl.store(moment + at, value, mask=at < count)


@triton.jit
def adamw(
    table, places, numbers, clip, signed, unsigned, share1, beta2, share2, eps,
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
    mean = _address(entry, MEAN, tl.uint8 if EIGHT else tl.float32, ALIGNED)
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

    m = _read(mean, mean_scale, signed, at, row, count, BLOCK, EIGHT)
    v = _read(square, square_scale, unsigned, at, row, count, BLOCK, EIGHT)
    m = m + (g - m) * share1
    v = v * beta2 + g * g * share2
    _write(m, mean, mean_scale, signed, at, row, count, BLOCK, EIGHT)
    _write(v, square, square_scale, unsigned, at, row, count, BLOCK, EIGHT)
    w = w * tl.load(numbers + DECAY)
    w -= tl.load(numbers + RATE) * (m / (tl.sqrt(v) / tl.load(numbers + ROOT) + eps))

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
