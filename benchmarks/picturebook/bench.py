"""The whole bench: contenders × subjects, the table."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from ...demo.base.recipe import BaseFailed
from ...demo.picture_book import ensure_base
from ...demo.recipe import PICTURE_BOOK
from ...demo.world import HELD_OUT
from .cases import NEW_SETTINGS, PHOTOS, SUBJECTS, Case, read_photos
from .contenders import Contender, field
from .judge import Judge
from .measures import Scores, make_scale, row, score
from .report import as_markdown, write
from .sampling import from_bytes
from .trial import Bench, Plan, Sampled

SAMPLING_STEPS = 12  # of DDIM; the demo's 20 would make the bench a third longer


def run(options: argparse.Namespace, root: Path) -> int:
    try:
        cases, contenders = choose(options)
        bench = make_bench(options)
    except (BaseFailed, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    began, made = time.monotonic(), {}
    for contender in contenders:  # one line of the table after the other
        for case in cases:
            for sampled in bench.trials(contender, case, say):
                made.setdefault((contender.name, sampled.steps), {})[case.name] = sampled
    rows = judge_all(bench, cases, made)
    print("\n" + as_markdown(rows))
    if options.write:
        write(root, bench, cases, made, rows, say)
    say(f"{(time.monotonic() - began) / 60:.1f} minutes")
    return 0


def choose(options: argparse.Namespace) -> tuple[list[Case], list[Contender]]:
    """Who takes part.

    Raises:
        ValueError: a name that is none.
    """
    names = options.subjects or SUBJECTS
    if unknown := set(names) - set(HELD_OUT):
        raise ValueError(f"no subject {sorted(unknown)}: choose among {', '.join(HELD_OUT)}")
    all_of_them = field(options.steps or PICTURE_BOOK.steps)
    wanted = options.contenders or [contender.name for contender in all_of_them]
    if unknown := set(wanted) - {contender.name for contender in all_of_them}:
        known = ", ".join(contender.name for contender in all_of_them)
        raise ValueError(f"no contender {sorted(unknown)}: choose among {known}")
    chosen = [c for c in all_of_them if c.name in wanted or c.name == "base"]
    if options.write and options.photos != PHOTOS:
        raise ValueError(f"--photos {options.photos}: what is written has {PHOTOS}")
    return [Case(name, options.photos) for name in names], chosen


def make_bench(options: argparse.Namespace) -> Bench:
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    plan = Plan(
        settings=NEW_SETTINGS, seeds=options.seeds, plain=options.plain,
        class_images=PICTURE_BOOK.class_images, steps=SAMPLING_STEPS, cfg=PICTURE_BOOK.cfg,
    )  # fmt: skip
    base = options.base or ensure_base(options.work / "base.safetensors")
    return Bench(base, plan, options.work, device)


Made = dict[tuple[str, int], dict[str, Sampled]]


def judge_all(bench: Bench, cases: list[Case], made: Made) -> list[dict]:
    """The judge's figures for every line."""
    judge, scores = Judge.load(), {}
    for case in cases:
        base = made["base", 0][case.name]
        photos = bench.seen(read_photos(case.photos(bench.folder / "photos")), case)
        true = bench.seen(case.true_pictures(bench.plan.settings, bench.plan.seeds), case)
        scale = make_scale(judge, photos, true, from_bytes(base.placed))
        asked = [s for s in bench.plan.settings for _ in range(bench.plan.seeds)]
        for line, sampled in made.items():
            of = sampled[case.name]
            pictures = (from_bytes(p) for p in (of.placed, of.plain, base.plain))
            scores.setdefault(line, []).append(score(judge, scale, case, asked, *pictures))
    return [line_of(line, made[line].values(), scores[line]) for line in made]


def line_of(line: tuple[str, int], sampled: Iterable[Sampled], scores: list[Scores]) -> dict:
    name, steps = line
    # all subjects are the same work, and what else runs on a machine only adds to it
    return row(name, steps, min(s.seconds for s in sampled), scores)


def say(text: str) -> None:
    print(f"  {text}", flush=True)
