"""What the laboratory needs of the machine: Debian packages and rights."""

# ruff: noqa: S603, S606, S607
# The arguments are this module's own; apt-get and unshare stand where the system has them.

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from agent.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

SANDBOX_VARIABLE = "HEARTHGATE_USER_NAMESPACE"
"""Set inside the user namespace, so that entering it is tried once only."""

TOOLS = {"ip": "iproute2", "nft": "nftables", "ping": "iputils-ping"}
STRONGSWAN_TOOLS = {
    "/usr/lib/ipsec/charon": "strongswan",
    "swanctl": "strongswan-swanctl",
    "/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so": "libcharon-extra-plugins",
    "/usr/lib/ipsec/plugins/libstrongswan-openssl.so": "libstrongswan-standard-plugins",
    "/usr/lib/ipsec/plugins/libstrongswan-curve25519.so": "libstrongswan-extra-plugins",
}

SERVICES = {"strongswan": "strongswan-starter.service"}
"""What a package starts on a machine with systemd, and what nobody asked for here."""


def missing_packages(*, strongswan: bool = False) -> list[str]:
    """Debian packages whose programs the laboratory needs and this machine does not have."""
    wanted = {**TOOLS, **(STRONGSWAN_TOOLS if strongswan else {})}
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return sorted({package for program, package in wanted.items() if not _exists(program, path)})


def install_packages(packages: Sequence[str]) -> None:
    """Install Debian packages. Raises UnavailableError that tells what to do instead."""
    listing = " ".join(packages)
    if not can_install():
        raise UnavailableError(
            f"This needs programs that are not installed: {listing}. "
            f"On Debian: sudo apt-get install {listing}"
        )
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *packages]
    for command in (install, ["apt-get", "update", "-qq"], install):
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if command is install and done.returncode == 0:
            _stop_services(packages)
            return
    raise UnavailableError(f"apt-get could not install {listing}: {done.stderr.strip()[-400:]}")


def _stop_services(packages: Sequence[str]) -> None:
    """Debian starts a daemon with its package; this machine's UDP ports 500 and 4500 stay free."""
    services = [SERVICES[package] for package in packages if package in SERVICES]
    if services and Path("/run/systemd/system").is_dir():
        stop = ["systemctl", "disable", "--now", "--quiet", *services]
        subprocess.run(stop, capture_output=True, check=False)


def can_install() -> bool:
    """Whether this process may install Debian packages."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def needs_user_namespace() -> bool:
    """Whether this process may not make network namespaces as it is."""
    return os.geteuid() != 0


def is_inside() -> bool:
    """Whether this process runs in the user namespace that `enter_user_namespace` made."""
    return bool(os.environ.get(SANDBOX_VARIABLE))


def enter_user_namespace(argv: Sequence[str]) -> NoReturn:
    """Become `argv` as root of a new user, network and mount namespace, in this very process.

    Raises UnavailableError where the kernel does not let ordinary users do so.
    """
    if is_inside():
        raise UnavailableError("A user namespace was made and still there are no rights in it.")
    if shutil.which("unshare") is None:
        raise UnavailableError("This needs root, or the program unshare (Debian: util-linux).")
    probe = subprocess.run(
        ["unshare", "-Urnm", "true"], capture_output=True, text=True, check=False
    )
    if probe.returncode != 0:
        raise UnavailableError(
            "This needs root: the kernel does not let ordinary users make user namespaces "
            f"({probe.stderr.strip()}). Try it with sudo."
        )
    # A private /run: `ip netns` keeps its names there, and the user may not write the real one.
    script = 'mount -t tmpfs tmpfs /run && exec "$@"'
    env = {**os.environ, SANDBOX_VARIABLE: "1"}
    env["PATH"] = env.get("PATH", "") + ":/usr/sbin:/sbin"
    command = ["unshare", "-Urnm", "sh", "-c", script, "sh", *argv]
    sys.stdout.flush()
    os.execvpe(command[0], command, env)


def _exists(program: str, path: str) -> bool:
    return (
        Path(program).exists() if "/" in program else shutil.which(program, path=path) is not None
    )
