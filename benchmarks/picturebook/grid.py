"""The picture of the bench: photos, then a line of samples for each contender."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ...demo.world import PLACES
from ...trainer.images import to_image
from ...trainer.plot import FAINT, INK, PAPER, font
from .cases import Case, read_photos
from .sampling import from_bytes
from .trial import Bench, Sampled

CELL, GAP, LEFT, HEAD = 96, 6, 220, 44  # a sample is 96 pixels wide
SETTINGS_SHOWN, PLAIN_SHOWN = 5, 3


def draw_grid(
    bench: Bench,
    cases: list[Case],
    made: dict[tuple[str, int], dict[str, Sampled]],
    path: Path,
    subjects: int = 2,
) -> None:
    """For the first subjects: the photos, and each contender's last mark; the same noise below."""
    blocks = [_block(bench, case, last_marks(made)) for case in cases[:subjects]]
    width = max(block.width for block in blocks)
    sheet = Image.new("RGB", (width, sum(b.height for b in blocks) + GAP * len(blocks)), PAPER)
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height + GAP
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


def last_marks(made: dict[tuple[str, int], dict[str, Sampled]]) -> dict[str, dict[str, Sampled]]:
    """Of each contender the line with the most steps."""
    last: dict[str, tuple[int, dict[str, Sampled]]] = {}
    for (name, steps), by_case in made.items():
        if name not in last or steps > last[name][0]:
            last[name] = (steps, by_case)
    return {f"{name}\n{steps} steps" if steps else name: by_case
            for name, (steps, by_case) in last.items()}  # fmt: skip


def _block(bench: Bench, case: Case, lines: dict[str, dict[str, Sampled]]) -> Image.Image:
    settings = bench.plan.settings[:SETTINGS_SHOWN]
    columns = [PLACES[s].phrases[0] for s in settings] + [f"“a {case.kind}”"] * PLAIN_SHOWN
    width = LEFT + len(columns) * (CELL + GAP) + 3 * GAP
    height = 2 * HEAD + (len(lines) + 1) * (CELL + GAP)
    block = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(block)
    _line(
        block,
        draw,
        HEAD,
        f"photos of {case.name}",
        read_photos(case.photos(bench.folder / "photos")).add(1).div(2),
    )
    top = HEAD + CELL + GAP
    for number, text in enumerate(columns):
        draw.text((_x(number), top + HEAD - 28), text, FAINT, font(15))
    draw.text((16, top + HEAD - 28), f"“{case.instance_prompt} …”", FAINT, font(15))
    top += HEAD
    for name, by_case in lines.items():
        of = by_case[case.name]
        placed = from_bytes(of.placed)[:: bench.plan.seeds][: len(settings)]
        _line(block, draw, top, name, torch.cat([placed, from_bytes(of.plain)[:PLAIN_SHOWN]]))
        top += CELL + GAP
    return block


def _line(
    block: Image.Image, draw: ImageDraw.ImageDraw, top: int, name: str, pictures: Tensor
) -> None:
    draw.text((16, top + CELL / 2), name, INK, font(17), anchor="lm")
    for number, picture in enumerate(pictures):
        cell = to_image(picture * 2 - 1).resize((CELL, CELL), Image.Resampling.LANCZOS)
        block.paste(cell, (_x(number), top))


def _x(column: int) -> int:
    """Left edge of a column; the plain class stands apart."""
    return LEFT + column * (CELL + GAP) + 3 * GAP * (column >= SETTINGS_SHOWN)
