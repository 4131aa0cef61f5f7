"""What becomes of the difference between two models on disk."""

from dataclasses import dataclass

from .options import check_options, option

WHOLE = "difference"
EXTRACTED = "lora"


@dataclass(frozen=True, kw_only=True)
class DifferenceConfig:
    """How to save the difference between a model and the one that was trained from it."""

    kind: str = option(
        WHOLE,
        "difference: every tensor that changed, exact and as large as they are. lora: of each"
        " linear and convolutional layer what fits into a LoRA of this rank, small.",
        choices=(WHOLE, EXTRACTED),
    )
    rank: int = option(
        32, "Of a lora: size of its matrices. The report says how much fits in.", min=1, max=1024
    )
    save_precision: str = option(
        "fp16", "Of the numbers in the file.", choices=("fp16", "bf16", "fp32")
    )

    def __post_init__(self) -> None:
        check_options(self)
