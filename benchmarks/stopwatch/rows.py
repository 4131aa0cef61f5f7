"""The table's rows, as data: which trainer runs in which way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...trainer.config.lora import ALL_LAYERS

OURS, TEXTBOOK = "ours", "textbook"
DIFFUSERS, KOHYA, COMFYUI = PEERS = "diffusers", "kohya", "comfyui"
EIGHT_BIT, BF16_LORA = "8-bit moments", "weights of the LoRA in bf16"

BF16 = "computes in bf16"
ON_CARD = f"{BF16}, {EIGHT_BIT}"

KOHYA_BEST = {
    "cache_latents": True, "max_data_loader_n_workers": 1, "persistent_data_loader_workers": True,
}  # fmt: skip
FP32 = {"training_dtype": "fp32", "lora_dtype": "fp32"}
KEPT = {"gradient_checkpointing": False}
LORA = {"kind": "lora", "rank": 8, "alpha": 1.0, "layers": ALL_LAYERS}
"""As ComfyUI's node makes it by default."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    tool: str
    settings: Mapping[str, object] = field(default_factory=dict)
    """Ours: options beside the job's. Otherwise: flags, True where one has no value."""
    device: str = ""
    """"cpu" or "cuda" if it is meant for that alone."""
    differs: str = ""
    """In which way its numbers are not plain fp32's by design."""
    lora: bool = False
    """Whether a LoRA learns: another job, never compared with the UNet's."""


def _on_both(name: str, **settings: object) -> tuple[Row, Row]:
    """Ours: what is computed in, and how moments are kept, is the device's own choice."""
    return tuple(
        Row(name, OURS, settings, device, own) for device, own in (("cpu", ""), ("cuda", ON_CARD))
    )


ROWS = (
    Row("textbook", TEXTBOOK),
    # on a card these have exact weights and 8-bit moments
    *_on_both("ours"),
    Row("ours, adamw", OURS, {"optimizer": "adamw"}, "cuda", BF16),
    Row("ours, adamw8bit", OURS, {"optimizer": "adamw8bit"}, "cpu", EIGHT_BIT),
    *_on_both("ours, channels_last", channels_last=True),
    Row("ours, cuda_graph", OURS, {"cuda_graph": True}, "cuda", ON_CARD),
    Row("ours, fused_layers", OURS, {"fused_layers": True}, "cuda", ON_CARD),
    Row(
        "ours, all that is experimental",
        OURS,
        {"cuda_graph": True, "fused_layers": True, "channels_last": True, "attention": "fastest"},
        "cuda",
        ON_CARD,
    ),
    Row("ours, gradient_checkpointing", OURS, {"gradient_checkpointing": True}, "cuda", ON_CARD),
    Row("ours, weights = fp32", OURS, {"weights": "fp32"}, "cuda", BF16),
    Row("ours, fp32", OURS, {"precision": "fp32"}, "cuda"),
    Row("ours, weights = exact", OURS, {"weights": "exact"}, "cpu", BF16),
    Row("ours, weights = lean", OURS, {"weights": "lean"}, "cpu", f"{BF16}, rounded at random"),
    Row("ours, weights = lean", OURS, {"weights": "lean"}, "cuda", f"{ON_CARD}, rounded at random"),
    Row("diffusers", DIFFUSERS),
    Row(
        "diffusers, best flags",
        DIFFUSERS,
        {"pre_compute_text_embeddings": True, "set_grads_to_none": True},
        "cpu",
    ),
    Row("diffusers, bf16", DIFFUSERS, {"mixed_precision": "bf16"}, "cuda"),
    Row(
        "diffusers, best flags",
        DIFFUSERS,
        {
            "pre_compute_text_embeddings": True, "set_grads_to_none": True,
            "mixed_precision": "bf16", "allow_tf32": True, "use_8bit_adam": True,
        },
        "cuda",
        EIGHT_BIT,
    ),
    Row("kohya", KOHYA, {}, "cpu"),
    Row("kohya, best flags", KOHYA, KOHYA_BEST, "cpu"),
    Row("kohya", KOHYA, {"mixed_precision": "bf16"}, "cuda"),
    Row(
        "kohya, best flags",
        KOHYA,
        {**KOHYA_BEST, "mixed_precision": "bf16", "optimizer_type": "AdamW8bit"},
        "cuda",
        EIGHT_BIT,
    ),
    Row("ComfyUI's LoRA", COMFYUI, FP32, "cpu", lora=True),
    Row("ComfyUI's LoRA", COMFYUI, {}, "cuda", BF16_LORA, lora=True),
    Row("ComfyUI's LoRA, kept activations", COMFYUI, {**FP32, **KEPT}, "cpu", lora=True),
    Row("ComfyUI's LoRA, kept activations", COMFYUI, KEPT, "cuda", BF16_LORA, lora=True),
    Row("our LoRA", OURS, {"lora": LORA}, lora=True),
)  # fmt: skip


def choose(device: str, names: list[str] | None) -> list[Row]:
    """The rows of a device, or those of these names.

    Raises:
        ValueError: a name that is none of its.
    """
    rows = [row for row in ROWS if row.device in ("", device)]
    known = [row.name for row in rows]
    if unknown := [name for name in names or [] if name not in known]:
        raise ValueError(f"no row {unknown}: choose among {'; '.join(known)}")
    return [row for row in rows if not names or row.name in names]
