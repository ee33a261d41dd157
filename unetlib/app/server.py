"""The server: photos come over HTTP, their cut-outs go back; the page for people is at /.

The way of a request: `Front` (its id, its key, a place in the queue, limits, time, log) -> a route
-> a thread of the pool (decode, predict, encode) -> the answer, and its place is free again.
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
import sys
import time
import webbrowser
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePath
from typing import Literal
from uuid import uuid4

import cv2
import numpy as np
import prometheus_client as prometheus
import psutil
import uvicorn
from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi_offline import FastAPIOffline
from PIL import UnidentifiedImageError
from pydantic import BaseModel, Field, ValidationError
from pythonjsonlogger.json import JsonFormatter
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.requests import ClientDisconnect

from unetlib import __version__
from unetlib.app.settings import Settings, first_of
from unetlib.app.web import Networks, build_page, within
from unetlib.cutting import Background, Recipe, cut_photo, read_background
from unetlib.data.images import ImageError, TooLarge, load_image
from unetlib.errors import need
from unetlib.matting import REFINEMENTS
from unetlib.pretrained import NETWORKS

PHOTO = {"/remove-background", "/batch-remove-background", "/api/remove"}  # POST; others are GET
OPEN = {"/health", "/docs", "/openapi.json"}  # without a key; the page has a login of its own
ROUTES = PHOTO | OPEN | {"/model-info", "/metrics"}
KINDS = {"foreground": "foreground", "mask": "mask_binary", "soft": "mask_soft"}
DRAIN, PIECE = 2, 2**18  # seconds that what is refused may still be sent; bytes of an answer
HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "2"}}
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
log = logging.getLogger("unetlib.serve")
requests = prometheus.Counter("unetlib_requests", "Requests.", ["route", "status"])
errors = prometheus.Counter("unetlib_errors", "Requests and photos refused.", ["error"])
seconds = prometheus.Histogram("unetlib_seconds", "Time of requests.", ["route"])
pixels = prometheus.Counter("unetlib_pixels", "Pixels of the photos cut out.")
running = prometheus.Gauge("unetlib_running", "Requests that a thread works for.")
waiting = prometheus.Gauge("unetlib_waiting", "Requests that are sent or wait for a thread.")
MultiPartParser.spool_max_size = 0  # no upload is written to a disk: Front limits what is held


class Refused(Exception):
    """A request that gets an error: its HTTP status, a word for programs, a sentence."""

    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status, self.code = status, code


def refusal(error: Exception) -> Refused:
    """What a client is told of an error, which is counted."""
    text = str(error)
    match error:
        case Refused():
            status, code = error.status, error.code
        case HTTPException():
            status, code, text = error.status_code, "bad_request", error.detail
        case ConnectionError() | ClientDisconnect():
            status, code = 499, "client_gone"
        case TooLarge():
            status, code = 413, "too_many_pixels"
        case ImageError(__cause__=UnidentifiedImageError()):
            status, code = 415, "not_an_image"
        case ImageError():
            status, code = 422, "broken_image"
        case ValidationError():
            status, code, text = 422, "bad_parameter", first_of(error, Parameters.model_fields)
        case ValueError() | ImportError():
            status, code = 422, "bad_parameter"
        case MemoryError():
            status, code, text = 503, "no_memory", "out of memory"
        case _:
            status, code, text = 500, "unexpected", "the server's log says more"
            log.error("unexpected", exc_info=error)
    errors.labels(code).inc()
    return Refused(status, code, text)


@dataclass(eq=False)
class Job:
    """A request, from its first byte to the last of its answer."""

    id: str
    held: int = 0  # bytes of its body
    unread: bool = True  # there is more of it
    gone: bool = False  # nobody waits for it any more
    future: Future = field(default_factory=Future)  # of what a thread does for it


class Front:
    """What every request passes, as ASGI middleware before `app`; the jobs and their threads."""

    def __init__(self, settings: Settings):
        self.settings, self.stopping, self.jobs, self.app = settings, False, set(), None
        self.pool = ThreadPoolExecutor(settings.workers, "cut")
        # a photo at a time for each core is more than all cores for each photo
        threads = max(1, (os.cpu_count() or 1) // settings.workers)
        cv2.setNumThreads(threads)
        self.networks = Networks(settings.network, settings.device, threads)
        self.networks.load().predict(np.zeros((64, 64, 3), np.uint8))  # warm, and known to work
        running.set_function(self.running)
        waiting.set_function(lambda: len(self.jobs) - self.running())

    def running(self) -> int:
        return sum(job.future.running() for job in self.jobs)

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start, request = time.perf_counter(), Request(scope)
        route = scope["path"] if scope["path"] in ROUTES else "page"  # whose addresses name files
        given = request.headers.get("x-request-id", "")
        job = Job(given if re.fullmatch(r"[\w.-]{1,64}", given) else uuid4().hex)
        answer = {"status": 499, "bytes": 0}  # 499: the client went away before it

        async def hear():
            message = await receive()
            job.held += len(message.get("body", b""))
            job.unread = message.get("more_body", False)
            if job in self.jobs and not job.gone:
                self.check(route, job.held)
            return message

        async def tell(message):
            if message["type"] == "http.response.start":
                answer["status"] = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", job.id.encode())]
            answer["bytes"] += len(message.get("body", b""))
            await send(message)

        scope["state"] = {"job": job, "hear": hear}
        try:
            self.admit(route, request)
            async with self.place(route, request, job):
                await self.app(scope, hear, tell)
        except asyncio.CancelledError:
            if not self.stopping:
                raise
        except Exception as error:
            if answer["status"] == 499:  # else it was answered, or an answer has begun
                await (await self.answer(request, error))(scope, receive, tell)
        finally:
            took = time.perf_counter() - start
            requests.labels(route, answer["status"]).inc()
            seconds.labels(route).observe(took)
            facts = {"id": job.id, "client": request.client and request.client.host}
            facts |= {"method": scope["method"], "route": route, **answer, "received": job.held}
            log.info("request", extra=facts | {"ms": round(1000 * took, 1)})

    async def answer(self, request: Request, error: Exception) -> JSONResponse:
        """An error in the form that all have. The rest of the request is thrown away first, or its
        client would not read the answer; but not for long."""
        refused, job = refusal(error), request.state.job
        job.gone = True
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN):
                while job.unread:
                    await request.state.hear()
        headers = HEADERS.get(refused.status, {}) | ({"Connection": "close"} if job.unread else {})
        body = {"error": refused.code, "message": str(refused), "request_id": job.id}
        return JSONResponse(body, refused.status, headers)

    def admit(self, route: str, request: Request) -> None:
        """Raises Refused for a wrong method and for a key that is missing or wrong."""
        methods = ("POST",) if route in PHOTO else ("GET", "HEAD")
        if route != "page" and request.method not in methods:
            raise Refused(405, "method", f"{route} has no {request.method}")
        if (key := self.settings.api_key) and route in ROUTES - OPEN:
            bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
            given = request.headers.get("x-api-key", bearer).encode()
            if not hmac.compare_digest(given, key.get_secret_value().encode()):
                raise Refused(401, "key", "a key is needed: X-API-Key or Authorization: Bearer")

    def check(self, route: str, size: int) -> None:
        """Raises Refused where a request, or all of them, are too large."""
        most = self.settings.upload_mb * (self.settings.files if "batch" in route else 1)
        if size > 1e6 * most:
            raise Refused(413, "upload_too_large", f"more than {most:g} MB")
        if sum(job.held for job in self.jobs) > 1e6 * self.settings.buffer_mb:
            raise Refused(503, "queue_full", "too many uploads are waiting")

    @asynccontextmanager
    async def place(self, route: str, request: Request, job: Job):
        """A place in the queue, for those who send photos. It is free when the answer was sent, and
        no thread works for it any more: one that took too long goes on, as it cannot be stopped."""
        if route not in PHOTO:
            yield
            return
        if self.stopping or len(self.jobs) >= self.settings.workers + self.settings.queue:
            why = "stopping" if self.stopping else "queue_full"
            raise Refused(503, why, "no more photos are taken at the moment")
        self.jobs.add(job)
        try:
            self.check(route, int(request.headers.get("content-length", 0)))
            async with asyncio.timeout(self.settings.seconds):
                yield
        except TimeoutError:
            raise Refused(504, "time", f"it took over {self.settings.seconds:g} seconds") from None
        finally:
            job.gone, loop = True, asyncio.get_running_loop()
            job.future.cancel()
            free = partial(loop.call_soon_threadsafe, self.leave, job)
            job.future.add_done_callback(lambda _: free())

    def leave(self, job: Job) -> None:
        """A place is free. After the last, memory goes back to the system: glibc would keep it."""
        self.jobs.discard(job)
        if not self.jobs and hasattr(LIBC, "malloc_trim"):
            gc.collect()  # requests lie in circles, with their photos
            LIBC.malloc_trim(0)

    async def work(self, request: Request, function, *args):
        """function(job, *args) in a thread of the pool, unless the client goes away before."""
        job = request.state.job
        if self.stopping:
            raise Refused(503, "stopping", "this server is being stopped")
        job.future = self.pool.submit(function, job, *args)
        done = asyncio.wrap_future(job.future)
        gone = asyncio.create_task(disconnected(request))
        try:
            await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
            if self.stopping and done.cancelled():
                raise Refused(503, "stopping", "this server is being stopped")
            if not done.done():
                raise ConnectionError("the client has gone")
            return done.result()
        finally:
            gone.cancel()

    async def stop(self, server: uvicorn.Server) -> None:
        """What runs comes to its end, what waits is refused, then the streams of pages end."""
        self.stopping = True
        while self.jobs:
            for job in self.jobs:
                job.future.cancel()
            await asyncio.sleep(0.05)
        for task in server.server_state.tasks:
            task.cancel()


class Parameters(BaseModel, extra="forbid"):
    """How a photo is cut out."""

    network: str | None = Field(None, description="One of /model-info.")
    threshold: float = Field(0.5, ge=0, le=1, description="From here on it is foreground.")
    refine: Literal[tuple(REFINEMENTS)] = Field("guided", description="How its edge is refined.")
    background: str = Field("transparent", description="A colour, blur, grey; or a second file.")
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
        how = {"refine": refine, "output": output, "network": self.model}
        return Parameters(background=color if alpha == "255" else "transparent", **how)


async def disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def read_request(request: Request) -> tuple[dict, list, object]:
    """What is sent: the parameters, of the form and of the address; the photos as (name, file), one
    where the body is no form; and the file named `background`, or None."""
    given, photos, behind = dict(request.query_params), [], None
    kind = request.headers.get("content-type", "").partition(";")[0]
    if kind == "multipart/form-data":
        for name, value in (await request.form(max_fields=50)).multi_items():
            if isinstance(value, str):
                given[name] = value
            elif name == "background":
                behind = value.file
            else:
                photos.append((value.filename or "photo", value.file))
    elif kind.startswith("image/") or kind in ("", "application/octet-stream"):
        photos = [("photo", io.BytesIO(body))] if (body := await request.body()) else []
    else:
        raise Refused(415, "not_an_image", f"a form or image/... is expected, not {kind}")
    return given, photos, behind


class Cutter:
    """Cuts out photos as `given` says, in a thread. Raises what `refusal` knows."""

    def __init__(self, front: Front, given: Parameters, behind=None):
        self.front, self.given, self.behind = front, given, behind

    def cut(self, job: Job, name: str, file) -> tuple[bytes, dict]:
        """The bytes of one answer, and facts on it."""
        start, given, networks = time.perf_counter(), self.given, self.front.networks
        most = self.front.settings.megapixels
        behind = read_background(given.background, files=False)
        if self.behind:
            behind = Background(np.asarray(load_image(within(self.behind, most))))
        how = {"threshold": given.threshold, "refine": given.refine, "crop": given.crop}
        recipe = Recipe(**how, background=behind, size=given.size)
        cut = cut_photo(within(file, most), networks.load(given.network), recipe)
        content = cut.encode(KINDS[given.output], given.format)
        height, width = cut.photo.rgb.shape[:2]
        pixels.inc(width * height)
        facts = {"size": f"{width}x{height}", "network": given.network or networks.default}
        return content, facts | {"milliseconds": round(1000 * (time.perf_counter() - start), 1)}

    def batch(self, job: Job, photos) -> tuple[bytes, dict]:
        """A zip of all that can be cut out, and report.json on each."""
        packed, report = io.BytesIO(), []
        with zipfile.ZipFile(packed, "w") as archive:  # stored: pictures are packed already
            for number, (name, file) in enumerate(photos, 1):
                if job.gone:
                    break
                stem = re.sub(r"[^\w. -]", "_", PurePath(name.replace("\\", "/")).stem)[:80]
                result = f"{number:02}_{stem}.{self.given.format}"
                try:
                    content, facts = self.cut(job, name, file)
                    archive.writestr(result, content)
                    facts = {"status": 200, "result": result} | facts
                except Exception as error:
                    no = refusal(error)
                    facts = {"status": no.status, "error": no.code, "message": str(no)}
                report.append({"file": name} | facts)
            archive.writestr("report.json", json.dumps(report, indent=1, ensure_ascii=False))
        failed = sum(line["status"] != 200 for line in report)
        return packed.getvalue(), {"photos": len(report), "failed": failed}


def sent(content: bytes, media_type: str, facts: dict) -> Response:
    """An answer in pieces: one that is read slowly keeps its place."""
    pieces = (content[start : start + PIECE] for start in range(0, len(content), PIECE))
    headers = {f"X-{name.title()}": str(value) for name, value in facts.items()}
    headers["Content-Length"] = str(len(content))
    return StreamingResponse(pieces, media_type=media_type, headers=headers)


def form(model: type[BaseModel], name: str) -> dict:
    """The form that a route takes, for /docs."""
    schema, file = model.model_json_schema(), {"type": "string", "format": "binary"}
    schema["properties"][name] = {"type": "array", "items": file} if name == "files" else file
    content = {"multipart/form-data": {"schema": schema | {"required": [name]}}}
    return {"requestBody": {"required": True, "content": content}}


def build(settings: Settings) -> Front:
    """The whole server: what its front leads to. Raises what `Predictor` raises."""
    front = Front(settings)

    async def page(scope, receive, send):
        await (await asyncio.shield(front.page))(scope, receive, send)

    @asynccontextmanager
    async def lifespan(app):
        front.loop, made = asyncio.get_running_loop(), AsyncExitStack()

        async def show():
            """Gradio takes seconds to load: its page is made in a thread, visitors wait for it."""
            host = await asyncio.to_thread(make_page, front)
            await made.enter_async_context(host.router.lifespan_context(host))
            return host

        async with made:
            front.page = asyncio.create_task(show()) if settings.page else None
            yield

    how = {"version": __version__, "redoc_url": None, "lifespan": lifespan}
    app = FastAPIOffline(title="unetlib: cut out photos", **how)  # /docs without a network
    app.add_exception_handler(HTTPException, front.answer)
    app.add_exception_handler(Exception, front.answer)

    @app.post("/remove-background", openapi_extra=form(Parameters, "file"))
    async def remove_background(request: Request) -> Response:
        """A photo, in a form or as the body itself -> its cut-out. The parameters may stand in the
        address as well. A file named `background` comes behind the figure."""
        given, photos, behind = await read_request(request)
        return await cut_one(request, Parameters(**given), photos, behind)

    @app.post("/api/remove", openapi_extra=form(RembgParameters, "file"))
    async def as_rembg(request: Request) -> Response:
        """A photo -> its cut-out as PNG, for clients of rembg's server."""
        given, photos, _ = await read_request(request)
        return await cut_one(request, RembgParameters(**given).ours(), photos)

    async def cut_one(request, parameters, photos, behind=None) -> Response:
        if len(photos) != 1:
            raise Refused(422, "no_photo", f"one photo is expected as `file`, not {len(photos)}")
        cutter = Cutter(front, parameters, behind)
        content, facts = await front.work(request, cutter.cut, *photos[0])
        return sent(content, f"image/{parameters.format}", facts)

    @app.post("/batch-remove-background", openapi_extra=form(Parameters, "files"))
    async def batch_remove_background(request: Request) -> Response:
        """Photos, each as `files` -> a zip of their cut-outs and of report.json."""
        given, photos, behind = await read_request(request)
        if not 1 <= len(photos) <= settings.files:
            most = f"1 to {settings.files} photos are expected as `files`, not {len(photos)}"
            raise Refused(422, "files", most)
        cutter = Cutter(front, Parameters(**given), behind)
        content, facts = await front.work(request, cutter.batch, photos)
        return sent(content, "application/zip", facts)

    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> Response:
        """Live if it answers, ready if it takes photos; 503 if not."""
        queue = {"running": front.running(), "waiting": len(front.jobs) - front.running()}
        memory = round(psutil.Process().memory_info().rss / 1e6)
        facts = {"live": True, "ready": not front.stopping, "memory_mb": memory, "queue": queue}
        return JSONResponse(facts, 503 if front.stopping else 200)

    @app.get("/model-info")
    async def model_info() -> dict:
        """The networks that a request may name, and the limits."""
        limits = settings.model_dump(exclude={"api_key", "network", "host", "port", "cors"})
        runs, names = front.networks.load().describe(), front.networks.files
        about = {name: NETWORKS[name].about if name in NETWORKS else "" for name in names}
        default = front.networks.default
        return {"default": default, "runs": runs, "networks": about, "limits": limits}

    @app.get("/metrics")
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(prometheus.generate_latest(), media_type=prometheus.CONTENT_TYPE_LATEST)

    if settings.page:
        app.mount("/", page)
    front.app = app
    return front


