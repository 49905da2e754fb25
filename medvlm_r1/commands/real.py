"""``medvlm-r1 real-base``: a base that speaks English and has seen patients' pictures, from two packages and a folder of labelled pictures."""

from argparse import Namespace
from pathlib import Path

from medvlm_r1.commands.options import Commands, add, whole

EXAMPLES = """
  medvlm-r1 real-base runs/real --pictures openrad                 openrad/labels.csv has file,modality,label,split,group
  medvlm-r1 real-base runs/real --pictures openrad                 given again, it goes on where it was
  medvlm-r1 real-base runs/trial --pictures openrad --steps 2      does all work? two steps of each stage
  medvlm-r1 real-base runs/real --pictures openrad --set mixed.steps=300 --set mixed.weighs=0.5
"""


def register(commands: Commands) -> None:
    """Where the pictures are, where it goes, and what is otherwise."""
    sub = add(
        commands, "real-base", "build a base of 140 million parameters that speaks English and has seen your pictures: 20 to 30 minutes of CPU", EXAMPLES, run
    )
    sub.add_argument("out", type=Path, metavar="OUT", help="the run's folder: OUT/model is the base, OUT/verdict.json the go or no-go")
    sub.add_argument("--pictures", type=Path, required=True, metavar="DIR", help="labelled pictures, as study --openrad takes them: labels.csv and the files")
    sub.add_argument("--seed", type=whole(0), default=0, help="of every draw; the same seed gives the same weights (default: %(default)s)")
    sub.add_argument("--steps", type=whole(1), metavar="N", help="a trial of so many steps a stage and few questions")
    sub.add_argument("--gallery", type=Path, metavar="FILE", help="write ten answers beside the embedded model's, picked by hash, as Markdown without pictures")
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value, such as mixed.steps=600; may be repeated")


def run(arguments: Namespace) -> int:
    """The table of go or no-go; 1 where it is no."""
    from medvlm_r1.config import override
    from medvlm_r1.experiments import real_base, real_gallery, real_verdict

    config = override(real_base.RealConfig(seed=arguments.seed), arguments.set)
    found = real_base.run(arguments.pictures, arguments.out, real_base.trial(config, arguments.steps) if arguments.steps else config)
    print(real_verdict.table(found))
    print(f"model: {arguments.out / 'model'}")
    if arguments.gallery:
        real_gallery.write(arguments.out, arguments.gallery)
    return 0 if found["go"] else 1
