"""What the page asks for: runs, losses, pictures, orders; and what is refused, in words."""

import io
import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from graphs import small_run, trained
from pack.demo.client import ComfyClient
from PIL import Image

SHOWN = {"steps": 4, "preview_every": 2}
ENDLESS = {"steps": 5000}


def http(
    client: ComfyClient, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, Any]:
    """(status, decoded JSON)."""
    url = f"http://{client.address}/dreambooth/{path}"
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, body, sent, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        text = error.read().decode()
        assert "Traceback" not in text
        return error.code, json.loads(text) if text.startswith("{") else text


def order(client: ComfyClient, run: str, what: object) -> tuple[int, Any]:
    body = json.dumps({"order": what}).encode()
    return http(client, f"runs/{run}/orders", "POST", body, Content_Type="application/json")


@pytest.fixture(scope="module")
def shown_run(connect, info, base_name, drawn) -> str:
    """A finished run with pictures; its name."""
    client = connect()
    graph, _ = small_run(info, base_name, drawn, "routes shown", SHOWN)
    client.run(graph)
    client.close()
    return "routes%20shown"


def test_it_is_in_the_list(client, shown_run: str) -> None:
    status, answer = http(client, "runs?count=200")
    assert status == 200 and answer["total"] == len(answer["runs"])
    entry = next(run for run in answer["runs"] if run["name"] == "routes shown")
    assert (entry["state"], entry["steps"], entry["picture"]) == ("finished", 4, [4, 0])
    (file,) = entry["checkpoints"]
    assert file["name"] == str(Path("dreambooth") / "routes shown.safetensors")
    changed = [run["changed"] for run in answer["runs"]]
    assert changed == sorted(changed, reverse=True)


def test_the_list_comes_in_pieces(client, shown_run: str) -> None:
    _, answer = http(client, "runs?start=0&count=1")
    assert len(answer["runs"]) == 1
    assert http(client, f"runs?start={answer['total']}&count=5")[1]["runs"] == []


def test_the_losses_are_those_of_the_log(client, shown_run: str, runs: Path) -> None:
    _, answer = http(client, f"runs/{shown_run}/log")
    lines = (runs / "routes shown" / "log.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    assert [point[:2] for point in answer["points"]] == [
        [line["step"], line["instance_loss"]] for line in logged
    ]
    assert len(http(client, f"runs/{shown_run}/log?points=2")[1]["points"]) == 2


def test_pictures_large_and_small(client, shown_run: str, runs: Path) -> None:
    path = f"/dreambooth/runs/{shown_run}/pictures/4/0"
    assert (
        client.request(path)
        == (runs / "routes shown" / "samples" / "step000004_00.png").read_bytes()
    )
    small = Image.open(io.BytesIO(client.request(f"{path}?side=32")))
    assert (small.size, small.format) == ((32, 32), "JPEG")


def test_a_node_is_told_of_its_last_run(client, shown_run: str) -> None:
    _, answer = http(client, "nodes/no-such-node?name=routes%20shown")
    assert (answer["run"], answer["state"], answer["step"]) == ("routes shown", "finished", 4)
    assert http(client, "nodes/5?name=nothing%20of%20that%20name") == (200, None)


BAD = {
    "a path as a name": ("GET", "runs/..%2F..%2Fetc", 400),
    "a backslash": ("GET", "runs/..%5C..", 400),
    "no such run": ("GET", "runs/nobody", 404),
    "the cache is no run": ("GET", "runs/cache", 400),
    "no such picture": ("GET", "runs/{run}/pictures/3/0", 404),
    "a step that is no number": ("GET", "runs/{run}/pictures/x/0", 400),
    "a negative side": ("GET", "runs/{run}/pictures/4/0?side=-1", 400),
    "a huge side": ("GET", "runs/{run}/pictures/4/0?side=99999", 400),
    "another digit": ("GET", "runs?start=%D9%A3", 400),
    "too many": ("GET", "runs?count=1000000", 400),
    "no points": ("GET", "runs/{run}/log?points=", 400),
    "a name too long": ("DELETE", "runs/" + "x" * 500, 400),
    "a deletion of nothing": ("DELETE", "runs/nobody", 404),
    "photos of nobody": ("GET", "nodes/nobody/photos/0", 404),
    "a photo by its path": ("GET", "nodes/2/photos/..%2Fx", 400),
    "a bad flag": ("DELETE", "runs/{run}?checkpoints=yes", 400),
}


