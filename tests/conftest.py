"""What every test shares: what it needs of the machine, and that nothing skips on CI.

A test marked `netns` needs root, `ip`, `nft` and TUN devices, one marked `strongswan` Debian's
strongSwan as well, one marked `newer` strongSwan 6 or tshark (tests/lab/newer.py), one marked
`mlkem` a cryptography package with ML-KEM. Where they are missing the test says so and skips; with
CI=true in the environment it fails instead, as does any other skip.
"""

from __future__ import annotations

import functools
import os

import pytest
from hypothesis import settings

from agent.crypto.kex import supports_group
from agent.errors import HearthgateError
from agent.wire.codes import KeyExchangeId

settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def on_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


@functools.cache
def netns_obstacle() -> str:
    """Why there can be no laboratory of network namespaces here; empty if there can."""
    from agent.operations import lab, sandbox

    missing = sandbox.missing_packages()
    if missing:
        return f"needs the Debian packages {' '.join(missing)}"
    if sandbox.needs_user_namespace():
        return "needs root (network namespaces)"
    try:
        lab.check_can_build()
    except HearthgateError as error:
        return f"needs network namespaces: {error}"
    return ""


@functools.cache
def strongswan_obstacle() -> str:
    """Why strongSwan cannot be run here; empty if it can."""
    from agent.operations import sandbox

    missing = sandbox.missing_packages(strongswan=True)
    if missing:
        return f"needs the Debian packages {' '.join(missing)}"
    return netns_obstacle()


def pytest_runtest_setup(item: pytest.Item) -> None:
    obstacle = ""
    if item.get_closest_marker("mlkem") and not supports_group(KeyExchangeId.ML_KEM_768):
        obstacle = "this cryptography package has no ML-KEM"
    elif item.get_closest_marker("strongswan"):
        obstacle = strongswan_obstacle()
    elif item.get_closest_marker("netns"):
        obstacle = netns_obstacle()
    if not obstacle and item.get_closest_marker("newer"):
        from tests.lab import newer

        obstacle = newer.obstacle()
    if obstacle:
        pytest.skip(obstacle)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.skipped and on_ci() and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} skips, which it may not on CI: {call.excinfo.value}"


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector):
    outcome = yield
    report = outcome.get_result()
    if report.skipped and on_ci():  # a module that skips itself as a whole
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} skips, which it may not on CI: {report.longrepr}"


@pytest.fixture
def lab():
    """An empty laboratory, taken down whatever happens."""
    from agent.operations.lab import Lab

    with Lab() as made:
        yield made


@pytest.fixture
def nats(lab):
    """The standard picture: a public server and two hosts behind nftables NATs of their own."""
    from agent.operations.lab import TwoNats

    return TwoNats.build(lab)
