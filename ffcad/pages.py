"""Pages that need no other file, from the templates of a package."""

import base64

from jinja2 import Environment, PackageLoader, StrictUndefined


def page_environment(package: str) -> Environment:
    """Renders a package's templates: what is put in is escaped, and nothing may be missing.

    Args:
        package: the name of the one whose folder `templates` is meant.
    """
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    return environment
