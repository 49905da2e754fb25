"""``python -m medvlm_r1``: the command, where its script is not on the path."""

import sys

from medvlm_r1.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