@pytest.mark.parametrize("name", BAD)
def test_nonsense_is_refused_in_words(client, shown_run: str, name: str) -> None:
    method, path, code = BAD[name]
    status, answer = http(client, path.format(run=shown_run), method)
    assert status == code
    assert len(answer["error"]) > 10


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"7", b'{"order": "delete"}', b"\xff\xfe", b"[" * 3000, b"x" * 9999]
)
def test_a_malformed_order_is_refused(client, shown_run: str, body: bytes) -> None:
    path = f"runs/{shown_run}/orders"
    status, answer = http(client, path, "POST", body, Content_Type="application/json")
    assert status == 400 and "order" in answer["error"]


def test_a_form_of_another_page_is_no_order(client, shown_run: str) -> None:
    """Neither as a form, which needs no permission, nor with that page's origin."""
    body, path = b'{"order": "keep"}', f"runs/{shown_run}/orders"
    assert http(client, path, "POST", body, Content_Type="text/plain")[0] == 400
    foreign = {"Origin": "http://elsewhere.example", "Content_Type": "application/json"}
    assert http(client, path, "POST", body, **foreign)[0] == 403
    assert http(client, f"runs/{shown_run}", "DELETE", Origin="http://elsewhere.example")[0] == 403


def test_a_run_that_is_over_takes_no_order(client, shown_run: str) -> None:
    status, answer = order(client, shown_run, "preview")
    assert status == 409 and "routes shown" in answer["error"]


def test_orders_act_and_the_graph_goes_on(client, info, base_name, drawn, runs, checkpoints):
    """A preview and a checkpoint once each, then the end, with what was learned handed on."""
    graph, train = small_run(info, base_name, drawn, "ordered", ENDLESS)
    behind = graph.sample(trained(train))
    messages: list[tuple[float, dict]] = []
    asked: list[str] = []

    def on_event(event: dict) -> None:
        if event["type"] != "dreambooth.status":
            return
        data = event["data"]
        messages.append((time.monotonic(), data))
        if len(asked) < 2 and data["step"] >= 2:
            asked.extend(["preview", "save"])
            assert order(client, "ordered", "preview")[1]["wishes"] == ["preview"]
            assert order(client, "ordered", "save")[0] == 200
            assert http(client, "runs/ordered", "DELETE")[0] == 409
        if len(asked) == 2 and data["pictures"] and data["saved"]:
            asked.append("keep")
            assert order(client, "ordered", "keep")[0] == 200

    outcome = client.run(graph, on_event)
    result = json.loads((runs / "ordered" / "result.json").read_text())
    assert result["stopped"] is True and 2 < result["steps"] < 5000
    assert len(list((runs / "ordered" / "samples").iterdir())) == 1
    assert len(list(checkpoints.glob("ordered-step*.safetensors"))) == 1
    assert outcome.images(behind.id), "the graph went on"
    check_messages(messages, result["steps"])
    _, answer = http(client, f"nodes/{train.id}?name=ordered")
    assert (answer["state"], answer["step"], answer["wishes"]) == ("stopped", result["steps"], [])


def check_messages(messages: list[tuple[float, dict]], steps: int) -> None:
    """At most four a second, and no step of the curve is left out."""
    times = [at for at, _ in messages]
    assert all(times[n + 5] - times[n] > 0.9 for n in range(len(times) - 5))
    points = [point[0] for _, data in messages for point in data["points"]]
    assert points == list(range(1, steps + 1))
    assert {data["state"] for _, data in messages} >= {"preparing", "training"}
    assert all(data["memory"]["total"] > data["memory"]["used"] > 0 for _, data in messages)


def test_a_failed_run_says_why(client, info, base_name, drawn) -> None:
    graph, train = small_run(info, base_name, drawn, "failed", {"precision": "fp16"})
    with pytest.raises(Exception, match="fp16"):
        client.run(graph)
    _, answer = http(client, f"nodes/{train.id}?name=failed")
    assert answer["state"] == "failed" and "fp16" in answer["notes"][-1]


def test_deleting_takes_the_run_and_its_files(
    client, info, base_name, drawn, runs, checkpoints
) -> None:
    graph, _ = small_run(info, base_name, drawn, "to delete")
    client.run(graph)
    assert http(client, "runs/to%20delete?checkpoints=1", "DELETE")[0] == 200
    assert not (runs / "to delete").exists()
    assert not (checkpoints / "to delete.safetensors").exists()
    assert http(client, "runs/to%20delete")[0] == 404
