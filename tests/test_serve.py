"""The server as people run it: a process on the loopback, asked over HTTP."""

import io
import json
import math
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from networks import write_color_network
from PIL import Image

from unetlib.app.serve import app, serve
from unetlib.cutting import Recipe, cut_photo
from unetlib.predict import OnnxNetwork, Predictor

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
CHECKOUT = str(Path(__file__).resolve().parents[1])


def as_bytes(rgb: np.ndarray, format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, format)
    return file.getvalue()


def picture(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


RGB = np.full((90, 120, 3), (10, 30, 90), np.uint8)
RGB[20:70, 30:80] = (250, 20, 20)
PHOTO = as_bytes(RGB)
FILE = {"file": ("my secret.png", PHOTO)}


@contextmanager
def served(folder: Path, *args, **how):
    """`unetlib serve` in a folder, as an httpx client with its `process` and the `lines` logged."""
    command = [sys.executable, "-m", "unetlib", "serve", "--port", "0", "--no-page", *args]
    env = {**os.environ, "PYTHONPATH": CHECKOUT, "UNETLIB_ROOT": str(folder)}
    how |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=folder, env=env, **how)
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True)
    reader.start()
    try:
        address = re.search(r"http://[\d.:]+", process.stdout.readline())
        assert address, lines
        with httpx.Client(base_url=address[0], timeout=60, trust_env=False) as client:
            client.process, client.lines = process, lines
            yield client
        process.send_signal(signal.SIGTERM)
        client.code = process.wait(30)
        reader.join()
    finally:
        process.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A project with two networks: one finds red, the other is slow."""
    root = tmp_path_factory.mktemp("a project")
    (root / "outputs" / "checkpoints").mkdir(parents=True)
    write_color_network(root / "outputs" / "checkpoints" / "best_model.onnx")
    write_slow_network(root / "slow.onnx")
    Image.fromarray(RGB).save(root / "private.png")
    return root


def write_slow_network(path: Path, seconds: float = 10) -> None:
    """Convolutions that take so long on this machine, at a working size of 1024."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def write(count: int) -> None:
        weights = numpy_helper.from_array(np.full((3, 3, 33, 33), 1e-4, np.float32), "w")
        nodes = [
            helper.make_node("Conv", [f"x{n}", "w"], [f"x{n + 1}"], pads=[16] * 4)
            for n in range(count)
        ]
        nodes += [
            helper.make_node("ReduceMax", [f"x{count}"], ["y"], axes=[1]),
            helper.make_node("Sigmoid", ["y"], ["soft"]),
        ]
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, "h", "w"])
            for name, channels in (("x0", 3), ("soft", 1))
        ]
        graph = helper.make_graph(nodes, "slow", ends[:1], ends[1:], [weights])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, path)

    write(1)
    network, start = OnnxNetwork(path), time.perf_counter()
    network(np.zeros((1, 3, 1024, 1024), np.float32))
    write(math.ceil(seconds / (time.perf_counter() - start)))


@pytest.fixture(scope="module")
def server(folder):
    """Small limits; no process of it can write into a file."""
    options = ["--network", "best", "--upload-mb", "2", "--megapixels", "3", "--files", "3"]
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))}
    with served(folder, *options, **limit) as client:
        yield client
    assert client.code == 0
    assert not [line for line in client.lines if "secret" in line or "traceback" in line]
    assert all(line.startswith("{") for line in client.lines), client.lines


