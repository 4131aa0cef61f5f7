"""Settings check themselves, and a job survives its JSON."""

import dataclasses
from pathlib import Path

import pytest
from pack.trainer.config import (
    Concept,
    ConfigError,
    Job,
    TrainConfig,
    check_options,
    flat,
    from_mapping,
    group,
    option,
    option_fields,
)
from toy import make_job


def test_every_option_says_what_it_does() -> None:
    for name, field in option_fields(TrainConfig):
        assert len(field.metadata["help"]) > 10, name
        if type(field.default) in (int, float):
            assert field.metadata["min"] <= field.default <= field.metadata["max"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"steps": 0}, ["steps = 0", "1 to"]),
        ({"steps": 1.5}, ["steps = 1.5", "int"]),
        ({"steps": True}, ["steps = True", "int"]),
        ({"learning_rate": float("nan")}, ["learning_rate", "finite"]),
        ({"precision": "fp17"}, ["'fp17'", "bf16"]),
        ({"resolution": 100}, ["100", "multiple of 8"]),
        ({"steps": 10, "lr_warmup_steps": 11}, ["lr_warmup_steps = 11", "10"]),
        ({"seed": -1}, ["seed = -1"]),
    ],
)
def test_bad_values_are_refused_with_the_value(values: dict, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**values)
    assert all(word in str(caught.value) for word in words)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    rank: int = option(4, "A number in a group.", min=1)

    def __post_init__(self) -> None:
        check_options(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    name: str = option("x", "A text beside the group.")
    inner: Inner = group(Inner)

    def __post_init__(self) -> None:
        check_options(self)


def test_options_of_a_group() -> None:
    assert [name for name, _ in option_fields(Outer)] == ["name", "inner.rank"]
    assert flat(Outer(inner=Inner(rank=8))) == {"name": "x", "inner.rank": 8}
    made = Outer(inner=Inner(rank=8))
    assert from_mapping(Outer, dataclasses.asdict(made)) == made
    assert from_mapping(Outer, {}) == Outer()
    for values, words in (
        ({"inner": {"rank": 0}}, "rank = 0"),
        ({"inner": {"rang": 1}}, "Inner has no option 'rang'"),
        ({"inner": 5}, "inner = 5: expected its options"),
    ):
        with pytest.raises(ConfigError, match=words):
            from_mapping(Outer, values)


def test_a_job_survives_json(tmp_path: Path) -> None:
    job = make_job(tmp_path, steps=7, save_prompts=False)
    assert Job.from_json(job.to_json()) == job


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("nonsense", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"name": "x", "colour": 1}', "colour"),
        ('{"name": "x"}', "needs"),
        ('{"config": {"stepz": 1}}', "stepz"),
    ],
)
def test_a_bad_job_is_refused(text: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        Job.from_json(text)


def test_concepts_need_what_they_train_on() -> None:
    with pytest.raises(ConfigError, match="no instance images"):
        Concept(instance_prompt="a zwx dog", instance_images=())
    with pytest.raises(ConfigError, match="class_prompt"):
        Concept(instance_prompt="a zwx dog", instance_images=("a",), class_images=("b",))
    assert from_mapping(Concept, {"instance_prompt": "a", "instance_images": ["x"]}).repeats == 1
