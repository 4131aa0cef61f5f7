"""The page in a real browser: what moves while it trains, what every button does."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from graphs import Graph, small_run
from pack.demo.client import ComfyClient
from pages import (
    SUBJECT,
    Socket,
    load,
    open_tab,
    pictures,
    press,
    queue,
    send,
    step_of,
    steps_in,
    wait_for,
)
from PIL import Image

MESSAGES = [
    "null",
    "7",
    "'text'",
    "[]",
    "{}",
    "{ state: 5 }",
    "{ state: 'training' }",
    "{ node: NODE, asked: NAME, run: 'x'.repeat(1e5), state: 'training', step: NaN, total: 1/0 }",
    "{ node: NODE, asked: NAME, run: null, state: 'training', points: [[NaN, 1], null, ['<b>']] }",
    "{ node: NODE, asked: NAME, run: null, state: 'training', points: 'x', pictures: [['..', 0]],"
    " memory: 7, wishes: {}, saved: [null, [1]], prompts: [3], notes: ['n'.repeat(1e6)] }",
    "{ node: NODE, asked: NAME, run: null, state: '<img src=x onerror=alert(1)>', step: 1e308,"
    " notes: ['<img src=x onerror=alert(1)>'] }",
]


@pytest.fixture
def client(connect) -> Iterator[ComfyClient]:
    running = connect()
    yield running
    running.interrupt()
    running.close()


def test_it_is_watched_reloaded_and_told(
    open_page, info, base_name, drawn, client, runs, checkpoints, screenshots
) -> None:
    """In one run, since each costs its beginning: numbers and pictures move; a reload, a dropped
    socket and a second tab find them; and every button acts."""
    settings = {"steps": 5000, "preview_every": 4}
    graph, _ = small_run(info, base_name, drawn, "watched", settings)
    samples = runs / "watched" / "samples"
    page = open_page(graph)
    assert page.locator(".db-panel .db-title").inner_text() == "Not trained yet"
    assert page.locator(".db-orders button:disabled").count() == 3
    queue(page)
    first = wait_for(lambda: step_of(page))
    wait_for(lambda: step_of(page) > first + 1)
    wait_for(lambda: {"before", "4"} <= set(pictures(page)))
    assert page.locator(".db-panel .db-line.db-instance").count() == 2
    assert "photos 0." in page.locator(".db-panel .db-facts").inner_text()
    page.screenshot(path=screenshots / "training-dark.png")

    socket = Socket(page)
    page.reload()
    page.wait_for_function("() => window.app?.extensionManager?.spinner === false")
    load(page, graph)
    began = time.monotonic()
    wait_for(lambda: step_of(page) > first, 2)
    assert time.monotonic() - began < 2
    wait_for(lambda: {"before", "4"} <= set(pictures(page)))
    line = "document.querySelector('.db-plot .db-line')"  # none until the log has come
    drawn_steps = f"() => ({line}?.getAttribute('d') ?? '').split('L')"
    # the chart has the steps from before
    wait_for(lambda: len(page.evaluate(drawn_steps)) > first, 5)

    socket.drop()
    lost = step_of(page)
    wait_for(lambda: steps_in(runs / "watched") > lost + 5)
    assert step_of(page) <= lost + 1, "it heard of them"
    socket.restore()
    wait_for(lambda: step_of(page) > lost + 5)
    wait_for(lambda: len(page.evaluate(drawn_steps)) >= step_of(page) > lost, 5)

    second = open_page(graph)
    wait_for(lambda: step_of(second) > first)
    press(page, "Save now")
    wait_for(lambda: list(checkpoints.glob("watched-step*.safetensors")))
    before = {path.name for path in samples.iterdir()}
    press(page, "Preview now")
    wait_for(lambda: {p.name for p in samples.glob("*.png")} - before)
    page.get_by_text("saved watched-step").wait_for()
    press(page, "Stop and keep")
    page.get_by_text("Stopped and kept ·").wait_for()
    second.get_by_text("Stopped and kept ·").wait_for()
    result = json.loads((runs / "watched" / "result.json").read_text())
    assert result["stopped"] is True and (checkpoints / "watched.safetensors").is_file()
    assert page.locator(".db-orders button:disabled").count() == 3


def test_the_chart_is_read_with_pointer_and_keys(open_page, finished: Graph) -> None:
    page = open_page(finished)
    plot, readout = page.locator(".db-panel .db-plot"), page.locator(".db-panel .db-readout")
    page.locator(".db-panel .db-line.db-class").first.wait_for()
    plot.hover()
    assert "class" in readout.inner_text()
    page.mouse.move(5, 5)
    plot.focus()
    plot.press("Home")
    assert "step 1" in readout.inner_text() and "photos" in readout.inner_text()
    plot.press("End")
    plot.press("ArrowLeft")
    assert "step 7" in readout.inner_text()
    toggle = page.locator(".db-panel").get_by_role("button", name="log")
    linear = page.locator(".db-panel .db-line").first.get_attribute("d")
    toggle.focus()
    toggle.press("Enter")
    assert toggle.get_attribute("aria-pressed") == "true"
    assert page.locator(".db-panel .db-line").first.get_attribute("d") != linear


def test_a_picture_opens_beside_the_base(open_page, finished: Graph) -> None:
    page = open_page(finished)
    wait_for(lambda: pictures(page) == ["before", "2", "4", "6", "8"])
    page.get_by_role("button", name="After 4 steps").press("Enter")
    viewer = page.locator(".db-viewer")
    assert viewer.locator("h2").inner_text() == "After 4 steps"
    assert viewer.locator("p").inner_text() == f"a photo of {SUBJECT} dog"
    split = "() => document.querySelector('.db-before').style.clipPath"
    middle = page.evaluate(split)
    viewer.get_by_role("slider").press("ArrowRight")
    assert page.evaluate(split) != middle
    viewer.get_by_role("button", name="Later").press("ArrowRight")
    assert viewer.locator("h2").inner_text() == "After 6 steps"
    viewer.get_by_role("button", name="Close").focus()
    page.keyboard.press("Escape")
    viewer.wait_for(state="detached")


def test_a_run_is_used_in_the_graph(
    open_page, finished: Graph, info, base_name, client: ComfyClient
) -> None:
    """The node that it adds is wired in place of the base's loader, and the graph runs."""
    graph = Graph(info)
    graph.sample(graph.load(base_name), seed=3)
    page = open_page()
    page.evaluate("async (graph) => { await app.loadApiJson(graph, 'sample'); }", dict(graph))
    open_tab(page)
    page.locator(".db-entry-run[data-run='finished']").click()
    page.locator(".db-run .db-list dd").first.wait_for()
    assert SUBJECT in page.locator(".db-run .db-list").first.inner_text()
    page.get_by_role("button", name="Use in graph").first.click()
    loaders = "app.graph.nodes.filter((node) => node.type === 'CheckpointLoaderSimple')"
    page.wait_for_function(f"() => {loaders}.length === 2")
    name = page.evaluate(f"() => {loaders}[1].widgets[0].value")
    assert name == str(Path("dreambooth") / "finished.safetensors")
    page.evaluate(
        f"""() => {{
            const [old, made] = {loaders};
            old.outputs.forEach((output, slot) => (output.links ?? []).slice().forEach((id) => {{
                const link = app.graph.links.get(id);
                made.connect(slot, app.graph.getNodeById(link.target_id), link.target_slot);
            }}));
            app.graph.remove(old);
        }}"""
    )
    queue(page)
    entry = wait_for(lambda: newest(client), 120)
    assert entry["status"]["status_str"] == "success"
    used = [n["inputs"] for n in entry["prompt"][2].values() if "ckpt_name" in n["inputs"]]
    assert used == [{"ckpt_name": name}]
    assert any(output.get("images") for output in entry["outputs"].values())


