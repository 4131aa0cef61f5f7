"""The one door to ComfyUI: every use of its internals is in this file.

Written for 0.3.60 and later; what differs in newer hosts is looked up by name, never assumed.
"""

import dataclasses
import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.model_management as management
import comfy.model_sampling
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io
from PIL import Image
from server import PromptServer
from torch import Tensor

from ..trainer.config import ConfigError
from ..trainer.events import Command

# Their class in comfy.supported_models, for a refusal before anything large is copied.
SUPPORTED_CLASSES = {"SD15"}


def schema(**keywords: Any) -> io.Schema:
    """An ``io.Schema`` without the keywords that this host does not know yet."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return io.Schema(**{key: value for key, value in keywords.items() if key in known})


# ---- folders -----------------------------------------------------------------------------------


def output_folder() -> Path:
    """Everything about runs: logs, previews, class images, caches."""
    return Path(folder_paths.get_output_directory()) / "dreambooth"


def checkpoint_folder() -> Path:
    """Where finished checkpoints go; the host's own loaders search it."""
    root = Path(folder_paths.get_output_directory()) / "checkpoints"
    known = {os.path.realpath(path) for path in folder_paths.get_folder_paths("checkpoints")}
    if os.path.realpath(root) not in known:
        folder_paths.add_model_folder_path("checkpoints", str(root))
    return root / "dreambooth"


def checkpoint_name(path: Path) -> str:
    """The file as a *Load Checkpoint* dropdown spells it."""
    return os.path.join("dreambooth", path.name)


def input_subfolders() -> list[str]:
    """Folders under the host's input, two levels deep, sorted."""
    root = Path(folder_paths.get_input_directory())
    found: list[str] = []
    for folder in sorted(_folders(root)):
        found += [folder.name, *sorted(f"{folder.name}/{sub.name}" for sub in _folders(folder))]
    return found


def _folders(root: Path) -> list[Path]:
    try:
        return [p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]
    except OSError:
        return []


def resolve(text: str) -> Path:
    """A path that a user typed → a real path inside the host's input, output or temp folder.

    Raises:
        ConfigError: it is empty or leads outside.
    """
    typed = text.strip().strip("\"'")
    if not typed or "\0" in typed:
        raise ConfigError("no folder chosen: put your photos into a folder under ComfyUI's input")
    inputs = Path(folder_paths.get_input_directory())
    path = (inputs / Path(typed).expanduser()).resolve()
    roots = [inputs, Path(folder_paths.get_output_directory())]
    roots.append(Path(folder_paths.get_temp_directory()))
    if not any(path.is_relative_to(root.resolve()) for root in roots):
        raise ConfigError(
            f"{typed!r} is outside the folders of this ComfyUI: put it under {str(inputs)!r}"
        )
    return path


def find_checkpoint(prompt: dict | None, node_id: str) -> str | None:
    """The file that all of a node's model, clip and vae come from, if it is a single one."""
    inputs = (prompt or {}).get(node_id, {}).get("inputs", {})
    links = [inputs.get(name) for name in ("model", "clip", "vae")]
    if not all(isinstance(link, list) and len(link) == 2 for link in links):
        return None
    sources = {str(link[0]) for link in links}
    source = prompt.get(sources.pop(), {}) if len(sources) == 1 else {}
    name = source.get("inputs", {}).get("ckpt_name")
    if source.get("class_type") != "CheckpointLoaderSimple" or not isinstance(name, str):
        return None
    return folder_paths.get_full_path("checkpoints", name)


# ---- weights -----------------------------------------------------------------------------------


@dataclasses.dataclass
class Weights:
    """What the wires hold: a single-file state dict on the CPU that is ours to use up."""

    state_dict: dict[str, Tensor]
    held_as: str
    clip_layer: int | None

    @property
    def clip_skip(self) -> int:
        return 1 if self.clip_layer is None else -self.clip_layer


