"""What the page asks for over HTTP: runs, losses, pictures, orders. Registered on import.

No path ever comes from a client: a run is known by its name, a picture by its numbers. What changes
something takes JSON or DELETE, which a foreign page's form cannot send.
"""

import asyncio
import io
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from PIL import Image
from server import PromptServer

from ...trainer.config import ConfigError
from ...trainer.events import Command
from ...trainer.history import History, RunInUse, UnknownRun
from . import live, photos
from .folders import checkpoint_folder, lora_folder, output_folder, result_name

logger = logging.getLogger(__name__)
routes = PromptServer.instance.routes
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ORDERS = {command.value: command for command in (Command.PREVIEW, Command.SAVE, Command.KEEP)}
PAGE = 200  # runs in one answer, at most
POINTS = 5000  # of a curve in one answer, at most
SIDE = 1024  # pixels of a picture that is made smaller, at most
FRESH = {"Cache-Control": "no-cache"}  # a run that goes on may paint it anew
BODY = 4096  # bytes of an order, at most


class BadRequest(ValueError):
    """What the client sent makes no sense; the message says what."""


def answering(handler: Handler) -> Handler:
    """Errors as JSON: what was wrong in one sentence, never where it happened."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except (BadRequest, ConfigError) as error:
            return _error(400, str(error))
        except UnknownRun as error:
            return _error(404, error.args[0])
        except RunInUse as error:
            return _error(409, str(error))
        except OSError as error:
            logger.warning("DreamBooth: %s", error)
            return _error(500, "a file could not be read or removed: see ComfyUI's log")

    return answer


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)


@routes.get("/dreambooth/runs")
@answering
async def list_runs(request: web.Request) -> web.Response:
    """A page of the list, newest first: ``?start=0&count=30``."""
    start, count = _number(request, "start", 0, 10**9), _number(request, "count", 30, PAGE)
    return web.json_response(await asyncio.to_thread(_list, start, count))


def _list(start: int, count: int) -> dict[str, Any]:
    history = _history()
    names = history.names()
    shown = []
    for name in names[start : start + count]:
        try:
            shown.append(_with_state(history.summary(name)))
        except (UnknownRun, OSError):  # removed a moment ago
            continue
    return {"total": len(names), "runs": shown}


@routes.get("/dreambooth/runs/{name}")
@answering
async def show_run(request: web.Request) -> web.Response:
    """One run with its settings and pictures."""
    details = await asyncio.to_thread(_history().details, request.match_info["name"])
    return web.json_response(_with_state(details))


@routes.get("/dreambooth/runs/{name}/log")
@answering
async def show_log(request: web.Request) -> web.Response:
    """The losses, thinned out: ``?points=1000``."""
    points = max(1, _number(request, "points", 1000, POINTS))
    log = await asyncio.to_thread(_history().log, request.match_info["name"], points)
    return web.json_response(log)


@routes.get("/dreambooth/runs/{name}/pictures/{step}/{prompt}")
@answering
async def show_picture(request: web.Request) -> web.StreamResponse:
    """A preview as it is, or no larger than ``?side=192``."""
    step, prompt = (_whole(request.match_info[key], key, 10**9) for key in ("step", "prompt"))
    side = _number(request, "side", 0, SIDE)
    path = _history().picture(request.match_info["name"], step, prompt)
    if not side:
        return web.FileResponse(path, headers=FRESH)
    body = await asyncio.to_thread(_small, path, side)
    return web.Response(body=body, content_type="image/jpeg", headers=FRESH)


def _small(path: Path, side: int) -> bytes:
    with Image.open(path) as picture:
        picture.thumbnail((side, side))
        out = io.BytesIO()
        picture.convert("RGB").save(out, "JPEG", quality=88)
    return out.getvalue()


@routes.delete("/dreambooth/runs/{name}")
@answering
async def delete_run(request: web.Request) -> web.Response:
    """For good; ``?checkpoints=1`` takes its files along."""
    checkpoints = bool(_number(request, "checkpoints", 0, 1))
    name = request.match_info["name"]
    await asyncio.to_thread(_history().delete, name, checkpoints=checkpoints)
    return web.json_response({"deleted": name})


@routes.post("/dreambooth/runs/{name}/orders")
@answering
async def order(request: web.Request) -> web.Response:
    """``{"order": "preview" | "save" | "keep"}`` to a run that trains here and now."""
    command = ORDERS.get(await _order_in(request))
    if command is None:
        raise BadRequest(f"order: expected one of {', '.join(ORDERS)}")
    _history().folder(name := request.match_info["name"])
    training = live.of_run(name)
    if training is None:
        return _error(409, f"{name!r} is not being trained now")
    training.ask(command)
    return web.json_response(training.shown())


async def _order_in(request: web.Request) -> str:
    if request.content_type != "application/json":
        raise BadRequest("an order is JSON: send Content-Type: application/json")
    if (request.content_length or 0) > BODY:
        raise BadRequest("an order is a short JSON object")
    try:
        values = json.loads(await request.content.read(BODY))
        return str(values["order"])
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise BadRequest('an order is JSON like {"order": "preview"}') from error


@routes.get("/dreambooth/nodes/{node}")
@answering
async def show_node(request: web.Request) -> web.Response:
    """What a node trains, or trained last under ``?name=``, as the messages tell it."""
    asked = request.query.get("name")
    asked = None if asked is None else asked.strip()
    training = live.of_node(request.match_info["node"], asked)
    if training:
        return web.json_response(training.shown())
    return web.json_response(await asyncio.to_thread(_on_disk, asked) if asked else None)


def _on_disk(asked: str) -> dict[str, Any] | None:
    """The newest run of that name in the words of a ``Status``; None if there is none."""
    history = _history()
    name = history.newest(asked)
    if not name:
        return None
    training = live.of_run(name)
    if training:  # by another node
        return training.shown()
    found = history.details(name)
    return {
        "asked": asked,
        "run": name,
        "state": found["state"],
        "step": found["steps"] or 0,
        "total": found["asked"] or 0,
        "instance_loss": found["loss"],
        "prompts": found["prompts"],
        "pictures": found["pictures"],
        "saved": [[entry["step"], entry["file"]] for entry in found["checkpoints"]],
    }


@routes.get("/dreambooth/nodes/{node}/photos")
@answering
async def show_photos(request: web.Request) -> web.Response:
    """What *Instance Images* read last from ``?source=``; null if that is not known."""
    source = request.query.get("source", "")
    return web.json_response(photos.photos_of(request.match_info["node"], source))


@routes.get("/dreambooth/nodes/{node}/photos/{number}")
@answering
async def show_photo(request: web.Request) -> web.Response:
    """One of them, uncut: ``?side=192``."""
    number = _whole(request.match_info["number"], "number", 10**6)
    side = max(16, _number(request, "side", 256, SIDE))
    node = request.match_info["node"]
    body = await asyncio.to_thread(photos.small_photo, node, number, side)
    return web.Response(body=body, content_type="image/jpeg", headers=FRESH)


def _with_state(entry: dict[str, Any]) -> dict[str, Any]:
    """What only the host knows of a run: whether it trains now, how loaders spell its files."""
    for file in entry["checkpoints"]:
        file["name"] = result_name(Path(file["file"]))
    if live.of_run(entry["name"]):
        entry["state"] = "training"
    return entry


def _history() -> History:
    return History(output_folder(), checkpoint_folder(), lora_folder())


def _number(request: web.Request, name: str, default: int, most: int) -> int:
    return _whole(request.query.get(name, str(default)), name, most)


def _whole(text: str, name: str, most: int) -> int:
    """A number from 0 to ``most``."""
    if not (text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= most):
        raise BadRequest(f"{name}: expected a whole number from 0 to {most}")
    return int(text)
