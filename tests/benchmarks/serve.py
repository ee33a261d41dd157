"""`unetlib serve` against `rembg s`: requests per second, latency; our memory and start.

    python -m venv rembg && rembg/bin/pip install "rembg[cpu,cli]"
    python tests/benchmarks/serve.py rembg/bin/rembg [--seconds 60] [--turns 3]

Both serve the same ONNX file (rembg as `u2net_custom`) at 320 x 320, and get 1280 x 720 JPEGs of
scikit-image's astronaut from 8 clients, in turns. "same work" is that network alone: no mirror
image, no refinement; "our defaults" has both. Then the start until /health is ready, the memory of
300 requests of several sizes, and of 40 requests of 12 megapixels at once.
"""

import argparse
import http.client
import io
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import psutil
from PIL import Image, ImageOps
from skimage import data

from unetlib import pretrained

CLIENTS = 8


def jpeg(width: int, height: int) -> bytes:
    file = io.BytesIO()
    ImageOps.fit(Image.fromarray(data.astronaut()), (width, height)).save(file, "JPEG", quality=90)
    return file.getvalue()


def multipart(photo: bytes, **fields) -> tuple[bytes, dict]:
    """A form with a file, and its headers."""
    mark = uuid.uuid4().hex
    parts = [
        f'--{mark}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode()
        for k, v in fields.items()
    ]
    head = f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n'
    parts += [
        head.encode(),
        b"Content-Type: image/jpeg\r\n\r\n",
        photo,
        f"\r\n--{mark}--\r\n".encode(),
    ]
    return b"".join(parts), {"Content-Type": f"multipart/form-data; boundary={mark}"}


def post(port: int, path: str, body: bytes, headers: dict, line=None) -> int:
    line = line or http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    line.request("POST", path, body, headers)
    answer = line.getresponse()
    answer.read()
    return answer.status


def load(server, path: str, form, seconds: float) -> tuple[float, float, float, float]:
    """Requests per second, median and 95th percentile of the latency, the server's CPU time for a
    request, which other programs disturb less; all in milliseconds."""
    (port, process), times, end = server, [], time.perf_counter() + seconds
    before = sum(process.cpu_times()[:2])

    def client():
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        while (start := time.perf_counter()) < end:
            assert post(port, path, *form, line) == 200
            times.append(time.perf_counter() - start)

    start = time.perf_counter()
    together(client, CLIENTS)
    rate = len(times) / (time.perf_counter() - start)
    cuts = statistics.quantiles(times, n=20)
    cpu = (sum(process.cpu_times()[:2]) - before) / len(times)
    return rate, 1000 * cuts[9], 1000 * cuts[18], 1000 * cpu


def together(action, count: int) -> None:
    threads = [threading.Thread(target=action) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextmanager
def served(command: list[str], path: str, **environment):
    """A server as (port, process, seconds until `path` answers)."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command, start = [part.replace("PORT", str(port)) for part in command], time.perf_counter()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env={**os.environ, **environment}, **quiet)
    while True:
        try:
            line = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            line.request("GET", path)
            if line.getresponse().status == 200:
                break
        except OSError:
            assert process.poll() is None, command
            time.sleep(0.02)
    took = time.perf_counter() - start
    try:
        yield port, psutil.Process(process.pid), took
    finally:
        process.terminate()
        process.wait(60)


def settled(process) -> float:
    """Its resident memory in MB, a moment after the last request."""
    time.sleep(2)
    return process.memory_info().rss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rembg", type=Path, nargs="?", help="the command, of another environment")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp())
    model = home / "models" / "u2net_custom" / "model.onnx"
    model.parent.mkdir(parents=True)
    shutil.copy(pretrained.find("people"), model)
    python = [sys.executable, "-m", "unetlib", "serve", "--port", "PORT"]
    photo = jpeg(1280, 720)
    if options.rembg:
        extras = urlencode({"extras": json.dumps({"model_path": str(model)})})
        theirs = f"/api/remove?{extras}", multipart(photo, model="u2net_custom")
        same = "/remove-background", multipart(photo, network="model.onnx", refine="none")
        default = "/remove-background", multipart(photo, network="people")
        rembg = [str(options.rembg), "s", "--host", "127.0.0.1", "--port", "PORT", "--no-ui"]
        with (
            served([*python, "--network", str(model), "--no-page"], "/health") as (*ours, _),
            served(rembg, "/api", REMBG_HOME=str(home)) as (*other, _),
        ):
            sides = {"rembg s": (other, *theirs), "same work": (ours, *same)}
            sides["our defaults"] = (ours, *default)
            for side in sides.values():
                load(*side, 3)
            for turn in range(options.turns):
                row = {name: load(*side, options.seconds) for name, side in sides.items()}
                for name, (rate, median, p95, cpu) in row.items():
                    a, _, b, c = row["rembg s"]
                    print(
                        f"turn {turn + 1}  {name:<13} {rate:5.1f} requests/s ({rate / a:.2f}x), "
                        f"median {median:4.0f} ms, p95 {p95:4.0f} ms ({p95 / b:.2f}x), "
                        f"CPU {cpu:3.0f} ms ({cpu / c:.2f}x)",
                        flush=True,
                    )
    for arguments in ([], ["--no-page"]):
        starts = []
        for _ in range(5):
            with served([*python, *arguments], "/health") as (*_, took):
                starts.append(took)
        print("start, s:", *arguments, *(f"{took:.1f}" for took in starts), flush=True)
    with served([*python], "/health") as (port, process, _):
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        line.request("GET", "/")  # also the page
        line.getresponse().read()
        line.close()
        sizes = ((1280, 720), (800, 600), (640, 960), (1600, 1200), (500, 500))
        forms = [multipart(jpeg(*size)) for size in sizes]
        for count in (10, 20, 100, 100, 100):
            for number in range(count):
                assert post(port, "/remove-background", *forms[number % len(forms)]) == 200
            print(f"memory after {count} more requests: {settled(process):.0f} MB", flush=True)
        form, found, done = multipart(jpeg(4000, 3000)), [], threading.Event()

        def watch():
            while not done.wait(0.01):
                found.append(process.memory_info().rss / 1e6)

        watcher = threading.Thread(target=watch)
        watcher.start()
        statuses = []
        together(lambda: statuses.append(post(port, "/remove-background", *form)), 40)
        done.set()
        watcher.join()
        counts = {status: statuses.count(status) for status in sorted(set(statuses))}
        then = settled(process)
        print(f"40 x 12 megapixels: {counts}, peak {max(found):.0f} MB, then {then:.0f} MB")
    shutil.rmtree(home)


if __name__ == "__main__":
    main()