def take_weights(model: Any, clip: Any, vae: Any) -> Weights:
    """Copy MODEL, CLIP and VAE, patches included, as the host's own checkpoint saver would.

    Raises:
        ConfigError: a wire carries nothing.
        UnsupportedModel: another family, prediction type or quantized weights.
    """
    # not at the top: it needs packages that may be missing, and then the pack should still load
    from ..trainer.checkpoint import UnsupportedModel, detect

    _require_wires(model, clip, vae)
    config = type(model.model.model_config).__name__
    sampling = model.get_model_object("model_sampling")
    if config not in SUPPORTED_CLASSES:
        raise UnsupportedModel(
            f"this model is {config}: DreamBooth trains Stable Diffusion 1.x checkpoints"
        )
    # most of the others are subclasses of EPS
    prediction = next(c for c in type(sampling).__mro__ if "calculate_denoised" in vars(c))
    if prediction is not comfy.model_sampling.EPS:
        raise UnsupportedModel(
            f"this model predicts {prediction.__name__}, not the noise (EPS):"
            " DreamBooth trains ε-prediction checkpoints"
        )
    # baking the patches in is what comfy.sd.save_checkpoint does
    management.load_models_gpu([model, clip.load_model()], force_patch_weights=True)
    tensors = model.model.state_dict_for_saving(clip.get_sd(), vae.get_sd())
    tensors = {key: value for key, value in tensors.items() if isinstance(value, Tensor)}
    detect(tensors)
    with torch.inference_mode(False):  # a copy made inside stays an inference tensor: no training
        copies = {key: torch.empty_like(t, device="cpu").copy_(t) for key, t in tensors.items()}
    return Weights(copies, _held_as(copies), clip.layer_idx)


def _require_wires(model: Any, clip: Any, vae: Any) -> None:
    advice = "connect one from a Load Checkpoint, or from a loader of its own"
    if model is None:
        raise ConfigError(f"the model input carries nothing: {advice}")
    if clip is None:
        raise ConfigError(f"the clip input carries nothing, the file has no text encoder: {advice}")
    if vae is None or getattr(vae, "first_stage_model", None) is None:
        raise ConfigError(f"the vae input carries nothing, the file has no VAE: {advice}")


def _held_as(tensors: dict[str, Tensor]) -> str:
    parts = {
        "UNet": "model.diffusion_model.",
        "text encoder": "cond_stage_model.",
        "VAE": "first_stage_model.",
    }
    said = []
    for name, prefix in parts.items():
        dtypes = {
            t.dtype for k, t in tensors.items() if k.startswith(prefix) and t.is_floating_point()
        }
        said.append(f"{name} {'/'.join(sorted(str(d).removeprefix('torch.') for d in dtypes))}")
    return ", ".join(said)


def describe_weights(model: Any, clip: Any, vae: Any) -> dict[str, Any]:
    """What tells these weights from others: their digest and how the text is read."""
    from ..trainer.checkpoint import weights_digest

    weights = take_weights(model, clip, vae)
    return {"base": weights_digest(weights.state_dict), "clip_skip": weights.clip_skip}


def load_checkpoint(path: Path, clip_layer: int | None) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of a file through the host's own loader."""
    embeddings = folder_paths.get_folder_paths("embeddings")
    model, clip, vae = comfy.sd.load_checkpoint_guess_config(
        str(path), output_vae=True, output_clip=True, embedding_directory=embeddings
    )[:3]
    if clip_layer is not None:
        clip.clip_layer(clip_layer)
    return model, clip, vae


def try_checkpoint(path: Path, clip_layer: int | None) -> None:
    """Load a file as the graph will at the end, and paint one tiny picture with it.

    Raises:
        ValueError: the picture holds values that are not finite; or what the host's loader raises.
    """
    model = clip = vae = None
    try:
        with torch.inference_mode():
            model, clip, vae = load_checkpoint(path, clip_layer)
            _require_wires(model, clip, vae)
            text = encode_text(clip, "a photo")
            how = Sampling(64, "euler", "normal", steps=1, cfg=1.0)
            picture = sample_pictures(model, vae, text, text, [0], how, lambda step: None)
        if not torch.isfinite(picture).all():
            raise ValueError("a picture painted with it holds values that are not finite")
    finally:
        del model, clip, vae
        management.unload_all_models()
        release_memory()


