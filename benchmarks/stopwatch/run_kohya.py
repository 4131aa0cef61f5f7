"""sd-scripts' ``train_db.py`` on a UNet of any width: ``run_kohya.py CHECKOUT SHAPE [ARGUMENT…]``.

The script builds Stable Diffusion 1.5's UNet from constants. For a smaller one these are set
before it starts; SHAPE is JSON of those that differ, ``{}`` for the real one. Stands alone, because
it runs with the libraries that sd-scripts asks for.
"""

import json
import runpy
import sys

checkout, shape = sys.argv[1:3]
sys.path[0] = checkout
if constants := json.loads(shape):
    from library import original_unet

    for name, value in constants.items():
        if not hasattr(original_unet, name):
            raise AttributeError(f"sd-scripts' original_unet.py has no {name} any more")
        setattr(original_unet, name, value)
script = f"{checkout}/train_db.py"
sys.argv = [script, *sys.argv[3:]]
runpy.run_path(script, run_name="__main__")
