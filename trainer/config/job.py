"""What a run is told: concepts, settings, where things go. Frozen, checked once, passed down."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from .options import ConfigError, check_options, check_text, from_mapping, option, shown
from .photo import Photo, background
from .train import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Concept:
    """One subject: its photos, how it is called, and the class it must not overwrite.

    Attributes:
        instance_images: files, in order.
        class_images: files; empty means no prior preservation for this concept.
        prior_weight: λ of the DreamBooth loss (Ruiz et al. 2022, eq. 2).
        repeats: how often each photo counts in an epoch beside the other concepts' photos.
        transparent: what lies under the photos' transparent pixels, see :func:`background`.
        class_transparent: the same of the class images; they have no masks.
        masks: a file per photo, or "" where all of it counts; empty: no photo has one.
        captions: a text per photo, which it trains with; empty: all have the instance prompt.
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
    transparent: str = "white"
    class_transparent: str = "white"
    masks: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_options(self)
        check_text("instance_prompt", self.instance_prompt)
        check_text("class_prompt", self.class_prompt)
        _check_texts("instance_images", self.instance_images)
        _check_texts("class_images", self.class_images)
        _check_texts("masks", self.masks)
        _check_texts("captions", self.captions)
        background(self.transparent), background(self.class_transparent)
        if not self.instance_prompt.strip():
            raise ConfigError("instance_prompt is empty: name the subject, as in 'a zwx dog'")
        if not self.instance_images:
            raise ConfigError(f"concept {shown(self.instance_prompt)} has no instance images")
        if self.class_images and not self.class_prompt.strip():
            raise ConfigError(
                f"concept {shown(self.instance_prompt)} has class images but no class_prompt:"
                " say what they show, as in 'a dog'"
            )
        for name, given in (("masks", self.masks), ("captions", self.captions)):
            if given and len(given) != len(self.instance_images):
                raise ConfigError(
                    f"concept {shown(self.instance_prompt)} has {len(given)} {name} for"
                    f" {len(self.instance_images)} photos: give one for each, or none"
                )

    @property
    def photos(self) -> tuple[Photo, ...]:
        """The instance images with how they are read."""
        masks = self.masks or ("",) * len(self.instance_images)
        pairs = zip(self.instance_images, masks, strict=True)
        return tuple(Photo(path, self.transparent, mask) for path, mask in pairs)

    @property
    def texts(self) -> tuple[str, ...]:
        """What each instance image trains with."""
        return self.captions or (self.instance_prompt,) * len(self.instance_images)

    @property
    def class_photos(self) -> tuple[Photo, ...]:
        """The class images with how they are read."""
        return tuple(Photo(path, self.class_transparent) for path in self.class_images)

    @property
    def has_prior(self) -> bool:
        """Whether class images take part: a weight of 0 leaves them out of the batch."""
        return bool(self.class_images) and self.prior_weight > 0

    @property
    def lacks_class_images(self) -> bool:
        """Whether a prior is wanted that only the base itself can give."""
        return not self.class_images and self.prior_weight > 0


PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A whole run, as ``job.json`` holds it: ``python -m trainer job.json`` repeats it.

    Attributes:
        name: of the checkpoint and of the run's folder.
        base: single-file checkpoint; None if the graph wired weights that no one file holds.
        base_digest: of the weights that the run started from (``checkpoint.weights_digest``);
            filled in by the run itself.
        clip_skip: 1 = the text encoder's last layer, 2 = the one before…; None, until the run fills
            it in: the one that the family was trained with.
        prediction: what the model is sampled as, "epsilon" or "v_prediction"; None, until the run
            fills it in: what the base's file says. Only an SD 1.x file cannot say it.
        zero_terminal_snr: whether it is sampled with a noise schedule that ends in pure noise.
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
    clip_skip: int | None = None
    prediction: str | None = None
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        for name in ("name", "checkpoints", "runs", "cache", "base_digest"):
            check_text(name, getattr(self, name))
        if self.base is not None:
            check_text("base", self.base)
        if self.clip_skip is not None and (type(self.clip_skip) is not int or self.clip_skip < 1):
            raise ConfigError(f"clip_skip = {shown(self.clip_skip)}: expected 1 or more")
        if self.prediction not in (None, *PREDICTIONS):
            said = f"prediction = {shown(self.prediction)}"
            raise ConfigError(f"{said}: expected {' or '.join(PREDICTIONS)}")
        if type(self.zero_terminal_snr) is not bool:
            said = f"zero_terminal_snr = {shown(self.zero_terminal_snr)}"
            raise ConfigError(f"{said}: expected true or false")
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


def _check_texts(name: str, texts: object) -> None:
    if not isinstance(texts, (tuple, list)):
        raise ConfigError(f"{name} = {shown(texts)}: expected a list of texts")
    for text in texts:
        check_text(name, text)
