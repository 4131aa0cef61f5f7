"""Cancel at random moments, round after round: ComfyUI stays usable, no work is lost, no memory.

A trial is one name: class images → train → sample is cancelled somewhere, queued again until it is
through, and then the host's KSampler paints with the model that went into all of the trials.
"""

import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer

import numpy as np
import psutil
import pytest
from graphs import Graph, Node, executed, pixels, text_of, trained
from pack.demo.client import ClientError, ComfyClient, Outcome, PromptInterrupted
from pack.demo.server import ComfyServer
from pack.trainer.checkpoint import read_checkpoint
from record import record

SEED = 20260722
TRIALS = {False: 4, True: 60}  # that interrupt, by whether the tests run at full count
MINUTES = 40  # after which no further trial begins; what is recorded is what ran
WARM = 3  # rounds after which nothing may grow any more
GROWTH_MB = 200
PATIENCE = 120  # seconds until a prompt that does not end counts as hung
SETTINGS = {
    "steps": 4,
    "preview_every": 2,
    "preview_steps": 2,
    "save_every": 3,
    "keep": 1,
}


@dataclass(frozen=True)
class Footprint:
    """Of the server's process, between two prompts."""

    megabytes: float
    threads: int
    files: int


@dataclass
class Trial:
    """What became of one name; ``faults`` are sentences that must not be there."""

    moment: str
    ended: str = "finished"
    began: str = ""
    answered: float = 0.0
    picture: np.ndarray | None = None
    after: Footprint | None = None
    faults: list[str] = field(default_factory=list)


@dataclass
class Host:
    """A server with an event socket, and what goes into the graphs."""

    server: ComfyServer
    client: ComfyClient
    info: dict
    base_name: str
    photos: str

    def graph(self, name: str) -> tuple[Graph, Node]:
        """Class images → train → sample: (graph, its *DreamBooth Train*)."""
        graph = Graph(self.info)
        base = graph.load(self.base_name)
        texts = {"identifier": "zwx", "class_noun": "dog"}
        images = graph.class_images(base)
        concept = graph.concept(graph.photos(self.photos), class_images=images[0], **texts)
        train = graph.train(base, concept, name, SETTINGS)
        graph.sample(trained(train))
        return graph, train

    def run(self, graph: Graph, on_event: Callable[[dict], None] | None = None) -> Outcome:
        return self.client.wait(self.client.queue(graph), on_event, PATIENCE)

    def paint(self) -> np.ndarray:
        """The host's own sampler on the loader's MODEL."""
        graph = Graph(self.info)
        picture = graph.sample(graph.load(self.base_name))
        outcome = self.run(graph)
        assert picture.id in executed(outcome), "the picture came from the host's cache"
        return pixels(self.client, outcome, picture)

    def fill_pool(self) -> None:
        """Lets the server start every thread that sends files: it does so one by one, as it needs
        them, up to four more than there are cores."""
        file = next(self.server.folder("output").rglob("*.png"))
        folder = file.parent.relative_to(self.server.folder("output")).as_posix()
        many = 4 * ((os.cpu_count() or 1) + 4)
        with ThreadPoolExecutor(many) as pool:
            assert all(pool.map(lambda _: self.client.view(file.name, folder), range(4 * many)))

    def footprint(self) -> Footprint:
        """At rest: a picture that is just being sent is an open file, too."""
        process = psutil.Process(self.server.process.pid)
        threads, files = [], []
        for _ in range(5):
            threads.append(process.num_threads())
            files.append(len(process.open_files()))
            time.sleep(0.2)
        return Footprint(process.memory_info().rss / 2**20, min(threads), min(files))

    def forget_pictures(self) -> None:
        """So that every trial samples its class images and encodes all pictures."""
        for name in ("class_images", "cache"):
            shutil.rmtree(self.server.folder("output") / "dreambooth" / name, ignore_errors=True)

    def half_done(self) -> list[str]:
        """Files in output and temp that somebody was about to finish or to delete."""
        return [
            path.name
            for folder in ("output", "temp")
            for path in self.server.folder(folder).rglob("*")
            if path.suffix in (".tmp", ".partial") or "rehearsal-" in path.name
        ]


@dataclass
class Story:
    """All trials, and the host's picture before the first."""

    seconds: float
    trials: list[Trial]
    before: np.ndarray


@pytest.fixture(scope="module")
def story(server, connect, info, base_name, drawn, checkpoints, runs, full) -> Iterator[Story]:
    """Two unbroken runs, timed and compared with each other; then the trials."""
    host, began = Host(server, connect(), info, base_name, drawn), time.monotonic()
    before = host.paint()
    host.fill_pool()
    durations = []
    for name in ("unbroken", "timed"):
        host.forget_pictures()
        events, started = [], time.monotonic()
        host.run(host.graph(name)[0], events.append)
        durations.append(time.monotonic() - started)
    unbroken = min(durations)  # a busy machine must not put the moments behind the end
    reference = checkpoints / "unbroken.safetensors"
    assert differences(reference, checkpoints / "timed.safetensors") == []
    noise, trials = np.random.default_rng(SEED), []
    for number in range(3 * TRIALS[full]):
        # a moment behind the end proves nothing, and does not count
        interrupted = sum(trial.ended == "interrupted" for trial in trials)
        if interrupted == TRIALS[full] or time.monotonic() - began > 60 * MINUTES:
            break
        by_event = bool(noise.integers(2))
        share = noise.random()
        at = int(share * len(events)) if by_event else share * unbroken
        trials.append(attempt(host, f"cancelled {number}", at, reference))
        remove(runs, checkpoints, f"cancelled {number}")
    host.client.close()
    for name in ("unbroken", "timed"):
        remove(runs, checkpoints, name)
    yield Story(time.monotonic() - began, trials, before)


