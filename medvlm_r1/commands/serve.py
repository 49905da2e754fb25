"""``medvlm-r1 serve``: a model behind an OpenAI-compatible server, safe as it stands."""

from argparse import Namespace
from pathlib import Path

from medvlm_r1.commands.options import Commands, add, add_preset, seconds, whole
from medvlm_r1.recipes import presets

EXAMPLES = """
  medvlm-r1 serve --model nano                                                   for this machine alone, at http://127.0.0.1:8000/v1
  medvlm-r1 serve --model runs/mine/checkpoints/step-300 --calibration runs/calibration.json --audit-log runs/audit.jsonl
  medvlm-r1 serve --upstream http://10.0.0.5:8000/v1#medvlm-r1 --port 8080       a gateway to vLLM, with the same medical fields
  medvlm-r1 serve --model nano --worklist cases.jsonl --read-first --audit-log runs/audit.jsonl     readers answer before the model is shown
  medvlm-r1 serve --model nano --host 0.0.0.0 --allow-host reader.hospital.example     for others: MEDVLM_SERVE_KEY holds the key
"""


def register(commands: Commands) -> None:
    """What is served, to whom, and how much at a time."""
    sub = add(commands, "serve", "serve a model over HTTP, OpenAI-compatible", EXAMPLES, run)
    sub.add_argument("--model", help="a directory, a hub id, or nano")
    add_preset(sub)
    sub.add_argument("--upstream", default="", metavar="URL#MODEL", help="pass questions on to another OpenAI-compatible server; its key: MEDVLM_API_KEY")
    sub.add_argument("--host", default="127.0.0.1", help="where to listen; beyond this machine the key in MEDVLM_SERVE_KEY is wanted (default: %(default)s)")
    sub.add_argument("--port", type=whole(1, 65535), default=8000, metavar="N", help="(default: %(default)s)")
    sub.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="a name that the server goes by; may be repeated")
    sub.add_argument("--template", help="how questions are put; the one the model was trained with if left out")
    sub.add_argument("--max-pixels", type=whole(28**2), metavar="N", help="shrink larger images to this many pixels; the model's own limit if left out")
    sub.add_argument("--dtype", choices=("float32", "bfloat16"), help="in which numbers to compute; the model's own on a GPU, float32 on a CPU if left out")
    sub.add_argument("--slots", type=whole(1, 4096), default=64, metavar="N", help="answers written at a time (default: %(default)s)")
    sub.add_argument(
        "--waiting", type=whole(0), default=256, metavar="N", help="answers that may wait; beyond it status 429 is the answer (default: %(default)s)"
    )
    keep = "what may be kept of pictures while questions are under way; nothing is kept when none is (default: %(default)s)"
    sub.add_argument("--keep-mib", type=whole(0), default=256, metavar="N", help=keep)
    sub.add_argument("--timeout", type=seconds, default=300.0, metavar="S", help="seconds that an answer may take (default: %(default)g)")
    sub.add_argument("--calibration", type=Path, metavar="FILE", help="what medvlm-r1 calibrate wrote; without it no confidence is told")
    sub.add_argument("--audit-log", type=Path, metavar="FILE", help="keep an account of every answer; medvlm-r1 audit-log verify checks it")
    sub.add_argument("--no-page", dest="page", action="store_false", help="leave out the page for readers, which is at / otherwise")
    sub.add_argument("--worklist", type=Path, metavar="FILE", help="cases for the page, one a line; a manifest is one")
    sub.add_argument("--read-first", action="store_true", help="readers see the model's answer once their own is in the audit log, by no other way")
    sub.add_argument("--readers", type=Path, metavar="FILE", help="who reads: lines of NAME and the SHA-256 of that reader's key")
    sub.add_argument("--order-seed", type=whole(0), default=0, metavar="N", help="shuffles the work list; each reader has an order of her own (default: 0)")


def run(arguments: Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    from dataclasses import fields

    from medvlm_r1.launch.serving import Reading, Serving
    from medvlm_r1.launch.serving import run as serve
    from medvlm_r1.serving.guard import Limits

    if not arguments.upstream:
        arguments.max_tokens = None
        presets.apply(arguments)
    limits = Limits(answer_s=arguments.timeout, rows=arguments.slots + arguments.waiting)
    given = {field.name: getattr(arguments, field.name) for field in fields(Serving) if hasattr(arguments, field.name)}
    given["model"] = arguments.model or ""
    reading = Reading(arguments.read_first, arguments.worklist, arguments.readers, arguments.order_seed)
    serve(
        Serving(
            **given, reading=reading, allow_hosts=tuple(arguments.allow_host), keep_bytes=arguments.keep_mib << 20, timeout_s=arguments.timeout, limits=limits
        )
    )
    return 0
