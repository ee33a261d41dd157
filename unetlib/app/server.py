"""The server: photos come over HTTP, their cut-outs go back; the page for people is at /.

The way of a request: `Gateway` (its id, what is too large, time, log) -> the key and a slot in the
queue, which routes depend on -> a route -> a thread of the pool (decode, predict, encode) -> the
answer, and its slot is free again.
"""

import asyncio
import ctypes
import gc
import hmac
import io
import json
import logging
import os
import re
import signal
import socket
import time
import webbrowser
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import PurePath
from types import SimpleNamespace
from typing import Annotated, Literal
from urllib.parse import quote
from uuid import uuid4

import cv2
import numpy as np
import prometheus_client as prometheus
import psutil
import uvicorn
from fastapi import Depends, FastAPI, Request, UploadFile
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.security import APIKeyHeader
from fastapi_offline import FastAPIOffline
from PIL import UnidentifiedImageError
from pydantic import BaseModel, Field, ValidationError, WithJsonSchema, create_model
from pythonjsonlogger.json import JsonFormatter
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.requests import ClientDisconnect

from unetlib import __version__
from unetlib.app.web import Networks, build_page
from unetlib.cutting import Recipe, cut_photo, read_background, to_srgb
from unetlib.data import images
from unetlib.data.images import ImageError, TooLarge, open_photo
from unetlib.errors import need, unknown
from unetlib.matting import REFINEMENTS
from unetlib.pretrained import NETWORKS

OUTPUTS = {"foreground": "foreground", "mask": "mask_binary", "soft": "mask_soft"}
DRAIN_SECONDS, CHUNK = 2, 2**18  # for the rest of a refused upload; bytes sent at a time
HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "2"}}
CODES = {404: "not_found", 405: "method"}  # of what Starlette refuses
LIMITS = "workers", "queue", "seconds", "upload_mb", "megapixels", "buffer_mb", "files"
STOPPING = 503, "stopping", "this server is being stopped"
log = logging.getLogger("unetlib.serve")
requests = prometheus.Counter("unetlib_requests", "Requests.", ["route", "status"])
errors = prometheus.Counter("unetlib_errors", "Requests and photos refused.", ["error"])
seconds = prometheus.Histogram("unetlib_seconds", "Time of requests.", ["route"])
pixels = prometheus.Counter("unetlib_pixels", "Pixels of the photos cut out.")
running = prometheus.Gauge("unetlib_running", "Requests that a thread works for.")
waiting = prometheus.Gauge("unetlib_waiting", "Requests that are sent or wait for a thread.")
File = Annotated[UploadFile, WithJsonSchema({"type": "string", "format": "binary"})]  # for /docs
MultiPartParser.spool_max_size = 0  # no upload is written to a disk: Gateway limits what is held


class RequestError(HTTPException):
    """A request that gets an error: its HTTP status, a word for programs, a sentence."""

    def __init__(self, status: int, code: str, message: str, headers: dict | None = None):
        super().__init__(status, message, headers or HEADERS.get(status))
        self.code = code


def as_request_error(error: Exception) -> RequestError:
    """Converts any error to a RequestError for the client, and counts it."""
    text, headers = str(error), None
    match error:
        case HTTPException(status_code=status, detail=text, headers=headers):
            code = getattr(error, "code", CODES.get(status, "bad_request"))
        case RuntimeError(__cause__=RequestError()):  # an answer had begun
            return as_request_error(error.__cause__)
        case ClientDisconnect():
            status, code, text = 499, "client_gone", "the client went away"
        case TooLarge():
            status, code = 413, "too_many_pixels"
        case ImageError(__cause__=UnidentifiedImageError()):
            status, code = 415, "not_an_image"
        case ImageError():
            status, code = 422, "broken_image"
        case ValidationError():
            status, code, first = 422, "bad_parameter", error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            text = f"{name}: {first['msg']}"
            if first["type"] == "extra_forbidden":
                text = unknown("parameter", name, Parameters.model_fields)
        case ValueError() | ImportError():
            status, code = 422, "bad_parameter"
        case MemoryError():
            status, code, text = 503, "no_memory", "out of memory"
        case _:
            status, code, text = 500, "unexpected", "the server's log says more"
            log.error("unexpected", exc_info=error)
    errors.labels(code).inc()
    return RequestError(status, code, text, headers)


async def error_response(request: Request, error: Exception) -> JSONResponse:
    """An error in the form that all have."""
    failure = as_request_error(error)
    body = {"error": failure.code, "message": failure.detail, "request_id": request.state.job.id}
    return JSONResponse(body, failure.status_code, failure.headers)