def test_a_photo_goes_in_and_its_cut_out_comes_back(server, folder):
    predictor = Predictor(folder / "outputs" / "checkpoints" / "best_model.onnx")
    answer = server.post("/remove-background", files=FILE, headers={"X-Request-ID": "abc-1"})
    assert answer.content == cut_photo(PHOTO, predictor).encode()
    assert answer.headers["x-size"] == "120x90" and answer.headers["x-network"] == "best"
    assert float(answer.headers["x-milliseconds"]) > 0 and answer.headers["x-request-id"] == "abc-1"
    how = {"content": PHOTO, "headers": {"Content-Type": "image/png"}}
    assert server.post("/remove-background", **how).content == answer.content
    how["params"] = {"output": "mask", "threshold": 0.9, "refine": "none", "crop": True}
    cut = cut_photo(PHOTO, predictor, Recipe(0.9, "none", crop=True))
    assert server.post("/remove-background", **how).content == cut.encode("mask_binary")
    fields = {"output": "soft", "format": "webp", "size": 64}
    soft = server.post("/remove-background", files=FILE, data=fields)
    assert soft.headers["content-type"] == "image/webp"
    assert soft.content == cut_photo(PHOTO, predictor, Recipe(size=64)).encode("mask_soft", "webp")
    behind = {"background": ("b.png", as_bytes(np.full((9, 9, 3), 200, np.uint8)))}
    laid = server.post("/remove-background", files=FILE | behind).content
    assert picture(laid)[2, 2].tolist() == [200, 200, 200]
    unused = {"background": ("", b"")}  # a browser's form where no file was chosen
    assert server.post("/remove-background", files=FILE | unused).is_success
    laid = server.post("/remove-background", files=FILE, data={"background": "#0a4678"}).content
    assert picture(laid)[2, 2].tolist() == [10, 70, 120]


def test_large_uploads_stay_in_memory(server):
    noise = np.random.default_rng(0).integers(0, 256, (700, 800, 3), np.uint8)
    photo = as_bytes(noise)
    assert len(photo) > 1.5e6  # more than what web servers put into a file
    assert server.post("/remove-background", files={"file": ("a.png", photo)}).status_code == 200


def test_clients_of_rembg(server):
    color = picture(server.post("/api/remove?bgc=0,255,0,255", files=FILE).content)
    assert color[2, 2].tolist() == [0, 255, 0]
    mask = picture(server.post("/api/remove", files=FILE, data={"om": "true"}).content)
    assert mask.shape == (90, 120) and mask[45, 55] > 250 and mask[2, 2] < 5
    plain = server.post("/api/remove", files=FILE, data={"ppm": "true"})
    assert picture(plain.content).shape[2] == 4
    unknown = server.post("/api/remove", files=FILE, data={"model": "x"})
    assert "no network here" in unknown.json()["message"]
    assert server.get("/api/remove", params={"url": "http://127.0.0.1/"}).status_code == 405


def test_a_batch_has_a_report(server):
    names = ["../a.png", "notes.txt", "../a.png"]
    files = [("files", (name, b"hello" if "txt" in name else PHOTO)) for name in names]
    answer = server.post("/batch-remove-background", files=files)
    assert answer.headers["x-failed"] == "1"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["01_a.png", "03_a.png", "report.json"]
        report = json.loads(archive.read("report.json"))
        one = server.post("/remove-background", files=FILE).content
        assert archive.read("03_a.png") == one
    assert [line["status"] for line in report] == [200, 415, 200]
    assert report[0]["size"] == "120x90" and report[1]["error"] == "not_an_image"


LARGE = np.random.default_rng(0).bytes(2_500_000)
WRONG = [
    ("no_photo", 422, {"data": {"threshold": "0.5"}, "files": {"background": ("a", PHOTO)}}),
    ("no_photo", 422, {"content": b""}),
    ("no_photo", 422, {"files": {"file": ("", b"")}}),
    ("bad_parameter", 422, {"files": FILE | {"background": ("a.svg", b"<svg/>")}}),
    ("no_photo", 422, {"data": {"file": "a.png"}, "files": {"background": ("a", PHOTO)}}),
    ("too_many_photos", 422, {"files": [("file", ("a.png", PHOTO)), ("file", ("b.png", PHOTO))]}),
    ("not_an_image", 415, {"files": {"file": ("a.png", b"hello")}}),
    ("not_an_image", 415, {"content": "{}", "headers": {"Content-Type": "application/json"}}),
    ("broken_image", 422, {"files": {"file": ("a.png", PHOTO[:-40])}}),
    ("too_many_pixels", 413, {"content": as_bytes(np.zeros((1800, 1800), np.uint8))}),
    ("upload_too_large", 413, {"content": LARGE}),
    ("upload_too_large", 413, {"content": iter([LARGE[:100_000]] * 25)}),
    ("bad_parameter", 422, {"files": FILE, "data": {"threshold": "2"}}),
    ("bad_parameter", 422, {"files": FILE, "data": {"network": "bets"}}),
    ("bad_parameter", 422, {"files": FILE, "data": {"background": "private.png"}}),
    ("bad_parameter", 422, {"files": FILE, "data": {"tresh": "1"}}),
    ("bad_request", 400, {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}),
]


