"""Damaged files and senseless values: each is taken or refused in words, and nothing is written."""

import contextlib
import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from mutate import NASTY, damaged, large_pictures, other_values, picture_seeds
from pack.trainer.checkpoint import CheckpointError, UnsupportedModel, detect, read_checkpoint
from pack.trainer.concepts import make_concept, read_concepts_file, report
from pack.trainer.config import Concept, ConfigError, Job, TrainConfig, from_mapping
from pack.trainer.image_set import ImageSet, read_folder
from pack.trainer.images import ImageError, ImageFile, check_image
from pack.trainer.names import check_name
from record import record
from safetensors.torch import save
from toy import make_job, picture, toy_base

SEED = 20261122
# A file of 3 KB may hold 136 megapixels, fewer than are refused: 8 s on a busy core.
SECONDS = 30.0
LONGEST = 2000  # characters of a message
GROWTH = 3 * 2**30  # bytes of memory that all inputs of one kind may cost at the highest
COUNTS = {  # short form, full form
    "pictures": (60, 1000),
    "folders of pictures": (4, 60),
    "concepts_list.json": (30, 400),
    "job.json": (30, 500),
    "checkpoint files": (30, 400),
    "tensor names and shapes": (20, 200),
    "settings": (40, 600),
    "names and prompts": (30, 300),
}


class TooLate(BaseException):
    """An input that hangs; no ``except Exception`` may take it for a damaged file."""


# ---- what every input is held to ---------------------------------------------------------------

_watch: dict[str, Any] = {"root": None, "outside": []}


def _audit(event: str, args: tuple) -> None:
    """Note everything written outside the root; an audit hook cannot be taken back."""
    if _watch["root"] is None:
        return
    path = None
    if event == "open" and args[2] & 0o3:  # O_WRONLY or O_RDWR
        path = args[0]
    elif event in ("os.mkdir", "os.rename", "os.remove", "os.symlink", "os.link", "os.truncate"):
        path = args[1] if event in ("os.rename", "os.symlink", "os.link") else args[0]
    if isinstance(path, (str, bytes, Path)):
        text = path.decode() if isinstance(path, bytes) else str(path)
        if not text.startswith(_watch["root"]) and text != "/dev/null":
            _watch["outside"].append(f"{event} {text}")


sys.addaudithook(_audit)


@contextlib.contextmanager
def watched(root: Path) -> Iterator[list[str]]:
    """What is written outside ``root`` meanwhile."""
    _watch.update(root=str(root), outside=[])
    try:
        yield _watch["outside"]
    finally:
        _watch["root"] = None


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Break off what hangs, where the system can."""

    def late(*_: object) -> None:
        raise TooLate(f"more than {seconds} s")

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def highest_memory() -> int:
    """Bytes that this process has used at the most so far; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


class Trials:
    """Runs inputs of one kind and counts how they end."""

    def __init__(self, kind: str, root: Path, full: bool) -> None:
        self.kind, self.root, self.full = kind, root, full
        self.count = COUNTS[kind][full]
        self.rng = random.Random(f"{SEED} {kind}")
        self.outcomes: Counter[str] = Counter()
        self.failures: list[str] = []
        self.slowest = 0.0
        self.began, self.memory = time.monotonic(), highest_memory()

    def try_one(
        self, about: str, allowed: tuple[type[Exception], ...], do: Callable[[], Any]
    ) -> Any:
        """The result, or None if it was refused; what is neither is a failure."""
        began, said, result = time.monotonic(), "", None
        with watched(self.root) as outside:
            try:
                with time_limit(SECONDS):
                    result = do()
                ended = "taken"
            except allowed as error:
                ended, message = type(error).__name__, str(error)
                if not message.strip() or len(message) > LONGEST:
                    said = f"a message of {len(message)} characters"
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                ended, said = "failed", repr(error)[:300]
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.outcomes[ended] += 1
        if said or outside:
            self.failures.append(f"{about}: {said} {outside}")
        return result

    def finish(self) -> None:
        grown = max(0, highest_memory() - self.memory)
        if grown > GROWTH:
            self.failures.append(f"{grown / 2**30:.1f} GiB of memory")
        if self.full:
            DONE[self.kind] = {
                "inputs": sum(self.outcomes.values()),
                "outcomes": dict(sorted(self.outcomes.items())),
                "failures": len(self.failures),
                "slowest_seconds": round(self.slowest, 2),
                "memory_grew_mb": grown // 10**6,
                "seconds": round(time.monotonic() - self.began),
            }
            inputs, failures = (
                sum(done[key] for done in DONE.values()) for key in ("inputs", "failures")
            )
            record("fuzz", inputs=inputs, failures=failures, seed=SEED, kinds=DONE)
        assert not self.failures, f"seed {SEED}: " + "\n".join(self.failures[:20])


