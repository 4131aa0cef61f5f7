"""Runs a checkpoint through ComfyUI's own modules: python host_parity.py CHECKPOINT INPUTS OUTPUTS

Started in a ComfyUI tree, in a process of its own: importing comfy parses the command line and
claims the device. Everything is loaded in float32, so that a difference is one of layout and not
of rounding. The host's log goes to standard error, line by line."""

import logging
import sys

sys.path.insert(0, ".")
checkpoint, inputs_path, outputs_path = sys.argv[1:]
del sys.argv[1:]

from comfy.cli_args import args  # noqa: E402

args.cpu = True
args.use_pytorch_cross_attention = True

import comfy.sd  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

logging.basicConfig(level=logging.DEBUG, format="HOST %(levelname)s %(message)s", force=True)
torch.set_num_threads(2)


@torch.inference_mode()
def main() -> None:
    single = {"dtype": torch.float32}
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(
        checkpoint, model_options=single, te_model_options=single
    )
    given = load_file(inputs_path)
    out = {"unet": unet(model, given)}
    out |= text(clip, given["tokens"])
    out |= pictures(vae, given)
    save_file({name: tensor.float().contiguous() for name, tensor in out.items()}, outputs_path)


def unet(model, given: dict) -> torch.Tensor:
    net = model.model.diffusion_model.float()
    return net(given["x"], given["t"], context=given["context"])


def text(clip, tokens: torch.Tensor) -> dict:
    encoder = clip.cond_stage_model.clip_l
    encoder.float()
    last, _, _, pooled = encoder.transformer(tokens)
    # What a prompt becomes in a graph, through the host's tokens and weights.
    rows = [[(int(token), 1.0) for token in row] for row in tokens]
    graph = torch.cat([clip.encode_from_tokens({"l": [row]}) for row in rows])
    return {"last": last, "pooled": pooled, "graph": graph}


def pictures(vae, given: dict) -> dict:
    assert vae.vae_dtype == torch.float32
    net = vae.first_stage_model.float()
    decoded = net.decode(given["latent"])
    if hasattr(net, "taesd_encoder"):
        return {"mean": net.encode(given["image"]), "decoded": decoded}
    mean, logvar = net.quant_conv(net.encoder(given["image"])).chunk(2, dim=1)
    std = (0.5 * logvar.clamp(-30, 20)).exp()
    return {"mean": mean, "std": std, "decoded": decoded}


main()
