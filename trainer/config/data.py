"""How photos become training rows: the options of a run; a concept says what its photos are."""

from dataclasses import dataclass

from .options import ConfigError, check_options, option


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """From photo to row. One widget of the *DreamBooth Data* node per field."""

    flip: bool = option(
        False, "Show each photo mirrored half of the time. Not for faces, writing or logos."
    )
    crops: int = option(
        1,
        "Cuts of a photo that is not of the training's shape. 1: the middle. More: evenly spread"
        " along its longer side, one of them at random each time.",
        min=1,
        max=9,
    )
    unmasked_weight: float = option(
        0.1,
        "How much the black part of a mask counts beside the white one. 0: not at all, so that"
        " anything may grow there.",
        min=0.0,
        max=1.0,
        step=0.05,
    )

    shuffle_tags: bool = option(
        False, "Of caption files: put the parts between commas into another order each time."
    )
    keep_tags: int = option(1, "Of shuffle_tags: so many parts stay in front.", min=0, max=75)
    caption_dropout: float = option(
        0.0,
        "How often a row trains without any text, which keeps guidance alive in long runs. 0.05 to"
        " 0.1 are usual.",
        min=0.0,
        max=1.0,
        step=0.01,
    )

    buckets: bool = option(
        False,
        "Train each photo at a size of its own shape and about resolution² pixels instead of"
        " cutting a square out of it.",
    )
    bucket_min_side: int = option(
        256, "Of buckets: the shortest side in pixels.", min=64, max=2048, step=64
    )
    bucket_max_side: int = option(
        2048, "Of buckets: the longest side in pixels.", min=64, max=4096, step=64
    )
    bucket_no_upscale: bool = option(
        False, "Of buckets: train a photo that is smaller at a smaller size, not enlarged."
    )

    # last, where it came: saved graphs hold their widgets by place
    class_caption_dropout: float = option(
        0.0,
        "How often a class image trains without any text, where that is more than caption_dropout."
        " The empty prompt, which guidance measures against, then stays what it was instead of"
        " drifting towards your photos.",
        min=0.0,
        max=1.0,
        step=0.01,
    )

    def __post_init__(self) -> None:
        check_options(self)
        for name in ("bucket_min_side", "bucket_max_side"):
            if (side := getattr(self, name)) % 64:
                raise ConfigError(f"{name} = {side}: choose a multiple of 64")
        if self.bucket_min_side > self.bucket_max_side:
            raise ConfigError(
                f"bucket_min_side = {self.bucket_min_side} is more than bucket_max_side ="
                f" {self.bucket_max_side}: lower the one or raise the other"
            )
