"""The bench of trainers: its ratios, its table, its gate, and a whole small bench. No timings."""

import argparse
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from pack.benchmarks.pages import END, begin
from pack.benchmarks.picturebook.textbook import TextbookConfig, draw_steps
from pack.benchmarks.stopwatch import bench, clock, figures, report, rows, tools
from pack.benchmarks.stopwatch.gate import distance, write_draws
from pack.benchmarks.stopwatch.material import SIZES, make_material
from pack.benchmarks.stopwatch.measure import Run, without_paths
from pack.benchmarks.stopwatch.run_diffusers import index_of
from pack.benchmarks.stopwatch.textbook_job import read_draws
from pack.trainer.checkpoint import build, detect, read_checkpoint, write_checkpoint
from pack.trainer.tokenizer import tokenize
from safetensors.torch import load_file
from transformers import CLIPTokenizer

TOY = SIZES["toy"]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return make_material(TOY, tmp_path_factory.mktemp("peers"))


def make_run(step: float, warm: float = 0.0) -> Run:
    """Eight steps of ``step`` seconds behind two slower ones."""
    updates = [5.0, 5.0 + step + warm, *(5 + 2 * warm + step * n for n in range(2, 9))]
    work = [2 * update for update in updates]
    return Run(updates, work, 9.0, 2**30, None, None, None, {})


# ---- arithmetic ----------------------------------------------------------------------------------


def test_a_step_is_the_median_without_the_first_quarter() -> None:
    assert make_run(0.5, warm=3.0).step == pytest.approx(0.5)
    assert figures.images_per_second(make_run(0.5), 4) == pytest.approx(16)
    assert make_run(0.5, warm=3.0).step_work == pytest.approx(1)


def test_ratios_are_taken_round_by_round() -> None:
    ours, theirs = [make_run(1), make_run(4)], [make_run(2), make_run(12)]
    found = figures.ratio(ours, theirs)
    assert found == pytest.approx({"median": 2.5, "low": 2, "high": 3})


def test_the_clock_leaves_out_optimizers_that_were_only_tried() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    probe, used = (torch.optim.AdamW([weight]) for _ in range(2))
    watch = clock.Clock(began=0.0)
    for optimizer in (probe, used, used):
        watch.mark(optimizer, (), {})
    first, second = watch.seconds()
    assert 0 < first <= second and len(watch.work()) == 2 and clock.peak_resident() > 2**20


# ---- the table -----------------------------------------------------------------------------------


def lines() -> list[dict]:
    runs = {"textbook": [make_run(2), make_run(2)], "ours": [make_run(1), make_run(0.5)]}
    chosen = rows.choose("cpu", ["textbook", "ours", "diffusers"])
    missing, gates = {"diffusers": "not pointed to"}, {"ours": 1e-3, "textbook": "no reason"}
    return figures.table(chosen, runs, missing, gates, batch=1)


def test_the_table_shows_spread_gate_and_why_something_is_missing() -> None:
    shown = report.as_markdown({"rows": lines()})
    head, _, textbook, ours, diffusers = shown.splitlines()[:5]
    titles = [title.strip() for title in head.split("|")[2:-1]]
    assert titles == [
        "images/s", "× textbook", "CPU s a step", "first step, s", "whole job, s", "RAM, GiB",
        "gate",
    ]  # fmt: skip
    assert ours == (
        "| ours | 3.00 (2.00 … 4.00) | 3.00 (2.00 … 4.00) | 1.500 (1.000 … 2.000)"
        " | 5.0 (5.0 … 5.0) | 9.0 (9.0 … 9.0) | 1.00 | 1.0e-03 |"
    )
    assert textbook.startswith("| textbook | 1.00 (1.00 … 1.00) | – |")
    assert diffusers == "| diffusers | – | – | – | – | – | – | – |"
    assert "Not measured: *diffusers*: not pointed to." in shown
    assert "No gate: *textbook*: no reason." in shown


def test_results_of_other_machines_stay(tmp_path) -> None:
    page = tmp_path / report.PAGE
    page.parent.mkdir(parents=True)
    page.write_text(f"before\n{begin(report.PROGRAM)}old{END}\nafter\n")
    about = {"date": "d", "command": "c", "machine": {"torch": "1", "processor": "p"}}
    suite = {"about": {**about, "steps": 1, "rounds": 1}, "rows": lines()}
    report.write(tmp_path, {"one": suite, "two": suite})
    report.write(tmp_path, {"two": {**suite, "rows": []}})
    stored = json.loads((tmp_path / report.RESULTS).read_text())
    assert stored["one"] == suite and stored["two"]["rows"] == []
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert text.count("### one") == text.count("### two") == 1


def test_reasons_name_no_folder() -> None:
    said = without_paths("OSError: no file '/somewhere/of/mine.py' in C:\\a\\b for 1/2")
    assert said == "OSError: no file '…' in … for 1/2"


def test_rows_are_those_of_the_device() -> None:
    names = [row.name for row in rows.choose("cuda", None)]
    assert len(names) == len(set(names)) and "ours, fp32" in names
    assert [row.name for row in rows.choose("cpu", ["ours"])] == ["ours"]
    with pytest.raises(ValueError, match="ours, fp32"):
        rows.choose("cpu", ["ours, fp32"])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_our_rows_are_settings_that_there_are(material, tmp_path, device: str) -> None:
    task = tools.Task(material, device, batch=1, steps=3)
    ours = [row for row in rows.choose(device, None) if row.tool == rows.OURS]
    jobs = [tools.make_job(task, tmp_path, row.settings) for row in ours]
    assert len({job.to_json() for job in jobs}) == len(jobs)
    assert [row.name for row, job in zip(ours, jobs, strict=True) if job.config.lora.is_on] == [
        row.name for row in ours if row.lora
    ]


