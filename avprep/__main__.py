"""`python -m avprep`: the command `avprep`, for environments whose scripts are not on PATH."""

from __future__ import annotations

import sys
from importlib import metadata

if __name__ == "__main__":  # workers of a run load this module again, under another name
    # Loaded by its entry point, not imported: the library does not depend on the command line built on it.
    try:
        scripts = metadata.distribution("avprep").entry_points.select(group="console_scripts", name="avprep")
    except metadata.PackageNotFoundError:
        sys.exit("Error: avprep is not installed for this Python: pip install avprep")
    (script,) = scripts
    sys.exit(script.load()())
