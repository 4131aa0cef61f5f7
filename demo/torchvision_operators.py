"""Declares the two operators that torchvision's import expects and a CPU build of torch lacks.

Copied into site-packages beside a ``.pth`` file, so that it runs at the start of that Python.
"""

import importlib.abc
import sys

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                library.define(operator + SIGNATURE)
            sys.modules[__name__].library = library  # the declaration lives as long as this object
        return None


sys.meta_path.insert(0, _Finder())
