"""Talks to a ComfyUI server: queue a graph, follow its events, fetch what it made."""

from __future__ import annotations

import json
import mimetypes
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websocket

Event = dict[str, Any]
OnEvent = Callable[[Event], None]
JSON = "application/json"
ENDINGS = ("execution_success", "execution_error", "execution_interrupted")


class ClientError(RuntimeError):
    """The server refused a request or cannot be reached."""


class PromptRejected(ClientError):
    """The server did not accept the graph; ``node_errors`` is its own answer by node id."""

    def __init__(self, message: str, node_errors: Mapping[str, Any]) -> None:
        self.node_errors = dict(node_errors)
        lines = [message]
        for node_id, entry in self.node_errors.items():
            for error in entry.get("errors", []):
                details = error.get("details", "")
                lines.append(
                    f"  node {node_id} ({entry.get('class_type')}): "
                    f"{error.get('message', '')} {details}".rstrip()
                )
        super().__init__("\n".join(lines))


class PromptFailed(ClientError):
    """A node raised; the fields say which and what."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.node_id = str(data.get("node_id", ""))
        self.node_type = str(data.get("node_type", ""))
        self.exception_type = str(data.get("exception_type", ""))
        self.exception_message = str(data.get("exception_message", "")).strip()
        self.traceback = "".join(data.get("traceback") or [])
        super().__init__(
            f"Node {self.node_id} ({self.node_type}) failed with "
            f"{self.exception_type}: {self.exception_message}"
        )


class PromptInterrupted(ClientError):
    """Someone stopped the prompt."""


def multipart(fields: Mapping[str, str], name: str, file: Path) -> tuple[bytes, str]:
    """The body and content type of a form with one file."""
    border = uuid.uuid4().hex
    head = "".join(
        f'--{border}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
        for key, value in fields.items()
    )
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    head += (
        f'--{border}\r\nContent-Disposition: form-data; name="{name}"; '
        f'filename="{file.name}"\r\nContent-Type: {kind}\r\n\r\n'
    )
    body = head.encode() + file.read_bytes() + f"\r\n--{border}--\r\n".encode()
    return body, f"multipart/form-data; boundary={border}"


@dataclass
class Outcome:
    """What a finished prompt left: its history entry and every event in order."""

    history: dict[str, Any]
    events: list[Event] = field(default_factory=list)

    @property
    def outputs(self) -> dict[str, Any]:
        return self.history.get("outputs", {})

    def images(self, node_id: str | int) -> list[dict[str, str]]:
        """The image entries that an output node reported."""
        return self.outputs.get(str(node_id), {}).get("images", [])


class ComfyClient:
    """One client of one server, with its own client id and event socket."""

    def __init__(self, address: str, timeout: float = 30) -> None:
        self.address = address
        self.timeout = timeout
        self.client_id = uuid.uuid4().hex
        self._socket: websocket.WebSocket | None = None

    # --- requests

    def request(self, path: str, data: bytes | None = None, kind: str = JSON) -> bytes:
        """GET, or POST where there is data; a refusal becomes a ``ClientError`` with its text."""
        headers = {"Content-Type": kind} if data is not None else {}
        request = urllib.request.Request(f"http://{self.address}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            body = error.read().decode("utf-8", errors="replace")
            raise self._refusal(path, error.code, body) from error
        except (urllib.error.URLError, OSError) as error:
            raise ClientError(f"No answer from {self.address}{path}: {error}") from error

    @staticmethod
    def _refusal(path: str, code: int, body: str) -> ClientError:
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if isinstance(answer, dict) and "node_errors" in answer:
            error = answer.get("error") or {}
            message = error.get("message", "") if isinstance(error, dict) else str(error)
            return PromptRejected(f"The graph was not accepted: {message}", answer["node_errors"])
        return ClientError(f"{path} answered {code}: {body[:500]}")

    def get(self, path: str, **query: object) -> Any:
        """The decoded JSON of a GET."""
        suffix = f"?{urllib.parse.urlencode(query)}" if query else ""
        return json.loads(self.request(path + suffix))

    def post(self, path: str, body: object) -> Any:
        """Posts JSON; the decoded answer, or None where it is empty."""
        answer = self.request(path, json.dumps(body).encode())
        return json.loads(answer) if answer else None

    def object_info(self) -> dict[str, Any]:
        return self.get("/object_info")

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """The history entry of one prompt; None until it is finished."""
        return self.get(f"/history/{prompt_id}").get(prompt_id)

    def interrupt(self, prompt_id: str | None = None) -> None:
        self.post("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def free(self) -> None:
        """Unloads the models and forgets cached node outputs."""
        self.post("/free", {"unload_models": True, "free_memory": True})

    def view(self, filename: str, subfolder: str = "", type: str = "output") -> bytes:
        """The bytes of an image that the server lists."""
        query = urllib.parse.urlencode({"filename": filename, "subfolder": subfolder, "type": type})
        return self.request(f"/view?{query}")

    def upload(
        self, path: Path, subfolder: str = "", overwrite: bool = True, type: str = "input"
    ) -> dict[str, str]:
        """Uploads one image; returns the name the server gave it."""
        fields = {"subfolder": subfolder, "overwrite": str(overwrite).lower(), "type": type}
        return json.loads(self.request("/upload/image", *multipart(fields, "image", path)))

    # --- prompts

    def connect(self) -> websocket.WebSocket:
        """The event socket, opened on first use and before the first prompt is queued."""
        if self._socket is None:
            socket = websocket.WebSocket()
            try:
                socket.connect(f"ws://{self.address}/ws?clientId={self.client_id}")
            except (OSError, websocket.WebSocketException) as error:
                raise ClientError(f"No event socket at {self.address}: {error}") from error
            flags = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
            socket.send(json.dumps(flags))
            self._socket = socket
        return self._socket

    def queue(
        self,
        graph: Mapping[str, Any],
        client_id: str | None = None,
        workflow: Mapping[str, Any] | None = None,
    ) -> str:
        """Queues an API graph; ``workflow`` is what the page would show for its pictures."""
        self.connect()
        extra = {"extra_pnginfo": {"workflow": workflow}} if workflow else {}
        body = {"prompt": graph, "client_id": client_id or self.client_id, "extra_data": extra}
        answer = self.post("/prompt", body)
        if answer.get("node_errors"):
            raise PromptRejected("Parts of the graph were not accepted.", answer["node_errors"])
        return answer["prompt_id"]

    def wait(
        self, prompt_id: str, on_event: OnEvent | None = None, timeout: float | None = None
    ) -> Outcome:
        """Follows a prompt to its end; raises if a node failed or it was interrupted."""
        end = time.monotonic() + timeout if timeout else None
        events: list[Event] = []
        over = ended = False
        while True:
            event = self._next_event()
            if event is None:
                if ended:  # a quiet second later: its last event was missed
                    break
                # it may have ended just now, with its events on their way
                ended = bool(self.history(prompt_id))
            else:
                if event["type"] != "binary":
                    events.append(event)
                if on_event:
                    on_event(event)
                data = event["data"]
                if data.get("prompt_id") == prompt_id:
                    over = over or event["type"] in ENDINGS
                    # The server names no node once the prompt's history is written.
                    if over and event["type"] == "executing" and data.get("node") is None:
                        break
            if end and time.monotonic() > end:
                raise ClientError(f"Prompt {prompt_id} did not end within {timeout:.0f} s.")
        return self._outcome(prompt_id, events)

    def run(self, graph: Mapping[str, Any], on_event: OnEvent | None = None) -> Outcome:
        """Queues a graph and waits for it."""
        return self.wait(self.queue(graph), on_event)

    def _next_event(self) -> Event | None:
        """The next message, None after a quiet second; previews have the type "binary"."""
        socket = self.connect()
        socket.settimeout(1)
        try:
            message = socket.recv()
        except websocket.WebSocketTimeoutException:
            return None
        except (OSError, websocket.WebSocketException) as error:
            self._socket = None
            raise ClientError(f"The server at {self.address} went away: {error}") from error
        if isinstance(message, bytes):
            return {"type": "binary", "data": {"bytes": message}}
        if not message:
            self._socket = None
            raise ClientError(f"The server at {self.address} closed the event socket.")
        event = json.loads(message)
        return {"type": event.get("type", ""), "data": event.get("data") or {}}

    def _outcome(self, prompt_id: str, events: list[Event]) -> Outcome:
        history = self.history(prompt_id) or {}
        for name, data in history.get("status", {}).get("messages", []):
            if name == "execution_error":
                raise PromptFailed(data)
            if name == "execution_interrupted":
                raise PromptInterrupted(f"Prompt {prompt_id} was interrupted.")
        return Outcome(history, events)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
