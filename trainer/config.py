"""What a run is told: concepts, settings, the job. Frozen, checked once, passed down.

Every user-facing option is a field made by :func:`option`: its default, bounds, choices and help
live here and nowhere else. The nodes' widgets, the shell and the tests read them from here.
"""

import dataclasses
import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

UNET = "unet"
UNET_AND_TEXT_ENCODER = "unet + text encoder"
MAX_SEED = 2**63 - 1


class ConfigError(ValueError):
    """A setting the user can mend: the message says which, its value, and what to do."""


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200


def shown(value: object) -> str:
    """A value as a message quotes it: whatever a file holds, no longer than a few lines."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python spells out no number of thousands of digits
        return f"a huge {type(value).__name__}"


def check_text(name: str, value: object) -> None:
    """Refuse what is no text that a file or a path can hold.

    Raises:
        ConfigError: not a text, or one with a NUL or half a surrogate pair in it.
    """
    if not isinstance(value, str):
        raise ConfigError(f"{name} = {shown(value)}: expected text")
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ConfigError(f"{name} = {shown(value)} holds a character that no file can hold")


def option(
    default: Any,
    help: str,
    *,
    min: float | None = None,
    max: float | None = None,
    step: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """A dataclass field that carries its own bounds, choices and help text."""
    metadata = {"help": help, "min": min, "max": max, "step": step, "choices": choices}
    return field(default=default, metadata=metadata)


def check_options(config: Any) -> None:
    """Refuse values of the wrong type, out of bounds or not among the choices.

    Raises:
        ConfigError: names the option, its value and what is allowed.
    """
    for f in dataclasses.fields(config):
        if not f.metadata:
            continue
        value, kind = getattr(config, f.name), type(f.default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value) if abs(value) < 2**1000 else math.inf
            object.__setattr__(config, f.name, value)
        if type(value) is not kind:
            raise ConfigError(f"{f.name} = {shown(value)}: expected {kind.__name__}")
        if kind is str:
            check_text(f.name, value)
        choices, low, high = (f.metadata[key] for key in ("choices", "min", "max"))
        if choices and value not in choices:
            raise ConfigError(f"{f.name} = {shown(value)}: choose one of {', '.join(choices)}")
        if kind is float and not math.isfinite(value):
            raise ConfigError(f"{f.name} = {value!r}: expected a finite number")
        if (low is not None and value < low) or (high is not None and value > high):
            raise ConfigError(f"{f.name} = {shown(value)}: allowed is {low} to {high}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train. One widget of the *DreamBooth Settings* node per field."""

    trains: str = option(
        UNET_AND_TEXT_ENCODER,
        "What learns. The text encoder helps likeness, most of all of faces, and costs memory.",
        choices=(UNET, UNET_AND_TEXT_ENCODER),
    )
    steps: int = option(
        800, "Optimizer steps. 800 to 1200 suit 5 to 20 photos.", min=1, max=1_000_000
    )
    learning_rate: float = option(
        1e-6, "Of the UNet. 1e-6 to 5e-6 are usual; higher burns.", min=0.0, max=1.0, step=1e-7
    )
    text_encoder_learning_rate: float = option(
        1e-6, "Of the text encoder, when it trains.", min=0.0, max=1.0, step=1e-7
    )
    lr_schedule: str = option(
        "constant",
        "Learning rate over the run, after the warm-up.",
        choices=("constant", "linear", "cosine"),
    )
    lr_warmup_steps: int = option(
        0, "Steps over which the learning rate rises from zero.", min=0, max=1_000_000
    )
    batch_size: int = option(
        1,
        "Instance images in one forward pass. A class image joins each of them.",
        min=1,
        max=256,
    )
    gradient_accumulation_steps: int = option(
        1,
        "Forward passes per optimizer step: a larger batch in the memory of a small one.",
        min=1,
        max=1024,
    )
    resolution: int = option(
        512,
        "Side of the training square in pixels. Photos are scaled to cover it, then cropped.",
        min=64,
        max=2048,
        step=64,
    )
    optimizer: str = option(
        "adamw",
        "adamw8bit needs bitsandbytes and keeps its state in a quarter of the memory.",
        choices=("adamw", "adamw8bit"),
    )
    adam_beta1: float = option(0.9, "Adam's decay of the mean.", min=0.0, max=0.9999, step=0.001)
    adam_beta2: float = option(
        0.999, "Adam's decay of the variance.", min=0.0, max=0.999999, step=0.001
    )
    adam_epsilon: float = option(
        1e-8, "Added to Adam's denominator.", min=1e-12, max=1.0, step=1e-9
    )
    weight_decay: float = option(
        0.01, "Decoupled decay of the weights.", min=0.0, max=1.0, step=0.001
    )
    max_grad_norm: float = option(
        1.0, "Gradients are scaled down to this norm. 0 turns it off.", min=0.0, max=1e6, step=0.1
    )
    precision: str = option(
        "auto",
        "Of the arithmetic; the weights that learn are always fp32. auto: bf16 where the card"
        " has it, else fp16, and fp32 without a CUDA or ROCm card.",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    gradient_checkpointing: bool = option(
        False, "Compute activations again instead of keeping them: less memory, 1.3 times slower."
    )
    attention: str = option(
        "sdpa", "torch's own attention, or xformers where installed.", choices=("sdpa", "xformers")
    )
    channels_last: bool = option(False, "Memory layout that suits tensor cores.")
    seed: int = option(
        0, "Of everything random. Same seed and inputs, same result.", min=0, max=MAX_SEED
    )
    preview_every: int = option(
        100, "Steps between sample pictures. 0: none.", min=0, max=1_000_000
    )
    preview_prompt: str = option("", "Of the sample pictures. Empty: each concept's own prompt.")
    preview_steps: int = option(24, "DDIM steps of a sample picture.", min=1, max=1000)
    preview_cfg: float = option(7.5, "Guidance of a sample picture.", min=1.0, max=100.0, step=0.5)
    save_every: int = option(
        0, "Steps between extra checkpoints on the way. 0: only the end.", min=0, max=1_000_000
    )
    keep: int = option(
        2, "How many of the extra checkpoints stay; older ones go.", min=1, max=100_000
    )
    save_precision: str = option(
        "fp16",
        "Of the trained weights in the file. fp16 keeps more of the learning than bf16.",
        choices=("fp16", "bf16", "fp32"),
    )
    save_prompts: bool = option(True, "Write the prompts into the checkpoint's metadata.")
    keep_state: bool = option(
        True,
        "Keep what a stopped, broken or finished run goes on from: weights and optimizer, 12 GB for"
        " Stable Diffusion 1.5 with its text encoder.",
    )
    state_minutes: float = option(
        10.0,
        "Minutes of training that a crash may cost: the state is kept this often, and whenever the"
        " run ends. 0: only when it ends.",
        min=0.0,
        max=10_000.0,
        step=1.0,
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.resolution % 8:
            raise ConfigError(f"resolution = {self.resolution}: choose a multiple of 8")
        if self.lr_warmup_steps > self.steps:
            raise ConfigError(
                f"lr_warmup_steps = {self.lr_warmup_steps} is more than the run's {self.steps}"
                " steps: lower it, or the learning rate never arrives"
            )

    @property
    def trains_text_encoder(self) -> bool:
        return self.trains == UNET_AND_TEXT_ENCODER

    @property
    def rows_per_step(self) -> int:
        """Instance rows of one optimizer step."""
        return self.batch_size * self.gradient_accumulation_steps


# Settings that leave the weights after a given step as they are. All others belong to a run's
# fingerprint, so that a run goes on, or is handed over, only where they are the same.
WITHOUT_EFFECT_ON_WEIGHTS = frozenset(
    {
        "steps",
        "preview_every",
        "preview_prompt",
        "preview_steps",
        "preview_cfg",
        "save_every",
        "keep",
        "save_precision",
        "save_prompts",
        "keep_state",
        "state_minutes",
    }
)


@dataclass(frozen=True, kw_only=True)
class Concept:
    """One subject: its photos, how it is called, and the class it must not overwrite.

    Attributes:
        instance_images: files, in order.
        class_images: files; empty means no prior preservation for this concept.
        prior_weight: λ of the DreamBooth loss (Ruiz et al. 2022, eq. 2).
        repeats: how often each photo counts in an epoch beside the other concepts' photos.
    """

    instance_prompt: str
    instance_images: tuple[str, ...]
    class_prompt: str = ""
    class_images: tuple[str, ...] = ()
    identifier: str = option("zwx", "A rare word that will name your subject.")
    class_noun: str = option("dog", "What kind of thing it is, in plain words.")
    prior_weight: float = option(
        1.0, "How much the class images count beside yours.", min=0.0, max=100.0, step=0.05
    )
    repeats: int = option(
        1, "How often these photos count beside other concepts'.", min=1, max=10_000
    )

    def __post_init__(self) -> None:
        check_options(self)
        check_text("instance_prompt", self.instance_prompt)
        check_text("class_prompt", self.class_prompt)
        _check_paths("instance_images", self.instance_images)
        _check_paths("class_images", self.class_images)
        if not self.instance_prompt.strip():
            raise ConfigError("instance_prompt is empty: name the subject, as in 'a zwx dog'")
        if not self.instance_images:
            raise ConfigError(f"concept {shown(self.instance_prompt)} has no instance images")
        if self.class_images and not self.class_prompt.strip():
            raise ConfigError(
                f"concept {shown(self.instance_prompt)} has class images but no class_prompt:"
                " say what they show, as in 'a dog'"
            )

    @property
    def has_prior(self) -> bool:
        """Whether class images take part: a weight of 0 leaves them out of the batch."""
        return bool(self.class_images) and self.prior_weight > 0


@dataclass(frozen=True, kw_only=True)
class Job:
    """A whole run, as ``job.json`` holds it: ``python -m trainer job.json`` repeats it.

    Attributes:
        name: of the checkpoint and of the run's folder.
        base: single-file checkpoint; None if the graph wired weights that no one file holds.
        base_digest: of the weights that the run started from (``checkpoint.weights_digest``);
            filled in by the run itself.
        clip_skip: 1 = the text encoder's last layer, 2 = the one before…
        checkpoints: folder of the finished file.
        runs: folder that holds a folder per run.
        cache: folder of encoded images.
    """

    name: str
    checkpoints: str
    runs: str
    cache: str
    concepts: tuple[Concept, ...]
    config: TrainConfig = field(default_factory=TrainConfig)
    base: str | None = None
    base_digest: str = ""
    clip_skip: int = 1

    def __post_init__(self) -> None:
        for name in ("name", "checkpoints", "runs", "cache", "base_digest"):
            check_text(name, getattr(self, name))
        if self.base is not None:
            check_text("base", self.base)
        if type(self.clip_skip) is not int or self.clip_skip < 1:
            raise ConfigError(f"clip_skip = {shown(self.clip_skip)}: expected 1 or more")
        if not self.concepts:
            raise ConfigError("no concepts: connect a DreamBooth Concept")

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(text: str) -> "Job":
        """Read a job; unknown or missing keys are refused.

        Raises:
            ConfigError: the text is no job; the message names the key.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"the job is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise ConfigError("the job is not a JSON object")
        concepts = values.get("concepts", [])
        if not isinstance(concepts, list):
            raise ConfigError(f"concepts = {shown(concepts)}: expected a list")
        values["concepts"] = tuple(from_mapping(Concept, concept) for concept in concepts)
        values["config"] = from_mapping(TrainConfig, values.get("config", {}))
        return from_mapping(Job, values)

    @staticmethod
    def read(path: Path) -> "Job":
        try:
            return Job.from_json(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise ConfigError(f"the job is not JSON: {error}") from error


def _check_paths(name: str, paths: object) -> None:
    if not isinstance(paths, (tuple, list)):
        raise ConfigError(f"{name} = {shown(paths)}: expected a list of files")
    for path in paths:
        check_text(name, path)


def from_mapping(kind: type, values: Mapping[str, Any]) -> Any:
    """Build a config dataclass from JSON values; lists become tuples.

    Raises:
        ConfigError: an unknown or a missing key, by name.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{kind.__name__}: expected an object, got {shown(values)}")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    if unknown := sorted(set(values) - set(fields)):
        raise ConfigError(f"{kind.__name__} has no option {shown(', '.join(unknown))}")
    required = [
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing := sorted(set(required) - set(values)):
        raise ConfigError(f"{kind.__name__} needs {', '.join(missing)}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
