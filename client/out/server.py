"""``department serve``: the chosen model over HTTP, on this machine unless a token is asked for.

GET  /health         that it answers, and nothing else
GET  /model          the model card
POST /predict        {"rows": [{…}, …]} or {"columns": {…: [...]}} → {"rows": n, "predictions": {…: [...]}}
POST /predict/batch  a CSV or Parquet body → predictions in the same form, whole or not at all
GET  /docs           OpenAPI, with the columns that this very model reads

Errors are problem documents (RFC 9457) that name row and column.  No cell is ever logged.
"""

import asyncio
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from commonroot import __version__
from commonroot.client.out.card import card_of, predicted_columns
from commonroot.client.out.guards import Guard, is_loopback, problem, read_token
from commonroot.client.out.requests import request_model, table_of, told_errors
from commonroot.client.out.sinks import open_file
from commonroot.client.predicting import chosen_folder, load_predictor, predictions
from commonroot.client.predictor import Predictor
from commonroot.common.errors import CommonrootError, ConfigError, DataError, PortTaken
from commonroot.console import emit, say

#: Bytes of a JSON request for each row that it may hold …
_ROW_BYTES: Final = 1 << 14
#: … and at most this many.
_JSON_BYTES: Final = 64 << 20
_PARQUET: Final = "application/vnd.apache.parquet"
_FORMS: Final = {"text/csv": ".csv", _PARQUET: ".parquet", "application/x-parquet": ".parquet"}
_TYPES: Final = {".csv": "text/csv; charset=utf-8", ".parquet": _PARQUET}
#: Requests answered at once; others wait or are told to come again.
_AT_ONCE: Final = 4
_OPEN_AT_ONCE: Final = 64


class Problem(JSONResponse):
    """A problem document."""

    media_type = "application/problem+json"


def make_app(predictor: Predictor, card: dict[str, Any], *, rows: int, upload: int) -> FastAPI:
    """The application, without guards.

    rows    the most that one /predict may hold
    upload  bytes of one /predict/batch
    """
    body_of = request_model(predictor.features, rows=rows)
    app = FastAPI(
        title=f"commonroot: {predictor.task.kind}",
        version=__version__,
        description=f"Reads {len(predictor.names)} column(s), predicts {', '.join(predicted_columns(predictor))}.",
    )
    turns = asyncio.Semaphore(_AT_ONCE)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """That it answers."""
        return {"status": "ok"}

    @app.get("/model")
    async def model() -> dict[str, Any]:
        """The model card."""
        return card

    @app.post("/predict")
    async def predict(body: body_of) -> dict[str, Any]:  # type: ignore[valid-type]
        """Rows in, predicted columns out, in the same order."""
        async with turns:
            return await run_in_threadpool(_predicted, predictor, body)

    content = {"schema": {"type": "string", "format": "binary"}}
    described = {"requestBody": {"required": True, "content": {"text/csv": content, _PARQUET: content}}}

    @app.post("/predict/batch", openapi_extra=described, response_class=FileResponse)
    async def batch(request: Request, keep: str = "") -> FileResponse:
        """A CSV or Parquet file as the body, predictions in the same form back.

        ``keep`` names columns to carry along, separated by commas.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in _FORMS:
            raise HTTPException(415, f"send a body of type {' or '.join(('text/csv', _PARQUET))}")
        folder = Path(tempfile.mkdtemp(prefix="commonroot-"))  # for its owner alone
        try:
            given = folder / f"upload{_FORMS[kind]}"
            await _spooled(request.stream(), given)
            names = [name.strip() for name in keep.split(",") if name.strip()]
            async with turns:
                found = await run_in_threadpool(_predicted_file, predictor, given, names)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        done = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
        return FileResponse(found, media_type=_TYPES[found.suffix], background=done)

    _add_errors(app, predictor)
    return app


def _add_errors(app: FastAPI, predictor: Predictor) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Problem:
        found = told_errors(error.errors(), predictor.names)
        detail = f"{len(found)} problem(s) in the request"
        return Problem(problem(422, "rows that cannot be read", detail, errors=found[:50]), 422)

    @app.exception_handler(CommonrootError)
    async def refused(_: Request, error: CommonrootError) -> Problem:
        status = 422 if isinstance(error, DataError) else 400 if isinstance(error, ConfigError) else 500
        said = problem(status, "rows that cannot be predicted", str(error), code=error.code)
        return Problem(said, status)

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> Problem:
        return Problem(
            problem(500, "failed", "the request could not be answered; the log names the kind of error"), 500
        )

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Problem:
        return Problem(problem(error.status_code, "not answered", str(error.detail)), error.status_code)


def _predicted(predictor: Predictor, body: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="commonroot-") as folder:
        frame = table_of(body, predictor.features, Path(folder))
        found = predictor.predict(frame, Path(folder))
    return {"rows": len(frame), "predictions": {name: _plain(values) for name, values in found.items()}}


def _plain(values: Any) -> list[Any]:
    """Python's own values; a number that JSON cannot hold becomes null."""
    array = np.asarray(values)
    if array.dtype.kind == "f":
        return [value if finite else None for value, finite in zip(array.tolist(), np.isfinite(array), strict=True)]
    return list(array.tolist())


