"""Hosts that are really separate, on one Linux machine: a cluster to try things on, as root.

python tests/cluster/hosts.py up FOLDER
python tests/cluster/hosts.py on laptop ray --version
python tests/cluster/hosts.py down

Each host has namespaces of its own for network, processes, mounts and name, an SSH server, and its
own /root, /tmp, /run and /dev/shm; /mnt/shared is the same folder on all of them, as NFS would be.
The rest of the file system is this machine's, its packages among it. The hosts see each other on a
bridge and nobody else. So `ray stop` on one of them, or a kill, cannot reach beyond it.
"""

import argparse
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

# Their last byte of the address; in a range that is set apart for trials of networks (RFC 2544).
HOSTS = {"head": 10, "worker1": 11, "worker2": 12, "services": 20, "laptop": 30}
NETWORK, BRIDGE = "198.18.77", "ffcadhosts0"
# Debian's names of the packages, by a program of each.
PACKAGES = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "sshd": "openssh-server",
    "rsync": "rsync",
    "curl": "curl",
}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHARED = "/mnt/shared"
ENVIRONMENT = "ffcad-env"
START_SECONDS = 20.0

SSHD = """\
ListenAddress {address}
HostKey /root/.sshd/host_key
PidFile none
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
MaxSessions 50
MaxStartups 50
"""
# The process that is number 1 of a host; its own folders come last, because they hide this one.
INIT = """\
set -e
mount --make-rprivate /
hostname {name}
mount -t tmpfs -o size=1g tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sshd
mount -t tmpfs tmpfs /mnt
mkdir {shared}
mount --bind {folder}/shared {shared}
{python}
mount --rbind {folder}/{name}/root /root
mount --rbind {folder}/{name}/tmp /tmp
cd /
exec /usr/sbin/sshd -D -e -f /root/.sshd/config
"""


def missing_packages() -> list[str]:
    """Debian packages that are needed and not there."""
    return [
        package for program, package in PACKAGES.items() if not shutil.which(program, path=PATH)
    ]


def address(host: str) -> str:
    """IPv4 address of a host."""
    return f"{NETWORK}.{HOSTS[host]}"


def up(folder: Path) -> None:
    """Makes all hosts anew, with files below `folder`; the laptop's key opens all of them."""
    down()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shared").mkdir(exist_ok=True)
    key = folder / "laptop" / "root" / ".ssh" / "id_ed25519"
    for host in HOSTS:
        _lay_out(host, folder)
    if not key.exists():
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "laptop", "-f", str(key))
    _run("ip", "link", "add", BRIDGE, "type", "bridge")
    _run("ip", "address", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
    _run("ip", "link", "set", BRIDGE, "up")
    for host in HOSTS:
        shutil.copy(f"{key}.pub", folder / host / "root" / ".ssh" / "authorized_keys")
        _connect(host)
        boot(host, folder)


def boot(host: str, folder: Path) -> None:
    """Starts the processes of a host that `up` has made and that was killed, or not begun yet."""
    # Where the interpreter is below one of the folders that a host has of its own.
    mounts = []
    for place in dict.fromkeys((sys.base_prefix, sys.prefix)):
        for private in ("/root", "/tmp"):
            if place.startswith(f"{private}/"):
                target = f"{folder}/{host}{place}"
                mounts += [f"mkdir -p {target}", f"mount --bind {place} {target}"]
    script = INIT.format(name=host, folder=folder, shared=SHARED, python="\n".join(mounts))
    with open(folder / host / "boot.log", "a") as log:
        subprocess.Popen(
            [
                "ip", "netns", "exec", _space(host),
                "unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc",
                "bash", "-c", script,
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={"PATH": PATH},
            start_new_session=True,
        )  # fmt: skip
    end = time.monotonic() + START_SECONDS
    while not _listens(host):
        if time.monotonic() > end:
            raise RuntimeError(f"{host} does not start: {(folder / host / 'boot.log').read_text()}")
        time.sleep(0.1)


def kill(host: str) -> None:
    """Ends all processes of a host at once, as a power cut would; its files stay."""
    end = time.monotonic() + START_SECONDS
    while pids := _pids(host):
        subprocess.run(["kill", "-9", *map(str, pids)], capture_output=True)
        if time.monotonic() > end:
            raise RuntimeError(f"processes of {host} do not end: {pids}")
        time.sleep(0.05)


def cut(host: str) -> None:
    """Takes a host off the network: what it sends is lost, and nobody is told."""
    _run("ip", "link", "set", _cable(host), "down")


def mend(host: str) -> None:
    """Puts it back."""
    _run("ip", "link", "set", _cable(host), "up")


def down() -> None:
    """Removes all hosts and their network, as far as they are there; their files stay."""
    spaces = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    for host in HOSTS:
        if _space(host) in spaces.split():
            kill(host)
            _run("ip", "netns", "delete", _space(host))
        subprocess.run(["ip", "link", "delete", _cable(host)], capture_output=True)
    subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True)


def on(host: str, command: str) -> list[str]:
    """The command line that runs a shell's command on a host as its user, cut off or not."""
    inside = f"cd; source ~/.bashrc; {command}"
    return [
        "nsenter", f"--net=/run/netns/{_space(host)}", "--target", str(_init(host)),
        "--mount", "--pid", "--uts", "--wd=/",
        "env", "-i", "HOME=/root", "USER=root", "TERM=dumb", "LANG=C.UTF-8", f"PATH={PATH}",
        "bash", "-c", inside,
    ]  # fmt: skip


def _lay_out(host: str, folder: Path) -> None:
    """The files that a host has before it starts."""
    root = folder / host / "root"
    for part in (root / ".ssh", root / ".sshd", folder / host / "tmp"):
        part.mkdir(parents=True, exist_ok=True)
    for part in (root, root / ".ssh"):
        part.chmod(0o700)  # Else its SSH server refuses the key.
    (folder / host / "tmp").chmod(0o1777)
    (root / ".bashrc").touch()
    (root / ".sshd" / "config").write_text(SSHD.format(address=address(host)))
    if not (root / ".sshd" / "host_key").exists():
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / ".sshd" / "host_key"))
    _make_environment(root)


