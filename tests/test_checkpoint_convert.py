"""State dict → modules → state dict: nothing lost, nothing copied, nothing tolerated."""

import pytest
import torch
from nets import KINDS, make_layout, random_checkpoint
from pack.trainer.checkpoint import (
    CheckpointError,
    build,
    detect,
    export,
    key_map,
    part_keys,
)

UNET = "model.diffusion_model."
TEXT = "cond_stage_model.transformer."
VAE = "first_stage_model."
OPEN_CLIP = "conditioner.embedders.1.model."
ROOTS = (UNET, VAE, "cond_stage_model.", "conditioner.embedders.0.", "conditioner.embedders.1.")


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def assert_round_trip(source: dict[str, torch.Tensor]) -> None:
    layout = detect(source)
    for part in layout.parts:
        out = export(build(source, layout, part), layout, part, like=source)
        assert list(out) == part_keys(source, layout, part)
        assert all(same_bytes(out[key], source[key]) for key in out)
    together = [key for part in layout.parts for key in part_keys(source, layout, part)]
    assert sorted(together) == sorted(source.keys() - {"v_pred", "ztsnr"})


@pytest.mark.parametrize("vae", ["tiny", "kl", "kl_toy"])
@pytest.mark.parametrize("kind", ["toy", "toy2"])
def test_round_trip_is_byte_identical(kind: str, vae: str) -> None:
    assert_round_trip(random_checkpoint(kind, vae))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("toy_")])
def test_round_trip_of_other_families_is_byte_identical(kind: str) -> None:
    assert_round_trip(random_checkpoint(kind, "tiny"))


