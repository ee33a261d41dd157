"""The Dockerfile without Docker: its lines are run in a root file system made by debootstrap.

`sudo python tests/image.py` prints the size of each layer. Needs root, debootstrap and Debian's
packages. Debian with its own Python stands for the image that FROM names.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("debootstrap", "unshare", "nsenter", "chroot", "ip")
UNUSED = (
    "var/cache/apt",
    "var/lib/apt/lists",
    *(f"usr/share/{n}" for n in ("doc", "man", "locale")),
)


def why_not() -> str:
    """Why this machine cannot do it, or ""."""
    if sys.platform != "linux" or os.geteuid() or not shutil.which("apt-get"):
        return "needs root on Debian"
    if missing := [name for name in NEEDED if not shutil.which(name)]:
        return f"{', '.join(missing)} is not installed"
    spaces = subprocess.run(["unshare", "-mn", "true"], capture_output=True)
    return spaces.stderr.decode().strip()


def said(*command) -> str:
    env = {key: value for key, value in os.environ.items() if key != "PIP_QUIET"}
    how = {"capture_output": True, "text": True, "check": True, "env": env}
    return subprocess.run([*map(str, command)], **how).stdout


def make_base(root: Path) -> None:
    """Debian as this machine has it, with Python; without what slim images leave out, too."""
    fields = "$(REPO_URI) $(CODENAME) $(COMPONENT)"
    listed = said("apt-get", "indextargets", "--format", fields, "Created-By: Packages")
    rows = [line.split() for line in listed.splitlines()]
    mirror, suite = next(row[:2] for row in rows if row[2:] == ["main"] and "-" not in row[1])
    packages = "--include=python3,python3-venv,ca-certificates"
    said("debootstrap", "--variant=minbase", packages, suite, root, mirror)
    for name in UNUSED:
        shutil.rmtree(root / name, ignore_errors=True)


def of_pip() -> list[Path]:
    """What pip reads on this machine: its settings, what they name, certificates, name servers."""
    pip = [sys.executable, "-m", "pip", "config"]
    text = said(*pip, "debug") + said(*pip, "list")
    named = re.findall(r"""(?:^|[\s='"]|file://)(/[^\s'",]+)""", text)
    # an index in a folder, .../simple, names files that lie beside it
    named = [name.removesuffix("/").removesuffix("/simple") for name in named]
    paths = [Path(name) for name in (*named, "/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs")]
    return [path for path in dict.fromkeys(paths) if path.exists()]


class Image:
    """What the lines of a Dockerfile make in `folder`. `base`: the root file system to begin with.

    layers: line -> megabytes. A process in it is started by `start`, and asked by `inside`.
    """

    def __init__(self, folder: Path, base: Path, dockerfile: Path = ROOT / "Dockerfile"):
        self.layers, stages = {}, {}
        lines = re.sub(r"(?m)^#.*\n", "", dockerfile.read_text()).replace("\\\n", "")
        for number, line in enumerate(filter(None, lines.splitlines())):
            word, rest = line.split(maxsplit=1)
            if word == "FROM":
                self.root, self.env, self.cwd, self.user = folder / f"{number}", {}, "/", "0:0"
                stages[rest.partition(" AS ")[2]], self.layers = self.root, {}
                said("cp", "-a", base, self.root)
            elif word == "COPY":
                *sources, target = [part for part in rest.split() if not part.startswith("--")]
                stage = re.match(r"--from=(\w+)", rest)
                target = self.root / os.path.join(self.cwd, target)[1:]
                for name in sources:
                    source = stages[stage[1]] / name[1:] if stage else ROOT / name
                    into = target / source.name if rest.endswith("/") else target
                    into.parent.mkdir(parents=True, exist_ok=True)
                    said("cp", "-a", "--no-preserve=ownership", source, into)
            elif word == "RUN":
                shared = {k: v for k, v in os.environ.items() if re.match("PIP_|SSL|.*_proxy", k)}
                mounts = [self._bind(path) for path in of_pip()]
                command = self._command("; ".join(mounts), ["sh", "-c", rest], shared)
                subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
            elif word == "ENV":
                self.env |= dict(part.split("=", 1) for part in shlex.split(rest))
            elif word == "WORKDIR":
                self.cwd = rest
                (self.root / rest[1:]).mkdir(exist_ok=True)
            elif word == "USER":
                self.user = rest
            elif word == "HEALTHCHECK":
                self.health = json.loads(rest.partition("CMD ")[2])
            elif word == "ENTRYPOINT":
                self.entrypoint = json.loads(rest)
            elif word != "EXPOSE":
                raise ValueError(f"{word} is not known here: {line}")
            size = int(said("du", "-smx", self.root).split()[0])
            self.layers[line[:70]] = size - sum(self.layers.values())

    def _bind(self, path: Path) -> str:
        there = self.root / str(path.resolve())[1:]
        made = f"mkdir -p {there}" if path.is_dir() else f"mkdir -p {there.parent}; touch {there}"
        return f"{made}; mount --bind {path.resolve()} {there}"

    def _command(self, before: str, command: list[str], env: dict, *spaces: str) -> list[str]:
        """`before` in mount name spaces of its own, then `command` in the image, as its user."""
        known = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"} | env | self.env
        chroot = ["chroot", f"--userspec={self.user}", self.root, "env", "-i", "-C", self.cwd]
        chroot += [*(f"{key}={value}" for key, value in known.items()), *command]
        mounts = f"mount --bind /dev {self.root}/dev; mount -t proc proc {self.root}/proc"
        before = f"set -e; {before}; {mounts}; exec "
        return ["unshare", "-m", *spaces, "sh", "-c", before + shlex.join(map(str, chroot))]

    def start(self, **how) -> subprocess.Popen:
        """The entrypoint as by `docker run --read-only --tmpfs /tmp --network none`."""
        mounts = f"mount --bind {self.root} {self.root}; mount -o remount,bind,ro {self.root}"
        mounts += f"; mount -t tmpfs tmpfs {self.root}/tmp; ip link set lo up"
        return subprocess.Popen(self._command(mounts, self.entrypoint, {}, "-n"), **how)

    def inside(self, server: subprocess.Popen, *command, **how) -> subprocess.CompletedProcess:
        """A command beside the running server: `docker exec`."""
        command = ["nsenter", "-t", str(server.pid), "-m", "-n", "-r", "env", "-i"] + [
            *(f"{key}={value}" for key, value in self.env.items()),
            *command,
        ]
        return subprocess.run(command, capture_output=True, timeout=60, **how)


if __name__ == "__main__":
    if why_not():
        sys.exit(why_not())
    with tempfile.TemporaryDirectory() as folder:
        make_base(Path(folder, "base"))
        image = Image(Path(folder), Path(folder, "base"))
        for line, megabytes in image.layers.items():
            print(f"{megabytes:5} MB  {line}")
        print(f"{sum(image.layers.values()):5} MB  in all")
