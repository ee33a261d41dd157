"""The photos of `unetlib cut` on many cores or machines, with Ray Data.

A worker per core or GPU makes its own cutter and opens the photos itself: through Ray's shared
memory, which may be small, go numbers and words only, and a photo that cannot be opened, which
would end a run of `ray.data.read_binary_files`, is one more answer.
"""

import logging
import math
import time
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from unetlib.errors import need

ADDRESS = re.compile(r"local|auto|ray://.+|[^/\\]+:\d+")
BATCH = 4  # photos: what a worker is handed at a time, and what is done again when it dies
RETRIES = 3  # deaths of a worker over the same photos
Task = tuple[Path, dict[str, Path]]  # a photo, and its outputs by their kinds


class Worker:
    """Lives in a process of Ray. make: returns what cuts one task, see `app.cut.Cutter`."""

    def __init__(self, make: Callable[[], Callable], tasks: list[Task]):
        self.cut, self.tasks = make(), tasks

    def __call__(self, batch: dict) -> dict:
        answers = [self.cut(*self.tasks[number]) for number in batch["item"]]
        notes, errors = zip(*answers, strict=True)
        # names that are no UTF-8 are none for Arrow either
        safe = [
            [t.encode(errors="backslashreplace").decode() for t in ts] for ts in (notes, errors)
        ]
        return {"item": batch["item"], "note": safe[0], "error": safe[1]}


def check(address: str) -> None:
    """Raises ValueError for what is no address, ImportError where Ray is not installed."""
    if not ADDRESS.fullmatch(address):
        known = "auto, ray://HOST:PORT or HOST:PORT; without one, put --ray behind the inputs"
        raise ValueError(f"--ray {address}: an address is {known}")
    need("ray", "pyarrow", "pandas", extra="ray")


@contextmanager
def connected(address: str, cores: int | None, debug: bool) -> Iterator[None]:
    """A cluster that is there, or "local": one of our own, which ends with the block."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not debug:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    how = {"log_to_driver": debug, "logging_level": "INFO" if debug else "ERROR"}
    if address == "local":
        how |= {"num_cpus": cores or os.cpu_count(), "include_dashboard": False}
        how |= {"object_store_memory": 10**8}  # bytes
    try:
        ray.init(address, **how)
        yield
    finally:
        ray.shutdown()


def run(
    make, tasks: list[Task], address="local", workers: int | None = None, gpus=False, debug=False
) -> Iterator[tuple[Path, str, str]]:
    """Yields each photo with what is to be said of it, and the reason if it failed, in the order in
    which they are done. workers: None: as many as there are cores, or GPUs."""
    with connected(address, workers, debug):
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        context = DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = debug
        context.max_errored_blocks = 0 if debug else -1
        logging.getLogger("ray.data").setLevel("INFO" if debug else "CRITICAL")
        unit, parts = "gpu" if gpus else "cpu", math.ceil(len(tasks) / BATCH)
        most = int(ray.cluster_resources().get(unit.upper(), 0))
        if not most:
            raise RuntimeError(f"the cluster of Ray has no {unit.upper()}")
        numbers = ray.data.from_items([*range(len(tasks))], override_num_blocks=parts)
        answers = numbers.map_batches(
            Worker,
            fn_constructor_args=(make, tasks),
            batch_size=BATCH,
            compute=ActorPoolStrategy(size=min(workers or most, most, parts)),
            ray_remote_args_fn=lambda: {"max_task_retries": RETRIES},  # by default for ever
            **{f"num_{unit}s": 1},
        )
        left = set(range(len(tasks)))
        for row in answers.iter_rows():
            if os.environ.get("T"): print(time.time(), row, flush=True)
            left.remove(row["item"])
            yield tasks[row["item"]][0], row["note"], row["error"]
        for number in left:
            yield tasks[number][0], "", f"its worker died {RETRIES + 1} times (out of memory?)"