def test_round_trip_of_the_least_net_the_host_loads() -> None:
    assert_round_trip(random_checkpoint("small", "tiny"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["full", "bk_base", "bk_small", "bk_tiny", "full_sd2", "full_sd21", "vega"]
)
def test_round_trip_of_real_sizes(kind: str) -> None:
    assert_round_trip(random_checkpoint(kind, "kl"))


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_ranks_without_a_source(kind: str) -> None:
    """``export`` alone, no ``like``, gives what every file of this kind holds."""
    source = random_checkpoint(kind, "kl", device="meta")
    layout = detect(source)
    for part in layout.parts:
        out = export(build(source, layout, part), layout, part)
        shapes = {key: source[key].shape for key in key_map(layout, part).values()}
        assert {key: tensor.shape for key, tensor in out.items()} == shapes


def test_vae_attention_is_a_convolution_in_the_file_and_linear_in_the_module() -> None:
    source = random_checkpoint(vae="kl_toy")
    layout = detect(source)
    module = build(source, layout, "vae")
    names = [key for key in source if ".attn_1." in key and source[key].ndim == 4]
    inverse = {name: key for key, name in key_map(layout, "vae").items()}
    assert len(names) == 8
    assert all(module.state_dict()[inverse[name]].ndim == 2 for name in names)


def test_half_precision_survives_training_precision() -> None:
    source = random_checkpoint(dtype=torch.float16)
    layout = detect(source)
    for part in layout.parts:
        out = export(build(source, layout, part), layout, part, like=source)
        for key, tensor in out.items():
            assert same_bytes(tensor.to(source[key].dtype), source[key])


def test_no_copy_in_the_same_dtype_and_frozen() -> None:
    source = random_checkpoint()
    layout = detect(source)
    module = build(source, layout, "unet")
    assert module.conv_in.weight.data_ptr() == source[UNET + "input_blocks.0.0.weight"].data_ptr()
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert build(source, layout, "unet", dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("left", [True, False])
def test_weights_born_in_inference_mode_can_be_trained(left: bool) -> None:
    """The host runs nodes, and loads its models, inside ``torch.inference_mode()``."""
    with torch.inference_mode():
        source = random_checkpoint()
        layout = detect(source)
        with torch.inference_mode(not left):
            unet = build(source, layout, "unet")
        with torch.inference_mode(False):
            unet.requires_grad_(True)
            out = unet(torch.ones(1, 4, 8, 8), torch.tensor([5]), torch.ones(1, 77, 32)).sample
            out.square().mean().backward()
    assert all(parameter.grad is not None for parameter in unet.parameters())


def test_text_encoder_pools_at_the_first_end_token() -> None:
    source = random_checkpoint()
    module = build(source, detect(source), "text_encoder")
    tokens = torch.full((2, 77), 49407)
    tokens[:, 0] = 49406
    tokens[0, 1:4] = 320
    out = module(tokens)
    assert torch.equal(out.pooler_output, out.last_hidden_state[[0, 1], [4, 1]])
    assert not any(buffer.is_meta for buffer in module.buffers())


@pytest.mark.parametrize(
    ("kind", "part", "root"),
    [
        ("toy_sd2", "text_encoder", "cond_stage_model.model."),
        ("toy_sdxl", "text_encoder_2", OPEN_CLIP),
    ],
)
def test_open_clip_attention_is_torchs_own(kind: str, part: str, root: str) -> None:
    """open_clip's block is torch.nn.MultiheadAttention, whose ``in_proj`` its files hold."""
    source = random_checkpoint(kind)
    layout = detect(source)
    module = build(source, layout, part)
    config = module.config
    block = f"{root}transformer.resblocks.1.attn."
    weights = {key.removeprefix(block): v for key, v in source.items() if key.startswith(block)}
    theirs = torch.nn.MultiheadAttention(
        config.hidden_size, config.num_attention_heads, batch_first=True
    ).eval()
    theirs.load_state_dict(weights)
    encoder = getattr(module, "text_model", module).encoder
    x = torch.randn(2, 5, config.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = encoder.layers[1].self_attn(x)[0]
        assert torch.allclose(ours, theirs(x, x, x)[0], atol=1e-6)


def test_the_pooled_vector_is_multiplied_from_the_left() -> None:
    """The file has P of x @ P (open_clip); the module's Linear has its transpose."""
    source = random_checkpoint("toy_sdxl")
    module = build(source, detect(source), "text_encoder_2")
    tokens = torch.tensor([[49406, 320, 1125, 49407, 0, 0]])
    with torch.no_grad():
        out = module(tokens)
    end, projection = out.last_hidden_state[:, 3], source[OPEN_CLIP + "text_projection"]
    assert torch.allclose(out.text_embeds, end @ projection, atol=1e-6)
    assert not torch.allclose(out.text_embeds, end @ projection.t(), atol=1e-2)


def test_a_projection_that_is_not_transposed_stays_so() -> None:
    """Some trainers write the Linear's own weight, and the host reads it."""
    source = random_checkpoint("toy_sdxl")
    weight = source[OPEN_CLIP + "text_projection"]
    plain = {k: v for k, v in source.items() if k != OPEN_CLIP + "text_projection"}
    plain[OPEN_CLIP + "text_projection.weight"] = weight.t().contiguous()
    assert_round_trip(plain)
    modules = [build(tensors, detect(tensors), "text_encoder_2") for tensors in (source, plain)]
    assert torch.equal(*(module.text_projection.weight for module in modules))


def test_thirds_of_one_tensor_train_apart() -> None:
    source = random_checkpoint("toy_sd2")
    layout = detect(source)
    module = build(source, layout, "text_encoder")
    name = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"
    before = source[name].clone()
    attention = module.encoder.layers[0].self_attn
    assert attention.q_proj.weight.data_ptr() == source[name].data_ptr()  # not copied
    with torch.no_grad():
        attention.k_proj.weight += 1
    out = export(module, layout, "text_encoder", like=source)
    moved = [float(third.mean().round()) for third in (out[name] - before).chunk(3)]
    assert moved == [0, 1, 0]


def renamed(source: dict[str, torch.Tensor], **changes: str) -> dict[str, torch.Tensor]:
    out = {}
    for key, tensor in source.items():
        for old, new in changes.items():
            key = key.replace(old.replace("__", "."), new)
        out[key] = tensor
    return out


def test_files_without_the_text_model_level_keep_their_names() -> None:
    source = renamed(random_checkpoint(), transformer__text_model__="transformer.")
    assert TEXT + "final_layer_norm.bias" in source
    assert_round_trip(source)


def test_files_with_old_vae_attention_names_keep_them() -> None:
    source = renamed(
        random_checkpoint(vae="kl_toy"),
        **{
            ".attn_1.q.": ".attn_1.query.",
            ".attn_1.k.": ".attn_1.key.",
            ".attn_1.v.": ".attn_1.value.",
            ".attn_1.proj_out.": ".attn_1.proj_attn.",
        },
    )
    assert VAE + "decoder.mid.attn_1.query.weight" in source
    assert_round_trip(source)


def test_flat_vae_attention_keeps_its_rank() -> None:
    source = random_checkpoint(vae="kl_toy")
    name = VAE + "encoder.mid.attn_1.q.weight"
    source[name] = source[name][:, :, 0, 0].clone()
    assert_round_trip(source)


def test_what_has_no_place_in_a_module_is_carried_along() -> None:
    source = random_checkpoint() | {
        TEXT + "text_model.embeddings.position_ids": torch.arange(77)[None],
        "cond_stage_model.logit_scale": torch.tensor(4.6),
        VAE + "loss.logvar": torch.zeros(()),
    }
    assert_round_trip(source)


@pytest.mark.parametrize(
    ("kind", "part"),
    [(kind, part) for kind in ("toy", "toy_sd2", "toy_sdxl") for part in make_layout(kind).parts],
)
def test_missing_unexpected_and_misshapen_are_named_and_counted(kind: str, part: str) -> None:
    source = random_checkpoint(kind)
    layout = detect(source)
    wanted = set(key_map(layout, part).values())
    names = [key for key in part_keys(source, layout, part) if key in wanted and source[key].ndim]
    prefix = next(root for root in ROOTS if names[0].startswith(root))

    lost = {key: tensor for key, tensor in source.items() if key not in names[:5]}
    with pytest.raises(CheckpointError, match=r"5 missing \(.*, \.\.\.\)"):
        build(lost, layout, part)

    with pytest.raises(CheckpointError, match=r"1 unexpected \(.*stranger\)"):
        build(source | {prefix + "stranger": torch.zeros(1)}, layout, part)

    shape = list(source[names[-1]].shape)
    with pytest.raises(CheckpointError, match=r"1 misshapen \(.* is \[7\], not") as error:
        build(source | {names[-1]: torch.zeros(7)}, layout, part)
    assert names[-1] in str(error.value)
    assert str(shape) in str(error.value)


def test_a_module_with_other_keys_is_not_exported() -> None:
    source = random_checkpoint()
    layout = detect(source)
    module = build(source, layout, "unet")
    module.register_parameter("stranger", torch.nn.Parameter(torch.zeros(1)))
    with pytest.raises(CheckpointError, match="1 unexpected"):
        export(module, layout, "unet", like=source)


def test_unknown_part() -> None:
    with pytest.raises(ValueError, match="unknown part 'clip'"):
        key_map(detect(random_checkpoint()), "clip")
