"""Show the main job on this one machine: two NATs, a mediator, a gateway with a simulated heating
controller, an operator, each in its own network namespace. Leaves nothing behind."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from agent.cli.ask import print_json
from agent.operations import sandbox
from agent.operations.lab import Lab, check_can_build, remove_kept

if TYPE_CHECKING:
    import argparse


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
        removed = remove_kept()
        print(f"Removed {len(removed)} namespaces." if removed else "Nothing was left running.")
        return 0
    strongswan = args.server == "strongswan"
    missing = sandbox.missing_packages(strongswan=strongswan)
    if missing:
        print(f"Installing {' '.join(missing)} …", file=sys.stderr)
        sandbox.install_packages(missing)
    if sandbox.needs_user_namespace():
        return sandbox.enter_user_namespace([sys.executable, "-P", "-m", "agent", *sys.argv[1:]])
    check_can_build()
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
        _explain(lab, to_stderr=args.json)
    return 0 if result.ok else 1


def _explain(lab: Lab, *, to_stderr: bool) -> None:
    out = sys.stderr if to_stderr else sys.stdout
    operator = lab.namespaces["operator"].full
    command = f"ip netns exec {operator} ./hearthgate --root {lab.folder}/operator"
    print(
        f"\nStill running; its files are in {lab.folder}. Try:\n"
        f"  {command} status\n"
        f"  {command} get cabin boiler\n"
        f"  {command} set cabin boiler.setpoint 19\n"
        f"  {command} disconnect cabin\n"
        f"  ./hearthgate --root {lab.folder}/gateway audit\n"
        "and when you are done:\n  ./hearthgate demo --stop",
        file=out,
    )
