"""Seeds of every file that a user hands over, and ways in which such files come out damaged."""

import io
import json
import math
import random
import struct
import zlib
from typing import Any

import torch
from PIL import Image

NASTY = (
    None, True, 0, -1, 2**31, 2**63, 10**400, -(10**5000), 0.5, 1e308,
    math.nan, math.inf, -math.inf,
    "", " ", "\0", "a\0b", "../x", "..\\x", "/etc/passwd", "C:\\x", "con", "NUL.txt", "COM1",
    ".", "..", "x.", "~", "~nobody/x", "\ud800", "\u202e", "𝕫𝕨𝕩", "ｚｗｘ", "é" * 90, "zwx " * 5000,
    "x" * 100_000, "{}", "$(id)", "%s%n", "a/b", [], [[]], {}, {"a": 1}, ["x", 3], [None] * 9,
)  # fmt: skip
SIZES = (0, 1, 255, 256, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


def picture_seeds() -> dict[str, bytes]:
    """File name → a small good picture of its format."""
    g = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (24, 32, 4), generator=g, dtype=torch.uint8).numpy()
    rgba = Image.fromarray(noise, "RGBA")
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    deep = Image.fromarray(noise[..., 0].astype("uint16") * 257)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "x" * 40
    palette = rgb.quantize(17)
    frames = [palette.rotate(90 * i) for i in range(3)]
    made = {
        "rgb.png": (rgb, {}),
        "rgba.png": (rgba, {}),
        "palette.png": (palette, {"transparency": 3}),
        "deep.png": (deep, {}),
        "exif.png": (rgb, {"exif": exif}),
        "rgb.jpg": (rgb, {"quality": 80}),
        "exif.jpg": (rgb, {"exif": exif, "dpi": (72, 72)}),
        "progressive.jpg": (rgb, {"progressive": True}),
        "grey.jpg": (grey, {}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "lossy.webp": (rgb, {"exif": exif}),
        "lossless.webp": (rgba, {"lossless": True}),
        "still.gif": (palette, {}),
        "moving.gif": (frames[0], {"save_all": True, "append_images": frames[1:]}),
        "plain.tif": (rgb, {}),
        "lzw.tif": (rgb, {"compression": "tiff_lzw", "exif": exif}),
        "deep.tif": (deep, {}),
        "cmyk.tif": (rgb.convert("CMYK"), {}),
        "rgb.bmp": (rgb, {}),
        "palette.bmp": (palette, {}),
    }
    seeds = {}
    for name, (image, options) in made.items():
        buffer = io.BytesIO()
        image.save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(name[-3:], name.split(".")[1]),
                   **options)  # fmt: skip
        seeds[name] = buffer.getvalue()
    return seeds


def damaged(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """The bytes after one to three mishaps."""
    for _ in range(rng.randint(1, 3)):
        data = rng.choice(_MISHAPS)(bytearray(data), others, rng)
    return data


def _flip_bits(data: bytearray, others: list[bytes], rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 4, 32)) if data else 0):
        data[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(data)


def _cut_off(data: bytearray, others: list[bytes], rng: random.Random) -> bytes:
    return bytes(data[: rng.randrange(len(data) + 1)])


def _insert(data: bytearray, others: list[bytes], rng: random.Random) -> bytes:
    place, piece = _place(data, rng), rng.randbytes(rng.choice((1, 2, 9, 300)))
    return bytes(data[:place] + piece + data[place:])


def _leave_out(data: bytearray, others: list[bytes], rng: random.Random) -> bytes:
    place = _place(data, rng)
    return bytes(data[:place] + data[place + rng.choice((1, 2, 8, 100)) :])


def _swap_header(data: bytearray, others: list[bytes], rng: random.Random) -> bytes:
    length = rng.choice((4, 8, 16, 64))
    return rng.choice(others)[:length] + bytes(data[length:])


def _zero_bytes(data: bytearray, others: list[bytes], rng: random.Random) -> bytes:
    place, length = _place(data, rng), rng.choice((1, 4, 64))
    return bytes(data[:place] + b"\0" * length + data[place + length :])


def _huge_number(data: bytearray, others: list[bytes], rng: random.Random) -> bytes:
    """Sizes and counts that the header declares: wherever they are, in either byte order."""
    number = struct.pack(rng.choice("<>") + "I", rng.choice(SIZES))[: rng.choice((2, 4))]
    place = _place(data, rng)
    return bytes(data[:place] + number + data[place + len(number) :])


def _twice(data: bytearray, others: list[bytes], rng: random.Random) -> bytes:
    return bytes(data + data[_place(data, rng) :])


_MISHAPS = (
    _flip_bits, _flip_bits, _cut_off, _insert, _leave_out, _swap_header, _zero_bytes, _huge_number,
    _huge_number, _twice,
)  # fmt: skip


def _place(data: bytes, rng: random.Random) -> int:
    """Half of all mishaps hit the first bytes, where the headers are."""
    return rng.randrange(max(1, len(data) if rng.random() < 0.5 else min(len(data), 64)))


def large_pictures() -> dict[str, bytes]:
    """Files of a few bytes that declare as many pixels as are taken, or more."""
    made = {}
    for width, height in ((12_000, 12_000), (150_000_000, 1), (60_000, 60_000), (2**31 - 1, 9)):
        head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
        made[f"{width}x{height}.png"] = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head)
        small = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        made[f"{width}x{height}.bmp"] = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + small
    return made


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def other_values(value: Any, rng: random.Random) -> Any:
    """A JSON value with one to three places in it changed, left out or added."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.randint(1, 3)):
        holder = value
        while isinstance(holder, (dict, list)) and holder:
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            key = rng.choice(list(keys))
            if not isinstance(holder[key], (dict, list)) or rng.random() < 0.3:
                _change(holder, key, rng)
                break
            holder = holder[key]
    return value


def _change(holder: Any, key: Any, rng: random.Random) -> None:
    kind = rng.random()
    if kind < 0.75:
        holder[key] = rng.choice(NASTY)
    elif kind < 0.85:
        del holder[key]
    elif isinstance(holder, dict):
        holder[str(rng.choice(NASTY))[:200] if rng.random() < 0.9 else "x" * 50_000] = 1
    else:
        holder.append(rng.choice(NASTY))
