"""Flower's own programs on loopback for the tests: a folder of their own, bounded waits, nothing left running.

Every wait is for a condition; its limit only ends a test that hangs, and is far above what a loaded machine needs.
"""

import contextlib
import datetime
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

__all__ = ["Deployment", "deployment", "free_port", "make_certificates", "make_key"]

REPOSITORY = Path(__file__).parents[1]
APP = REPOSITORY / "flower_app"
LIMIT = 1800.0
"""Seconds after which a wait fails."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Deployment:
    """Processes that share one $FLWR_HOME, by which those that they start in turn are found as well."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.home = folder / "flwr"
        self.home.mkdir()
        binaries = Path(sys.executable).parent
        self.environment = {
            **os.environ,
            "FLWR_HOME": str(self.home),
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "MATFL_CACHE": str(folder / "cache"),
            "COLUMNS": "200",
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
        }

    def connect(self, **keys: object) -> None:
        """Write Flower's own config, which names the SuperLink."""
        lines = [f"{name} = {json.dumps(value)}" for name, value in keys.items()]
        text = "\n".join(
            ["[superlink]", 'default = "test"', "", "[superlink.test]", f'address = "127.0.0.1:{self.port}"', *lines]
        )
        (self.home / "config.toml").write_text(text + "\n")

    def start(self, name: str, *command: object, patience: int = 60) -> subprocess.Popen:
        """A program of Flower in the background, a patient one (see there); its output is in `log(name)`."""
        patient = [sys.executable, Path(__file__).with_name("patient.py"), patience, *command]
        with open(self.folder / f"{name}.log", "ab") as log:
            return subprocess.Popen(
                [str(part) for part in patient],
                stdout=log,
                stderr=log,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd=self.folder,
            )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def flwr(self, *arguments: object, check: bool = True) -> str:
        """What `flwr ...` prints."""
        done = subprocess.run(
            ["flwr", *map(str, arguments)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            cwd=self.folder,
            check=False,
        )
        assert done.returncode == 0 or not check, f"flwr {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def wait_for(self, condition: Callable[[], object], what: str, *, every: float = 0.5) -> None:
        """Ask for the condition until it holds."""
        deadline = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < deadline, f"not within {LIMIT:g} s: {what}\n{self.why()}"
            time.sleep(every)

    def superlink(self, *options: object) -> subprocess.Popen:
        """A SuperLink that listens."""
        process = self.start("superlink", "flower-superlink", "--host", "127.0.0.1", "--port", self.port, *options)

        def listens() -> bool:
            assert process.poll() is None, self.log("superlink")
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        self.wait_for(listens, "the SuperLink listens")
        return process

    def latest(self) -> dict[str, str]:
        """The latest run with its 'run-id' and 'status' (as in 'finished:completed'); empty when there is none."""
        listed = self.flwr("list", "--format", "json", check=False)
        with contextlib.suppress(ValueError, IndexError, KeyError):
            return json.loads(listed[listed.index("{") :])["runs"][0]
        return {}

    def why(self) -> str:
        """The end of what the server's process and the SuperLink said."""
        said = self.flwr("log", self.latest().get("run-id", 0), "--show", check=False)
        return f"{said[-5000:]}\n{self.log('superlink')[-2000:]}"

    def complete(self) -> None:
        """Wait until the latest run has ended, which it must have done well."""
        found = []

        def over() -> bool:
            found.append(self.latest().get("status", ""))
            return found[-1].startswith("finished")

        self.wait_for(over, "the run ends", every=3)
        assert found[-1] == "finished:completed", f"{found[-1]}\n{self.why()}"

    def processes(self) -> list[int]:
        """Everything that runs with this deployment's $FLWR_HOME."""
        mark, found = f"FLWR_HOME={self.home}".encode(), []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def kill(self, process: subprocess.Popen) -> None:
        """End a program and what it started, at once."""
        children = [process.pid, *self._below(process.pid)]
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(timeout=30)

    def _below(self, pid: int) -> list[int]:
        parents = {}
        for other in self.processes():
            with contextlib.suppress(OSError, ValueError):
                stat = Path(f"/proc/{other}/stat").read_text()
                parents[other] = int(stat.rpartition(")")[2].split()[1])
        found, edge = [], {pid}
        while edge := {child for child, parent in parents.items() if parent in edge and child not in found}:
            found += edge
        return found

    def stop(self) -> None:
        """Kill everything."""
        for _ in range(20):
            running = [pid for pid in self.processes() if pid != os.getpid()]
            if not running:
                return
            for pid in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.5)


@contextlib.contextmanager
def deployment(folder: Path) -> Iterator[Deployment]:
    """A deployment whose processes are gone afterwards."""
    made = Deployment(folder)
    try:
        yield made
    finally:
        made.stop()


def make_key(folder: Path, name: str) -> Path:
    """An ECDSA key pair as `ssh-keygen -t ecdsa -b 384` makes it: `name` and `name.pub`."""
    key = ec.generate_private_key(ec.SECP384R1())
    (folder / name).write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    )
    (folder / f"{name}.pub").write_bytes(
        key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    )
    return folder / name


def make_certificates(folder: Path) -> None:
    """ca.crt, and server.pem with server.key for 127.0.0.1 signed by it."""
    now = datetime.datetime.now(datetime.UTC)
    keys = {name: ec.generate_private_key(ec.SECP384R1()) for name in ("ca", "server")}
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "matfl test CA")])
    for name, key in keys.items():
        subject = issuer if name == "ca" else x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=name == "ca", path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(keys["ca"].public_key()), critical=False)
        )
        if name == "server":
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        else:
            usage = x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            )
            builder = builder.add_extension(usage, critical=True)
        signed = builder.sign(keys["ca"], hashes.SHA384())
        path = folder / ("ca.crt" if name == "ca" else "server.pem")
        path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(
        keys["server"].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
