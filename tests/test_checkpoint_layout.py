"""What a checkpoint is, from names and shapes; what is refused, and in which words."""

import pytest
import torch
from nets import KINDS, TELLTALE, make_layout, meta, random_checkpoint
from pack.trainer.checkpoint import (
    detect,
    key_map,
    part_keys,
    prediction_spread,
)

UNET = "model.diffusion_model."
TEXT = "cond_stage_model.transformer.text_model."
VAE = "first_stage_model."


@pytest.mark.parametrize("kind", KINDS)
def test_detect_reads_the_geometry_back(kind: str) -> None:
    assert detect(meta(kind, "kl")) == make_layout(kind, "kl")


@pytest.mark.parametrize("vae", ["tiny", "kl_toy"])
@pytest.mark.parametrize("kind", ["toy", "full", "toy_sd2", "toy_sdxl"])
def test_detect_reads_other_autoencoders_back(kind: str, vae: str) -> None:
    assert detect(meta(kind, vae)) == make_layout(kind, vae)


# In the module and, if that is another number, in the file; the published files' own counts.
COUNTS = {
    "full": {"unet": (686, 686), "text_encoder": (196, 196), "vae": (248, 248)},
    "full_sd2": {"unet": (686, 686), "text_encoder": (372, 280), "vae": (248, 248)},
    "full_sd21": {"unet": (686, 686), "text_encoder": (372, 280), "vae": (248, 248)},
    "full_sdxl": {
        "unet": (1680, 1680),
        "text_encoder": (196, 196),
        "text_encoder_2": (517, 389),
        "vae": (248, 248),
    },
}


@pytest.mark.parametrize("kind", COUNTS)
def test_full_size_counts(kind: str) -> None:
    layout = make_layout(kind, "kl")
    maps = {part: key_map(layout, part) for part in layout.parts}
    found = {part: (len(names), len(set(names.values()))) for part, names in maps.items()}
    assert found == COUNTS[kind]
    assert layout.downscale == 8
    assert layout.latent_scale == (0.13025 if kind == "full_sdxl" else 0.18215)


def test_open_clip_files_hold_more_than_is_read() -> None:
    """SD 2.x: the last of 24 layers, the projection and the scale; SDXL: the scale."""
    for kind, part, number in (
        ("full_sd21", "text_encoder", 294),
        ("full_sdxl", "text_encoder_2", 390),
    ):
        tensors = meta(kind)
        layout = detect(tensors)
        assert len(part_keys(tensors, layout, part)) == number
    assert layout.text_config["num_hidden_layers"] == 12
    assert layout.text_config_2["num_hidden_layers"] == 32
    assert [config["pad_token_id"] for config in (layout.text_config, layout.text_config_2)] == [
        49407,
        0,
    ]


def test_sd2_without_its_unread_layer_is_the_same_model() -> None:
    """Files converted from diffusers' folders hold the 23 layers that are read."""
    tensors = meta("full_sd21")
    last = "cond_stage_model.model.transformer.resblocks.23."
    less = {name: tensor for name, tensor in tensors.items() if not name.startswith(last)}
    assert len(tensors) - len(less) == 12
    assert detect(less) == detect(tensors)


@pytest.mark.parametrize("vae", ["tiny", "kl"])
@pytest.mark.parametrize("kind", KINDS)
def test_key_maps_are_one_to_one(kind: str, vae: str) -> None:
    layout = make_layout(kind, vae)
    for part in layout.parts:
        names = key_map(layout, part)
        stacked = [name for name in names.values() if ".attn.in_proj_" in name]
        assert len(stacked) == 3 * len(set(stacked))
        assert len(set(names.values())) == len(names) - len(stacked) * 2 // 3


def test_names_match_the_published_layout() -> None:
    """Names that every Stable Diffusion 1.x file has, spelt out by hand."""
    layout = make_layout("full", "kl")
    names = {name for part in layout.parts for name in key_map(layout, part).values()}
    assert {
        UNET + "time_embed.2.bias",
        UNET + "input_blocks.3.0.op.weight",
        UNET + "input_blocks.4.0.skip_connection.weight",
        UNET + "input_blocks.11.0.emb_layers.1.weight",
        UNET + "middle_block.1.transformer_blocks.0.ff.net.0.proj.weight",
        UNET + "output_blocks.2.1.conv.weight",
        UNET + "output_blocks.5.2.conv.weight",
        UNET + "output_blocks.8.2.conv.weight",
        UNET + "output_blocks.11.1.proj_out.bias",
        UNET + "out.2.weight",
        TEXT + "encoder.layers.11.self_attn.out_proj.bias",
        VAE + "encoder.down.2.downsample.conv.weight",
        VAE + "decoder.up.3.upsample.conv.weight",
        VAE + "decoder.up.0.block.0.nin_shortcut.weight",
        VAE + "decoder.mid.attn_1.proj_out.weight",
        VAE + "post_quant_conv.bias",
    } <= names


