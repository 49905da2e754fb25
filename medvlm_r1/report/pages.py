"""Every page is one string of HTML that loads nothing from anywhere; a template stands beside this file."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from medvlm_r1 import INTENDED_USE, __version__
from medvlm_r1.data.images import scheme_of


def page(template: str, filters: Mapping[str, Callable[..., Any]], context: Mapping[str, Any]) -> str:
    """The template laid out; all text is escaped, and a name that the context lacks is an error."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    environment.filters.update(filters)
    environment.globals.update(intended_use=INTENDED_USE, version=__version__, **context)  # macros see globals, in included files too
    return environment.get_template(template).render().encode("utf-8", "replace").decode()  # a completion may hold half a character


def drawn(references: Iterable[str]) -> str:
    """What the first screen says of pictures that are drawn, or of a question set that is; "" where none is.

    >>> drawn(["phantom:mri/test/0", "phantom:ct/test/1"]), drawn(["phantom:mri/test/0", "a.png"]), drawn(["a.png"]), drawn([])
    ('Drawn phantoms, no patients.', 'In part drawn phantoms.', '', '')
    """
    is_drawn = [scheme_of(reference) == "phantom" for reference in references]
    return "" if not any(is_drawn) else "Drawn phantoms, no patients." if all(is_drawn) else "In part drawn phantoms."
