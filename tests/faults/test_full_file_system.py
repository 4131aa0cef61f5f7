"""A real file system runs full: the last good checkpoint stays, the end is clear, and it goes on.

What test_disk_full.py does to every single write by refusing it, the system does here by itself.
"""

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pack.trainer.__main__ import USER_ERRORS
from pack.trainer.config import Concept
from pack.trainer.events import Event, Phase, Step
from pack.trainer.loop import train
from toy import CPU, Run, make_concept, make_job, run, toy_base

SIZE = 64 * 2**20
FIRST, LAST = 1, 3  # steps of the good run, and of the one that the disk is too small for
OPTIONS = {"trains": "unet", "state_minutes": 1e-9, "preview_every": 2, "preview_steps": 1}
ROOM = ("room", "space", "disk")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"nothing can be mounted here: {error}")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"nothing can be mounted here: {error.stderr.strip()}")
    yield folder
    # lazily: what failed still holds files in the traceback that pytest keeps
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def concept(tmp_path_factory: pytest.TempPathFactory) -> Concept:
    return make_concept(tmp_path_factory.mktemp("pictures"), photos=2, classes=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, concept: Concept) -> Run:
    """The same steps where there is room."""
    return run(make_job(tmp_path_factory.mktemp("whole"), (concept,), steps=LAST, **OPTIONS))


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Ballast:
    """A file beside the run that takes all room but ``left`` bytes at one moment of it."""

    def __init__(self, disk: Path, moment: str, left: int) -> None:
        self.file, self.moment, self.left = disk / "ballast", moment, left

    def fill(self) -> None:
        with self.file.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:  # now it is full
                file.truncate(max(0, file.tell() - self.left))

    def listener(self, event: Event) -> None:
        midway = isinstance(event, Step) and event.step == FIRST + 1
        saves = isinstance(event, Phase) and event.name == "Saving" and not event.done
        if {"midway": midway, "while it saves": saves}.get(self.moment):
            self.fill()


@pytest.mark.parametrize(
    ("moment", "share"),
    [
        ("before it begins", 0.0),
        ("midway", 0.0),
        ("midway", 0.5),
        ("while it saves", 0.0),
        ("while it saves", 0.5),
    ],
)
def test_a_full_file_system_costs_no_checkpoint(
    disk: Path, concept: Concept, whole: Run, moment: str, share: float
) -> None:
    """``share``: of a checkpoint, what is left of the room; the file before it stays as it was."""
    good = run(make_job(disk, (concept,), steps=FIRST, **OPTIONS)).result
    before = sha(good.checkpoint)
    job = make_job(disk, (concept,), steps=LAST, **OPTIONS)
    ballast = Ballast(disk, moment, int(share * good.checkpoint.stat().st_size))
    if moment == "before it begins":
        ballast.fill()
    with pytest.raises((*USER_ERRORS, OSError)) as refused:
        train(job, toy_base(), device=CPU, listener=ballast.listener)
    assert any(word in str(refused.value).lower() for word in ROOM), repr(refused.value)
    assert ballast.file.is_file() and sha(good.checkpoint) == before
    assert [path.name for path in good.checkpoint.parent.iterdir()] == [good.checkpoint.name]
    assert not list(disk.rglob("*.partial")) and not list(disk.rglob("*.tmp"))
    ballast.file.unlink()
    again = run(job, train_again=False)
    assert again.result.steps == LAST and again.sha == whole.sha