def make_page(front: Front) -> FastAPI:
    """The page as an application of its own; where a key is needed, it is the password."""
    import gradio as gr

    settings, key = front.settings, front.settings.api_key

    def login(user: str, password: str) -> bool:
        return hmac.compare_digest(password.encode(), key.get_secret_value().encode())

    limits = settings.upload_mb, settings.megapixels
    blocks = build_page(front.networks, lambda *args: front.pool.submit(*args).result(), *limits)
    host = FastAPI(openapi_url=None)
    host.add_middleware(CORSMiddleware)  # of no origin, else Gradio lets all of them in
    how = {"footer_links": [], "run_history": False, "max_file_size": int(1e6 * settings.upload_mb)}
    return gr.mount_gradio_app(host, blocks, "/", auth=login if key else None, **how)


class Server(uvicorn.Server):
    """uvicorn, which tells the front that it was asked to stop."""

    def handle_exit(self, sig, frame) -> None:
        asyncio.run_coroutine_threadsafe(self.front.stop(self), self.front.loop)
        super().handle_exit(sig, frame)


def run(settings: Settings, ready: str, browser: bool = False) -> None:
    """Serve until SIGTERM (returns) or Ctrl-C (raises KeyboardInterrupt). `ready`: what is printed
    then, with the address. Raises OSError for a port that is taken, and what `Predictor` raises."""
    if settings.page:
        need("gradio", extra="serve")
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    host, family = settings.host, socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listening = socket.create_server((host, settings.port), family=family)
    except OSError as error:
        raise OSError(f"cannot listen at {host}:{settings.port}: {error.strerror}") from error
    handler = logging.StreamHandler()
    names = {"levelname": "level", "message": "event", "exc_info": "traceback"}
    known = "%(levelname)s %(message)s"
    handler.setFormatter(JsonFormatter(known, rename_fields=names, timestamp="time"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    log.setLevel(logging.INFO)
    app = front = build(settings)
    if origins := [origin.strip() for origin in settings.cors.split(",") if origin.strip()]:
        every = {"allow_methods": ["*"], "allow_headers": ["*"], "expose_headers": ["*"]}
        app = CORSMiddleware(front, allow_origins=origins, **every)
    how = {"log_config": None, "access_log": False, "server_header": False}
    server = Server(uvicorn.Config(app, timeout_graceful_shutdown=int(settings.seconds) + 1, **how))
    server.front = front
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"
    print(ready.format(address), flush=True)
    if browser:
        webbrowser.open(address)
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again at its end
    server.run(sockets=[listening])
