"""The demo's little base model: how it is trained on the picture-book world, packed and expanded.

``python -m demo.base train``, ``pack``, ``expand OUT.safetensors``; see ``__main__.py``.
"""
