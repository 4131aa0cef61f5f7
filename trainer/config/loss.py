"""What a step learns from: the noise it draws, and how its rows count."""

from dataclasses import dataclass

from .options import ConfigError, check_options, option

TIMESTEPS = 1000  # noise levels of Stable Diffusion


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Noise and loss. One widget of the *DreamBooth Loss* node per field."""

    weighting: str = option(
        "none",
        "How much a row counts by its noise level. min_snr holds back the little noised ones;"
        " debiased the same without a limit, and lifts the much noised ones.",
        choices=("none", "min_snr", "debiased"),
    )
    min_snr_gamma: float = option(
        5.0,
        "Of min_snr: rows with a higher signal-to-noise ratio count as if they had this one.",
        min=0.01,
        max=1000.0,
        step=0.5,
    )
    loss_type: str = option(
        "mse",
        "What a wrong guess costs: its square, or, beyond huber_c, no more than its size (huber).",
        choices=("mse", "huber"),
    )
    huber_c: float = option(
        0.1,
        "Of huber: errors well above it count linearly. Smaller forgives more.",
        min=1e-6,
        max=100.0,
        step=0.01,
    )
    huber_schedule: str = option(
        "snr",
        "Of huber: snr and exponential let c fall from 1 without noise towards huber_c with all of"
        " it; constant keeps huber_c.",
        choices=("snr", "exponential", "constant"),
    )
    noise_offset: float = option(
        0.0,
        "Noise shared by a whole channel: lets very dark and very bright pictures be learned."
        " 0.05 to 0.1 are usual.",
        min=0.0,
        max=1.0,
        step=0.01,
    )
    multires_noise_iterations: int = option(
        0, "Coarser layers of noise added to the usual one, at most. 6 is usual.", min=0, max=16
    )
    multires_noise_discount: float = option(
        0.4,
        "Strength of each coarser layer beside the one before it. 0.3 to 0.8 are usual.",
        min=0.0,
        max=1.0,
        step=0.05,
    )
    input_perturbation: float = option(
        0.0,
        "More noise in the picture than the net is to find, so that it learns to bear its own"
        " errors. 0.1 is usual.",
        min=0.0,
        max=1.0,
        step=0.01,
    )
    min_timestep: int = option(
        0, "The least noise that is learned from, of 1000 levels.", min=0, max=TIMESTEPS - 1
    )
    max_timestep: int = option(
        TIMESTEPS, "Noise levels from here on are left out.", min=1, max=TIMESTEPS
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.min_timestep >= self.max_timestep:
            raise ConfigError(
                f"min_timestep = {self.min_timestep} leaves no noise level below max_timestep ="
                f" {self.max_timestep}: lower the one or raise the other"
            )
