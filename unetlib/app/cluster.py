"""The photos of `unetlib cut` on many cores or machines, with Ray Data.

A worker per core or GPU loads the network itself, opens the photos itself and writes the results.
Through Ray's shared memory, which may be small, go numbers and words only; and a photo that cannot
be opened, which would end a run of `ray.data.read_binary_files`, is one more answer.
"""

import json
import logging
import math
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from warnings import catch_warnings

from unetlib.errors import need

ADDRESS = re.compile(r"local|auto|[^/\\]+:\d+")  # ray:// has no Ray Data
BATCH = 4  # photos that a worker is handed at a time
RETRIES = 3  # of photos whose worker died, or of a worker that died while it started
Task = tuple[Path, dict[str, Path]]  # a photo, and its outputs by their kinds


class Worker:
    """Lives in a process of Ray: `cut` is called with what `load` returns, and with each task."""

    def __init__(self, cut: Callable, load: Callable, tasks: list[Task]):
        self.cut, self.tasks = partial(cut, load()), tasks

    def __call__(self, batch: dict) -> dict:
        answers = [self.cut(*self.tasks[number])[1:] for number in batch["item"]]
        # names that are no UTF-8 are no text for Arrow, but JSON writes them
        return {"item": batch["item"], "answer": [json.dumps(answer) for answer in answers]}


def check(address: str) -> None:
    """Raises ValueError for what is no address, ImportError where Ray is not installed, and
    ConnectionError where nothing answers."""
    if not ADDRESS.fullmatch(address):
        known = "auto or HOST:PORT; without one, put --ray behind the inputs"
        raise ValueError(f"--ray {address}: an address is {known}")
    need("ray", "pyarrow", "pandas", extra="ray")
    host, _, port = address.rpartition(":")
    try:  # Ray itself would try for minutes
        if host:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, UnicodeError) as error:
        raise ConnectionError(f"no cluster of Ray at {address}: {error}") from error


def run(
    cut: Callable, load: Callable, tasks: list[Task], address: str, workers: int | None, gpus, debug
) -> Iterator[tuple[Path, str, str]]:
    """Yields what `cut` returns for each photo, as they finish: (photo, note, reason of a failure),
    the last two "" if there is none.

    cut, load: see Worker. address: of a cluster, or "local": one of our own, which ends with the
    run. workers: None: as many as there are cores, or GPUs. Raises ConnectionError, RuntimeError.
    """
    quiet = {"RAY_BACKEND_LOG_LEVEL": "fatal"} if not debug else {}
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", **quiet, **os.environ}
    import ray
    from ray.data import ActorPoolStrategy, DataContext, from_items
    from ray.exceptions import RayError

    logging.getLogger("ray.data").setLevel("INFO" if debug else "CRITICAL")
    own = {"num_cpus": workers or os.cpu_count(), "include_dashboard": False}
    own |= {"object_store_memory": 10**8}  # bytes
    options = {"log_to_driver": debug, "logging_level": "INFO" if debug else "ERROR"}
    try:
        connection = ray.init(address, **options, **(own if address == "local" else {}))
    except ConnectionError as error:
        hint = "it is not there, or wants a token: RAY_AUTH_MODE=token"
        raise ConnectionError(f"no cluster of Ray at {address}: {hint}") from error
    # on standard output Ray prints long texts on each death of a worker
    with connection, open(os.devnull, "w") as null, redirect_stdout(sys.stdout if debug else null):
        context = DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = debug
        context.max_errored_blocks = 0 if debug else -1
        context.max_consecutive_actor_init_deaths = RETRIES
        unit = "gpu" if gpus else "cpu"
        most = int(ray.cluster_resources().get(unit.upper(), 0))
        if not most:
            raise RuntimeError(f"the cluster of Ray at {address} has no {unit.upper()}")
        pending = dict(enumerate(tasks))
        # then one by one what was handed out, or waited, with a photo that kills its worker
        for batch, waits in ((BATCH, 2), (1, 1)):
            parts = math.ceil(len(pending) / batch)
            size = min(workers or most, most, parts)
            with catch_warnings(action="ignore"):  # before Ray 2.64 retries have no other place
                answers = from_items([*pending], override_num_blocks=parts).map_batches(
                    Worker,
                    fn_constructor_args=(cut, load, tasks),
                    batch_size=batch,
                    compute=ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=waits),
                    max_task_retries=RETRIES,  # without it, a photo that kills does so for ever
                    **{f"num_{unit}s": 1},
                )
            try:
                for row in answers.iter_rows():
                    yield pending.pop(row["item"])[0], *json.loads(row["answer"])
            except RayError as error:
                if debug:
                    raise
                reason = str(error).strip().splitlines()[-1]  # of the traceback from the worker
                raise RuntimeError(f"Ray's workers did not start or were lost: {reason}") from error
            if not pending:
                return
        for source, _ in pending.values():
            yield source, "", "the worker that cut it died each time (out of memory?)"
