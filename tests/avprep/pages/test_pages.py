"""The kit of pages: histograms, tables, captions and the content policy."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from jinja2 import DictLoader, Environment

from avprep import pages
from avprep.pages.captions import LINE, caption
from avprep.pages.drawing import drawing
from avprep.pages.histogram import histogram
from avprep.pages.pictures import Pictures
from avprep.pages.words import count, number, words


def made(template: str, **values: object) -> str:
    """Return the output of a template that imports the kit."""
    environment: Environment = pages._environment("avprep.pages").overlay(
        loader=DictLoader({name: pages.source("avprep.pages", name) for name in ("base.html", "kit.html")})
    )
    return environment.from_string('{% import "kit.html" as kit %}' + template).render(values)


def drawn(*given: Any, **more: Any) -> str:
    """Return a histogram as it appears on a page."""
    return made("{{ kit.histogram(plot) }}", plot=histogram(*given, **more))


@pytest.mark.parametrize(
    ("values", "said", "ticks"),
    [
        ([1.16] * 9, "1.16 s in 9 clips", {"1.16"}),
        (
            [1.0, 2.0, 3.0, 4.0],
            "median 2.5 s, 5 to 95 %: 1.15 to 3.85 s, minimum 1, maximum 4 s; 4 clips",
            {"1", "2", "3", "4"},
        ),
        ([-0.08, 0.0], "minimum −0.08, maximum 0 s; 2 clips", {"−0.08", "0"}),
        ([0.0, 1e11, -1e11], "maximum 100,000,000,000 s; 3 clips", {"0"}),
        ([0.5] * 500 + [0.5 + 1e-9], "501 clips", set()),
    ],
)
def test_histograms(values: list[float], said: str, ticks: set[str]) -> None:
    """A histogram counts every clip once and gives its numbers in words, whatever the values."""
    svg = drawn(np.array(values), "Length", "s")
    assert said in svg
    assert ticks <= set(re.findall("<text[^>]*>([^<]*)</text>", svg))
    assert sum(int(n.replace(",", "")) for n in re.findall(r"<title>[^<]*?: ([\d,]+) clips?</title>", svg)) == len(
        values
    )


def test_odd_values_do_not_squeeze_a_histogram() -> None:
    """An outlier is counted in a bar of its own at the end."""
    svg = drawn(np.array([*np.linspace(1, 2, 999), 500.0]), "Jitter", "px")
    assert svg.count('class="beyond"') == 1
    assert len(re.findall("<rect", svg)) > 15


def test_a_histogram_of_one_bar_has_no_more_ticks_than_ends() -> None:
    """With nearly equal values and one outlier, the axis is numbered at the ends of the remaining bar."""
    svg = drawn(np.array([*[0.0] * 635, -80.1]), "Audio offset", "ms")
    assert re.findall("<text[^>]*>([^<]*)</text>", svg) == ["0", "5", "635"]


def test_two_series_share_their_bars_places() -> None:
    """A second series is a line over the same bins, with its own numbers in words; the peak is that of both series."""
    plot = histogram(np.array([1.0, 2.0, 2.0]), "Shake", "px", other=np.array([1.0] * 5))
    svg = made("{{ kit.histogram(plot, ['A', 'B']) }}", plot=plot)
    assert plot.tallest == 5
    assert svg.count('class="line"') == 1
    assert "A: median 2 px" in svg
    assert "B: 1 px in 5 clips" in svg


def test_cells_are_text_unless_a_template_made_them() -> None:
    """The content of a cell is escaped; HTML comes from templates alone."""
    page = made(
        "{% set bold %}<b>{{ rows[0] }}</b>{% endset %}{{ kit.table(['a'], [[rows[0], bold]], 'pairs') }}", rows=["<i>"]
    )
    assert "<td>&lt;i&gt;</td>" in page
    assert "<b>&lt;i&gt;</b>" in page
    assert "<i>" not in page


def test_words_fit_on_a_line_and_hide_nothing() -> None:
    """Untrusted text is truncated, and non-printing characters are spelt out."""
    assert words("a\n\u202eb") == "a\\n\\u202eb"
    assert words("x" * 200, 10) == "x" * 9 + "…"
    assert words("x" * 10, 10) == "x" * 10


def test_numbers_have_three_digits_and_a_minus_sign() -> None:
    """Numbers are short and followed by their units; a count of one takes the singular."""
    assert [number(-0.12345), number(12345.6, "px"), number(-0.0)] == ["−0.123", "12,346 px", "0"]
    assert [count(1, "clip"), count(1000, "clip")] == ["1 clip", "1,000 clips"]


def test_pictures_end_where_the_room_does() -> None:
    """An image beyond the size limit has no address and is counted."""
    pictures = Pictures(4)
    assert pictures.url(b"abc") == "data:image/jpeg;base64,YWJj"
    assert pictures.url(b"de", "png") is None
    assert pictures.left_out == 1


def test_a_misspelt_name_is_an_error() -> None:
    """A template that uses an undefined value raises an error instead of leaving a gap."""
    with pytest.raises(Exception, match="is undefined"):
        made("{{ missing }}")


def test_a_caption_is_cut_to_its_strip() -> None:
    """A caption is dark on white and cut to its strip; an empty one is white; letters of any script are accepted."""
    strip = caption("x" * 500, 200)
    assert strip.shape == (LINE, 200, 3)
    assert strip.dtype == np.uint8
    assert strip.min() < 100
    assert strip[:, -3:].min() == 255
    assert caption("", 50).min() == 255
    assert not np.array_equal(caption("a", 50), caption("b", 50))
    assert caption("日本\u202e\n", 50, 64).shape == (64, 50, 3)


def test_letters_that_a_font_lacks_are_escapes() -> None:
    """Chinese letters, which the fonts lack, are escapes in captions and figures, cut to fit, not all the same box."""
    np.testing.assert_array_equal(caption("a/你/1", 300), caption(r"a/\u4f60/1", 300))
    pixels = []
    for title in ("a/你/1: 2×3\n" + 50 * "你", "a/\\u4f60/1: 2×3\n" + 12 * "\\u4f60" + "\\u4f6…"):
        with drawing(12, 1, 100) as drawn:
            drawn.figure.suptitle(title)
        pixels.append(drawn.pixels)
    np.testing.assert_array_equal(*pixels)
