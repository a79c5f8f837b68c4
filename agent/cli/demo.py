"""Show the main job on this one machine: two NATs, a mediator, a gateway with a simulated heating
controller, an operator, each in its own network namespace. Leaves nothing behind."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.ask import print_json
from agent.operations import sandbox
from agent.operations.leftovers import remove_kept, remove_stale

if TYPE_CHECKING:
    import argparse
    from typing import TextIO

    from agent.operations.lab import Lab


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How."""
    parser.add_argument("--json", action="store_true", help="one object instead of lines")
    parser.add_argument("--keep", action="store_true", help="leave it running, say how to poke")
    parser.add_argument("--stop", action="store_true", help="remove what --keep left running")
    parser.add_argument(
        "--server",
        choices=("hearthgate", "strongswan"),
        default="hearthgate",
        help="who mediates",
    )


def run(args: argparse.Namespace) -> int:
    """Prepare, show, clean up."""
    if args.stop:
        removed = [*remove_stale(), *remove_kept()]
        print("Removed what was left running." if removed else "Nothing was left running.")
        return 0
    missing = sandbox.missing_packages(strongswan=args.server == "strongswan")
    if missing:
        if sandbox.can_install():
            print(f"Installing {' '.join(missing)} …", file=sys.stderr)
        sandbox.install_packages(missing)
    if sandbox.needs_user_namespace():
        remove_stale()  # from out here, as what is inside may not look into other user namespaces
        sandbox.enter_user_namespace([sys.executable, "-P", "-m", "agent", *sys.argv[1:]])
    return _show(args)


def _show(args: argparse.Namespace) -> int:
    from agent.operations.demo import Step, demonstrate

    def tell(step: Step) -> None:
        if not args.json:
            mark = "ok" if step.ok else "FAILED"
            print(f"{step.seconds:7.3f} s  {mark:<6} {step.name}", flush=True)
            if step.text:
                print(f"{'':<17} {step.text}", flush=True)

    result, lab = demonstrate(args.server, keep=args.keep, tell=tell)
    if args.json:
        print_json(result.as_json())
    if not result.ok:
        failed = result.steps[-1]
        look = f"look into {lab.folder}/*/log" if args.keep else "with --keep its logs stay"
        print(f"hearthgate: {failed.name}: {failed.text}; {look}", file=sys.stderr)
    elif not args.json:
        print("\nAll of it worked: the setpoint went through two NATs, end to end encrypted.")
    if args.keep:
        _explain(lab, result.address, out=sys.stderr if args.json else sys.stdout)
    return 0 if result.ok else 1


def _explain(lab: Lab, address: str, *, out: TextIO) -> None:
    launcher = Path(__file__).resolve().parents[2] / "hearthgate"
    command = shlex.quote(str(launcher)) if launcher.exists() else "hearthgate"
    if launcher.parent == Path.cwd():
        command = "./hearthgate"
    operator = lab.namespaces["operator"]
    if sandbox.is_inside():  # its names are in a mount namespace of its own
        enter = f"nsenter --preserve-credentials --user --net --target {operator.children[0].pid}"
    else:
        enter = f"ip netns exec {operator.full}"
    as_operator = f"{command} --root {lab.folder}/operator"
    lines = [
        f"{as_operator} status",
        f"{as_operator} get cabin boiler",
        f"{as_operator} set cabin boiler.setpoint 19",
        f"{command} --root {lab.folder}/gateway audit",
        *([f"{enter} ping {address}"] if address else []),
        f"{as_operator} disconnect cabin",
    ]
    print(f"\nStill running; its files are in {lab.folder}. Try:", file=out)
    print("".join(f"  {line}\n" for line in lines), end="", file=out)
    print(f"and when you are done:\n  {command} demo --stop", file=out)
