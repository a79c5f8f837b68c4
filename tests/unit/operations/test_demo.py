"""`hearthgate demo`: the main job, its JSON, and that nothing is left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.errors import UnavailableError
from agent.operations import demo
from agent.operations.demo import NEW_SETPOINT, Demo, Result, Step, StepFailedError
from tests.unit.daemon.process import argv, environment


def command(*words: str, **more) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "agent", "demo", *words],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def left_behind() -> set[str]:
    """Namespaces of the demo."""
    folder = Path("/run/netns")
    return {p.name for p in folder.iterdir() if "-demo-" in p.name} if folder.exists() else set()


@pytest.mark.netns
def test_the_main_job():
    before = left_behind()
    child = command("--json")
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, (out, err)
    found = json.loads(out)
    assert list(found) == [
        "server", "steps", "connect_to_first_echo_s", "read", "written", "read_back", "refused",
    ]  # fmt: skip
    assert found["server"] == "hearthgate"
    assert all(step["ok"] for step in found["steps"])
    assert [step["name"] for step in found["steps"]][-5:] == [
        "connect through both NATs",
        "read the temperature",
        "change the setpoint",
        "read it back from the controller's own memory",
        "a write out of limits is refused",
    ]
    assert found["written"] == found["read_back"] == NEW_SETPOINT
    assert 0 < found["read"] < 90
    assert 0 < found["connect_to_first_echo_s"] < 30
    assert "limits" in found["refused"]
    assert left_behind() <= before


@pytest.mark.netns
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_interrupted_it_cleans_up(number):
    before = left_behind()
    child = command()
    lines = [child.stdout.readline() for _ in range(6)]  # in the middle of it
    assert "ok" in lines[0]
    assert left_behind() > before
    child.send_signal(number)
    _, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "Traceback" not in err
    assert left_behind() <= before


@pytest.mark.netns
def test_kept_and_stopped():
    before = left_behind()
    child = command("--keep")
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    try:
        kept = left_behind() - before
        assert len(kept) > 5
        status = next(line for line in out.splitlines() if line.endswith(" status"))
        root = status.split("--root ")[1].split()[0]
        shown = subprocess.run(
            argv(Path(root), "status"),
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        assert "cabin  up" in shown.stdout
    finally:
        stopped = command("--stop")
        said, _ = stopped.communicate(timeout=30)
    assert stopped.returncode == 0
    assert said.startswith("Removed ")
    assert not kept & left_behind()


def test_a_step_that_fails_is_told_and_the_last():
    told: list[Step] = []
    shown = Demo(lab=None, server="hearthgate", tell=told.append)

    def broken() -> str:
        raise UnavailableError("the cat pulled the plug")

    shown._steps = lambda: [("first", lambda: "fine"), ("second", broken), ("third", broken)]
    with pytest.raises(StepFailedError, match="second: the cat pulled the plug"):
        shown.run()
    assert [(s.name, s.ok, s.text) for s in told] == [
        ("first", True, "fine"),
        ("second", False, "the cat pulled the plug"),
    ]
    assert not shown.result.ok
    assert [s["ok"] for s in shown.result.as_json()["steps"]] == [True, False]


def test_nothing_shown_is_no_success():
    assert not Result("hearthgate").ok


def test_a_child_that_ends_or_says_nothing(monkeypatch):
    monkeypatch.setattr(demo, "START_SECONDS", 0.05)
    for words, said in ((["true"], "ended at once"), (["sleep", "5"], "did not start in time")):
        child = subprocess.Popen(words, stdout=subprocess.PIPE)
        with pytest.raises(UnavailableError, match=said):
            demo._line(child, "it")
        child.kill()
        child.communicate()
    with pytest.raises(UnavailableError, match="waited in vain for it"):
        demo._wait(lambda: False, "it")
