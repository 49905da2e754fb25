"""``medvlm-r1 study``: every arm and control over several seeds; finished ones are not done again."""

from argparse import Namespace
from pathlib import Path

from medvlm_r1.commands.options import Commands, add, whole

EXAMPLES = """
  medvlm-r1 study --seeds 5                        all arms and controls; what is finished is not done again
  medvlm-r1 study --shortcut --seeds 3             does the evaluation expose a model that reads option texts?
  medvlm-r1 study --looking --seeds 5              does another patient's picture in training make a model look?
  medvlm-r1 study --real runs/real --seeds 3       on the base that real-base built there, asked about pictures that nothing has seen; 13 hours of CPU, 5 in bfloat16
  medvlm-r1 study --real runs/real --set steps=50 --set asked=40 --run-dir runs/cheaper
  medvlm-r1 study --openrad openrad --seeds 3      on real pictures: openrad/labels.csv has file,modality,label,split,group
  medvlm-r1 study --looking --openrad openrad      on these, with a prior planted: one label is the answer wherever it is offered
"""


def register(commands: Commands) -> None:
    """Which study, how often, and where it goes."""
    sub = add(commands, "study", "all arms and controls over several seeds", EXAMPLES, run)
    sub.add_argument("--openrad", type=Path, metavar="DIR", help="real pictures instead of the phantom: MRI, CT and X-ray with a labels.csv")
    sub.add_argument("--shortcut", action="store_true", help="models that read option texts against one that looks: does the evaluation tell them apart?")
    sub.add_argument("--looking", action="store_true", help="training with another patient's picture, against plain training and its early-stopped controls")
    sub.add_argument(
        "--real", type=Path, metavar="RUN", help="what real-base built in RUN, trained further on its MRI questions and asked about fresh pictures"
    )
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="with --real: change one of its sizes, such as steps=50, or leave arms out, 'without=[\"contrast\"]'; may be repeated",
    )
    sub.add_argument(
        "--steps", type=whole(1), metavar="N", help="with --looking or --real: a trial of so many steps a run and few questions, to see whether all works"
    )
    sub.add_argument("--seeds", type=whole(1), default=5)
    sub.add_argument("--jobs", type=whole(1), default=2, help="trainings at a time, one thread each (default: %(default)s)")
    sub.add_argument("--run-dir", type=Path, help="where it goes; runs/study, or runs/study- and openrad, shortcut, looking, planted or real if left out")


def run(arguments: Namespace) -> int:
    """The study's table."""
    from medvlm_r1.config import override
    from medvlm_r1.errors import ConfigError
    from medvlm_r1.experiments import looking, openrad, planted, real_study, shortcut, study

    if arguments.set and not arguments.real:
        raise ConfigError(f"--set {arguments.set[0]} changes the study on the real base alone; name it with --real RUN")
    kinds = [name for name in ("shortcut", "looking", "openrad", "real") if getattr(arguments, name)]
    if len(kinds) > 1 and kinds != ["looking", "openrad"]:
        raise ConfigError(f"--{kinds[0]} and --{kinds[1]} are two studies; name one of them")
    if arguments.steps and not (arguments.real or arguments.looking):
        raise ConfigError(f"--steps {arguments.steps} is a trial of --looking or --real; name one of them")
    if arguments.real:
        sizes = override(real_study.Sizes(), arguments.set)
        sizes = real_study.trial(sizes, arguments.steps) if arguments.steps else sizes
        print(real_study.run(arguments.real, arguments.run_dir or Path("runs/study-real"), arguments.seeds, arguments.jobs, sizes))
    elif arguments.openrad and arguments.looking:
        out = arguments.run_dir or Path("runs/study-planted")
        print(planted.run(arguments.openrad, out, arguments.seeds, arguments.jobs, openrad.Sizes(), arguments.steps))
    elif arguments.openrad:
        print(openrad.run(arguments.openrad, arguments.run_dir or Path("runs/study-openrad"), arguments.seeds, arguments.jobs))
    elif arguments.shortcut:
        print(shortcut.run(arguments.run_dir or Path("runs/study-shortcut"), arguments.seeds))
    elif arguments.looking:
        print(looking.run(arguments.run_dir or Path("runs/study-looking"), arguments.seeds, arguments.jobs, arguments.steps))
    else:
        print(study.run(arguments.run_dir or Path("runs/study"), arguments.seeds, arguments.jobs))
    return 0