@pytest.mark.parametrize(("code", "status", "request_"), WRONG)
def test_errors_have_one_form(server, code, status, request_):
    answer = server.post("/remove-background", **request_)
    body = answer.json()
    assert (answer.status_code, body["error"]) == (status, code), body
    assert body.keys() == {"error", "message", "request_id"} and body["message"]
    assert body["request_id"] == answer.headers["x-request-id"]


def test_other_errors(server):
    files = [("files", ("a.png", PHOTO))] * 4
    answer = server.post("/batch-remove-background", files=files)
    assert answer.status_code == 422 and "1 to 3 photos" in answer.json()["message"]
    for wrong in ({"network": "typo"}, {"background": "typo"}):  # for all photos
        answer = server.post("/batch-remove-background", files=files[:2], data=wrong)
        assert answer.status_code == 422 and "typo" in answer.json()["message"]
    refused = server.get("/remove-background")
    assert refused.json()["error"] == "method" and refused.headers["allow"] == "POST"
    head = b"POST /remove-background HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
    with socket.create_connection((server.base_url.host, server.base_url.port)) as client:
        client.sendall(head + b"Content-Length: 9000000\r\n\r\n")
        assert client.recv(99).startswith(b"HTTP/1.1 413")  # it is not asked to send that
    assert server.get("/nowhere").status_code == 404 and "request_id" in server.get("/x").json()
    wrong = server.post("/remove-background", files=FILE, data={"tresh": "1"}).json()
    assert "tresh" in wrong["message"] and "Did you mean 'threshold'?" in wrong["message"]


def test_health_networks_metrics_and_log(server):
    health = server.get("/health").json()
    assert health["live"] and health["ready"] and health["memory_mb"] > 50
    assert health["queue"] == {"running": 0, "waiting": 0}
    info = server.get("/model-info").json()
    assert info["default"] == "best" and info["limits"]["upload_mb"] == 2
    assert {"best", "people", "best_model.onnx"} <= info["networks"].keys()
    server.post("/remove-background", files={"file": ("a.png", b"hello")})
    text = server.get("/metrics").text
    assert re.search(r'requests_total\{route="/remove-background",status="200"\} \d', text)
    for name in ("errors_total", "seconds_bucket", "pixels_total", "waiting 0", "running 0"):
        assert f"unetlib_{name}" in text
    docs = server.get("/openapi.json").json()
    body = docs["paths"]["/batch-remove-background"]["post"]["requestBody"]["content"]
    form = body["multipart/form-data"]["schema"]["properties"]  # by which /docs asks for files
    assert form["files"]["items"] == {"type": "string", "format": "binary"}
    defaults = {name: one.get("default", "") for name, one in form.items() if name != "files"}
    assert server.post("/remove-background", files=FILE, data=defaults).is_success
    assert server.head("/health").is_success
    asked = server.get("/health", headers={"Origin": "http://a"})
    assert "access-control" not in str(asked.headers)
    line = json.loads(server.lines[-1])
    assert line["route"] == "/health" and line["status"] == 200 and line["id"] and line["ms"] >= 0


def test_docs_need_no_other_server(server):
    page = server.get("/docs").text
    files = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(files) == 3 and "//" not in "".join(files)
    assert all(server.get(file).is_success for file in files)


def counts(client, running: int, waiting: int) -> None:
    """Waits until the server has so many requests."""
    wanted, end = {"running": running, "waiting": waiting}, time.monotonic() + 30
    while (queue := client.get("/health").json()["queue"]) != queue | wanted:
        assert time.monotonic() < end, queue
        time.sleep(0.02)


