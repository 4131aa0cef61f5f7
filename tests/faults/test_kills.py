"""Runs that are killed at random moments go on to the same bytes."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from conftest import ROOT
from forking import (
    BETWEEN,
    SEED,
    Whole,
    check_end,
    doing,
    ended,
    finished,
    forked,
    kill_after,
    place,
    unbroken,
)
from record import record

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no fork, no SIGKILL")

KILLS = 3  # of one run, at most


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return unbroken(tmp_path_factory.mktemp("unbroken") / "forked")


def command(arguments: list[str]) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "trainer", *arguments],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def command_seconds(whole: Path) -> float:
    """Of an unbroken ``python -m trainer``, which ends with the same bytes as a forked child."""
    folder = whole.parent / "command"
    folder.mkdir()
    began = time.perf_counter()
    running = command(place(folder))
    _, errors = running.communicate()
    assert running.returncode == 0, errors
    assert finished(folder) == finished(whole)
    return time.perf_counter() - began


def kill_forked(whole: Whole, arguments: list[str], chance: random.Random) -> tuple[str, str, int]:
    """One start that may be killed: by which measure, while doing what, and how it ended."""
    diary = Path(arguments[0]).with_name("diary")
    diary.unlink(missing_ok=True)
    how, count = chance.choice(["time", "event", "touch"]), Counter(whole.diary)
    if how == "event":
        child = forked(arguments, diary, event=chance.randint(1, count["event"]))
    elif how == "touch":
        child = forked(arguments, diary, touch=chance.randint(1, count["touch"]))
    else:
        child = forked(arguments, diary)
        kill_after(child, chance.uniform(0, whole.seconds))
    code = ended(child)
    return how, doing(diary), code


def kill_command(
    seconds: float, arguments: list[str], chance: random.Random
) -> tuple[str, str, int]:
    """The same of a real ``python -m trainer``, which takes so many seconds, by time alone."""
    running = command(arguments)
    time.sleep(chance.uniform(0, seconds))
    running.kill()
    said, _ = running.communicate()
    return "command", told(said), running.returncode


def told(said: str) -> str:
    """What a command was doing, from the line that it showed last."""
    last = re.split(r"[\r\n]+", said.strip())[-1] if said.strip() else ""
    if not last:
        return "importing, reading the base"
    match = re.match(r"([A-Z][a-z ]+): (\d+)/(\d+)$", last)
    return match[1] if match and match[2] != match[3] else BETWEEN


def trial(folder: Path, whole: Whole, chance: random.Random, kill: Callable) -> tuple[list, int]:
    """Kills one run up to ``KILLS`` times, then lets it end; (the kills, names that were lost)."""
    folder.mkdir()
    arguments, kills = place(folder), []
    for _ in range(chance.randint(1, KILLS)):
        how, what, code = kill(arguments, chance)
        assert code in (0, -signal.SIGKILL), (how, what, code)
        if code:
            kills.append((how, what))
    diary = folder / "diary"
    code = ended(forked(arguments, diary))
    assert code == 0, (kills, diary.with_suffix(".err").read_text())
    lost = check_end(folder, whole.folder)
    shutil.rmtree(folder)
    return kills, lost


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    whole: Whole, tmp_path: Path, full: bool
) -> None:
    trials, commands = (60, 6) if full else (2, 0)
    seconds = command_seconds(whole.folder) if commands else 0.0
    began, kills, lost, failed = time.perf_counter(), [], 0, []
    for number in range(trials):
        chance = random.Random(f"{SEED}/kill/{number}")
        by_command = number < commands
        kill = partial(kill_command, seconds) if by_command else partial(kill_forked, whole)
        try:
            found, names = trial(tmp_path / str(number), whole, chance, kill)
        except (AssertionError, ValueError, OSError) as error:
            failed.append(f"trial {number} of seed {SEED}: {error}")
            continue
        kills, lost = kills + found, lost + names
    assert not failed, "\n".join(failed)
    assert kills
    if full:
        record(
            "kill -9",
            trials=trials,
            failures=len(failed),
            kills=len(kills),
            moments=dict(sorted(Counter(how for how, _ in kills).items())),
            phases=dict(sorted(Counter(what for _, what in kills).items())),
            begun_anew_under_another_name=lost,
            seed=SEED,
            seconds=round(time.perf_counter() - began),
        )


def touches_of(diary: list[str]) -> dict[str, list[int]]:
    """The numbers of an unbroken run's changes on disk, by what the run was doing."""
    found, touch, activity = defaultdict(list), 0, "Reading the base"
    for line in diary:
        if line == "touch":
            touch += 1
            found[activity].append(touch)
        elif line != "event":
            activity = line
    return found


def test_killed_within_a_save_it_goes_on_to_the_same_bytes(
    whole: Whole, tmp_path: Path, full: bool
) -> None:
    """Short moments that a random one seldom meets: before some change on disk of each save."""
    touches, chance = touches_of(whole.diary), random.Random(f"{SEED}/within")
    saves = ["Saving the end", "Saving an extra", "Keeping the state", "Rehearsing the save"]
    for what in saves if full else saves[:1]:
        assert touches[what], what
        for touch in chance.sample(touches[what], min(len(touches[what]), 5 if full else 1)):
            folder = tmp_path / str(touch)
            folder.mkdir()
            arguments, diary = place(folder), folder / "diary"
            assert ended(forked(arguments, diary, touch=touch)) == -signal.SIGKILL
            assert doing(diary) == what
            assert ended(forked(arguments, diary)) == 0, diary.with_suffix(".err").read_text()
            assert check_end(folder, whole.folder) == 0, (what, touch)
