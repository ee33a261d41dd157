"""The server: photos come over HTTP, their cut-outs go back; the page for people is at /.

The way of a request: `Front` (its id, what is too large, time, log) -> the key and a place in the
queue, which routes depend on -> a route -> a thread of the pool (decode, predict, encode) -> the
answer, and its place is free again.
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
from typing import Literal
from uuid import uuid4

import cv2
import numpy as np
import prometheus_client as prometheus
import psutil
import uvicorn
from fastapi import Depends, FastAPI, Request, UploadFile
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi_offline import FastAPIOffline
from PIL import UnidentifiedImageError
from pydantic import BaseModel, Field, ValidationError, create_model
from pythonjsonlogger.json import JsonFormatter
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.requests import ClientDisconnect

from unetlib import __version__
from unetlib.app.web import Networks, build_page, within
from unetlib.cutting import Recipe, cut_photo, read_background
from unetlib.data.images import ImageError, TooLarge, load_image
from unetlib.errors import need, unknown
from unetlib.matting import REFINEMENTS
from unetlib.pretrained import NETWORKS

KINDS = {"foreground": "foreground", "mask": "mask_binary", "soft": "mask_soft"}
DRAIN, PIECE = 2, 2**18  # seconds that what is refused may still be sent; bytes of an answer
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
MultiPartParser.spool_max_size = 0  # no upload is written to a disk: Front limits what is held


class Refused(HTTPException):
    """A request that gets an error: its HTTP status, a word for programs, a sentence."""

    def __init__(self, status: int, code: str, message: str):
        super().__init__(status, message, HEADERS.get(status))
        self.code = code


def refusal(error: Exception) -> Refused:
    """What a client is told of an error, which is counted."""
    text = str(error)
    match error:
        case HTTPException(status_code=status, detail=text):
            code = getattr(error, "code", CODES.get(status, "bad_request"))
        case RuntimeError(__cause__=Refused()):  # an answer had begun
            return refusal(error.__cause__)
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
    return Refused(status, code, text)


async def refuse(request: Request, error: Exception) -> JSONResponse:
    """An error in the form that all have."""
    no = refusal(error)
    body = {"error": no.code, "message": no.detail, "request_id": request.state.job.id}
    return JSONResponse(body, no.status_code, no.headers)


class Parameters(BaseModel, extra="forbid"):
    """How photos are cut out."""

    network: str | None = Field(None, description="One of /model-info.")
    threshold: float = Field(0.5, ge=0, le=1, description="From here on it is foreground.")
    refine: Literal[tuple(REFINEMENTS)] = Field("guided", description="How its edge is refined.")
    background: str | UploadFile = Field("transparent", description="A colour, blur, grey; a file.")
    output: Literal[tuple(KINDS)] = "foreground"
    format: Literal["png", "webp"] = "png"
    crop: bool = Field(False, description="To the figure.")
    size: int | None = Field(None, ge=32, le=1024, description="Working size; as trained.")


class RembgParameters(BaseModel):
    """What clients of rembg's server send. Its other parameters change nothing here."""

    model: str | None = Field(None, description="One of /model-info.")
    a: bool = Field(False, description="Alpha matting.")
    om: bool = Field(False, description="Only the mask.")
    bgc: str = Field("0,0,0,0", pattern=r"^\d+,\d+,\d+,(0|255)$", description="R,G,B,A.")

    def ours(self) -> Parameters:
        refine, output = "closed-form" if self.a else "guided", "soft" if self.om else "foreground"
        color, _, alpha = self.bgc.rpartition(",")
        behind = color if alpha == "255" else "transparent"
        return Parameters(network=self.model, refine=refine, output=output, background=behind)


async def read(request: Request, parameters: type[BaseModel], most: int = 1):
    """What is sent, as (parameters, 1 to `most` photos): a form, or a photo as the body itself;
    parameters may stand in the address as well. Raises ValidationError and HTTPException."""
    given, photos = dict(request.query_params), []
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        for name, value in (await request.form(max_fields=50)).multi_items():
            if name in ("file", "files") and not isinstance(value, str):
                photos.append(value)
            else:
                given[name] = value
    elif body := await request.body():
        photos = [UploadFile(io.BytesIO(body))]
    if not 1 <= len(photos) <= most:
        wanted = "one photo as `file`" if most == 1 else f"1 to {most} photos as `files`"
        text = f"send {wanted}, not {len(photos)}"
        raise Refused(422, "too_many_photos" if photos else "no_photo", text)
    return parameters(**given), photos