def test_a_lora_comes_with_its_own_loader(
    open_page, info, base_name, drawn, client: ComfyClient
) -> None:
    graph = Graph(info)
    base, concept = graph.load(base_name), graph.concept(graph.photos(drawn))
    graph.train(base, concept, "lora", modifiers={"DreamBoothLoRA": {"kind": "lora", "rank": 4}})
    client.run(graph)
    page = open_page()
    open_tab(page)
    page.locator(".db-entry-run[data-run='lora']").click()
    page.get_by_role("button", name="Use in graph").click()
    loaders = "app.graph.nodes.filter((node) => node.type === 'LoraLoader')"
    page.wait_for_function(f"() => {loaders}.length === 1")
    name = page.evaluate(f"() => {loaders}[0].widgets[0].value")
    assert name == str(Path("dreambooth") / "lora.safetensors")
    loader = client.object_info()["LoraLoader"]["input"]["required"]["lora_name"]
    assert name in (loader[0] if isinstance(loader[0], list) else loader[1]["options"])


def newest(client: ComfyClient) -> dict | None:
    """The last prompt, if it is over and was queued by a page."""
    entries = list(client.get("/history").values())
    last = entries[-1] if entries else None
    return last if last and any("KSampler" in n["class_type"] for n in last["prompt"][2].values()) \
        else None  # fmt: skip


