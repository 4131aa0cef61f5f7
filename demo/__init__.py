"""From a fresh machine to ComfyUI, a base, a training run and pictures: ``python demo/run.py``."""