@dataclass(eq=False)
class Job:
    """A request, from its first byte to the last of its answer."""

    id: str
    most: float = 0  # bytes that it may have
    held: int = 0  # bytes that came
    unread: bool = True  # there are more of them
    wanted: bool = False  # a client waits for what is made of its photos
    future: Future = field(default_factory=Future)  # of what a thread does for it


class Front:
    """What every request passes, as ASGI middleware before `app`; the jobs and their threads."""

    def __init__(self, settings: SimpleNamespace):
        self.settings, self.stopping, self.jobs, self.app = settings, False, set(), None
        self.pool = ThreadPoolExecutor(settings.workers, "cut")
        # a photo at a time for each core is more than all cores for each photo
        threads = max(1, (os.cpu_count() or 1) // settings.workers)
        cv2.setNumThreads(threads)
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
        given = request.headers.get("x-request-id", "")
        job = Job(given if re.fullmatch(r"[\w.-]{1,64}", given) else uuid4().hex)
        request.state.job = job
        facts = {"id": job.id, "client": request.client and request.client.host}
        facts |= {"method": request.method, "status": 499, "bytes": 0}  # 499: the client went away

        async def hear():
            message = await receive()
            job.held += len(message.get("body", b""))
            job.unread = message.get("more_body", False)
            if job.wanted:
                self.check(job, job.held)
            return message

        async def tell(message):
            if message["type"] == "http.response.start":
                facts["status"], headers = message["status"], [(b"x-request-id", job.id.encode())]
                if facts["status"] >= 400:  # a client that is still sending would not read it
                    with suppress(TimeoutError):
                        async with asyncio.timeout(DRAIN):
                            while job.unread:
                                await hear()
                    headers += [(b"connection", b"close")] * job.unread
                message["headers"] = [*message["headers"], *headers]
            facts["bytes"] += len(message.get("body", b""))
            await send(message)

        with suppress(Exception, asyncio.CancelledError):  # `refuse` told it to who still listens
            await self.app(scope, hear, tell)
        if job in self.jobs:  # until its thread ends, which cannot be stopped, it keeps its place
            loop = asyncio.get_running_loop()
            job.future.cancel()
            job.future.add_done_callback(lambda _: loop.call_soon_threadsafe(self.leave, job))
        took, route = time.perf_counter() - start, getattr(scope.get("route"), "path", "page")
        requests.labels(route, facts["status"]).inc()
        seconds.labels(route).observe(took)
        facts |= {"route": route, "received": job.held, "ms": round(1000 * took, 1)}
        log.info("request", extra=facts)

    def check(self, job: Job, size: int) -> None:
        """Raises Refused when the server stops, and where a request or all are too large."""
        if self.stopping:
            raise Refused(*STOPPING)
        if size > job.most:
            raise Refused(413, "upload_too_large", f"more than {job.most / 1e6:g} MB")
        if sum(job.held for job in self.jobs) > 1e6 * self.settings.buffer_mb:
            raise Refused(503, "queue_full", "too many uploads are waiting")

    def is_key(self, given: str) -> bool:
        key = self.settings.api_key
        return not key or hmac.compare_digest(given.encode(), key.encode())

    async def key(self, request: Request) -> None:
        """Raises Refused for a key that is missing or wrong."""
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not self.is_key(request.headers.get("x-api-key", bearer)):
            raise Refused(401, "key", "a key is needed: X-API-Key or Authorization: Bearer")

    async def place(self, request: Request):
        """A place in the queue, for those who send photos, and for so many seconds."""
        job, settings = request.state.job, self.settings
        if len(self.jobs) >= settings.workers + settings.queue:
            raise Refused(503, "queue_full", "too many requests are waiting")
        photos = settings.files if "batch" in request.url.path else 1
        job.most, job.wanted = 1e6 * settings.upload_mb * photos, True
        self.jobs.add(job)
        try:
            self.check(job, int(request.headers.get("content-length", 0)))
            async with asyncio.timeout(settings.seconds):
                yield
        except TimeoutError:
            raise Refused(504, "time", f"it took over {settings.seconds:g} seconds") from None
        finally:
            job.wanted = False

    def leave(self, job: Job) -> None:
        """Its place is free. After the last, memory goes back to the system: glibc keeps it."""
        self.jobs.discard(job)
        if not self.jobs:
            gc.collect()  # requests lie in circles, with their photos
            with suppress(AttributeError, TypeError):  # other systems have no such function
                ctypes.CDLL(None).malloc_trim(0)

    async def answer(self, request: Request, media_type: str, function, *args) -> Response:
        """The bytes and the facts that function(self, *args) returns, in a thread of the pool. What
        waits for one is refused when the server stops, and given up when its client goes away."""
        job = request.state.job
        job.future = self.pool.submit(function, self, *args)
        done = asyncio.wrap_future(job.future)
        while not (await asyncio.wait({done}, timeout=0.1))[0]:
            if await request.is_disconnected():
                raise ClientDisconnect
            if self.stopping and job.future.cancel():
                raise Refused(*STOPPING)
        content, facts = done.result()
        job.future = Future()  # the other one would hold the result when memory is given back
        headers = {f"X-{name.title()}": str(value) for name, value in facts.items()}
        headers["Content-Length"] = str(len(content))
        # in pieces: an answer that is read slowly keeps its place
        pieces = (content[start : start + PIECE] for start in range(0, len(content), PIECE))
        return StreamingResponse(pieces, media_type=media_type, headers=headers)


def cut(front: Front, given: Parameters, photo: UploadFile) -> tuple[bytes, dict]:
    """The cut-out of a photo, and facts on it. Raises what `refusal` knows."""
    start, most, behind = time.perf_counter(), front.settings.megapixels, given.background
    if isinstance(behind, str):
        behind = read_background(behind, files=False)
    else:
        behind = np.asarray(load_image(within(behind.file, most)))
    how = given.model_dump(include={"threshold", "refine", "crop", "size"})
    network, recipe = front.networks.load(given.network), Recipe(background=behind, **how)
    done = cut_photo(within(photo.file, most), network, recipe)
    content = done.encode(KINDS[given.output], given.format)
    height, width = done.photo.rgb.shape[:2]
    pixels.inc(width * height)
    facts = {"size": f"{width}x{height}", "network": given.network or front.networks.default}
    return content, facts | {"milliseconds": round(1000 * (time.perf_counter() - start), 1)}


def cut_batch(front: Front, given: Parameters, photos: list, job: Job) -> tuple[bytes, dict]:
    """A zip of all that can be cut out, and report.json on each."""
    packed, report = io.BytesIO(), []
    with zipfile.ZipFile(packed, "w") as archive:  # stored: pictures are packed already
        for number, photo in enumerate(photos, 1):
            if not job.wanted:
                break
            name = photo.filename or "photo"
            stem = re.sub(r"[^\w. -]", "_", PurePath(name.replace("\\", "/")).stem)[:80]
            result = f"{number:02}_{stem}.{given.format}"
            try:
                content, facts = cut(front, given, photo)
                archive.writestr(result, content)
                facts = {"status": 200, "result": result} | facts
            except Exception as error:
                no = refusal(error)
                facts = {"status": no.status_code, "error": no.code, "message": no.detail}
            report.append({"file": name} | facts)
        archive.writestr("report.json", json.dumps(report, indent=1, ensure_ascii=False))
    failed = sum(line["status"] != 200 for line in report)
    return packed.getvalue(), {"photos": len(report), "failed": failed}


def build(settings: SimpleNamespace) -> Front:
    """The whole server: what its front leads to. Raises what `Predictor` raises."""
    front = Front(settings)

    @asynccontextmanager
    async def lifespan(app):
        async with AsyncExitStack() as stack:

            async def page(scope, receive, send):
                await (await asyncio.shield(host))(dict(scope), receive, send)

            if settings.page:  # visitors wait for it
                host, app.router.default = asyncio.create_task(load_page(front, stack)), page
            yield

    how = {"version": __version__, "redoc_url": None, "lifespan": lifespan}
    how["exception_handlers"] = {HTTPException: refuse, Exception: refuse}
    app = FastAPIOffline(title="unetlib: cut out photos", **how)  # offline: its /docs
    origins = (settings.cors or "").replace(",", " ").split()
    front.app = CORSMiddleware(app, origins, ["*"], ["*"], expose_headers=["*"]) if origins else app
    keyed = [Depends(front.key)]

    def takes_photos(path: str, parameters: type[BaseModel], **photos):
        """A route that needs a key and a place; its form, for /docs, has these fields."""
        schema = create_model("Form", __base__=parameters, **photos).model_json_schema()
        body = {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
        how = {"dependencies": [*keyed, Depends(front.place)]}
        return app.post(path, openapi_extra={"requestBody": body}, **how)

    @takes_photos("/remove-background", Parameters, file=UploadFile)
    async def remove_background(request: Request) -> Response:
        """A photo, in a form or as the body itself -> its cut-out. The parameters may stand in the
        address as well. A file named `background` comes behind the figure."""
        given, [photo] = await read(request, Parameters)
        return await front.answer(request, f"image/{given.format}", cut, given, photo)

    @takes_photos("/api/remove", RembgParameters, file=UploadFile)
    async def as_rembg(request: Request) -> Response:
        """A photo -> its cut-out as PNG, for clients of rembg's server."""
        given, [photo] = await read(request, RembgParameters)
        return await front.answer(request, "image/png", cut, given.ours(), photo)

    @takes_photos("/batch-remove-background", Parameters, files=list[UploadFile])
    async def batch_remove_background(request: Request) -> Response:
        """Photos, each as `files` -> a zip of their cut-outs and of report.json."""
        job, (given, files) = request.state.job, await read(request, Parameters, settings.files)
        return await front.answer(request, "application/zip", cut_batch, given, files, job)

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> Response:
        """Live if it answers, ready if it takes photos; 503 if not."""
        memory, ready = round(psutil.Process().memory_info().rss / 1e6), not front.stopping
        facts = {"live": True, "ready": ready, "memory_mb": memory, "queue": front.queue()}
        return JSONResponse(facts, 200 if ready else 503)

    @app.get("/model-info", dependencies=keyed)
    async def model_info() -> dict:
        """The networks that a request may name, and the limits."""
        files, limits = front.networks.files, {name: getattr(settings, name) for name in LIMITS}
        about = {name: NETWORKS[name].about if name in NETWORKS else "" for name in files}
        facts = {"default": front.networks.default, "runs": front.networks.load().describe()}
        return facts | {"networks": about, "limits": limits}

    @app.get("/metrics", dependencies=keyed)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(prometheus.generate_latest(), media_type=prometheus.CONTENT_TYPE_LATEST)

    return front


async def load_page(front: Front, stack: AsyncExitStack) -> FastAPI:
    """The page as an application of its own, until `stack` ends; where a key is needed, it is the
    password. Gradio takes seconds to load, in threads: the server answers meanwhile."""
    most, key = front.settings.upload_mb, front.settings.api_key
    how = front.networks, lambda *args: front.pool.submit(*args).result()
    page = await asyncio.to_thread(build_page, *how, most, front.settings.megapixels)
    from gradio import mount_gradio_app

    host = FastAPI(openapi_url=None)
    host.add_middleware(CORSMiddleware)  # of no origin, else Gradio lets all of them in
    how = {"auth": (lambda user, password: front.is_key(password)) if key else None}
    how |= {"footer_links": [], "run_history": False, "max_file_size": int(1e6 * most)}
    await asyncio.to_thread(mount_gradio_app, host, page, "/", **how)
    await stack.enter_async_context(host.router.lifespan_context(host))
    return host


class Server(uvicorn.Server):
    """uvicorn, which ends gently, with what `build` makes."""

    async def shutdown(self, sockets=None) -> None:
        """What runs comes to its end, what waits or comes is refused, then the pages' streams."""
        front = self.config.app
        front.stopping = True
        while front.jobs and not self.force_exit:
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
    how = {"log_config": None, "access_log": False, "server_header": False}
    server = Server(uvicorn.Config(build(settings), timeout_graceful_shutdown=5, **how))
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"
    print(ready.format(address), flush=True)
    if browser:
        webbrowser.open(address)
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again at its end
    server.run(sockets=[listening])