class Parameters(BaseModel, extra="forbid"):
    """How photos are cut out."""

    network: str = Field("", description="One of /model-info.")
    threshold: float = Field(0.5, ge=0, le=1, description="From here on it is foreground.")
    refine: Literal[tuple(REFINEMENTS)] = Field("guided", description="How its edge is refined.")
    background: str | File = Field("transparent", description="A colour, blur, grey; a file.")
    output: Literal[tuple(OUTPUTS)] = "foreground"
    format: Literal["png", "webp"] = "png"
    crop: bool = Field(False, description="To the figure.")
    size: int | None = Field(None, ge=32, le=1024, description="Working size.", examples=[""])


class RembgParameters(BaseModel):
    """What clients of rembg's server send. Its other parameters change nothing here."""

    model: str = Field("", description="One of /model-info.")
    a: bool = Field(False, description="Alpha matting.")
    om: bool = Field(False, description="Only the mask.")
    bgc: str = Field("0,0,0,0", pattern=r"^\d+,\d+,\d+,(0|255)$", description="R,G,B,A.")

    def ours(self) -> Parameters:
        refine, output = "closed-form" if self.a else "guided", "soft" if self.om else "foreground"
        color, _, alpha = self.bgc.rpartition(",")
        background = color if alpha == "255" else "transparent"
        return Parameters(network=self.model, refine=refine, output=output, background=background)


async def read(request: Request, parameters: type[BaseModel], limit: int = 1):
    """What is sent, as (parameters, 1 to `limit` photos): a form, or a photo as the body itself;
    parameters may stand in the address as well. Raises ValidationError and HTTPException."""
    values, photos = dict(request.query_params), []
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        for name, value in (await request.form(max_fields=50)).multi_items():
            if value == "" or not (isinstance(value, str) or value.filename or value.size):
                continue  # a field or a file that was left empty
            if name in ("file", "files") and not isinstance(value, str):
                photos.append(value)
            else:
                values[name] = value
    elif body := await request.body():
        photos = [UploadFile(io.BytesIO(body))]
    if not 1 <= len(photos) <= limit:
        expected = "one photo as `file`" if limit == 1 else f"1 to {limit} photos as `files`"
        text = f"send {expected}, not {len(photos)}"
        raise RequestError(422, "too_many_photos" if photos else "no_photo", text)
    return parameters(**values), photos


@dataclass(eq=False)
class Job:
    """A request, from its first byte to the last of its answer."""

    id: str
    max_bytes: float  # bytes that it may have
    received: int = 0  # bytes that came
    unread: bool = True  # there are more of them
    awaited: bool = False  # a client waits for what is made of its photos
    timeout: asyncio.Timeout | None = None  # of those
    future: Future = field(default_factory=Future)  # of what a thread does for it


