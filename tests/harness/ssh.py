"""Logging in to a guest as an operator would: Debian's ssh, a key made for the run."""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Ssh:
    """How to log in as root to the guest behind a port of ours."""

    port: int
    key: Path

    def words(self, *command: str) -> list[str]:
        known = self.key.parent / "known_hosts"
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "20",
            "IdentitiesOnly": "yes",
            "LogLevel": "ERROR",
            "StrictHostKeyChecking": "accept-new",
            "UserKnownHostsFile": str(known),
        }
        flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        where = ["-F", "/dev/null", "-i", str(self.key), "-p", str(self.port), "root@127.0.0.1"]
        return ["ssh", *flags, *where, *command]

    def run(self, command: str, timeout_s: float = 120) -> str:
        """Run a line of shell in the guest and return what it printed."""
        done = subprocess.run(
            self.words(command),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            raise AssertionError(f"in the guest: {command}: {done.returncode}: {done.stderr}")
        return done.stdout

    def wait(self, timeout_s: float) -> None:
        """Wait until the guest lets us in."""
        until = time.monotonic() + timeout_s
        while True:
            try:
                self.run("true", timeout_s=40)
            except (AssertionError, subprocess.TimeoutExpired) as error:
                if time.monotonic() > until:
                    raise AssertionError(f"no login in {timeout_s:.0f} s: {error}") from error
                time.sleep(2)
            else:
                return


def make_key(folder: Path) -> tuple[Path, str]:
    """Make a key pair; return the private key's path and the public key's line."""
    key = folder / "id_ed25519"
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "operator@demo", "-f", str(key)]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
    return key, key.with_suffix(".pub").read_text().strip()
