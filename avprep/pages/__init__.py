"""The common kit of all pages: jinja2 templates, with escaping and a policy that allows no network access.

A page is one HTML file. Its template extends `base.html` and takes tables, histograms and clips from `kit.html`. All
text in a template is escaped, since keys, messages and paths are untrusted; HTML comes only from templates. The policy
allows no script except the one that the template names, by its digest.
"""

from __future__ import annotations

import base64
import functools
import hashlib

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from avprep.pages.words import count, number, words

__all__ = ["render", "source"]


def render(package: str, template: str, **values: object) -> str:
    """Return a page from a template in a package's folder `templates`; the same values give the same text."""
    return _environment(package).get_template(template).render(values)


def source(package: str, name: str) -> str:
    """Return a file of a package's templates, or of the kit's, unchanged."""
    environment = _environment(package)
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


@functools.cache
def _environment(package: str) -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("avprep.pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"words": words, "number": number, "count": count}
    environment.globals |= {"source": lambda name: Markup(source(package, name)), "digest": _digest}  # noqa: S704
    return environment


def _digest(script: str) -> str:
    """Return a script's digest in the form of a policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
