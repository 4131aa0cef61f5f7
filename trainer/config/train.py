"""How to train: one option per widget of the settings nodes."""

from dataclasses import dataclass

from .data import DataConfig
from .lora import LoraConfig
from .loss import LossConfig
from .options import MAX_SEED, ConfigError, check_options, group, option

AUTO, FP32, EXACT, LEAN = "auto", "fp32", "exact", "lean"
UNET = "unet"
UNET_AND_TEXT_ENCODER = "unet + text encoder"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train. One widget of the *DreamBooth Settings* node per option of its own; a group
    has a node of its own."""

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
        AUTO,
        "adamw8bit keeps AdamW's state in a quarter of the memory. auto: adamw8bit on a card where"
        " weights are exact or lean, or that has less than 22 GB, else adamw; adamw for a LoRA.",
        choices=(AUTO, "adamw", "adamw8bit"),
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
        "Of the arithmetic. auto: bf16 where the card has it, else fp16, and fp32 without a CUDA or"
        " ROCm card.",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    gradient_checkpointing: bool = option(
        False, "Compute activations again instead of keeping them: less memory, 1.3 times slower."
    )
    attention: str = option(
        "sdpa",
        "sdpa: torch's own. fastest: torch's own by the way of computing it that is fastest on this"
        " card for each shape, tried in the first step. xformers: where installed.",
        choices=("sdpa", "fastest", "xformers"),
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
        "Keep what a stopped, broken or finished run goes on from: weights and optimizer, 6 to 12"
        " GB for Stable Diffusion 1.5 with its text encoder.",
    )
    state_minutes: float = option(
        10.0,
        "Minutes of training that a crash may cost: the state is kept this often, and whenever the"
        " run ends. 0: only when it ends.",
        min=0.0,
        max=10_000.0,
        step=1.0,
    )
    ema_decay: float = option(
        0.0,
        "Save, preview and hand on an average of the weights over about 1 / (1 - decay) steps"
        " instead of the last ones. 0: off; 0.99 suits a run of 800 steps. 4 GB more memory for"
        " Stable Diffusion 1.5 with its text encoder.",
        min=0.0,
        max=0.99999,
        step=0.001,
    )
    text_encoder_until: float = option(
        1.0,
        "Share of the run for which the text encoder learns, when it trains; then it stays as it"
        " is, and steps are faster. The share is of the steps that are asked for first.",
        min=0.0,
        max=1.0,
        step=0.05,
    )
    weights: str = option(
        AUTO,
        "How weights that learn lie in memory. exact: bf16, which computes, and the 16 bits to full"
        " fp32 beside it; nothing is lost, gradients and arithmetic take half the memory. lean:"
        " bf16 alone, rounded at random: smallest, and at rates below 1e-5 as much noise as"
        " learning. auto: exact where a card computes in bf16 and has Triton or less than 22 GB,"
        " else fp32.",
        choices=(AUTO, FP32, EXACT, LEAN),
    )
    cuda_graph: bool = option(
        False,
        "Experimental. Record a step's passes once and replay them, so that a small batch does not"
        " leave the card waiting for Python. Needs a CUDA or ROCm card; where it cannot be done the"
        " run says why.",
    )
    fused_layers: bool = option(
        False,
        "Experimental. Group norms with their SiLU, and the gates of feed-forward layers, as one"
        " kernel each that keeps less for the backward pass. Needs a CUDA or ROCm card and Triton;"
        " where it cannot be done the run says why.",
    )
    data: DataConfig = group(DataConfig)
    lora: LoraConfig = group(LoraConfig)
    loss: LossConfig = group(LossConfig)

    def __post_init__(self) -> None:
        check_options(self)
        if self.resolution % 8:
            raise ConfigError(f"resolution = {self.resolution}: choose a multiple of 8")
        if self.lr_warmup_steps > self.steps:
            raise ConfigError(
                f"lr_warmup_steps = {self.lr_warmup_steps} is more than the run's {self.steps}"
                " steps: lower it, or the learning rate never arrives"
            )

        if self.has_split_weights:
            self._check_split_weights()

    def _check_split_weights(self) -> None:
        chosen = f"weights = {self.weights}"
        if self.precision not in ("auto", "bf16"):
            raise ConfigError(
                f"{chosen} computes in bf16: choose precision = auto or bf16, not {self.precision}"
            )
        if self.lora.is_on:
            raise ConfigError(
                f"{chosen} is for training all weights, a LoRA's are small: choose weights = {AUTO}"
            )

    @property
    def has_split_weights(self) -> bool:
        """Whether the weights that learn are bf16, see ``split``; ``auto`` has to be resolved."""
        return self.weights in (EXACT, LEAN)

    @property
    def trains_text_encoder(self) -> bool:
        return self.trains == UNET_AND_TEXT_ENCODER

    @property
    def text_encoder_stops(self) -> bool:
        """Whether the text encoder learns for a part of the run only."""
        return self.trains_text_encoder and self.text_encoder_until < 1.0

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
        "gradient_checkpointing",
        "cuda_graph",
    }
)

# Options that are younger than fingerprints, with the value at which nothing has changed: there
# they are left out, so that a run which was begun before them still goes on.
YOUNGER_OPTIONS = {"data.class_caption_dropout": 0.0, "fused_layers": False}
