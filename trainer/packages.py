"""Whether the packages that the host does not ship are there."""

import importlib

from .config import ConfigError

REQUIRED = ("diffusers", "accelerate")


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
