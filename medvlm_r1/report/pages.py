"""Every page is one string of HTML that loads nothing from anywhere; a template stands beside this file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from medvlm_r1 import INTENDED_USE, __version__


def page(template: str, filters: Mapping[str, Callable[..., Any]], context: Mapping[str, Any]) -> str:
    """The template laid out; all text is escaped, and a name that the context lacks is an error."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    environment.filters.update(filters)
    environment.globals.update(intended_use=INTENDED_USE, version=__version__, **context)  # macros see globals, in included files too
    return environment.get_template(template).render().encode("utf-8", "replace").decode()  # a completion may hold half a character
