"""The demo itself, inside its environment: base, photos, server, one graph, pictures."""

from __future__ import annotations

import argparse
import json
import signal
import socket
import sys
import time

from .client import ClientError, ComfyClient, Outcome, PromptFailed, PromptInterrupted
from .console import clock, phase, table
from .environment import Environment
from .locales import write_locales
from .plan import TEMPLATE, TEMPLATES, DemoFailed, Plan, fill, prepare_inputs
from .progress import Tracker
from .recipe import FULL, RANDOM
from .results import collect
from .server import PACK_NAME, ComfyServer, ServerFailed
from .templates import EXAMPLE, write_templates
from .workflow import Json, WorkflowError, to_api


def run(options: argparse.Namespace, place: Environment) -> int:
    """The whole demo; the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped too
    work = options.work.expanduser().resolve()
    server = ComfyServer(
        place.comfyui, work, port=usual_port() if options.serve else 0, python=place.python
    )
    start = time.monotonic()
    try:
        if options.write_example:
            return write_examples(server)
        plan = prepare_inputs(options, server)
        with phase("ComfyUI"):
            server.start()
        rows = train_and_show(server, plan, start)
        print()
        table(rows)
        if plan.recipe is not FULL:
            print(NOTHING_LEARNED if plan.recipe is RANDOM else PICTURES_ONLY)
            print(YOUR_OWN)
        if options.serve:
            serve(server)
    except (DemoFailed, ClientError, ServerFailed, WorkflowError, OSError) as error:
        print(f"\n{explain(error, server)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.")
        return 130
    finally:
        server.stop()
    return 0


NOTHING_LEARNED = """
  The base of this run is a small random network that has never seen a picture: "before" is
  noise, and "after" shows no more than a short run picks up: colours and rough places of the
  photos."""
PICTURES_ONLY = """
  The base of this run is a small network that was taught to draw picture-book things, 96 pixels
  wide, and nothing else."""
YOUR_OWN = """\
  For real pictures:
    python demo/run.py --checkpoint YOUR_SD15.safetensors --images FOLDER --class dog --serve"""


def usual_port() -> int:
    """ComfyUI's own port where it is free, else any."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 8188))
        except OSError:
            return 0
    return 8188


def explain(error: Exception, server: ComfyServer) -> str:
    """The message, and where to read more."""
    text = str(error)
    if isinstance(error, PromptFailed):
        text = (
            f"{error.node_type} (node {error.node_id}) failed:\n  {error.exception_message}\n"
            f"  [{error.exception_type}]"
        )
    if isinstance(error, DemoFailed) or str(server.log) in text:
        return text
    return f"{text}\nThe server's log: {server.log}"


def write_examples(server: ComfyServer) -> int:
    with phase("ComfyUI"):
        server.start()
    info = ComfyClient(server.address).object_info()
    for path in (*write_templates(info), *write_locales(info)):
        print(f"  wrote {path}")
    return 0


# ---- with the server -----------------------------------------------------------------------------


def train_and_show(server: ComfyServer, plan: Plan, start: float) -> list[tuple[str, object]]:
    """Queues the example graph with the plan's numbers, waits, and saves the pictures."""
    client = ComfyClient(server.address)
    info = client.object_info()
    if "DreamBoothTrain" not in info:
        raise DemoFailed(f"ComfyUI could not load this pack.\n{server.tail(40)}")
    workflow = json.loads(EXAMPLE.read_text("utf-8"))
    fill(workflow, info, plan)
    save_graph(server, workflow)
    graph = to_api(workflow, info)
    begun = time.time()
    print(f"  ComfyUI is ready after {clock(time.monotonic() - start)}; the graph is queued")
    outcome = follow(client, graph, workflow)
    return collect(server, client, plan, graph, outcome, begun)


def save_graph(server: ComfyServer, workflow: Json) -> None:
    """The very graph that runs, as the user's workflow and as a template of the page."""
    text = json.dumps(workflow, indent=1)
    folders = (
        server.folder("user") / "default" / "workflows",
        server.folder("custom_nodes") / TEMPLATES / "example_workflows",
    )
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{TEMPLATE}.json").write_text(text, encoding="utf-8")


def follow(client: ComfyClient, graph: Json, workflow: Json) -> Outcome:
    """Waits for the graph; Ctrl-C stops it as the page's own button would."""
    tracker = Tracker(graph)
    prompt_id = client.queue(graph, workflow=workflow)
    try:
        return client.wait(prompt_id, tracker.on_event)
    except KeyboardInterrupt:
        tracker.close("✗")
        print("  … stopping after the current step (Ctrl-C again to stop at once)")
        client.interrupt(prompt_id)
        try:
            client.wait(prompt_id, timeout=60)
        except PromptInterrupted:
            print("  ✓ what was learned so far is kept")
        raise


def serve(server: ComfyServer) -> None:
    """Keeps ComfyUI open until Ctrl-C."""
    print(
        f"\n  ComfyUI is open with this graph: {server.url}/?template={TEMPLATE}"
        f"&source={TEMPLATES}\n  The empty example: {server.url}/?template={EXAMPLE.stem}"
        f"&source={PACK_NAME}\n  Ctrl-C stops it.",
        flush=True,
    )
    while True:
        server.check()
        time.sleep(1)
