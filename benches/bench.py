"""What the benchmarks share: whom they run as, where, and what they build."""

import json
import os
import pwd
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def stop(words):
    sys.exit(f"{Path(sys.argv[0]).name}: {words}")


def ordinary_user():
    """The caller, or where that is root a user with a range of ids."""
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid())
    for line in Path("/etc/subuid").read_text().splitlines():
        try:
            user = pwd.getpwnam(line.split(":")[0])
        except KeyError:
            continue
        if user.pw_uid >= 1000:
            return user
    subprocess.run(["useradd", "--create-home", "hamper-bench"], check=True)
    return pwd.getpwnam("hamper-bench")


def plain_cgroups():
    """crun and podman refuse to work without root where both versions of cgroups are mounted. In a mount namespace of its own, which
    takes root to make, the benchmark shows only version 2 to all who take part."""
    hybrid = Path("/sys/fs/cgroup/unified/cgroup.procs").exists()
    if hybrid and os.getuid() == 0 and "HAMPER_BENCH_CGROUPS" not in os.environ:
        os.environ["HAMPER_BENCH_CGROUPS"] = "2"
        inner = 'mount --bind /sys/fs/cgroup/unified /sys/fs/cgroup && exec "$0" "$@"'
        os.execvp("unshare", ["unshare", "--mount", "sh", "-c", inner, sys.executable, *sys.argv])


class Room:
    """A directory with a home, a project and the programs, all of one ordinary user, and gone afterwards."""

    def __init__(self, base, hamper):
        self.user = ordinary_user()
        self.path = Path(tempfile.mkdtemp(prefix="hb-", dir=base))
        self.path.chmod(0o755)
        os.chown(self.path, self.user.pw_uid, self.user.pw_gid)
        for name in ["home", "project", "run", "bin"]:
            self.directory(name)
        (self.path / "run").chmod(0o700)
        self.home, self.project = self.path / "home", self.path / "project"
        self.hamper = self.path / "bin" / "hamper"
        shutil.copy(hamper, self.hamper)
        self.hamper.chmod(0o755)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # What the ranges own is not the user's to remove outside of their namespace.
        if shutil.which("podman"):
            # But not the run directory yet: it tells which process podman keeps for ever.
            rest = [str(path) for path in self.path.iterdir() if path.name != "run"]
            self.run(["podman", "unshare", "rm", "-rf", *rest], check=False)
            self.end_podman()
        shutil.rmtree(self.path, ignore_errors=True)

    def end_podman(self):
        pause = self.path / "run/libpod/tmp/pause.pid"
        if pause.exists():
            pid = int(pause.read_text())
            if Path(f"/proc/{pid}/comm").exists():
                os.kill(pid, 9)

    def directory(self, name):
        path = self.path / name
        path.mkdir(parents=True, exist_ok=True)
        os.chown(path, self.user.pw_uid, self.user.pw_gid)
        return path

    def options(self):
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.path / "home"), "XDG_RUNTIME_DIR": str(self.path / "run")}
        options = {"env": environment, "cwd": self.path / "project"}
        if os.getuid() == 0:
            groups = os.getgrouplist(self.user.pw_name, self.user.pw_gid)
            options.update(user=self.user.pw_uid, group=self.user.pw_gid, extra_groups=groups)
        return options

    def run(self, command, check=True, **more):
        """Runs a program as the ordinary user, and returns what it wrote to standard output."""
        more.setdefault("stderr", subprocess.PIPE)
        result = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, **self.options(), **more)
        if check and result.returncode != 0:
            stop(f"{' '.join(map(str, command))} ended with {result.returncode}: {(result.stderr or '').strip()}")
        return result.stdout

    def start(self, command):
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        return subprocess.Popen([str(part) for part in command], **quiet, **self.options())

    def compile(self, name):
        program = self.path / "bin" / name
        source = HERE / f"{name}.c"
        compiler = "musl-gcc" if shutil.which("musl-gcc") else "gcc"
        # musl has no headers of the kernel's own.
        kernel = ["-idirafter", "/usr/include", "-idirafter", f"/usr/include/{os.uname().machine}-linux-gnu"]
        subprocess.run([compiler, "-static", "-O2", "-Wno-unused-result", *kernel, "-o", program, source], check=True)
        program.chmod(0o755)
        return program

    def layers(self):
        return self.home / ".local/share/hamper/layers"


def profile(image, network="none", map_mode="single"):
    """The benchmark's profile, as arguments of run and plan: every protection is on by default."""
    return ["--image", f"oci:{image}", "--network", network, "--set", f"identity.map={map_mode}"]


def plan(room, image, payload):
    """The steps of the benchmark's profile, from an image that is loaded."""
    text = room.run([room.hamper, "plan", "--json", *profile(image), "--", payload])
    try:
        return json.loads(text)["steps"]
    except (ValueError, KeyError, TypeError) as error:
        stop(f"`hamper plan --json` prints no plan: {error}")


def find_image(name, images):
    path = Path(images) / name
    if not (path / "index.json").exists():
        stop(f"no image {path}: make it with `tests/images/build --out {images} {name}`")
    return path


def default_images():
    return os.environ.get("HAMPER_TEST_IMAGES") or str(HERE.parent / "target/test-images")


def load_image(room, image, map_mode="single"):
    """Into the store, with everything that a first start makes."""
    room.run([room.hamper, "image", "--map", map_mode, "load", f"oci:{image}"])
    room.run([room.hamper, "run", *profile(image, map_mode=map_mode), "--", "/bin/true"])


def measure(room, rounds, commands):
    """Starts the commands (by name) in turns; returns lists of what each start cost, by name."""
    arguments = [str(rounds)]
    for command in commands.values():
        arguments += ["--"] + ["---" if part == "--" else str(part) for part in command]
    text = room.run([room.path / "bin/timer", *arguments])
    names = list(commands)
    keys = ["status", "wall", "cpu", "late_cpu", "late", "faults", "voluntary", "involuntary"]
    results = {name: [] for name in names}
    for line in text.splitlines():
        index, *values = map(int, line.split())
        results[names[index]].append(dict(zip(keys, values)))
    return results


def figures(starts):
    """Milliseconds, page faults, and the share of starts that failed."""
    wall = [start["wall"] / 1e6 for start in starts]
    cpu = [(start["cpu"] + start["late_cpu"]) / 1e3 for start in starts]
    return {
        "min": min(wall),
        "median": statistics.median(wall),
        # Until nothing of it is left, also what it did not wait for.
        "gone": statistics.median((start["wall"] + start["late"]) / 1e6 for start in starts),
        "cpu_min": min(cpu),
        "cpu_median": statistics.median(cpu),
        "faults": statistics.median(start["faults"] for start in starts),
        "failed": sum(start["status"] != 0 for start in starts) / len(starts),
    }


def ratio(results, one, other):
    """Of the minima, and the median of the ratios of neighbours, which a busy machine slows down alike."""
    pairs = [a["wall"] / b["wall"] for a, b in zip(results[one], results[other])]
    return min(a["wall"] for a in results[one]) / min(b["wall"] for b in results[other]), statistics.median(pairs)


def verdict(target, *values):
    met = [value <= target for value in values]
    return "met" if all(met) else "met by the minimum" if met[0] and len(met) > 1 else "missed"
