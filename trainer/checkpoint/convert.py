"""State dict ↔ diffusers and transformers modules, with a strict inverse and without copies."""

from collections.abc import Callable, Iterable, Mapping

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from .errors import CheckpointError
from .layout import PARTS, Layout
from .shapes import TEXT, UNET, VAE
from .text_map import TEXT_EXTRAS, text_names, text_spellings
from .unet_map import unet_names
from .vae_map import KL_EXTRA_PREFIXES, TINY_EXTRAS, affine_tensors, vae_names, vae_spellings

_ROOTS = {"unet": UNET, "text_encoder": TEXT, "vae": VAE}
_TITLES = {"unet": "UNet", "text_encoder": "text encoder", "vae": "VAE"}
_SPELLINGS: dict[str, Callable[[str], tuple[str, ...]]] = {
    "unet": lambda name: (name,),
    "text_encoder": text_spellings,
    "vae": vae_spellings,
}


def key_map(layout: Layout, part: str) -> dict[str, str]:
    """Module key → file key of every tensor of ``part``, one-to-one.

    ``part`` is "unet", "text_encoder" or "vae". The file keys are the usual spelling;
    ``part_keys`` gives those of one file.
    """
    if part not in PARTS:
        raise ValueError(f"unknown part {part!r}: one of {', '.join(PARTS)}")
    if part == "unet":
        return unet_names(layout.unet_config)
    if part == "text_encoder":
        return text_names(layout.text_config)
    return vae_names(layout.vae_kind, layout.vae_config)


def part_keys(state_dict: Mapping[str, Tensor], layout: Layout, part: str) -> list[str]:
    """The file keys of ``part`` as this file spells them, in the file's order.

    Besides the module's own tensors these are what belongs to the part but has no place in the
    module: ``position_ids``, ``vae_scale`` and the like. Raises CheckpointError unless the part is
    complete and holds nothing else.
    """
    named = set(_spelled(state_dict, layout, part).values())
    return [key for key in state_dict if key in named or _is_extra(key, part)]


