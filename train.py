"""``python train.py job.json``: ``python -m trainer``, started from any folder.

The Python that comes with ComfyUI for Windows finds no module in the folder that it is started in.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from trainer.__main__ import main

    sys.exit(main())