def test_a_full_queue_time_and_clients_that_go_away(folder):
    slow = {"size": 1024, "network": "slow.onnx", "refine": "none"}
    options = ["--network", "slow.onnx", "--workers", "1", "--queue", "1", "--seconds", "4"]
    with served(folder, *options) as client:
        host = client.base_url.host, client.base_url.port
        head = b"POST /remove-background HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\n"
        with socket.create_connection(host) as one, socket.create_connection(host) as other:
            one.sendall(head)
            other.sendall(head)
            counts(client, 0, 2)
            full = client.post("/remove-background", content=PHOTO)
            assert full.status_code == 503 and full.json()["error"] == "queue_full"
            assert int(full.headers["retry-after"]) > 0
        counts(client, 0, 0)  # they went away
        assert client.post("/remove-background", content=PHOTO, params={"size": 32}).is_success
        late = client.post("/remove-background", content=PHOTO, params=slow)
        assert late.status_code == 504 and late.json()["error"] == "time"
        counts(client, 1, 0)  # its thread cannot be stopped, and keeps its place
        counts(client, 0, 0)


def test_stopped_as_soon_as_it_says_that_it_serves(folder):
    with served(folder) as client:
        pass
    assert client.code == 0


def test_stopped_gently(folder):
    with served(folder, "--network", "slow.onnx", "--workers", "1", "--files", "1") as client:
        answers = {}

        def ask(name, size):
            answers[name] = client.post("/remove-background", content=PHOTO, params={"size": size})

        threads = [threading.Thread(target=ask, args=args) for args in (("a", 1024), ("b", 32))]
        threads[0].start()
        counts(client, 1, 0)
        threads[1].start()
        counts(client, 1, 1)
        stalled = socket.create_connection((client.base_url.host, client.base_url.port))
        stalled.sendall(b"POST /remove-background HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
        counts(client, 1, 2)
        client.process.send_signal(signal.SIGTERM)
        assert stalled.recv(99).startswith(b"HTTP/1.1 503")
        for thread in threads:
            thread.join()
        client.process.wait(30)
    assert answers["a"].status_code == 200 and client.code == 0
    assert answers["b"].status_code == 503 and answers["b"].json()["error"] == "stopping"


def test_the_page_and_a_key(folder):
    gradio_client = pytest.importorskip("gradio_client")
    key = "Sesam, öffne dich"
    options = ["--network", "best", "--page", "--api-key", key, "--cors", "http://a.org/"]
    options += ["--upload-mb", "2", "--megapixels", "0.3"]
    with served(folder, *options) as client:
        for address in ("/health", "/docs", "/openapi.json"):
            assert client.get(address).is_success
        for headers in ({}, {"X-API-Key": "x"}, {"Authorization": "Bearer x"}):
            answer = client.post("/remove-background", content=PHOTO, headers=headers)
            assert answer.status_code == 401 and answer.json()["error"] == "key"
        for name, value in {"X-API-Key": key, "Authorization": f"Bearer {key}"}.items():
            headers = {name: value.encode()}
            headers["Origin"] = "http://a.org"
            answer = client.post("/remove-background", content=PHOTO, headers=headers)
            assert answer.is_success
            assert answer.headers["access-control-allow-origin"] == "http://a.org"
            wrong = client.post("/remove-background", content=b"hello", headers=headers)
            assert wrong.status_code == 415 and "access-control-allow-origin" in wrong.headers
        address = str(client.base_url)
        client.get("/")  # Gradio is loaded
        with pytest.raises(Exception, match="(?i)auth|login|credentials"):
            gradio_client.Client(address, auth=("me", "wrong"), verbose=False)
        page = gradio_client.Client(address, auth=("me", key), verbose=False)
        client.post("/login", data={"username": "me", "password": key})

        def choose(path) -> str:
            photo = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
            event = client.post("/gradio_api/call/receive", json={"data": [[photo]]}).json()
            return client.get(f"/gradio_api/call/receive/{event['event_id']}").text

        assert "not uploaded by a user" in choose(folder / "private.png")
        assert "addresses are not opened" in choose("http://example.org/a.png")
        assert client.post("/remove-backgroud").json()["error"] == "not_found"
        large = client.post("/gradio_api/run/show", json={"data": ["x" * 2_000_000]})
        assert large.status_code == 413 and large.json()["error"] == "upload_too_large"
        *_, said = page.predict(param_7=None, api_name="/show")
        assert "512×512 pixels" in said
        assert "up to 2 MB and 0.3 megapixels" in json.dumps(page.config)
        Image.new("L", (600, 600)).save(folder / "huge.png")
        huge = gradio_client.handle_file(folder / "huge.png")
        with pytest.raises(Exception, match="600 x 600 pixels are more than 0.3 megapixels"):
            page.predict(param_5="picture", param_7=huge, api_name="/show")


WRONG_SETTINGS = [
    (["--queue", "many"], {}, "", "Invalid value for '--queue': 'many' is not a valid integer"),
    (["--config", "mine.yaml"], {}, "prot: 1", "no setting is called 'prot'. Did you mean 'port'?"),
    (["--config", "mine.yaml"], {}, "port: 70000", "Invalid value for '--port': 70000 is not in"),
    (["--config", "mine.yaml"], {}, "cors: [a, b]", "mine.yaml: cors is empty"),
    (["--config", "mine.yaml"], {}, "queue: null", "mine.yaml: queue is empty"),
    (["--seconds", "nan"], {}, "", "'--seconds': nan is no number"),
    (["--config", "mine.yaml"], {}, "workers: 2.5", "Invalid value for '--workers': '2.5' is not"),
    (["--config", "mine.yaml"], {}, "[1, 2]", "mine.yaml"),
    (["--config", "mine.yaml"], {}, "port: [", "mine.yaml"),
    ([], {"UNETLIB_SERVE_PROT": "1"}, "", "no setting is called 'prot'. Did you mean 'port'?"),
    ([], {"UNETLIB_SERVE_API_KEY": ""}, "", "UNETLIB_SERVE_API_KEY: api_key is empty"),
    ([], {"UNETLIB_SERVE_WORKERS": "0"}, "", "Invalid value for '--workers': 0 is not in"),
    (["--device", "cuda"], {}, "", "cuda"),
    (["--network", "poeple"], {}, "", "Did you mean 'people'?"),
    (["--port", "TAKEN"], {}, "", "in use (while attempting to bind on address ('127.0.0.1', "),
]


@pytest.mark.parametrize(("args", "env", "file", "said"), WRONG_SETTINGS)
def test_wrong_settings_are_one_line(args, env, file, said, tmp_path):
    (tmp_path / "mine.yaml").write_text(file)
    env = {**os.environ, "PYTHONPATH": CHECKOUT, "UNETLIB_ROOT": str(tmp_path), **env}
    with socket.create_server(("127.0.0.1", 0)) as other:
        args = [arg.replace("TAKEN", str(other.getsockname()[1])) for arg in args]
        command = [sys.executable, "-m", "unetlib", "serve", "--no-page", *args]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    *usage, line = done.stderr.splitlines()  # click's own errors begin with two lines of usage
    assert said in line and (not usage or line.startswith("Error: ")), done.stderr
    late = said.startswith(("cuda", "in use", "Did you mean 'people"))  # settings are fine then
    assert done.returncode == (1 if late else 2)


def test_options_win_over_the_environment_and_that_over_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = '{"port": 1, "queue": 2, "files": 3, "api_key": 123, "page": false}'
    (tmp_path / "serve.json").write_text(said)
    monkeypatch.setenv("UNETLIB_SERVE_PORT", "4")
    monkeypatch.setenv("UNETLIB_SERVE_QUEUE", "5")
    settings = serve.make_context("serve", ["--port", "6"]).params
    names = ("port", "queue", "files", "api_key", "page", "seconds")
    assert [settings[name] for name in names] == [6, 5, 3, "123", False, 60]
    monkeypatch.setenv("UNETLIB_SERVE_PAGE", "yes")
    assert serve.make_context("serve", []).params["page"] is True
    monkeypatch.chdir("/")
    assert app.make_context("app", []).params["port"] == 4
    monkeypatch.delenv("UNETLIB_SERVE_PORT")
    assert app.make_context("app", []).params["port"] == 0
