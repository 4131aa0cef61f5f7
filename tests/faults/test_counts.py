"""What the README says was counted is what the fault tests wrote down."""

import json

import pytest
from conftest import ROOT
from record import FILE

# promise in the file → words of the README's line, and the count that stands in it
LINES = {
    "kill -9": ("`kill -9`", "trials"),
    "cancel in the trainer": ("stopped at random moments", "trials"),
    "disk full": ("no room at one write", "trials"),
    "fuzz": ("mutated pictures", "inputs"),
    "numbers": ("NaN and infinity", "trials"),
    "memory": ("refused in forward", "trials"),
    "node inputs": ("queued in a real ComfyUI", "inputs"),
    "cancel in ComfyUI": ("interrupted at random moments", "trials"),
}


@pytest.mark.parametrize("promise", LINES)
def test_the_readme_tells_the_recorded_counts(promise: str) -> None:
    words, key = LINES[promise]
    (line,) = [row for row in (ROOT / "README.md").read_text("utf-8").splitlines() if words in row]
    entry = json.loads(FILE.read_text("utf-8")).get(promise)
    if entry is None:
        assert "short form" in line  # nothing was counted in full yet
    else:
        assert f"{entry[key]} " in line and str(entry["failures"]) in line


def test_no_count_is_left_untold() -> None:
    recorded = set(json.loads(FILE.read_text("utf-8")))
    assert recorded <= {*LINES, "memory of ComfyUI over rounds"}