DONE: dict[str, dict] = {}  # the kinds of a full run

# ---- pictures ----------------------------------------------------------------------------------


def test_pictures(tmp_path: Path, full: bool) -> None:
    trials = Trials("pictures", tmp_path, full)
    seeds = picture_seeds()
    for name, data in seeds.items():
        (tmp_path / name).write_bytes(data)
        assert check_image(tmp_path / name).width in (24, 32), name
    files = large_pictures()
    for number in range(trials.count - len(files)):
        name = trials.rng.choice(list(seeds))
        files[f"{number} {name}"] = damaged(seeds[name], list(seeds.values()), trials.rng)
    for name, data in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        trials.try_one(name, (ImageError,), lambda path=path: check_image(path))
        path.unlink()
    trials.finish()


def test_folders_of_pictures(tmp_path: Path, full: bool) -> None:
    trials = Trials("folders of pictures", tmp_path, full)
    seeds = picture_seeds()
    for number in range(trials.count):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        for place in range(trials.rng.randrange(8)):
            data = damaged(trials.rng.choice(list(seeds.values())), [b"", b"BM"], trials.rng)
            ending = trials.rng.choice(("png", "jpg", "GIF", "webp", "txt", "heic", "tiff"))
            (folder / f"{place}.{ending}").write_bytes(data)
        found = trials.try_one(
            f"{number}", (ImageError,), lambda folder=folder: read_folder(folder)
        )
        assert found is None or (found.files and len(found.report()) < 20_000)
    trials.finish()


# ---- texts -------------------------------------------------------------------------------------


def texts(trials: Trials, good: Any) -> Iterator[tuple[str, bytes]]:
    """Damaged bytes and sound JSON with other values by turns; first a few built by hand."""
    data = json.dumps(good).encode()
    nested = [b"[" * 100_000, b'{"a":' * 100_000, b"[]", b"", b"\xff\xfe", b"9" * 10_000]
    for number in range(trials.count):
        if number < len(nested):
            yield f"{number} built", nested[number]
        elif number % 2:
            yield f"{number} damaged", damaged(data, [b"\xef\xbb\xbf", b"PK\3\4"], trials.rng)
        else:
            changed = other_values(good, trials.rng)
            with contextlib.suppress(ValueError):  # a number too long for Python to spell out
                yield f"{number} changed", json.dumps(changed).encode()
                continue
            yield f"{number} changed", data.replace(b"1", b"9" * 5000, 1)


def test_concepts_lists(tmp_path: Path, full: bool) -> None:
    trials = Trials("concepts_list.json", tmp_path, full)
    inputs = tmp_path / "input"
    for name in ("photos", "class"):
        (inputs / name).mkdir(parents=True)
        picture(inputs / name / "0.png", 0)
    entry = {"instance_prompt": "photo of zwx dog", "class_prompt": "photo of a dog"}
    entry |= {"instance_data_dir": "photos", "class_data_dir": "class"}
    good = [entry, {**entry, "instance_prompt": "photo of qqx dog", "class_data_dir": ""}]

    def resolve(text: str) -> Path:
        path = (inputs / Path(text).expanduser()).resolve()
        if not path.is_relative_to(inputs):
            raise ConfigError(f"{text[:100]!r} is outside")
        return path

    file = inputs / "concepts_list.json"
    for about, data in texts(trials, good):
        file.write_bytes(data)
        trials.try_one(
            about, (ConfigError, ImageError), lambda: report(read_concepts_file(file, resolve))
        )
    trials.finish()


def test_jobs(tmp_path: Path, full: bool) -> None:
    trials = Trials("job.json", tmp_path, full)
    good = json.loads(make_job(tmp_path).to_json())
    file = tmp_path / "job.json"

    def read() -> None:
        job = Job.read(file)
        check_name(job.name)
        assert job == Job.from_json(job.to_json())  # what is taken can be kept
        job.to_json().encode()

    for about, data in texts(trials, good):
        file.write_bytes(data)
        trials.try_one(about, (ConfigError,), read)
    trials.finish()


