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
NEEDED = ("apt-get", "debootstrap", "unshare", "nsenter", "chroot", "ip")
UNUSED = ["var/cache/apt", "var/lib/apt/lists"]
UNUSED += ["usr/share/doc", "usr/share/man", "usr/share/locale"]


def why_not() -> str:
    """Why this machine cannot do it, or ""."""
    if sys.platform != "linux" or os.geteuid():
        return "needs root on Debian"
    if missing := [name for name in NEEDED if not shutil.which(name)]:
        return f"{', '.join(missing)} is not installed"
    return subprocess.run(["unshare", "-mn", "true"], capture_output=True).stderr.decode()


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


def read_by_pip() -> list[Path]:
    """pip's settings on this machine, the files that they name, certificates and name servers."""
    pip = [sys.executable, "-m", "pip", "config"]
    text = said(*pip, "debug") + said(*pip, "list")
    named = re.findall(r"""(?:^|[\s='"]|file://)(/[^\s'",]+)""", text)
    # an index in a folder, .../simple, names files that lie beside it
    named = [name.removesuffix("/").removesuffix("/simple") for name in named]
    paths = [Path(name) for name in (*named, "/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs")]
    return [path for path in dict.fromkeys(paths) if path.exists()]


class Image:
    """What the lines of a Dockerfile make in `folder`. `base`: the root file system to begin with.
    `layers`: line -> megabytes."""

    def __init__(self, folder: Path, base: Path):
        stages, text = {}, (ROOT / "Dockerfile").read_text()
        for line in re.sub(r"(?m)^#.*\n|\\\n", "", text).split("\n"):
            word, _, rest = line.partition(" ")
            match word:
                case "FROM":
                    self.root, self.env = folder / str(len(stages)), {}
                    self.cwd, self.user = "/", "0"
                    stages[rest.partition(" AS ")[2]], self.layers = self.root, {}
                    said("cp", "-a", base, self.root)
                case "COPY":
                    *sources, target = rest.split()
                    stage = stages.get(sources[0].removeprefix("--from="))
                    into = self.root / os.path.join(self.cwd, target)[1:]
                    for name in sources[1:] if stage else sources:
                        source = stage / name[1:] if stage else ROOT / name
                        said("cp", "-a", "--no-preserve=ownership", source, into)
                case "RUN":
                    env = {k: v for k, v in os.environ.items() if re.match("PIP_|SSL_|.*_proxy", k)}
                    mounts = "; ".join(map(self._mount, read_by_pip()))
                    subprocess.run(self._command(mounts, ["sh", "-c", rest], env), check=True)
                case "ENV":
                    self.env |= dict(part.split("=", 1) for part in shlex.split(rest))
                case "WORKDIR":
                    self.cwd = rest
                    (self.root / rest[1:]).mkdir(exist_ok=True)
                case "USER":
                    self.user = rest
                case "HEALTHCHECK":
                    self.health = json.loads(rest.partition("CMD ")[2])
                case "ENTRYPOINT":
                    self.entrypoint = json.loads(rest)
                case other if other not in ("", "EXPOSE"):
                    raise ValueError(f"{word} is not known here: {line}")
            size = int(said("du", "-smx", self.root).split()[0])
            self.layers[line[:70]] = size - sum(self.layers.values())

    def _mount(self, path: Path) -> str:
        there, folder = f"{self.root}{path}", path.is_dir()
        made = f"mkdir -p {self.root}{path if folder else path.parent}"
        return f"{made}{'' if folder else f'; touch {there}'}; mount --bind {path} {there}"

    def _command(self, before: str, command: list[str], env: dict, *spaces: str) -> list[str]:
        """`before` in name spaces of its own, then `command` in the image, as its user."""
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
        """A command beside the running server, as by `docker exec`."""
        env = [f"{key}={value}" for key, value in self.env.items()]
        enter = ["nsenter", "-t", str(server.pid), "-m", "-n", "-r", "env", "-i", *env]
        return subprocess.run([*enter, *command], capture_output=True, timeout=60, **how)

    def sizes(self) -> str:
        rows = {**self.layers, "in all": sum(self.layers.values())}
        return "\n".join(f"{size:5} MB  {line}" for line, size in rows.items() if size)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        make_base(Path(folder, "base"))
        print(Image(Path(folder), Path(folder, "base")).sizes())
