"""Full-size SD 1.5 steps through the shell entry, with exact weights within 14 GiB. Slow:

python tests/run.py --slow tests/test_full_size.py -s
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from nets import random_checkpoint
from pack.trainer.checkpoint import detect, read_checkpoint, write_checkpoint
from test_checkpoint_parity import make_inputs, ours, relative_error, run_host
from toy import make_concept, make_job

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "limit"), [("exact", 14.0), ("fp32", 16.0)])
def test_a_full_size_step_fits_and_loads_in_the_host(
    tmp_path: Path, comfyui: Path, weights: str, limit: float
) -> None:
    base = tmp_path / "base.safetensors"
    write_checkpoint(base, random_checkpoint("full", vae="kl", dtype=torch.float16), {})
    job = make_job(
        tmp_path,
        (make_concept(tmp_path / "pictures", photos=2, classes=2),),
        steps=2,
        weights=weights,
        learning_rate=1e-3,
        text_encoder_learning_rate=1e-3,
    )
    values = json.loads(job.to_json()) | {"base": str(base)}
    (tmp_path / "job.json").write_text(json.dumps(values))

    began = time.perf_counter()
    peak = run_trainer(tmp_path)
    seconds = time.perf_counter() - began
    lines = (tmp_path / "runs" / "toy" / "log.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step_seconds"] for line in lines]
    sys.stdout.write(f"\nfull size: {seconds:.0f} s, steps {steps}, peak {peak:.2f} GiB\n")
    assert peak < limit and len(steps) == 2

    made = tmp_path / "checkpoints" / "toy.safetensors"
    before, after = read_checkpoint(base)[0], read_checkpoint(made)[0]
    assert before.keys() == after.keys()
    assert {t.dtype for t in after.values()} == {torch.float16}
    for prefix, changes in (("model.", True), ("cond_stage_model.", True), ("first_", False)):
        keys = [key for key in before if key.startswith(prefix)]
        changed = sum(not torch.equal(before[key], after[key]) for key in keys)
        assert (changed > 0.9 * len(keys)) if changes else (changed == 0)
    given = make_inputs(detect(after))
    theirs, complaints = run_host(tmp_path, comfyui, made, given)
    assert complaints == []
    mine = ours(after, given)
    assert max(relative_error(mine[name], theirs[name]) for name in mine) <= 1e-4


def run_trainer(folder: Path) -> float:
    """``python -m trainer job.json``; returns the most memory of its own that it had, in GiB.

    Without the files that it maps, which the system takes back when it needs the room.
    """
    command = [sys.executable, "-m", "trainer", str(folder / "job.json"), "--device", "cpu"]
    peak = 0
    with subprocess.Popen(command, cwd=ROOT) as process:
        while process.poll() is None:
            peak = max(peak, own_memory(process.pid))
            time.sleep(0.1)
    assert process.returncode == 0
    return peak / 2**20


def own_memory(process: int) -> int:
    """KiB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
