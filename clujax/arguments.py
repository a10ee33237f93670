"""The words of the command `clujax`: what each of its commands takes, and the help that says so."""

import argparse


def build_parser() -> argparse.ArgumentParser:
    """Make the parser; overrides of a config are left to its caller."""
    parser = argparse.ArgumentParser(
        prog="clujax", description="Adapt trained networks through the geometry of their loss.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    running = commands.add_parser(
        "run",
        help="carry out a config; again on the same directory: resume",
        usage="clujax run CONFIG --workdir DIR [--key=value ...] [--coordinator HOST:PORT --processes N --process I]",
        description="Any key of the config can be set: --seed=1, --data.path=X or --config.data.path=X.",
        allow_abbrev=False,
    )
    running.add_argument("config", metavar="CONFIG", help="a config file, e.g. configs/unlearning/demo.py")
    running.add_argument("--workdir", metavar="DIR", required=True, help="where checkpoints and results go")
    many = running.add_argument_group("many processes, each given this command; a TPU pod, Slurm, ... need no flags")
    many.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    many.add_argument("--processes", metavar="N", type=int, help="how many there are; 1: alone, whatever runs this")
    many.add_argument("--process", metavar="I", type=int, help="number of this one, from 0")
    many.add_argument("--devices-per-process", metavar="D", type=int, help="virtual CPU devices of each")
    many.add_argument("--join-seconds", metavar="S", type=int, help="how long to wait for all to come (default: 300)")
    many.add_argument(
        "--heartbeat-seconds", metavar="S", type=int, help="a process silent for so long is dead (default: 30)"
    )
    reporting = commands.add_parser(
        "report", help="rebuild figures and report.html from result files; several: one table", allow_abbrev=False
    )
    reporting.add_argument("workdirs", metavar="DIR", nargs="+", help="a directory that a run has finished in")
    reporting.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    reporting.add_argument("--full", action="store_true", help="tables with all metrics, not the headline only")
    reporting.add_argument(
        "--leaderboard", metavar="PATH", help="rank the methods of all runs on one page, .html or .md"
    )
    serving = commands.add_parser(
        "serve-requests",
        help="learn and forget on request: a JSONL file or pipe to a deployed network",
        usage="clujax serve-requests CONFIG --workdir DIR --from FILE|- [--follow] [--key=value ...]",
        description='A line is {"id": "r-1", "learn": [ROW, ...], "forget": [ROW, ...]}, or learn_classes, forget_classes.',
        allow_abbrev=False,
    )
    serving.add_argument("config", metavar="CONFIG", help="a config of the system continual")
    serving.add_argument("--workdir", metavar="DIR", required=True, help="where network and ledger live")
    serving.add_argument(
        "--from", metavar="FILE", required=True, dest="source", help="the requests; - is standard input"
    )
    serving.add_argument("--follow", action="store_true", help="wait for more at the end, until interrupted")
    planning = commands.add_parser(
        "plan",
        help="compile a config's steps for a TPU slice that is not here: memory, FLOPs, collectives, time",
        usage="clujax plan CONFIG --topology v5e:16x16 [--compare OTHER ...] [--only STEP ...] [--out DIR] [--key=value ...]",
        description="Exit code 1 says that a step does not fit the memory of its chips.",
        allow_abbrev=False,
    )
    planning.add_argument("config", metavar="CONFIG", help="a config file, e.g. configs/unlearning/demo.py")
    planning.add_argument(
        "--topology", metavar="TOPOLOGY", required=True, help="v5e:4x4, 2*v5p:4x4x4 (two slices), cpu:8 or local"
    )
    planning.add_argument(
        "--compare", metavar="OTHER", nargs="+", default=[], help="further topologies or config files"
    )
    planning.add_argument(
        "--only", metavar="STEP", nargs="+", help="these steps, of which a large one takes minutes to compile"
    )
    planning.add_argument("--out", metavar="DIR", help="write plan.json and plan.png here")
    ledgers = commands.add_parser("ledger", help="the record of a deployment's requests", allow_abbrev=False)
    actions = ledgers.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, text in (
        ("show", "print it as a table"),
        ("verify", "recompute its chain and the digests of the kept checkpoints"),
    ):
        acting = actions.add_parser(action, help=text, allow_abbrev=False)
        acting.add_argument("directory", metavar="DIR", help="a deployment's directory")
    listing = commands.add_parser("list", help="the configs that are here", allow_abbrev=False)
    listing.add_argument("--under", metavar="DIR", default="configs", help="folder to look in (default: configs)")
    commands.add_parser("doctor", help="versions, devices, and data found or how to get it", allow_abbrev=False)
    return parser
