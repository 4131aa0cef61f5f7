"""Names and shapes beside ComfyUI's own full-size modules: python host_keys.py SHAPES OUTPUTS

SHAPES is JSON: kind → tensor name → shape. Everything is on the meta device, so that the largest
models cost no memory. Started in a ComfyUI tree, see host_parity.py."""

import json
import sys

sys.path.insert(0, ".")
shapes_path, outputs_path = sys.argv[1:]
del sys.argv[1:]

from comfy.cli_args import args  # noqa: E402

args.cpu = True

import comfy.model_detection  # noqa: E402
import comfy.ops  # noqa: E402
import torch  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402

PREFIX = "model.diffusion_model."


def main() -> None:
    with open(shapes_path, encoding="utf-8") as file:
        kinds = json.load(file)
    found = {kind: compare(shapes) for kind, shapes in kinds.items()}
    with open(outputs_path, "w", encoding="utf-8") as file:
        json.dump(found, file)


def compare(shapes: dict[str, list[int]]) -> dict:
    tensors = {
        # the host looks at the values of one bias
        name: torch.zeros(shape) if len(shape) == 1 else torch.empty(shape, device="meta")
        for name, shape in shapes.items()
    }
    config = comfy.model_detection.model_config_from_unet(tensors, PREFIX)
    config.set_inference_dtype(torch.float32, None)
    net = UNetModel(**config.unet_config, device="meta", operations=comfy.ops.manual_cast)
    unet = {k.removeprefix(PREFIX): t for k, t in tensors.items() if k.startswith(PREFIX)}
    text = config.clip_target(state_dict=tensors).clip(device="meta", dtype=torch.float32)
    return {
        "class": type(config).__name__,
        "unet": differences(net.state_dict(), unet),
        "text": differences(text.state_dict(), config.process_clip_state_dict(dict(tensors))),
    }


def differences(host: dict, file: dict) -> list[str]:
    out = [f"missing {name}" for name in host.keys() - file.keys()]
    out += [f"unexpected {name}" for name in file.keys() - host.keys()]
    return sorted(
        out
        + [
            f"{name} is {list(file[name].shape)}, not {list(host[name].shape)}"
            for name in host.keys() & file.keys()
            if host[name].shape != file[name].shape
        ]
    )


main()