# ---- the card ----------------------------------------------------------------------------------


def device() -> torch.device:
    return management.get_torch_device()


@contextmanager
def card_to_ourselves() -> Iterator[None]:
    """The host's models leave the card first; what we leave behind goes at the end."""
    management.unload_all_models()
    release_memory()
    try:
        yield
    finally:
        release_memory()


def release_memory() -> None:
    gc.collect()
    management.soft_empty_cache()


# ---- progress and interrupt --------------------------------------------------------------------


def say(node_id: str | None, text: str) -> None:
    """Text under a node."""
    send = getattr(PromptServer.instance, "send_progress_text", None)
    if send is not None and node_id:
        send(text, node_id)


class Progress:
    """The node's bar, text line and picture; remembers an interrupt instead of raising it."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._bar = comfy.utils.ProgressBar(1)
        self._interrupt: BaseException | None = None
        self._said = 0.0

    def bar(self, value: int, total: int, picture: Image.Image | None = None) -> None:
        preview = None if picture is None else ("JPEG", picture, 512)
        with self.interrupt_kept():
            self._bar.update_absolute(value, total, preview)

    @contextmanager
    def interrupt_kept(self) -> Iterator[None]:
        """A cancel that the host raises in here ends only this block."""
        try:
            yield
        except management.InterruptProcessingException as error:
            # raising consumed the host's flag: keep it until the work is saved; without its
            # traceback, which would keep the block's models
            self._interrupt = error.with_traceback(None)

    def say(self, text: str, *, always: bool = False) -> None:
        """A line under the node, at most twice a second unless it must be seen."""
        now = time.monotonic()
        if always or now - self._said >= 0.5:
            self._said = now
            say(self._node_id, text)

    def command(self) -> Command:
        stop = self._interrupt is not None or management.processing_interrupted()
        return Command.STOP if stop else Command.GO_ON

    def raise_if_interrupted(self) -> None:
        """Report the cancel to the host, which consumes its flag."""
        management.throw_exception_if_processing_interrupted()
        if self._interrupt is not None:
            raise self._interrupt


# ---- the host's sampler ------------------------------------------------------------------------

SAMPLERS = comfy.samplers.KSampler.SAMPLERS
SCHEDULERS = comfy.samplers.KSampler.SCHEDULERS


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the host samples pictures."""

    resolution: int
    sampler_name: str
    scheduler: str
    steps: int
    cfg: float


def sample_pictures(
    model: Any,
    vae: Any,
    positive: Any,
    negative: Any,
    seeds: list[int],
    how: Sampling,
    on_step: Callable[[int], None],
) -> Tensor:
    """One picture per seed in one batch: ``[N, H, W, 3]`` in 0…1.

    Every picture's first noise comes from its own seed. What an ancestral sampler adds on its way
    comes from the batch's first seed, so there a picture also depends on its batch.
    """
    side = how.resolution // 8
    empty = torch.zeros(len(seeds), 4, side, side, device=management.intermediate_device())
    empty = comfy.sample.fix_empty_latent_channels(model, empty)
    noise = torch.cat([comfy.sample.prepare_noise(empty[:1], seed) for seed in seeds])
    latents = comfy.sample.sample(
        model,
        noise,
        how.steps,
        how.cfg,
        how.sampler_name,
        how.scheduler,
        positive,
        negative,
        empty,
        callback=lambda step, x0, x, total: on_step(step + 1),
        disable_pbar=True,
        seed=seeds[0],
    )
    return vae.decode(latents)


def encode_text(clip: Any, text: str) -> Any:
    """CONDITIONING of a prompt, as *CLIP Text Encode* makes it."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))
