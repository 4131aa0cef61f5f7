"""LoRA and DoRA: what learns, what stays, the file, going on, dropout, the prior of the base."""

import pytest
import torch
from pack.trainer.checkpoint import detect
from pack.trainer.config import LoraConfig
from pack.trainer.config.lora import ALL_LAYERS, ATTENTION, TRANSFORMERS
from pack.trainer.dropout import RowDropout
from pack.trainer.lora import Adapters
from pack.trainer.lora_layers import file_name, layers_of
from pack.trainer.model import StableDiffusion
from toy import toy_base

LORA = {"kind": "lora", "rank": 4, "alpha": 2.0}
RATES = {"learning_rate": 1e-2, "text_encoder_learning_rate": 1e-2, "save_precision": "fp32"}
BLOCK = "down_blocks_0_attentions_0_transformer_blocks_0"


def model() -> StableDiffusion:
    base = toy_base()
    return StableDiffusion(base, detect(base))


def adapted(**options: object) -> tuple[StableDiffusion, Adapters]:
    """The toy model with adapters that do something."""
    made = model()
    parts = {part: made.parts[part] for part in ("unet", "text_encoder")}
    adapters = Adapters(parts, LoraConfig(**{**LORA, **options}), seed=0, text_encoders=1)
    g = torch.Generator().manual_seed(1)
    for module in parts.values():
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                parameter.data = torch.randn(parameter.shape, generator=g) * 0.1
            elif "magnitude" in name:
                parameter.data *= 1 + 0.2 * torch.rand(parameter.shape, generator=g)
    return made, adapters


def merged(name: str, weight: torch.Tensor, file: dict[str, torch.Tensor]) -> torch.Tensor:
    """A layer's weight with the file's LoRA on it, in float64, as the host adds it."""
    down, up = (file[f"{name}.lora_{end}.weight"].double().flatten(1) for end in ("down", "up"))
    scale = float(file[f"{name}.alpha"]) / len(down)
    total = weight.double() + scale * (up @ down).reshape(weight.shape)
    if f"{name}.dora_scale" in file:
        norm = weight.double().flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.ndim - 1))
        total *= file[f"{name}.dora_scale"].double() / norm
    return total


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_file_is_what_learned(kind: str) -> None:
    """Weights merged from the file give what the model gives with its adapters; both networks."""
    made, adapters = adapted(kind=kind, layers=ALL_LAYERS)
    file = adapters.tensors() | adapters.writer("fp32", {})._untrained
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    states = torch.randn(2, 77, 32, generator=torch.Generator().manual_seed(3))
    tokens, times = torch.arange(154).view(2, 77), torch.tensor([5, 700])

    def answers(of: StableDiffusion) -> list[torch.Tensor]:
        with torch.no_grad():
            image = of.unet(x, times, encoder_hidden_states=states).sample
            return [image, of.parts["text_encoder"](tokens).last_hidden_state]

    ours = answers(made)
    plain = model()
    before = answers(plain)
    with adapters.switched_off():
        assert all(map(torch.equal, answers(made), before)), "switched off it is the base"
    for part in ("unet", "text_encoder"):
        module = plain.parts[part]
        for path in layers_of(part, module, ALL_LAYERS):
            layer = module.get_submodule(path)
            layer.weight.data = merged(file_name(part, path, 1), layer.weight, file).float()
    for mine, theirs, base in zip(ours, answers(plain), before, strict=True):
        assert (mine - theirs).norm() <= 1e-4 * theirs.norm()
        assert (mine - base).norm() > 1e-2 * base.norm(), "the adapters do something"


def test_names_are_kohyas() -> None:
    """Written down from the naming rule of kohya's networks/lora.py, for SD 1.x and SDXL."""
    made = model()
    names = [file_name("unet", p, 1) for p in layers_of("unet", made.unet, TRANSFORMERS)]
    start = f"lora_unet_{BLOCK}"
    attentions = [f"{start}_attn{n}_to_{x}" for n in (1, 2) for x in ("q", "k", "v", "out_0")]
    around = "lora_unet_down_blocks_0_attentions_0"
    ours = {name for name in names if name.startswith(around)}
    assert ours == {
        *attentions,
        f"{start}_ff_net_0_proj",
        f"{start}_ff_net_2",
        f"{around}_proj_in",
        f"{around}_proj_out",
    }
    text = layers_of("text_encoder", made.parts["text_encoder"], TRANSFORMERS)
    layer = "text_model_encoder_layers_1"
    matrices = [f"self_attn_{x}_proj" for x in ("k", "v", "q", "out")] + ["mlp_fc1", "mlp_fc2"]
    for part, encoders, prefix in (
        ("text_encoder", 1, "lora_te"),
        ("text_encoder", 2, "lora_te1"),
        ("text_encoder_2", 2, "lora_te2"),
    ):
        names = {file_name(part, path, encoders) for path in text}
        assert {f"{prefix}_{layer}_{matrix}" for matrix in matrices} <= names
        assert len(names) == 12
    # a text encoder of older versions of transformers, or one with a projection
    assert file_name("text_encoder", "text_model.encoder.layers.0.mlp.fc1", 1) == (
        "lora_te_text_model_encoder_layers_0_mlp_fc1"
    )


def test_layers() -> None:
    unet = model().unet
    few, usual, every = (
        set(layers_of("unet", unet, name)) for name in (ATTENTION, TRANSFORMERS, ALL_LAYERS)
    )
    assert few < usual < every
    assert len(few) == 4 * 8 and {path.split(".")[-1] for path in few} <= {
        "to_q", "to_k", "to_v", "0"
    }  # fmt: skip
    assert {"conv_in", "conv_out", "time_embedding.linear_1"} <= every - usual


def test_dropout_goes_by_the_row() -> None:
    """Not by the batch that the row is in; on average nothing changes."""
    dropout = RowDropout(0.25, 7, "layer")
    x = torch.ones(2, 500, 8)
    assert torch.equal(dropout(x), x), "outside a step nothing is dropped"
    dropout.rows = ["instance 3", "class 3"]
    both = dropout(x)
    dropout.rows = ["class 3"]
    assert torch.equal(dropout(x[1:])[0], both[1]) and not torch.equal(both[0], both[1])
    assert set(both.unique().tolist()) == {0.0, float(torch.tensor(1) / 0.75)}
    assert abs(float((both == 0).float().mean()) - 0.25) < 0.02
    other = RowDropout(0.25, 7, "another layer")
    other.rows = ["class 3"]
    assert not torch.equal(other(x[1:])[0], both[1])


def test_torchs_random_state_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    adapted(dropout=0.5)
    assert torch.equal(torch.get_rng_state(), before)
