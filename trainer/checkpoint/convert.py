"""State dict ↔ diffusers and transformers modules, with a strict inverse and without copies."""

from collections.abc import Iterable, Mapping

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from .errors import CheckpointError
from .layout import TITLES, Layout
from .open_clip_map import is_transposed
from .parts import naming
from .vae_map import affine_tensors


def key_map(layout: Layout, part: str) -> dict[str, str]:
    """Module key → file key of every tensor of ``part``, one of ``layout.parts``.

    One-to-one but for OpenCLIP, whose files hold query, key and value as one tensor, in this order.
    The file keys are the usual spelling; ``part_keys`` gives those of one file.
    """
    return naming(layout, part).names


def part_keys(state_dict: Mapping[str, Tensor], layout: Layout, part: str) -> list[str]:
    """The file keys of ``part`` as this file spells them, in the file's order.

    Besides the module's own tensors these are what belongs to the part but has no place in the
    module: ``position_ids``, ``vae_scale`` and the like. Raises CheckpointError unless the part is
    complete and holds nothing else.
    """
    named = set(file_keys(state_dict, layout, part).values())
    is_extra = naming(layout, part).is_extra
    return [key for key in state_dict if key in named or is_extra(key)]


def build(
    state_dict: Mapping[str, Tensor],
    layout: Layout,
    part: str,
    *,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """The module of ``part`` filled from ``state_dict``: eval mode, no gradients, in ``dtype``.

    A tensor that already has ``dtype`` becomes the parameter itself (or three, each a third of it),
    without a copy: training the module then changes the caller's dict (clone first to keep it).
    Tensors born in inference mode are cloned, because autograd cannot use them, and OpenCLIP's
    projection, which the file has transposed; works under inference mode too. Raises
    CheckpointError if a tensor is missing, unexpected or has another shape.
    """
    with torch.inference_mode(False):
        names = file_keys(state_dict, layout, part)
        module = make_module(layout, part)
        wanted = {key: tensor.shape for key, tensor in module.state_dict().items()}
        filled, wrong = {}, []
        for name, keys in _stacks(names).items():
            shape = _stacked_shape(name, [wanted[key] for key in keys])
            tensor = _fit(state_dict[name], shape)
            if tensor is None:
                wrong.append(f"{name} is {list(state_dict[name].shape)}, not {list(shape)}")
            else:
                pieces = _unstack(name, tensor, len(keys))
                filled |= {k: _own(piece, dtype) for k, piece in zip(keys, pieces, strict=True)}
        _complain(layout, part, wrong=wrong)
        module.load_state_dict(filled, strict=True, assign=True)
        _fill_buffers(module)
        return module.requires_grad_(False).eval()


def export(
    module: nn.Module, layout: Layout, part: str, *, like: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """File key → tensor for everything in ``module``: the exact inverse of ``build``.

    With ``like`` (the dict the module came from) names and ranks are the source's own and the
    source's extras are carried along untouched, so the keys are ``part_keys(like, ...)``. The
    tensors keep the module's dtype and device and share its memory, but for those that OpenCLIP's
    files hold in another form (stacked or transposed).
    """
    state = module.state_dict()
    names = file_keys(like, layout, part) if like is not None else key_map(layout, part)
    missing, unexpected = names.keys() - state.keys(), state.keys() - names.keys()
    _complain(layout, part, missing=missing, unexpected=unexpected)
    out = {}
    for name, keys in _stacks(names).items():
        tensor = _stack(name, [state[key].detach() for key in keys])
        if like is not None:
            shape = tuple(like[name].shape)
            if _fit(tensor, shape) is None:
                wrong = f"{keys[0]} is {list(tensor.shape)}, not {list(shape)}"
                _complain(layout, part, wrong=[wrong])
        else:
            shape = _file_shape(name, tensor)
        out[name] = tensor.reshape(shape)
    if like is not None:
        return {key: out.get(key, like[key]) for key in part_keys(like, layout, part)}
    if part == "vae" and layout.vae_kind == "tiny":
        out |= affine_tensors(layout.vae_scale, layout.vae_shift)
    return out


def file_keys(state_dict: Mapping[str, Tensor], layout: Layout, part: str) -> dict[str, str]:
    """Module key → the key that this file uses; see ``key_map``.

    Raises CheckpointError for what is missing and for what is left over.
    """
    file = naming(layout, part)
    found, missing = {}, []
    for key, name in file.names.items():
        spelling = next((s for s in file.spellings(name) if s in state_dict), None)
        if spelling is None:
            missing.append(name)
        else:
            found[key] = spelling
    used = set(found.values())
    unexpected = [
        name
        for name in state_dict
        if name.startswith(file.root) and name not in used and not file.is_extra(name)
    ]
    _complain(layout, part, missing=dict.fromkeys(missing), unexpected=unexpected)
    return found


def _stacks(names: Mapping[str, str]) -> dict[str, list[str]]:
    """File key → the module keys that it holds, one below the other."""
    stacks: dict[str, list[str]] = {}
    for key, name in names.items():
        stacks.setdefault(name, []).append(key)
    return stacks


def _stacked_shape(name: str, shapes: list[torch.Size]) -> tuple[int, ...]:
    """The shape in the file of module tensors of these shapes, all alike."""
    first = tuple(reversed(shapes[0])) if is_transposed(name) else tuple(shapes[0])
    return first if len(shapes) == 1 else (len(shapes) * first[0], *first[1:])


def _stack(name: str, tensors: list[Tensor]) -> Tensor:
    if is_transposed(name):
        return tensors[0].t().contiguous()
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _unstack(name: str, tensor: Tensor, count: int) -> tuple[Tensor, ...]:
    if is_transposed(name):
        return (tensor.t().contiguous(),)
    return (tensor,) if count == 1 else tensor.chunk(count)


def _complain(
    layout: Layout,
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
            f"The {naming(layout, part).title}'s tensors do not fit: {'; '.join(said)}. The file "
            f"is damaged or was not written as a {TITLES[layout.family]} checkpoint: get it again."
        )


def make_module(layout: Layout, part: str, device: str = "meta") -> nn.Module:
    """The part's module with its own initialisation, on meta without any."""
    with torch.device(device):
        if part == "unet":
            return UNet2DConditionModel(**layout.unet_config)
        if part == "text_encoder":
            return CLIPTextModel(CLIPTextConfig(**layout.text_config))
        if part == "text_encoder_2":
            return CLIPTextModelWithProjection(CLIPTextConfig(**layout.text_config_2))
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
