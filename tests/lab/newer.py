"""Programs newer than the machine's Debian: strongSwan 6 and a tshark that knows what it speaks.

Debian 12 has strongSwan 5.9.8, which stays the main peer, and tshark 4.0. Neither knows RFC 9370 or
ML-KEM. The packages of a later suite are fetched from the machine's own mirror, proven by Debian's
archive keyring, and unpacked into a folder of this checkout; nothing is installed, and apt's state
on this machine stays as it is. A program of there runs in a mount namespace where that folder's
/usr is /usr, so that it has its own libraries and plugins and everything else is the machine's.

`python -m tests.lab.newer` makes the folder (10 s); whoever needs it first makes it otherwise.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SUITE = "forky"
"""The first one whose strongSwan has ML-KEM: the plugins of Debian 13's 6.0.1 are without."""

PACKAGES = (
    "strongswan-charon",
    "strongswan-swanctl",
    "libcharon-extra-plugins",
    "libstrongswan-extra-plugins",
    "libstrongswan-standard-plugins",
    "tshark",
)
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
FOLDER = Path(__file__).parents[2] / ".newer"
FETCH_SECONDS = 300.0
CHARON = "/usr/lib/ipsec/charon"

# Nothing of the machine's lists, packages, caches and hooks takes part; its proxy does.
APT_CONF = """
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::preferences "-";
Dir::Etc::preferencesparts "-";
Acquire::Languages "none";
APT::Install-Recommends "no";
APT::Sandbox::User "";
"""
UNREAD = ("./etc", "./var", *(f"./usr/share/{name}" for name in ("doc", "man", "locale", "info")))


class UnavailableError(Exception):
    """These programs are not to be had here; the text says why."""


@functools.cache
def obstacle() -> str:
    """Why they cannot be run here; empty if they can. Makes the folder if it is not there."""
    try:
        probe = subprocess.run(
            inside([CHARON, "--version"]), capture_output=True, text=True, check=False
        )
    except (UnavailableError, OSError) as error:  # a checkout that one may only read, a full disk
        return str(error)
    return f"needs mount namespaces: {probe.stderr.strip()}" if probe.returncode else ""


def inside(command: Sequence[str | os.PathLike[str]]) -> list[str]:
    """`command` as it is called to run with the newer /usr; the pid becomes its own.

    An ordinary user becomes root of a user namespace for that, where the kernel allows it.
    """
    rights = [] if os.geteuid() == 0 else ["--map-root-user"]
    script = f'mount --bind "{folder()}/usr" /usr && exec "$@"'
    words = (os.fspath(word) for word in command)
    return ["unshare", *rights, "--mount", "sh", "-c", script, "sh", *words]


@functools.cache
def folder() -> Path:
    """Where they are, made once per checkout. Raises UnavailableError."""
    if (reason := _missing_tools()) != "":
        raise UnavailableError(reason)
    # Other packages are another folder: nobody takes away what somebody else runs.
    wanted = hashlib.sha256(" ".join((SUITE, *PACKAGES)).encode()).hexdigest()[:8]
    made = FOLDER / f"{SUITE}-{wanted}"
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel gives it back, however this process ends
        if not made.exists():
            _make(made)
    return made


def _missing_tools() -> str:
    tools = ("apt-get", "dpkg-deb", "tar", "unshare")
    if missing := [name for name in tools if shutil.which(name) is None]:
        return f"needs {' and '.join(missing)} (Debian)"
    if not KEYRING.exists():
        return "needs the Debian package debian-archive-keyring"
    # Without this /usr would not be all that a program is loaded from.
    return "" if Path("/lib").is_symlink() else "needs a machine whose /lib is in /usr"


def _make(made: Path) -> None:
    """Beside it first, so that it is there whole or not at all."""
    for left in FOLDER.glob("aside-*"):  # of somebody who was ended over it
        shutil.rmtree(left, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(prefix="aside-", dir=FOLDER))
    root = aside / "root"
    root.mkdir()
    try:
        for package in _fetch(aside / "apt"):
            _unpack(package, root)
        root.rename(made)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _fetch(apt: Path) -> list[Path]:
    """The packages and all that they depend on, as files below `apt`."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()  # of no package that is there already
    (apt / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {SUITE} main\n")
    (apt / "conf").write_text(APT_CONF.format(folder=apt))
    for words in (["update"], ["install", "--download-only", "--yes", *PACKAGES]):
        _run(["apt-get", "-c", str(apt / "conf"), "-qq", *words])
    return sorted((apt / "cache/archives").glob("*.deb"))


def _mirror() -> str:
    """Where this machine has its own Debian from."""
    release = ""
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            release = line.partition("=")[2].strip('"')
    targets = ("Created-By: Packages", f"Release: {release}", "Component: main")
    words = ["apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI)", *targets]
    if found := _run(words).split():
        return found[0]
    raise UnavailableError(f"needs a source of packages for Debian {release}")


def _unpack(package: Path, root: Path) -> None:
    excluded = [f"--exclude={name}" for name in UNREAD]
    tar = ["tar", "-x", "--no-same-owner", "-C", str(root), *excluded]
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE
    ) as opened:
        done = subprocess.run(tar, stdin=opened.stdout, check=False)
    if opened.returncode or done.returncode:
        raise UnavailableError(f"{package.name} cannot be unpacked")


def _run(argv: list[str]) -> str:
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=FETCH_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"'{argv[0]}' had no end in {FETCH_SECONDS:.0f} s") from None
    if done.returncode:
        raise UnavailableError(f"'{argv[0]}' failed: {done.stderr.strip()[-400:]}")
    return done.stdout


if __name__ == "__main__":
    if reason := obstacle():
        sys.exit(f"The tests with strongSwan 6 and tshark are skipped: {reason}")
