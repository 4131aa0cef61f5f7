"""The host's folders, and what a user may type as one."""

import os
from pathlib import Path

import folder_paths

from ...trainer.config import ConfigError


def output_folder() -> Path:
    """Everything about runs: logs, previews, class images, caches."""
    return Path(folder_paths.get_output_directory()) / "dreambooth"


def checkpoint_folder() -> Path:
    """Where finished checkpoints go; the host's own loaders search it."""
    return _result_folder("checkpoints")


def lora_folder() -> Path:
    """The same for LoRA files."""
    return _result_folder("loras")


def _result_folder(kind: str) -> Path:
    root = Path(folder_paths.get_output_directory()) / kind
    known = {os.path.realpath(path) for path in folder_paths.get_folder_paths(kind)}
    if os.path.realpath(root) not in known:
        folder_paths.add_model_folder_path(kind, str(root))
    return root / "dreambooth"


def result_name(path: Path) -> str:
    """The file as the dropdown of *Load Checkpoint* or *Load LoRA* spells it."""
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
        led = " (a link leads there)" if (inputs / typed).exists() else ""
        raise ConfigError(
            f"{typed!r} is outside the folders of this ComfyUI{led}: put it under {str(inputs)!r}"
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
