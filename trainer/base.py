"""The weights that a run starts from: what they are sampled as, and what to expect of them."""

from dataclasses import replace

from torch import Tensor

from .checkpoint import TITLES, Layout, weights_digest
from .config import ConfigError, Job
from .events import Listener, Note
from .families import family_of

HIGH_RATE = 5e-5  # ten times what is usual where all weights of a full-size model learn


def read_as(layout: Layout, job: Job) -> Layout:
    """The base's layout with what its model is sampled as, where only the job can know it.

    Raises:
        ConfigError: the file says otherwise, or the two do not go together.
    """
    if job.prediction is None:
        return layout
    if job.prediction == "epsilon" and job.zero_terminal_snr:
        raise ConfigError(
            "the model is sampled as epsilon with zero terminal SNR, and noise says nothing of a"
            " picture that is nothing but noise: choose v_prediction or switch zsnr off in the"
            " ModelSamplingDiscrete before this node"
        )
    wanted = replace(layout, prediction=job.prediction, zero_terminal_snr=job.zero_terminal_snr)
    if wanted != layout and family_of(layout).says_prediction:
        raise ConfigError(
            f"the model is sampled as {_sampled_as(wanted)}, but the weights say"
            f" {_sampled_as(layout)}, and so will every loader: take the ModelSamplingDiscrete"
            " away, or choose what the weights say"
        )
    return wanted


def _sampled_as(layout: Layout) -> str:
    return layout.prediction + " with zero terminal SNR" * layout.zero_terminal_snr


def advise(job: Job, layout: Layout, listener: Listener) -> None:
    """What speaks not against the run but against what may be expected of it."""
    family = family_of(layout)
    if layout.prediction != "epsilon" and not family.says_prediction:
        zsnr = "on" if layout.zero_terminal_snr else "off"
        listener(
            Note(
                f"a {TITLES[layout.family]} file cannot say that it predicts v: behind a Load"
                " Checkpoint of the result put ModelSamplingDiscrete with v_prediction and zsnr"
                f" {zsnr}"
            )
        )
    rate, whole = job.config.learning_rate, not job.config.lora.is_on
    if whole and rate > HIGH_RATE and len(layout.unet_config["block_out_channels"]) > 2:
        listener(
            Note(
                f"learning_rate = {rate:g} suits a LoRA, and all weights learn here (kind = none):"
                " 1e-6 to 5e-6 are usual, more burns"
            )
        )
    side = family.sides[layout.prediction]
    if layout.family != "sd1" and job.config.resolution < 0.75 * side:
        listener(
            Note(
                f"this model was made for pictures of {side} pixels: at resolution ="
                f" {job.config.resolution} it forgets how to make them"
            )
        )


def record_base(job: Job, base: dict[str, Tensor], layout: Layout) -> Job:
    """The job with the digest of the weights that it really starts from, and how they are read.

    Raises:
        ConfigError: it is recorded with another digest.
    """
    digest = weights_digest(base)
    if job.base_digest and job.base_digest != digest:
        raise ConfigError(
            f"the weights in {job.base} are not those that this run began with (ComfyUI may hold"
            " some of a file's in fewer bits): go on in ComfyUI, or train anew from the file with"
            " --again"
        )
    skip = family_of(layout).clip_skip if job.clip_skip is None else job.clip_skip
    return replace(
        job,
        base_digest=digest,
        clip_skip=skip,
        prediction=layout.prediction,
        zero_terminal_snr=layout.zero_terminal_snr,
    )
