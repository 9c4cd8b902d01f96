"""The installation commands of the pages install what their other commands need."""

from __future__ import annotations

import re

import pytest
from test_docs_commands import PAGES, TUTORIALS, calls, shell_lines, text_of

ROWS = re.findall(r"^\| `\[(\w+)\]` \| .* \| (.*) \|$", text_of("README.md"), re.MULTILINE)
OF_MODEL = {command for extra, row in ROWS if extra in ("look", "model") for command in re.findall(r"`([\w-]+)", row)}
"""Commands that the base install lacks something for; `[model]` has what `[look]` has, too."""


@pytest.mark.parametrize("page", TUTORIALS)
def test_tutorials_install_what_their_commands_need(page: str) -> None:
    """A tutorial that trains, generates or inspects installs the extras for it before its first avprep command."""
    used = {words[0] for words in calls(page)}
    assert {"train", "generate"} <= OF_MODEL & used
    assert shell_lines(page).index("pip install -c constraints.txt '.[model]'") < min(
        n for n, line in enumerate(shell_lines(page)) if line.startswith("avprep")
    )


@pytest.mark.parametrize("page", PAGES)
def test_torch_for_a_cpu_is_the_version_that_stays(page: str) -> None:
    """The CPU build is installed under the constraints, or pip would replace another version by the CUDA build."""
    for line in re.findall(r"pip install .*torch.*", text_of(page)):
        assert "-c constraints.txt" in line, line


@pytest.mark.parametrize("page", PAGES)
def test_what_avprep_does_not_bring_is_named(page: str) -> None:
    """A page whose Python reads shards with webdataset, which is in no extra, says how to install it."""
    if "import webdataset" in text_of(page):
        assert "pip install webdataset" in text_of(page)