def names_of(kind: str) -> set[str]:
    layout = make_layout(kind, "kl")
    return {name for part in layout.parts for name in key_map(layout, part).values()}


def test_names_match_the_published_layout_of_sd2() -> None:
    text = "cond_stage_model.model."
    assert {
        UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias",
        text + "positional_embedding",
        text + "token_embedding.weight",
        text + "transformer.resblocks.22.attn.in_proj_weight",
        text + "transformer.resblocks.0.attn.in_proj_bias",
        text + "transformer.resblocks.0.attn.out_proj.weight",
        text + "transformer.resblocks.0.mlp.c_fc.weight",
        text + "transformer.resblocks.0.mlp.c_proj.bias",
        text + "transformer.resblocks.0.ln_1.weight",
        text + "transformer.resblocks.0.ln_2.bias",
        text + "ln_final.weight",
    } <= names_of("full_sd21")


def test_names_match_the_published_layout_of_sdxl() -> None:
    assert {
        UNET + "label_emb.0.0.weight",
        UNET + "label_emb.0.2.bias",
        UNET + "input_blocks.4.1.transformer_blocks.1.attn2.to_k.weight",
        UNET + "middle_block.1.transformer_blocks.9.norm3.bias",
        UNET + "output_blocks.2.2.conv.weight",
        UNET + "output_blocks.5.2.conv.weight",
        UNET + "output_blocks.8.0.skip_connection.weight",
        "conditioner.embedders.0.transformer.text_model.encoder.layers.11.mlp.fc1.weight",
        "conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight",
        "conditioner.embedders.1.model.text_projection",
        "conditioner.embedders.1.model.positional_embedding",
    } <= names_of("full_sdxl")


def test_distilled_depths_are_as_published() -> None:
    """The numbers of each model's own unet/config.json, and no others below the way up."""
    ssd, vega = (make_layout(kind).unet_config for kind in ("ssd1b", "vega"))
    assert ssd["transformer_layers_per_block"] == (1, (2, 2), (4, 4))
    assert ssd["reverse_transformer_layers_per_block"] == ((4, 4, 10), (2, 1, 1), 1)
    assert vega["transformer_layers_per_block"] == (1, 1, 2)
    names = names_of("ssd1b")
    assert UNET + "output_blocks.2.1.transformer_blocks.9.norm1.bias" in names
    assert UNET + "output_blocks.1.1.transformer_blocks.4.norm1.bias" not in names
    assert UNET + "middle_block.1.norm.bias" not in names


def test_sd2_predicts_what_the_host_takes_it_to_predict() -> None:
    tensors = meta("toy_sd2_v")
    bias = torch.tensor([1.0, -1.0] * 16)
    for spread, prediction in ((0.0899, "epsilon"), (0.0901, "v_prediction")):
        tensors[TELLTALE] = bias * spread
        assert prediction_spread(tensors) == pytest.approx(spread)
        assert detect(tensors).prediction == prediction
    assert prediction_spread(meta("toy_sd2")) is None
    assert detect(meta("toy_sd2") | {"v_pred": torch.tensor([])}).prediction == "epsilon"


def test_sdxl_predicts_what_its_marks_say() -> None:
    said = {}
    for marks in ((), ("v_pred",), ("ztsnr",), ("v_pred", "ztsnr")):
        layout = detect(meta("toy_sdxl") | dict.fromkeys(marks, torch.tensor([])))
        said[marks] = (layout.prediction, layout.zero_terminal_snr)
    assert said == {
        (): ("epsilon", False),
        ("v_pred",): ("v_prediction", False),
        ("ztsnr",): ("epsilon", False),
        ("v_pred", "ztsnr"): ("v_prediction", True),
    }


def test_sd1_marks_mean_nothing_as_in_the_host() -> None:
    assert detect(meta() | {"v_pred": torch.tensor([])}) == make_layout()


def test_affine_of_a_tiny_vae_is_read() -> None:
    tensors = random_checkpoint()
    tensors[VAE + "vae_scale"] = torch.tensor(1.5, dtype=torch.float16)
    tensors[VAE + "vae_shift"] = torch.tensor(-0.25)
    layout = detect(tensors)
    assert (layout.vae_scale, layout.vae_shift) == (1.5, -0.25)
    del tensors[VAE + "vae_scale"], tensors[VAE + "vae_shift"]
    layout = detect(tensors)
    assert (layout.vae_scale, layout.vae_shift) == (1.0, 0.0)
