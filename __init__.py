"""ComfyUI-DreamBooth: the host's entry. Hands over the nodes and the page's folder."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
