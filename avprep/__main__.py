"""`python -m avprep`: the command `avprep`, where the folder of scripts is not on PATH."""

from __future__ import annotations

import sys
from importlib import metadata

if __name__ == "__main__":  # workers of a run load this module again, under another name
    # By its entry point, and not by an import: the library knows nothing of the command line that is built on it.
    try:
        scripts = metadata.distribution("avprep").entry_points.select(group="console_scripts", name="avprep")
    except metadata.PackageNotFoundError:
        sys.exit("Error: avprep is not installed for this Python: pip install avprep")
    (script,) = scripts
    sys.exit(script.load()())
