"""What ``auto`` comes to, by what a device has."""

from types import SimpleNamespace

import pytest
import torch
from pack.trainer import auto
from pack.trainer.config import LoraConfig, TrainConfig
from pack.trainer.precision import resolve_precision

CARD, CPU = torch.device("cuda"), torch.device("cpu")
GIB = 1 << 30


def on(device: torch.device, **options: object) -> tuple[str, str]:
    config = auto.resolve(TrainConfig(**options), device)
    return config.weights, config.optimizer


@pytest.fixture
def has(monkeypatch):
    """Lets a card have, or lack, something."""

    def card(bf16: bool = True, triton: bool = True, gib: int = 80) -> None:
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)
        monkeypatch.setattr(auto, "_has_triton", lambda: triton)
        properties = SimpleNamespace(total_memory=gib * GIB, name="a card")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)

    return card


def test_a_card_with_bf16_keeps_weights_exact_and_moments_in_8_bits(has) -> None:
    has()
    assert [on(CARD, precision=p) for p in ("auto", "bf16")] == [("exact", "adamw8bit")] * 2
    assert [on(CARD, precision=p) for p in ("fp32", "fp16")] == [("fp32", "adamw")] * 2
    assert on(CARD, lora=LoraConfig(kind="lora")) == on(CPU) == ("fp32", "adamw")
    assert on(CARD, weights="fp32") == ("fp32", "adamw")
    assert on(CARD, weights="lean") == ("lean", "adamw8bit")
    assert on(CPU, weights="exact") == ("exact", "adamw")  # a processor has the room
    has(bf16=False)
    assert on(CARD) == ("fp32", "adamw") and resolve_precision("auto", CARD) == "fp16"


def test_a_small_card_without_bf16_keeps_moments_in_8_bits(has) -> None:
    has(bf16=False, gib=16)
    assert on(CARD) == ("fp32", "adamw8bit") and resolve_precision("auto", CARD) == "fp16"
    assert on(CARD, optimizer="adamw") == on(CARD, lora=LoraConfig(kind="lora"))
    has(gib=8)
    assert on(CARD, precision="fp32") == ("fp32", "adamw8bit")


def test_what_is_asked_for_stays(has) -> None:
    has()
    assert on(CARD, optimizer="adamw") == ("exact", "adamw")
    assert on(CPU, optimizer="adamw8bit") == ("fp32", "adamw8bit")


def test_without_triton_only_a_card_that_needs_the_memory_has_exact_weights(has) -> None:
    has(triton=False)
    assert on(CARD) == ("fp32", "adamw")
    assert on(CARD, weights="exact") == ("exact", "adamw8bit")
    has(triton=False, gib=12)
    assert on(CARD) == ("exact", "adamw8bit")
