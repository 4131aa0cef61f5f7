"""What the fault tests counted, in docs/results/faults.json: one entry per promise."""

import json
from pathlib import Path

FILE = Path(__file__).resolve().parents[2] / "docs" / "results" / "faults.json"


def record(promise: str, **counts: object) -> None:
    """Replace one promise's entry; only full runs (``--faults``) are written down.

    ``counts`` are plain numbers and words: trials, failures, the seed, what was injected.
    """
    entries = json.loads(FILE.read_text("utf-8")) if FILE.is_file() else {}
    entries[promise] = counts
    FILE.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dict(sorted(entries.items())), indent=1, ensure_ascii=False)
    FILE.write_text(text + "\n", encoding="utf-8")
