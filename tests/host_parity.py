"""Runs a checkpoint through ComfyUI's own modules.

python host_parity.py CHECKPOINT INPUTS OUTPUTS PROMPT

Started in a ComfyUI tree, in a process of its own: importing comfy parses the command line and
claims the device. Everything is loaded in float32, so that a difference is one of layout and not
of rounding. The host's log goes to standard error, line by line."""

import logging
import re
import sys
from collections.abc import Iterator

sys.path.insert(0, ".")
checkpoint, inputs_path, outputs_path, *more = sys.argv[1:]
del sys.argv[1:]

from comfy.cli_args import args  # noqa: E402

args.cpu = True
args.use_pytorch_cross_attention = True

import comfy.sd  # noqa: E402
import torch  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

logging.basicConfig(level=logging.DEBUG, format="HOST %(levelname)s %(message)s", force=True)
torch.set_num_threads(2)


@torch.inference_mode()
def main() -> None:
    single = {"dtype": torch.float32}
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(
        checkpoint, model_options=single, te_model_options=single | depths()
    )
    given = load_file(inputs_path)
    out = {"unet": unet(model, given)}
    out |= text(clip, given)
    out |= prompts(clip, *more) | {"sigmas": model.model.model_sampling.sigmas}
    out |= pictures(vae, given)
    tensors = {name: tensor.float().contiguous() for name, tensor in out.items()}
    save_file(tensors, outputs_path, metadata=detected(model))


def depths() -> dict:
    """The host takes text encoders for full ones; it builds those of small nets as deep as here."""
    with safe_open(checkpoint, framework="pt") as file:
        names = list(file.keys())

    def layers(pattern: str) -> dict:
        numbers = [int(found[1]) for name in names if (found := re.match(pattern, name))]
        return {"num_hidden_layers": max(numbers) + 1} if numbers else {}

    return {
        "clip_l_model_config": layers(r".*text_model\.encoder\.layers\.(\d+)\."),
        "clip_g_model_config": layers(r"conditioner\..*\.resblocks\.(\d+)\."),
        "clip_h_model_config": layers(r"cond_stage_model\..*\.resblocks\.(\d+)\."),
    }


def detected(model) -> dict[str, str]:
    return {
        "class": type(model.model.model_config).__name__,
        "prediction": model.model.model_type.name,
        "sigma_max": str(float(model.model.model_sampling.sigma_max)),
        "latent_scale": str(model.model.latent_format.scale_factor),
    }


def unet(model, given: dict) -> torch.Tensor:
    net = model.model.diffusion_model.float()
    y = None
    if "pooled" in given:
        names = ("height", "width", "crop_h", "crop_w", "target_height", "target_width")
        sizes = dict(zip(names, given["sizes"].tolist(), strict=True))
        y = model.model.encode_adm(pooled_output=given["pooled"], **sizes)
    return net(given["x"], given["t"], context=given["context"], y=y)


def text(clip, given: dict) -> dict:
    """The states of each encoder, and what a prompt is in a graph."""
    out, rows = states(clip, given), []
    for letter, _, tokens in encoders(clip, given):
        rows.append([(letter, [(int(token), 1.0) for token in row]) for row in tokens])
    made = [
        clip.encode_from_tokens({letter: [row] for letter, row in pairs}, return_pooled=True)
        for pairs in zip(*rows, strict=True)
    ]
    graph, pooled = (torch.cat(parts) for parts in zip(*made, strict=True))
    return out | {"graph": graph, "graph_pooled": pooled}


def encoders(clip, given: dict) -> Iterator[tuple]:
    """(letter, module, its tokens) of each text encoder."""
    for name, encoder in clip.cond_stage_model.named_children():
        letter = name.removeprefix("clip_")
        yield letter, encoder.float(), given["tokens_g" if letter == "g" else "tokens"]


def states(clip, given: dict) -> dict:
    """Last, last but one, projected and pooled states of each encoder."""
    out = {}
    for letter, encoder, tokens in encoders(clip, given):
        # layer_norm_hidden_state: SD 2.x puts the last but one through the final norm, SDXL not
        last, hidden, projected, pooled = encoder.transformer(
            tokens,
            intermediate_output=-2,
            final_layer_norm_intermediate=encoder.layer_norm_hidden_state,
        )
        named = {"last": last, "hidden": hidden, "projected": projected, "pooled": pooled}
        out |= {f"{letter}.{state}": tensor for state, tensor in named.items()}
    return out


def prompts(clip, prompt: str) -> dict:
    """What *CLIP Text Encode* makes of the prompt, plain and behind *CLIP Set Last Layer* at -3."""
    out = {}
    for name, clip.layer_idx in (("prompt", None), ("prompt-3", -3)):
        states, pooled = clip.encode_from_tokens(clip.tokenize(prompt), return_pooled=True)
        out |= {name: states, f"{name}.pooled": pooled}
    return out


def pictures(vae, given: dict) -> dict:
    assert vae.vae_dtype == torch.float32
    net = vae.first_stage_model.float()
    decoded = net.decode(given["latent"])
    if hasattr(net, "taesd_encoder"):
        return {"mean": net.encode(given["image"]), "decoded": decoded}
    mean, logvar = net.quant_conv(net.encoder(given["image"])).chunk(2, dim=1)
    std = (0.5 * logvar.clamp(-30, 20)).exp()
    return {"mean": mean, "std": std, "decoded": decoded}


if __name__ == "__main__":
    main()