def attempt(host: Host, name: str, at: int | float, reference: Path) -> Trial:
    """Cancel at an event's number or after seconds; then queue the same graph again."""
    trial = Trial(f"seed {SEED}, {name}: " + (f"event {at}" if type(at) is int else f"{at:.2f} s"))
    host.forget_pictures()
    try:
        cancel(host, host.graph(name)[0], at, trial)
        trial.faults += host.half_done()
        host.client.get("/system_stats")
        graph, train = host.graph(name)
        said = text_of(host.run(graph), train)
        trial.began = beginning(said)
        made = Path(re.search(r"^checkpoint: (.+)$", said, re.MULTILINE)[1])
        trial.faults += differences(reference, made) + host.half_done()
        trial.picture = host.paint()
    except ClientError as error:
        trial.faults.append(str(error))
    trial.after = host.footprint()
    return trial


def cancel(host: Host, graph: Graph, at: int | float, trial: Trial) -> None:
    """Queue a graph and interrupt it; how it ended, and how long the host took to end it."""
    seen, asked = 0, []

    def stop() -> None:
        asked.append(time.monotonic())
        host.client.interrupt()

    def on_event(event: dict) -> None:
        nonlocal seen
        seen += 1
        if type(at) is int and seen == at + 1:
            stop()

    timer = Timer(at, stop) if type(at) is float else None
    if timer:
        timer.start()
    try:
        host.run(graph, on_event)
    except PromptInterrupted:
        trial.ended, trial.answered = "interrupted", time.monotonic() - asked[0]
    finally:
        if timer:
            timer.cancel()
            timer.join()


def beginning(said: str) -> str:
    """What the second queue found, from the text under *DreamBooth Train*."""
    found = {"goes on from step": "went on", "is handed over": "was handed over"}
    return next((word for text, word in found.items() if text in said), "began anew")


def differences(reference: Path, file: Path) -> list[str]:
    """What differs between two checkpoints beside their names."""
    expected, about_expected = read_checkpoint(reference)
    tensors, about = read_checkpoint(file)
    names = sorted(expected.keys() ^ tensors.keys())
    names += [key for key in expected.keys() & tensors if not tensors[key].equal(expected[key])]
    texts = {k for k in about_expected | about if about_expected.get(k) != about.get(k)}
    return [f"{file.name}: other {name}" for name in [*names, *(texts - {"modelspec.title"})]]


def remove(runs: Path, checkpoints: Path, name: str) -> None:
    """A name's runs and files; ``name-2`` is one of them."""
    for path in (runs / name, *runs.glob(f"{name}-*")):
        shutil.rmtree(path, ignore_errors=True)
    for path in (checkpoints / f"{name}.safetensors", *checkpoints.glob(f"{name}-*")):
        path.unlink(missing_ok=True)


def test_a_cancel_at_any_moment_loses_nothing(story: Story, full: bool) -> None:
    """The host answers, and the same graph queued again ends with the unbroken run's weights."""
    faults = {trial.moment: trial.faults for trial in story.trials if trial.faults}
    ended = Counter(trial.ended for trial in story.trials)
    stopped = [trial for trial in story.trials if trial.ended == "interrupted"]
    again = Counter(trial.began for trial in stopped)
    if full:
        record(
            "cancel in ComfyUI",
            trials=len(story.trials),
            failures=len(faults),
            interrupted=ended["interrupted"],
            too_late=ended["finished"],
            after_the_cancel=dict(sorted(again.items())),
            longest_until_it_stopped_s=round(
                max((trial.answered for trial in stopped), default=0), 2
            ),
            injected="interrupt after a random time or at a random event of the socket",
            seed=SEED,
            seconds=round(story.seconds),
        )
    assert not faults
    assert ended["interrupted"] >= len(story.trials) // 4, ended


def test_rounds_leave_nothing_behind_in_the_process(story: Story, full: bool) -> None:
    rounds = [trial.after for trial in story.trials]
    warm, last = rounds[WARM - 1], rounds[-1]
    series = [round(footprint.megabytes) for footprint in rounds]
    if full:
        slope = np.polyfit(range(WARM - 1, len(rounds)), series[WARM - 1 :], 1)[0]
        record(
            "memory of ComfyUI over rounds",
            rounds=len(rounds),
            resident_mb_after_round_3=series[WARM - 1],
            resident_mb_after_the_last=series[-1],
            most_resident_mb=max(series),
            slope_mb_per_round=round(float(slope), 2),
            threads=[warm.threads, last.threads],
            open_files=[warm.files, last.files],
            seed=SEED,
        )
    assert last.megabytes - warm.megabytes < GROWTH_MB, series
    for counts in ([r.files for r in rounds], [r.threads for r in rounds]):
        assert counts[-1] <= max(counts[:WARM]), counts


def test_the_model_that_went_in_is_the_same_afterwards(story: Story) -> None:
    assert story.before.std() > 5
    others = [t.moment for t in story.trials if not np.array_equal(t.picture, story.before)]
    assert not others
