"""Damaged texts and senseless values: each is taken or refused in words, and nothing is written."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mutate import NASTY, damaged, other_values
from pack.trainer.concepts import make_concept, read_concepts_file, report
from pack.trainer.config import Concept, ConfigError, Job, TrainConfig, from_mapping
from pack.trainer.image_set import ImageSet
from pack.trainer.images import ImageError, ImageFile
from pack.trainer.names import check_name
from toy import make_job, picture
from trials import Trials

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
