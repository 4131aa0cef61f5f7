"""Whether the packages that the host does not ship are there."""

import importlib

from .config import ConfigError

REQUIRED = ("diffusers", "accelerate")
# from install.py's list; without --no-deps it may bring another torch along
_PEFT = 'python -m pip install --no-deps "peft>=0.17"'


def check_packages() -> None:
    """Called before anything that imports them, so that the rest of the pack loads without.

    Raises:
        ConfigError: names what is missing or broken and the command that installs it.
    """
    problems = []
    for name in REQUIRED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            problems.append(str(error) or name)
    if problems:
        raise ConfigError(
            f"{'; '.join(problems)}. In this extension's folder, with the Python that starts"
            " ComfyUI, run: python -m pip install -r requirements.txt; then start ComfyUI again"
        )


def check_peft() -> None:
    """Called where a LoRA is asked for; nothing else needs peft.

    Raises:
        ConfigError: it is missing or broken.
    """
    try:
        importlib.import_module("peft")
    except Exception as error:  # a broken package raises anything
        raise ConfigError(
            f"a LoRA needs the package peft ({error}): with the Python that starts ComfyUI, run"
            f" {_PEFT}; then start ComfyUI again. Or choose kind = none and train all weights"
        ) from error


def do_without_broken_peft() -> None:
    """diffusers imports peft in every forward pass of a UNet once it has seen that it is installed.

    Where that import fails, diffusers is told that it is not.
    """
    import diffusers.utils

    try:
        importlib.import_module("peft.tuners.tuners_utils")
    except Exception:  # noqa: BLE001 - a broken package raises anything
        diffusers.utils.USE_PEFT_BACKEND = False