def build(
    state_dict: Mapping[str, Tensor],
    layout: Layout,
    part: str,
    *,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """The module of ``part`` filled from ``state_dict``: eval mode, no gradients, in ``dtype``.

    A tensor that already has ``dtype`` becomes the parameter itself, without a copy: training the
    module then changes the caller's dict (clone first to keep it). Tensors born in inference mode
    are cloned, because autograd cannot use them; works under inference mode too. Raises
    CheckpointError if a tensor is missing, unexpected or has another shape.
    """
    with torch.inference_mode(False):
        names = _spelled(state_dict, layout, part)
        module = make_module(layout, part)
        wanted = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
        filled, wrong = {}, []
        for key, name in names.items():
            tensor = _fit(state_dict[name], wanted[key])
            if tensor is None:
                wrong.append(f"{name} is {list(state_dict[name].shape)}, not {list(wanted[key])}")
            else:
                filled[key] = _own(tensor, dtype)
        _complain(part, wrong=wrong)
        module.load_state_dict(filled, strict=True, assign=True)
        _fill_buffers(module)
        return module.requires_grad_(False).eval()


def export(
    module: nn.Module, layout: Layout, part: str, *, like: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """File key → tensor for everything in ``module``: the exact inverse of ``build``.

    With ``like`` (the dict the module came from) names and ranks are the source's own and the
    source's extras are carried along untouched, so the keys are ``part_keys(like, ...)``. The
    tensors share the module's memory and keep its dtype and device.
    """
    state = module.state_dict()
    names = _spelled(like, layout, part) if like is not None else key_map(layout, part)
    _complain(part, missing=names.keys() - state.keys(), unexpected=state.keys() - names.keys())
    out = {}
    for key, name in names.items():
        tensor = state[key].detach()
        if like is not None:
            shape = tuple(like[name].shape)
            if _fit(tensor, shape) is None:
                _complain(part, wrong=[f"{key} is {list(tensor.shape)}, not {list(shape)}"])
        else:
            shape = _file_shape(name, tensor)
        out[name] = tensor.reshape(shape)
    if like is not None:
        return {key: out.get(key, like[key]) for key in part_keys(like, layout, part)}
    if part == "vae" and layout.vae_kind == "tiny":
        out |= affine_tensors(layout.vae_scale, layout.vae_shift)
    return out


def _spelled(state_dict: Mapping[str, Tensor], layout: Layout, part: str) -> dict[str, str]:
    """Module key → the key that this file uses; strict about what is missing and left over."""
    found, missing = {}, []
    for key, name in key_map(layout, part).items():
        spelling = next((s for s in _SPELLINGS[part](name) if s in state_dict), None)
        if spelling is None:
            missing.append(name)
        else:
            found[key] = spelling
    used = set(found.values())
    unexpected = [
        name
        for name in state_dict
        if name.startswith(_ROOTS[part]) and name not in used and not _is_extra(name, part)
    ]
    _complain(part, missing=missing, unexpected=unexpected)
    return found


def _is_extra(name: str, part: str) -> bool:
    if part == "text_encoder":
        return name in TEXT_EXTRAS
    return part == "vae" and (name in TINY_EXTRAS or name.startswith(KL_EXTRA_PREFIXES))


def _complain(
    part: str,
    missing: Iterable[str] = (),
    unexpected: Iterable[str] = (),
    wrong: Iterable[str] = (),
) -> None:
    """Raises CheckpointError with counts and the first names, if there is anything to say."""
    said = []
    for names, what in ((missing, "missing"), (unexpected, "unexpected"), (wrong, "misshapen")):
        names = sorted(names)
        if names:
            more = ", ..." if len(names) > 3 else ""
            said.append(f"{len(names)} {what} ({', '.join(names[:3])}{more})")
    if said:
        raise CheckpointError(
            f"The {_TITLES[part]}'s tensors do not fit: {'; '.join(said)}. The file is damaged or "
            "was not written as a Stable Diffusion 1.x checkpoint: get it again."
        )


def make_module(layout: Layout, part: str, device: str = "meta") -> nn.Module:
    """The part's module with its own initialisation, on meta without any."""
    with torch.device(device):
        if part == "unet":
            return UNet2DConditionModel(**layout.unet_config)
        if part == "text_encoder":
            return CLIPTextModel(CLIPTextConfig(**layout.text_config))
        kinds = {"kl": AutoencoderKL, "tiny": AutoencoderTiny}
        return kinds[layout.vae_kind](**layout.vae_config)


def _fit(tensor: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """``tensor`` in ``shape`` if they differ by trailing ones only (1x1 convolution ↔ linear)."""
    if tuple(tensor.shape) == shape:
        return tensor
    longer, shorter = sorted((tuple(tensor.shape), shape), key=len, reverse=True)
    linear = len(shorter) == 2 and longer == (*shorter, 1, 1)
    return tensor.reshape(shape) if linear else None


def _own(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """``tensor`` in ``dtype``, itself if possible, never an inference tensor."""
    cast = tensor.detach().to(dtype)
    return cast.clone() if cast.is_inference() else cast


def _file_shape(name: str, tensor: Tensor) -> tuple[int, ...]:
    """The file holds the KL VAE's attention as 1x1 convolutions, diffusers as linear layers."""
    attention = ".mid.attn_1." in name and tensor.ndim == 2
    return (*tensor.shape, 1, 1) if attention else tuple(tensor.shape)


def _fill_buffers(module: nn.Module) -> None:
    """Gives CLIP's position ids, which no file need hold, their values: meta has none."""
    for owner in module.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            if not buffer.is_meta:
                continue
            if name != "position_ids":
                raise AssertionError(f"no rule for the buffer {name}")
            owner.position_ids = torch.arange(buffer.shape[-1]).expand(buffer.shape)
