"""A real server on the loopback that misbehaves in every way the tests ask for."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

BODY = np.random.default_rng(0).bytes(300_000)


class Server(ThreadingHTTPServer):
    """`plan`: what to do with each request in turn; the last entry stays. `plans`: the same for
    single paths. `files`: path -> content; without any, every path is `body`. See Handler."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan, self.plans, self.body, self.files = ["ok"], {}, BODY, {}
        self.paths = []
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.url = f"{self.address}/set.zip"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, path = self.server, self.path.partition("?")[0]
        plan = server.plans.get(path, server.plan)
        step = plan.pop(0) if len(plan) > 1 else plan[0]
        server.paths.append(path)
        body = server.files.get(path) if server.files else server.body
        if body is None:
            step = "404"
        if step.isdigit():
            self.send_error(int(step))
            return
        self.send_response(200)
        if step != "no length":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if step == "drop":  # a third of it, then the line is dead
            self.wfile.write(body[: len(body) // 3])
            self.wfile.flush()
            self.connection.close()
        elif step != "nothing":
            self.wfile.write(body)

    def log_message(self, *_):
        """Quiet."""


@contextlib.contextmanager
def serving(monkeypatch):
    """A Server that answers, past any proxy of this machine."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder with its content, to see that nothing was changed."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