# ---- checkpoints -------------------------------------------------------------------------------


def other_header(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose JSON header says something else, with its length set right."""
    length = int.from_bytes(data[:8], "little")
    header = other_values(json.loads(data[8 : 8 + length]), rng)
    try:
        text = json.dumps(header).encode()
    except ValueError:  # a number too long for Python to spell out
        text = data[8 : 8 + length].replace(b"0", b"9" * 5000, 1)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def test_checkpoint_files(tmp_path: Path, full: bool) -> None:
    trials = Trials("checkpoint files", tmp_path, full)
    names = [name for name, tensor in toy_base().items() if tensor.numel() < 2000]
    data = save({name: toy_base()[name] for name in names[:40]}, {"format": "pt"})
    path = tmp_path / "x.safetensors"
    for number in range(trials.count):
        bad = other_header(data, trials.rng) if number % 2 else None
        path.write_bytes(bad or damaged(data, [b"PK\3\4", b"\x80\2}"], trials.rng))
        trials.try_one(
            f"{number}",
            (CheckpointError, UnsupportedModel),
            lambda: detect(read_checkpoint(path)[0]),
        )
    trials.finish()


def test_tensor_names_and_shapes(tmp_path: Path, full: bool) -> None:
    trials = Trials("tensor names and shapes", tmp_path, full)
    good = {name: torch.empty(tensor.shape, device="meta") for name, tensor in toy_base().items()}
    good |= {name: tensor for name, tensor in toy_base().items() if "vae_s" in name}
    shapes = ((), (0,), (1,), (1, 1), (7, 3, 2), (2, 2, 2, 2, 2), (2**40, 8), (32, 4, 3, 3))
    kinds = (torch.int8, torch.float8_e4m3fn, torch.bool, torch.complex64, torch.float64)
    for number in range(trials.count):
        changed = dict(good)
        for name in trials.rng.sample(sorted(good), trials.rng.choice((1, 3, 40))):
            kind = trials.rng.randrange(4)
            tensor = changed.pop(name)
            if kind == 0:
                changed[name] = torch.zeros(()).expand(trials.rng.choice(shapes))
            elif kind == 1:
                changed[name] = torch.empty(tensor.shape, device="meta", dtype=kinds[number % 5])
            elif kind == 2:
                changed[name.replace("1", "2")] = tensor
        trials.try_one(
            f"{number}",
            (CheckpointError, UnsupportedModel),
            lambda changed=changed: detect(changed),
        )
    trials.finish()


# ---- values ------------------------------------------------------------------------------------


def test_settings(tmp_path: Path, full: bool) -> None:
    trials = Trials("settings", tmp_path, full)
    concept = {"instance_prompt": "a zwx dog", "instance_images": ["a.png"]}
    fields = {
        TrainConfig: list(TrainConfig.__dataclass_fields__),
        Concept: list(Concept.__dataclass_fields__),
    }
    for number in range(trials.count):
        kind = TrainConfig if number % 3 else Concept
        names = trials.rng.sample(fields[kind], trials.rng.choice((1, 1, 2)))
        values = {} if kind is TrainConfig else dict(concept)
        values |= {name: trials.rng.choice(NASTY) for name in names}
        trials.try_one(
            f"{number} {names}",
            (ConfigError,),
            lambda kind=kind, values=values: from_mapping(kind, values),
        )
    trials.finish()


def test_names_and_prompts(tmp_path: Path, full: bool) -> None:
    trials = Trials("names and prompts", tmp_path, full)
    words = [value for value in NASTY if isinstance(value, str)]
    photos = ImageSet((ImageFile("a.png", 8, 8, "0"),))
    for number in range(trials.count):
        parts = trials.rng.choices([*words, "zwx", "dog"], k=4)
        name = "".join(trials.rng.sample(parts, trials.rng.randint(1, 2)))
        if number % 2:
            taken = trials.try_one(f"{number}", (ConfigError,), lambda name=name: check_name(name))
            assert taken is None or (tmp_path / taken).resolve().parent == tmp_path.resolve()
        else:
            given = {"identifier": parts[0], "class_noun": parts[1]}
            given |= {"instance_prompt": trials.rng.choice(("", name)), "class_prompt": parts[2]}
            trials.try_one(
                f"{number}",
                (ConfigError,),
                lambda given=given: report([make_concept(photos, **given)]),
            )
    trials.finish()