class Gateway:
    """What every request passes, as ASGI middleware before `app`; the jobs and their threads."""

    def __init__(self, settings: SimpleNamespace):
        self.settings, self.stopping, self.jobs, self.app = settings, False, set(), None
        self.pool = ThreadPoolExecutor(settings.workers, "cut")
        # a photo at a time for each core is more than all cores for each photo
        threads = max(1, (os.cpu_count() or 1) // settings.workers)
        cv2.setNumThreads(threads)
        images.MAX_PIXELS = int(1e6 * settings.megapixels)
        self.networks = Networks(settings.network, settings.device, threads)
        self.networks.load().predict(np.zeros((64, 64, 3), np.uint8))  # warm, and known to work
        running.set_function(lambda: self.queue()["running"])
        waiting.set_function(lambda: self.queue()["waiting"])

    def queue(self) -> dict[str, int]:
        """Requests with photos: those that a thread works for, those that are sent or wait."""
        busy = sum(job.future.running() for job in self.jobs)
        return {"running": busy, "waiting": len(self.jobs) - busy}

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start, request = time.perf_counter(), Request(scope)
        sent_id = request.headers.get("x-request-id", "")
        id = sent_id if re.fullmatch(r"[\w.-]{1,64}", sent_id, re.A) else uuid4().hex
        upload = request.url.path.endswith("/upload")  # of the page, which takes several photos
        job = Job(id, 1e6 * (self.settings.buffer_mb if upload else 1))
        request.state.job = job
        entry = {"id": job.id, "client": request.client and request.client.host}
        entry |= {"method": request.method, "status": 499, "bytes": 0}  # 499: the client went away

        async def receive_counted():
            message = await receive()
            job.received += len(message.get("body", b""))
            job.unread = message.get("more_body", False)
            self.check_limits(job, job.received)
            return message

        async def send_logged(message):
            if message["type"] == "http.response.start":
                entry["status"], headers = message["status"], [(b"x-request-id", job.id.encode())]
                if entry["status"] >= 400:  # a client that is still sending would not read it
                    with suppress(TimeoutError):
                        async with asyncio.timeout(DRAIN_SECONDS):
                            while job.unread and "expect" not in request.headers:
                                job.unread = (await receive()).get("more_body", False)
                    headers += [(b"connection", b"close")] * job.unread
                message["headers"] = [*message["headers"], *headers]
            entry["bytes"] += len(message.get("body", b""))
            await send(message)

        with suppress(Exception, asyncio.CancelledError):  # error_response has answered
            await self.app(scope, receive_counted, send_logged)
        if job in self.jobs:  # until its thread ends, which cannot be stopped, it keeps its slot
            loop = asyncio.get_running_loop()
            job.future.cancel()
            job.future.add_done_callback(lambda _: loop.call_soon_threadsafe(self.release, job))
        took, route = time.perf_counter() - start, getattr(scope.get("route"), "path", "page")
        requests.labels(route, entry["status"]).inc()
        seconds.labels(route).observe(took)
        entry |= {"route": route, "received": job.received, "ms": round(1000 * took, 1)}
        log.info("request", extra=entry)

    def check_limits(self, job: Job, size: int) -> None:
        """Raises RequestError while stopping, and if this upload or all together are too large."""
        if self.stopping and job.awaited:
            raise RequestError(*STOPPING)
        if size > job.max_bytes:
            raise RequestError(413, "upload_too_large", f"more than {job.max_bytes / 1e6:g} MB")
        if job.awaited and sum(job.received for job in self.jobs) > 1e6 * self.settings.buffer_mb:
            raise RequestError(503, "queue_full", "too many uploads are waiting")

    def is_key(self, sent_key: bytes) -> bool:
        key = self.settings.api_key
        return not key or hmac.compare_digest(sent_key, key.encode())

    async def require_key(self, request: Request) -> None:
        """Raises RequestError for a missing or wrong key."""
        bearer = re.sub("(?i)^bearer ", "", request.headers.get("authorization", ""))
        sent_key = request.headers.get("x-api-key", bearer).encode("latin-1")  # as it was sent
        if not self.is_key(sent_key):
            raise RequestError(401, "key", "a key is needed: X-API-Key or Authorization: Bearer")

    async def slot(self, request: Request):
        """A slot in the queue, for those who send photos, and for so many seconds."""
        job, settings = request.state.job, self.settings
        if len(self.jobs) >= settings.workers + settings.queue:
            raise RequestError(503, "queue_full", "too many requests are waiting")
        photos = settings.files if "batch" in request.url.path else 1
        most = min(settings.upload_mb * photos, settings.buffer_mb)
        job.max_bytes, job.awaited = 1e6 * most, True
        self.jobs.add(job)
        try:
            self.check_limits(job, int(request.headers.get("content-length", 0)))
            async with asyncio.timeout(settings.seconds) as job.timeout:
                yield
        except TimeoutError:
            self.check_limits(job, 0)
            raise RequestError(504, "time", f"it took over {settings.seconds:g} seconds") from None
        finally:
            job.awaited = False

    def release(self, job: Job) -> None:
        """Its slot is free. After the last, memory goes back to the system: glibc keeps it."""
        self.jobs.discard(job)
        if not self.jobs:
            gc.collect()  # requests lie in circles, with their photos
            with suppress(AttributeError, TypeError):  # other systems have no such function
                ctypes.CDLL(None).malloc_trim(0)

    async def answer(self, request: Request, media_type: str, function, *args) -> Response:
        """Runs function(self, *args) in a thread of the pool; it returns (content, values for X-
        headers). A waiting job is refused while stopping, and cancelled if its client leaves."""
        job = request.state.job
        job.future = self.pool.submit(function, self, *args)
        done = asyncio.wrap_future(job.future)
        while not (await asyncio.wait({done}, timeout=0.1))[0]:
            if await request.is_disconnected():
                raise ClientDisconnect
            if self.stopping and job.future.cancel():
                raise RequestError(*STOPPING)
        content, facts = done.result()
        job.future = Future()  # the other one would hold the result when memory is given back
        headers = {f"X-{name.title()}": quote(str(value)) for name, value in facts.items()}
        headers["Content-Length"] = str(len(content))
        # in pieces: an answer that is read slowly keeps its slot
        chunks = (content[start : start + CHUNK] for start in range(0, len(content), CHUNK))
        return StreamingResponse(chunks, media_type=media_type, headers=headers)


def cut(gateway: Gateway, args: Parameters, photo: UploadFile) -> tuple[bytes, dict]:
    """The cut-out of a photo, and facts on it. Raises what `as_request_error` knows."""
    start, background = time.perf_counter(), args.background
    if isinstance(background, str):
        background = read_background(background, files=False)
    else:
        try:
            background = to_srgb(open_photo(background.file)).rgb
        except ImageError as error:
            raise ValueError(f"background: {error}") from error
    options = args.model_dump(include={"threshold", "refine", "crop", "size"})
    recipe = Recipe(background=background, **options)
    done = cut_photo(photo.file, gateway.networks.load(args.network), recipe)
    content = done.encode(OUTPUTS[args.output], args.format)
    height, width = done.photo.rgb.shape[:2]
    pixels.inc(width * height)
    facts = {"size": f"{width}x{height}", "network": args.network or gateway.networks.default}
    return content, facts | {"milliseconds": round(1000 * (time.perf_counter() - start), 1)}


def cut_batch(gateway: Gateway, args: Parameters, photos: list, job: Job) -> tuple[bytes, dict]:
    """A zip of all that can be cut out, and report.json on each."""
    gateway.networks.load(args.network)  # what is wrong for all photos is said at once
    read_background(args.background, files=False)
    packed, report = io.BytesIO(), []
    with zipfile.ZipFile(packed, "w") as archive:  # stored: pictures are packed already
        for number, photo in enumerate(photos, 1):
            if not job.awaited:
                break
            name = photo.filename or "photo"
            stem = PurePath(name.replace("\\", "/")).stem[:80]
            result = re.sub(r'[<>:"|?*\x00-\x1f]', "_", f"{number:02}_{stem}.{args.format}")
            try:
                content, facts = cut(gateway, args, photo)
                archive.writestr(result, content)
                facts = {"status": 200, "result": result} | facts
            except Exception as error:
                failure = as_request_error(error)
                facts = {"status": failure.status_code, "error": failure.code}
                facts["message"] = failure.detail
            report.append({"file": name} | facts)
        archive.writestr("report.json", json.dumps(report, indent=1))
    failed = sum(line["status"] != 200 for line in report)
    return packed.getvalue(), {"photos": len(report), "failed": failed}


def build(settings: SimpleNamespace) -> Gateway:
    """The whole server: what its gateway leads to. Raises what `Predictor` raises."""
    gateway = Gateway(settings)

    @asynccontextmanager
    async def lifespan(app):
        async with AsyncExitStack() as stack:

            async def page(scope, receive, send):
                await (await asyncio.shield(host))(dict(scope), receive, send)

            if settings.page:  # visitors wait for it
                host, app.router.default = asyncio.create_task(load_page(gateway, stack)), page
            yield

    options = {"version": __version__, "redoc_url": None, "lifespan": lifespan}
    options["exception_handlers"] = {HTTPException: error_response, Exception: error_response}
    app = FastAPIOffline(title="unetlib: cut out photos", **options)  # offline: its /docs
    origins = [one.rstrip("/") for one in (settings.cors or "").replace(",", " ").split()]
    cors = CORSMiddleware(app, origins, ["*"], ["*"], expose_headers=["*"])
    gateway.app = cors if origins else app
    asked = APIKeyHeader(name="X-API-Key", auto_error=False)  # by /docs
    keyed = [Depends(asked), Depends(gateway.require_key)]

    def photo_route(path: str, parameters: type[BaseModel], **photos):
        """A route that needs a key and a slot; its form, for /docs, has these fields."""
        schema = create_model("Form", __base__=parameters, **photos).model_json_schema()
        body = {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
        options = {"dependencies": [*keyed, Depends(gateway.slot)]}
        return app.post(path, openapi_extra={"requestBody": body}, **options)

    @photo_route("/remove-background", Parameters, file=File)
    async def remove_background(request: Request) -> Response:
        """A photo, in a form or as the body itself -> its cut-out. The parameters may stand in the
        address as well. A file named `background` comes behind the figure."""
        args, [photo] = await read(request, Parameters)
        return await gateway.answer(request, f"image/{args.format}", cut, args, photo)

    @photo_route("/api/remove", RembgParameters, file=File)
    async def as_rembg(request: Request) -> Response:
        """A photo -> its cut-out as PNG, for clients of rembg's server."""
        args, [photo] = await read(request, RembgParameters)
        return await gateway.answer(request, "image/png", cut, args.ours(), photo)

    @photo_route("/batch-remove-background", Parameters, files=list[File])
    async def batch_remove_background(request: Request) -> Response:
        """Photos, each as `files` -> a zip of their cut-outs and of report.json."""
        job, (args, files) = request.state.job, await read(request, Parameters, settings.files)
        return await gateway.answer(request, "application/zip", cut_batch, args, files, job)

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> Response:
        """Live if it answers, ready if it takes photos; 503 if not."""
        memory, ready = round(psutil.Process().memory_info().rss / 1e6), not gateway.stopping
        facts = {"live": True, "ready": ready, "memory_mb": memory, "queue": gateway.queue()}
        return JSONResponse(facts, 200 if ready else 503)

    @app.get("/model-info", dependencies=keyed)
    async def model_info() -> dict:
        """The networks that a request may name, and the limits."""
        files, limits = gateway.networks.files, {name: getattr(settings, name) for name in LIMITS}
        about = {name: NETWORKS[name].about if name in NETWORKS else "" for name in files}
        facts = {"default": gateway.networks.default, "runs": gateway.networks.load().describe()}
        return facts | {"networks": about, "limits": limits}

    @app.get("/metrics", dependencies=keyed)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(prometheus.generate_latest(), media_type=prometheus.CONTENT_TYPE_LATEST)

    return gateway


async def load_page(gateway: Gateway, stack: AsyncExitStack) -> FastAPI:
    """The page as an application of its own, until `stack` ends; where a key is needed, it is the
    password. Gradio takes seconds to load, in threads: the server answers meanwhile."""
    settings, key = gateway.settings, gateway.settings.api_key
    arguments = gateway.networks, lambda *args: gateway.pool.submit(*args).result()
    page = await asyncio.to_thread(build_page, *arguments, settings.upload_mb)
    from gradio import mount_gradio_app

    host = FastAPI(openapi_url=None)
    host.add_middleware(CORSMiddleware)  # of no origin, else Gradio lets all of them in
    options = {"auth": (lambda user, password: gateway.is_key(password.encode())) if key else None}
    options |= {"footer_links": [], "run_history": False}
    options |= {"app_kwargs": {"exception_handlers": {HTTPException: error_response}}}
    options |= {"max_file_size": int(1e6 * settings.upload_mb)}
    page.has_launched = True  # else Gradio hands out any picture of this machine
    await asyncio.to_thread(mount_gradio_app, host, page, "/", **options)
    await stack.enter_async_context(host.router.lifespan_context(host))
    return host


class Server(uvicorn.Server):
    """uvicorn, which ends gently, with what `build` makes."""

    async def shutdown(self, sockets=None) -> None:
        """Lets running jobs finish, refuses waiting and new ones, then ends the pages' streams."""
        gateway = self.config.app
        gateway.stopping = True
        for job in gateway.jobs:
            if job.awaited and job.unread:  # it may never come
                job.timeout.reschedule(0)
        while gateway.jobs and not self.force_exit:
            await asyncio.sleep(0.05)
        for task in self.server_state.tasks:
            task.cancel()
        await super().shutdown(sockets)


def run(settings: SimpleNamespace, ready: str, browser: bool = False) -> None:
    """Serve until SIGTERM (returns) or Ctrl-C (raises KeyboardInterrupt). `ready`: what is printed
    then, with the address. Raises OSError for a port that is taken, and what `Predictor` raises."""
    if settings.page:
        need("gradio", extra="serve")
    host, family = settings.host, socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.create_server((host, settings.port), family=family)
    handler = logging.StreamHandler()
    names = {"levelname": "level", "message": "event", "exc_info": "traceback"}
    known = "%(levelname)s %(message)s"
    handler.setFormatter(JsonFormatter(known, rename_fields=names, timestamp="time"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    log.setLevel(logging.INFO)
    logging.captureWarnings(True)  # of odd photos
    options = {"log_config": None, "access_log": False, "server_header": False}
    server = Server(uvicorn.Config(build(settings), timeout_graceful_shutdown=5, **options))
    signal.signal(signal.SIGTERM, server.handle_exit)  # before it runs, and after, as it says again
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"
    print(ready.format(address), flush=True)
    if browser:
        webbrowser.open(address)
    server.run(sockets=[listening])