def test_a_lora_is_never_compared_with_the_unets_job() -> None:
    chosen = [row for row in rows.choose("cpu", None) if row.name in ("textbook", "our LoRA")]
    runs = {row.name: [make_run(1)] for row in chosen}
    textbook, lora = figures.table(chosen, runs, {}, {}, batch=1)
    assert textbook["times_textbook"] is lora["times_textbook"] is lora["times_comfyui"] is None


# ---- the gate ------------------------------------------------------------------------------------


def test_distance_by_hand(material, tmp_path) -> None:
    tensors, _ = read_checkpoint(material.checkpoint)
    assert detect(tensors) == TOY.layout
    keys = [key for key in tensors if key.endswith("conv_in.bias") or ".out.2." in key]
    key = next(key for key in keys if key.startswith("model.diffusion_model"))
    files = {}
    for name, change in (("reference", 2.0), ("trained", 1.5)):
        files[name] = tmp_path / f"{name}.safetensors"
        write_checkpoint(files[name], {**tensors, key: tensors[key] + change}, {})
    found = distance(files["trained"], files["reference"], material.checkpoint, TOY.layout)
    assert found == pytest.approx(0.25, rel=1e-5)
    same = distance(files["trained"], material.checkpoint, material.checkpoint, TOY.layout)
    assert math.isinf(same)


def test_the_folders_hold_the_files_weights(material) -> None:
    tensors, _ = read_checkpoint(material.checkpoint)
    ours = build(tensors, TOY.layout, "unet").state_dict()
    theirs = load_file(material.diffusers / "unet" / "diffusion_pytorch_model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


def test_draws_come_back_in_the_shapes_of_the_textbook(material, tmp_path) -> None:
    task = tools.Task(material, "cpu", batch=2, steps=3)
    write_draws(tools.make_job(task, tmp_path, {}), (4, 8, 8), tmp_path / "draws.safetensors")
    ours = list(read_draws(tmp_path / "draws.safetensors"))
    config = TextbookConfig(train_batch_size=2)
    theirs = next(draw_steps(TOY.instances, TOY.classes, (4, 8, 8), 1000, config))
    assert len(ours) == 3
    for name, tensor in vars(theirs).items():
        mine = getattr(ours[0], name)
        assert mine.shape == tensor.shape and mine.dtype == tensor.dtype
    assert all(int(d.own.max()) < TOY.instances and int(d.other.max()) < TOY.classes for d in ours)


def test_one_index_stands_for_every_pair() -> None:
    for size in SIZES.values():
        counts = size.instances, size.classes
        assert math.gcd(*counts) == 1
    found = {index_of(a, b, 3, 4) for a in range(3) for b in range(4)}
    assert found == set(range(12))


# ---- kohya ---------------------------------------------------------------------------------------


def test_kohya_gets_the_same_job(material, tmp_path) -> None:
    checkout = tmp_path / "sd-scripts"
    (checkout / "packages").mkdir(parents=True)
    (checkout / "train_db.py").touch()
    row, task = rows.choose("cpu", ["kohya"])[0], tools.Task(material, "cpu", batch=2, steps=3)
    start = tools.prepare(row, task, tmp_path / "out", {"kohya": checkout})
    told = dict(itertools.pairwise(start.arguments))
    assert told["--train_batch_size"] == "4" and told["--stop_text_encoder_training"] == "-1"
    own, other = (tmp_path / "out/pictures" / name for name in ("own", "class"))
    assert [path.name for path in own.iterdir()] == ["2_a photo of zwx dog"]
    assert len(list(other.rglob("*.png"))) == TOY.classes <= 2 * len(list(own.rglob("*.png")))
    assert json.loads(start.arguments[1])["BLOCK_OUT_CHANNELS"] == [32, 64]
    assert start.environment == {"PYTHONPATH": str(checkout / "packages")}
    tokenizer = CLIPTokenizer.from_pretrained(next(material.tokenizers.iterdir()))
    asked = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    assert torch.equal(tokenizer(["a dog"], **asked).input_ids, tokenize(["a dog"]))


# ---- a whole bench -------------------------------------------------------------------------------


def test_a_small_bench_from_weights_to_files(tmp_path: Path) -> None:
    page = tmp_path / report.PAGE
    page.parent.mkdir(parents=True)
    page.write_text(begin(report.PROGRAM) + END)
    options = argparse.Namespace(
        device="cpu", size="toy", rows=["textbook", "ours", "diffusers"], batch=[1], steps=3,
        rounds=1, diffusers=tmp_path, kohya=None, comfyui=None, work=tmp_path / "work",
        write=True, threads=1,
    )  # fmt: skip
    assert bench.run(options, tmp_path) == 0
    (suite,) = json.loads((tmp_path / report.RESULTS).read_text()).values()
    textbook, ours, diffusers = suite["rows"]
    assert diffusers["missing"].startswith("no examples/dreambooth/train_dreambooth.py")
    for row in (textbook, ours):
        assert row["images_per_second"]["low"] > 0 and row["resident_bytes"] > 2**27
        assert 0 < row["first_step_seconds"]["median"] < row["job_seconds"]["median"]
    assert textbook["no_gate"] and 0 < ours["gate"] < 0.02
    assert suite["about"]["machine"]["torch"] == torch.__version__
    assert str(tmp_path) not in page.read_text() + (tmp_path / report.RESULTS).read_text()