def _predicted_file(predictor: Predictor, given: Path, keep: list[str]) -> Path:
    images = [name for name, kind in predictor.features.kinds.items() if kind == "image"]
    if images:
        raise ConfigError(f"column {images[0]!r} holds images: send them to /predict", hint="in base64")
    out = given.with_name(f"predictions{given.suffix}")
    with open_file(out) as sink:
        for frame in predictions(predictor, given, keep=keep):
            sink.write(frame)
        sink.commit()
    return out


async def _spooled(stream: AsyncIterator[bytes], path: Path) -> None:
    with path.open("wb") as file:
        async for part in stream:
            await run_in_threadpool(file.write, part)


def guarded(app: FastAPI, *, token: bytes | None, local: bool, rows: int, upload: int) -> Guard:
    """The application behind its guards."""
    small = min(_JSON_BYTES, max(1 << 20, rows * _ROW_BYTES))
    return Guard(app, token=token, local=local, bytes=lambda path: upload if path == "/predict/batch" else small)


def make_server(
    root: Path, *, host: str, port: int, token_file: Path | None, rows: int, megabytes: int
) -> tuple[uvicorn.Server, dict[str, Any]]:
    """A server that is ready to run, and what to tell about it.

    Raises ConfigError for an address beyond this machine without a token, or where there is no model.
    """
    local = is_loopback(host)
    if not local and token_file is None:
        raise ConfigError(
            f"--host {host} can be reached from other machines, so --token-file is needed",
            hint="openssl rand -hex 32 > FILE; chmod 600 FILE",
        )
    token = None if token_file is None else read_token(token_file)
    chosen = chosen_folder(root)
    predictor = load_predictor(chosen)
    upload = megabytes << 20
    app = make_app(predictor, card_of(root, chosen, predictor), rows=rows, upload=upload)
    config = uvicorn.Config(
        guarded(app, token=token, local=local, rows=rows, upload=upload),
        host=host,
        port=port,
        http="h11",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level=logging.ERROR,
        log_config=None,
        server_header=False,
        limit_concurrency=_OPEN_AT_ONCE,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=10,
    )
    return uvicorn.Server(config), {"task": predictor.task.kind, "columns": len(predictor.names), "token": bool(token)}


def serve(
    root: Path, *, host: str, port: int, token_file: Path | None, rows: int, megabytes: int, as_json: bool = False
) -> None:
    """Answer until interrupted.  Raises ConfigError as ``make_server``, PortTaken for a port that is in use."""
    server, facts = make_server(root, host=host, port=port, token_file=token_file, rows=rows, megabytes=megabytes)
    listening = _listen(host, port)
    with listening:
        address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        emit(facts | {"url": address}, as_json, lambda: say(f"answers on {address}, described at {address}/docs"))
        server.run(sockets=[listening])


def _listen(host: str, port: int) -> Any:
    import socket

    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError:
        raise ConfigError(f"--host {host} is no address of this machine") from None
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(128)
    except OSError as error:
        opened.close()
        raise PortTaken(f"{host}:{port} cannot be listened on ({error.strerror})") from None
    return opened