def test_photos_are_shown_with_their_crop_and_marks(
    open_page, info, server, client: ComfyClient, screenshots: Path
) -> None:
    folder = server.folder("input") / "marked"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    photo = Image.fromarray(noise).resize((600, 600), Image.Resampling.NEAREST)
    photo.save(folder / "good.png")
    photo.resize((1500, 600)).save(folder / "long.png")
    photo.resize((200, 200)).save(folder / "small.png")
    (folder / "good.txt").write_text(f"a photo of {SUBJECT}")
    (folder / "broken.png").write_text("no picture")
    graph = Graph(info)
    photos = graph.photos("marked", caption_source="files")
    graph.add("PreviewImage", images=photos[1])
    page = open_page(graph)
    page.get_by_text("Photos appear here when the graph has run.").wait_for()
    queue(page)
    entries = page.locator(".db-photo")
    wait_for(lambda: entries.count() == 3)
    assert SUBJECT in entries.nth(0).inner_text() and "600 × 600" in entries.nth(0).inner_text()
    assert "a square crop keeps 40 %" in entries.nth(1).inner_text()
    assert "200 pixels" in entries.nth(2).inner_text()
    assert entries.nth(0).locator(".db-warn").count() == 0
    assert "broken.png" in page.locator(".db-skipped").inner_text()
    loaded = "() => [...document.querySelectorAll('.db-photo img')].every((i) => i.naturalWidth)"
    wait_for(lambda: page.evaluate(loaded))
    frame, crop = (entries.nth(1).locator(name).bounding_box() for name in ("img", ".db-crop"))
    assert crop["width"] == pytest.approx(0.4 * frame["width"], abs=2)
    assert crop["x"] - frame["x"] == pytest.approx(0.3 * frame["width"], abs=2)
    page.screenshot(path=screenshots / "photos-dark.png")
    page.reload()
    page.wait_for_function("() => window.app?.extensionManager?.spinner === false")
    load(page, graph)
    wait_for(lambda: entries.count() == 3)


def test_deleting_asks_first(open_page, finished: Graph, runs: Path, checkpoints: Path) -> None:
    shutil.copytree(runs / "finished", runs / "to go")
    shutil.copyfile(checkpoints / "finished.safetensors", checkpoints / "to go.safetensors")
    page = open_page()
    open_tab(page)
    page.locator(".db-entry-run[data-run='to go']").click()
    page.locator(".db-run").get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Keep it").click()
    assert (runs / "to go").is_dir()
    page.locator(".db-run").get_by_role("button", name="Delete").click()
    assert "Delete to go?" in page.locator(".db-ask").inner_text()
    page.locator(".db-ask").get_by_role("button", name="Delete").click()
    wait_for(lambda: not (runs / "to go").exists())
    page.locator(".db-runs").wait_for()
    wait_for(lambda: not page.locator(".db-entry-run[data-run='to go']").count())
    assert not (checkpoints / "to go.safetensors").exists()


def test_hundreds_of_runs_are_listed_as_they_are_scrolled_to(
    open_page, finished: Graph, runs: Path
) -> None:
    many = [runs / f"many {number:03d}" for number in range(250)]
    for folder in many:
        folder.mkdir()
        shutil.copyfile(runs / "finished" / "job.json", folder / "job.json")
    try:
        page = open_page()
        open_tab(page)
        entries = page.locator(".db-entry-run")
        assert 30 <= entries.count() <= 90
        assert int(page.locator(".db-all .db-pace").inner_text().split()[0]) > 250
        few = entries.count()
        entries.last.scroll_into_view_if_needed()
        page.mouse.wheel(0, 400)
        wait_for(lambda: entries.count() > few)
    finally:
        for folder in many:
            shutil.rmtree(folder)


def test_malformed_messages_break_nothing(open_page, finished: Graph) -> None:
    page = open_page(finished)
    page.get_by_text("Finished · 8 / 8").wait_for()
    node = page.evaluate("() => app.graph.nodes.find((n) => n.type === 'DreamBoothTrain').id")
    for message in MESSAGES:
        send(page, message.replace("NODE", f"'{node}'").replace("NAME", "'finished'"))
    panel = page.locator(".db-panel[data-state]")
    assert panel.locator(".db-notes").inner_text() == "<img src=x onerror=alert(1)>"
    assert panel.locator(".db-title").inner_text().startswith("<img")
    assert panel.locator(".db-title img, .db-notes img").count() == 0
    send(page, f"{{ node: '{node}', asked: 'finished', run: null, state: 'failed', step: 3 }}")
    assert panel.locator(".db-title").inner_text() == "Failed"
