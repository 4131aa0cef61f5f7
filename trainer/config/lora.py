"""LoRA: small matrices learn beside the frozen weights, and the run's result is a LoRA file."""

from dataclasses import dataclass

from .options import ConfigError, check_options, option

FULL = "none"
LORA = "lora"
DORA = "dora"
ATTENTION = "attention"
TRANSFORMERS = "attention + feed-forward"
ALL_LAYERS = "all linear and convolutions"


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Whether a LoRA learns in place of the weights, and which."""

    kind: str = option(
        FULL,
        "none: all weights learn. lora: only small matrices do (Hu et al. 2021). dora: these and"
        " each output's magnitude (Liu et al. 2024), slower. Both want a learning rate of about"
        " 1e-4.",
        choices=(FULL, LORA, DORA),
    )
    rank: int = option(16, "Size of the small matrices: 4 to 32 suit one subject.", min=1, max=1024)
    alpha: float = option(
        16.0,
        "What is learned counts alpha / rank times. The same number as rank: once.",
        min=0.001,
        max=1024.0,
        step=1.0,
    )
    dropout: float = option(
        0.0,
        "Share of a layer's inputs that the small matrices do not see in a step. 0.05 to 0.2"
        " against photos learned by heart.",
        min=0.0,
        max=0.95,
        step=0.01,
    )
    layers: str = option(
        TRANSFORMERS,
        "Which layers of the UNet have one: the attentions' four matrices; the whole transformer"
        " blocks, as is usual; or every linear and convolutional layer. Of a text encoder:"
        " attention, or attention and feed-forward.",
        choices=(ATTENTION, TRANSFORMERS, ALL_LAYERS),
    )
    prior_without_images: bool = option(
        False,
        "For concepts without class images: your photos under the class prompt must look to the"
        " model as they look to the base, weighted by prior_weight.",
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.prior_without_images and not self.is_on:
            raise ConfigError(
                "prior_without_images needs the base beside what learns: choose kind = lora or"
                " dora, or connect class images"
            )

    @property
    def is_on(self) -> bool:
        return self.kind != FULL