def _make_environment(root: Path) -> None:
    """What `pip install -e ~/ffcad-study` would leave on a host, with this machine's packages."""
    place = root / ENVIRONMENT
    venv.create(place, symlinks=True, clear=True)
    [packages] = place.glob("lib/python*/site-packages")
    own = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "ffcad_study.pth").write_text("\n".join(["/root/ffcad-study", *own]) + "\n")
    for program, main in {"ray": "ray.scripts.scripts", "mlflow": "mlflow.cli"}.items():
        script = place / "bin" / program
        script.write_text(
            f"#!/root/{ENVIRONMENT}/bin/python\n"
            f"import sys\nfrom {main} import cli\nsys.exit(cli())\n"
        )
        script.chmod(0o755)


def _connect(host: str) -> None:
    """A network of its own for a host, with one cable to the bridge."""
    space, cable = _space(host), _cable(host)
    _run("ip", "netns", "add", space)
    _run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
    _run("ip", "link", "set", cable, "master", BRIDGE, "up")
    for arguments in (
        ["address", "add", f"{address(host)}/24", "dev", "eth0"],
        ["link", "set", "eth0", "up"],
        ["link", "set", "lo", "up"],
        # Ray finds its own address by asking for the route to a distant one.
        ["route", "add", "default", "via", f"{NETWORK}.1"],
    ):
        _run("ip", "-n", space, *arguments)


def _listens(host: str) -> bool:
    """Whether a host's SSH server is there."""
    found = subprocess.run(
        ["ip", "netns", "exec", _space(host), "ss", "-Hltn", "sport = :22"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return address(host) in found.stdout


def _pids(host: str) -> list[int]:
    """All processes of a host, by this machine's numbers."""
    found = subprocess.run(
        ["ip", "netns", "pids", _space(host)], capture_output=True, text=True, check=True
    )
    return [int(pid) for pid in found.stdout.split()]


def _init(host: str) -> int:
    """The process that is number 1 on a host, by this machine's number."""
    for pid in _pids(host):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:  # It has ended meanwhile.
            continue
        [numbers] = [line.split()[1:] for line in status.splitlines() if line.startswith("NSpid")]
        if len(numbers) > 1 and numbers[-1] == "1":
            return pid
    raise RuntimeError(f"{host} does not run")


def _space(host: str) -> str:
    return f"ffcad-{host}"


def _cable(host: str) -> str:
    return f"ffcad-{HOSTS[host]}"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up").add_argument("folder", type=Path)
    commands.add_parser("down")
    for name in ("kill", "cut", "mend", "on"):
        commands.add_parser(name).add_argument("host", choices=HOSTS)
    commands.choices["on"].add_argument("words", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if missing := missing_packages():
        print(f"error: apt-get install {' '.join(missing)}", file=sys.stderr)
        return 2
    if given.command == "on":
        return subprocess.run(on(given.host, " ".join(given.words))).returncode
    if given.command == "up":
        up(given.folder.resolve())
        for host in HOSTS:
            print(f"{host:10} {address(host)}")
    elif given.command == "down":
        down()
    else:
        {"kill": kill, "cut": cut, "mend": mend}[given.command](given.host)
    return 0


if __name__ == "__main__":
    sys.exit(main())
