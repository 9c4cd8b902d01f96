"""The page of an evaluation and its figures: everything measured is there, with reasons for what is missing."""

from __future__ import annotations

import io
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from avprep.errors import RunError
from avprep.pages.captions import LINE, caption
from davs_model import models
from davs_model.evaluation import figures, page, samples
from davs_model.evaluation.figures import accuracy_by_word, confusion_matrix
from davs_model.evaluation.metrics.retrieval import summarise
from davs_model.models.davs import paper

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def ranked(r1: float, n: int = 402) -> dict[str, Any]:
    """Return figures of a retrieval among n clips."""
    return {"r1": r1, "r5": r1 + 0.1, "r10": r1 + 0.2, "median_rank": 7, "chance_r1": 1 / n, "n_clips": n}


def whole() -> dict[str, Any]:
    """Return an evaluation without missing parts, with a baseline."""
    drawn = {"audio": 22.25, "video": 23.75, "repeated": 21.5}
    frames = {
        name: {"psnr": psnr, "ssim": psnr / 100, "l1": 0.0625, "n_frames": 2412, "identical": 3}
        for name, psnr in drawn.items()
    }
    originals = {"audio": ranked(0.111), "video": ranked(0.222), "repeated": ranked(0.033)}
    return {
        "run": "runs/mine",
        "model": "davs",
        "checkpoint": "0123456789abcdef" * 4,
        "steps": {"identity": 200, "speech": 1000},
        "dimensions": {"image_size": 64},
        "data": {
            "dataset": "grid",
            "out": "shards",
            "split": "test",
            "clips": 402,
            "words": 51,
            "speakers": 1,
            "skipped": {"crop: no_face": 3},
        },
        "recognition": {"visual": 0.671, "audio": 0.901, "both": 0.953, "chance": 0.055, "n_clips": 402},
        "retrieval": {"video_to_audio": ranked(0.371), "audio_to_video": ranked(0.52)},
        "reconstruction": frames,
        "generated_retrieval": originals,
        "leakage": {
            "words_from_identity": {"accuracy": 0.214, "chance": 0.055, "n_train": 2845, "n_test": 402},
            "people_from_speech": {"accuracy": 0.313, "chance": 0.163, "n_train": 2845, "n_test": 401},
        },
        "mouth": {
            "landmarks": "2 mouth corners of yunet",
            **{
                name: {"distance_px": n + 0.25, "n_frames": 2400, "not_found_real": 5, "not_found_generated": 7 + n}
                for n, name in enumerate(drawn)
            },
        },
        "baselines": {"runs/plain": {"reconstruction": frames, "recognition": {"visual": 0.444, "chance": 0.055}}},
        "missing": {},
        "versions": {"torch": "2.4.0"},
        "seconds": 12.34,
    }


def section(text: str, title: str) -> str:
    """Return the part of a page below a heading with the given start."""
    return next(part for part in text.split("\n## ") if part.startswith(title))


def cells(line: str) -> list[str]:
    """Split a row of a table; an escaped pipe does not separate cells."""
    return [cell.strip() for cell in re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]]


def rows(text: str) -> list[list[str]]:
    """Return the rows of a table below its header."""
    return [cells(line) for line in text.splitlines() if line.startswith("|")][2:]


# The page


def test_clips_of_words_that_nobody_learned_are_counted() -> None:
    """The table of recognised words says how many clips it can never be right about, and nothing if there are none."""
    metrics = whole()
    assert "has learned" not in section(page.render(metrics, {}), "Words recognised")
    metrics["recognition"]["n_unknown"] = 9
    expected = "Of 402 clips, 9 have no word that the model has learned: never right."
    assert expected in section(page.render(metrics, {}), "Words recognised")


def test_generated_frames_have_a_column_for_each_source() -> None:
    """Frames from audio, from video and the repeated frame are listed model by model."""
    found = rows(section(page.render(whole(), {}), "Generated frames"))
    assert found[:3] == [
        ["runs/mine", "PSNR, dB", "22.2", "23.8", "21.5"],
        ["runs/mine", "SSIM", "0.223", "0.237", "0.215"],
        ["runs/mine", "L1", "0.0625", "0.0625", "0.0625"],
    ]
    assert found[3][2:5] == ["2,412"] * 3
    assert [row[0] for row in found] == ["runs/mine"] * 5 + ["runs/plain"] * 5


def test_words_and_clips_stand_above_chance() -> None:
    """The model's and the baseline's figures of recognition and retrieval are listed above chance."""
    found = rows(section(page.render(whole(), {}), "Words recognised"))
    ours = ["67.1", "90.1", "95.3", "37.1", "47.1", "57.1", "7", "52.0", "62.0", "72.0", "7"]
    assert found[0] == ["runs/mine", *ours]
    assert found[1] == ["runs/plain", "44.4", *["–"] * 10]
    assert found[2:] == [["*chance*", "5.5", "5.5", "5.5", *["0.25", "1.2", "2.5", "201"] * 2]]


@pytest.mark.parametrize("n", [1, 2, 3, 10, 11])
def test_chance_of_the_median_rank_is_that_of_all_ranks_alike(n: int) -> None:
    """The chance level of MedR is the MedR of n queries that have each rank once."""
    metrics = whole()
    for found in metrics["retrieval"].values():
        found["n_clips"] = n
    shown = rows(section(page.render(metrics, {}), "Words recognised"))[-1]
    assert shown[7] == shown[11] == str(summarise(torch.arange(n)).median_rank)


def test_originals_are_found_by_each_source() -> None:
    """Retrieval of the originals is listed for audio, for video and for the repeated frame, above chance."""
    found = rows(section(page.render(whole(), {}), "Originals"))
    assert [row[1:] for row in found] == [
        ["audio", "11.1", "21.1", "31.1", "7", "402"],
        ["video", "22.2", "32.2", "42.2", "7", "402"],
        ["identity frame repeated", "3.3", "13.3", "23.3", "7", "402"],
        ["–", "0.25", "1.2", "2.5", "201", "402"],
    ]


def test_leakage_and_mouths_are_there() -> None:
    """Each reading has its chance level; each mouth its distance and the frames without one."""
    text = page.render(whole(), {})
    assert [row[1:] for row in rows(section(text, "Disentangling"))] == [
        ["words from identity features", "21.4", "5.5", "2,845", "402"],
        ["people from speech features", "31.3", "16.3", "2,845", "401"],
    ]
    mouth = section(text, "Mouth")
    assert "2 mouth corners of yunet" in mouth
    assert [row[2:] for row in rows(mouth)] == [[f"{n}.25", "2,400", "5", str(7 + n)] for n in range(3)]


def test_the_tables_of_davs_stand_below_ours() -> None:
    """Each table of DAVS's paper has the measured values in the paper's columns, above the paper's own rows."""
    text = page.render(whole(), {})
    one, three, four, leakage = (
        rows(section(text, f"DAVS, {title}")) for title in ("Table 1", "Table 3", "Table 4", "section 4.2")
    )
    assert one == [
        ["here: runs/mine", "22.2", "0.223", "23.8", "0.237"],
        ["paper: L_1", "25.4", "0.859", "25.7", "0.865"],
        ["paper: L_Re", "26.7", "0.883", "26.8", "0.884"],
    ]
    assert [row[0] for row in three] == [
        "here: runs/mine",
        *(f"paper: {name}" for name in ("L_C", "L_C + SC", "L_C + L_adv", "L_C + SC + L_adv", "chance")),
    ]
    assert three[0][1:] == ["67.1", "90.1", "95.3", "37.1", "57.1", "7", "52.0", "72.0", "7"]
    assert three[4][1:] == ["67.5", "91.8", "95.2", "64.2", "84.7", "1", "67.7", "85.8", "1"]
    assert three[5][1:] == ["0.2", "0.2", "0.2", *["0.004", "0.04", "12,500"] * 2]
    assert [row[1:] for row in four] == [
        ["11.1", "22.2"],
        ["2.5", "2.5"],
        ["53.8", "90.8"],
        ["60.5", "95.3"],
        ["0.004"] * 2,
    ]
    assert [row[1:] for row in leakage] == [["21.4", "5.5"], ["27.8", "0.2"], ["9.7", "0.2"]]


@pytest.mark.parametrize("model", [name for name in models.names() if name != "davs"])
def test_a_page_has_its_own_papers_figures_alone(model: str) -> None:
    """No table, row or clip of DAVS's paper is mentioned on another model's page; AMIE's page has its own tables."""
    text = page.render({**whole(), "model": model}, {})
    table = paper.TABLES[1]
    assert not [table.title for table in paper.TABLES if table.title in text]
    assert not [row for row in table.rows if f"paper: {row}" in text]
    assert "67.5" not in text
    assert "LRW's test" not in text
    assert "the paper's: 256" not in text
    assert ("AMIE, Table 1" in text) == (model == "amie")


def test_what_was_evaluated_is_named() -> None:
    """Run, checkpoint, steps, data, skipped clips with reasons, frame size, versions and seconds are at the top."""
    text = page.render(whole(), {}).split("\n## ")[0]
    for fact in (
        "# Evaluation of runs/mine\n",
        "checkpoint 0123456789ab\n",
        "identity 200, speech 1,000",
        "grid (shards), split test: clips 402, words 51, speakers 1",
        "3 × crop: no_face",
        "64 pixels high and wide (the paper's: 256)",
        "torch 2.4.0",
        "12.3",
    ):
        assert fact in text


@pytest.mark.parametrize(
    ("changed", "compares"),
    [
        ({}, True),
        ({"dataset": "grid"}, False),
        ({"split": "val"}, False),
        ({"words": 499}, False),
        ({"clips": 24_999}, False),
    ],
)
def test_only_the_papers_own_clips_compare(changed: dict[str, Any], compares: bool) -> None:
    """Figures are compared with the paper's only for the whole of LRW's test split."""
    metrics = whole()
    metrics["data"] |= {"dataset": "lrw", "words": 500, "clips": 25_000} | changed
    text = page.render(metrics, {})
    assert ("its figures and ours compare." in text) == compares
    assert ("not comparable." in text) != compares


@pytest.mark.parametrize(
    ("part", "title"),
    [
        ("reconstruction", "Generated frames"),
        ("recognition", "Words recognised"),
        ("retrieval", "Words recognised"),
        ("generated_retrieval", "Originals"),
        ("leakage", "Disentangling"),
        ("mouth", "Mouth"),
    ],
)
def test_a_missing_part_says_why(part: str, title: str) -> None:
    """The section of a missing part has a line "not measured", with the reason if there is one, and no table."""
    metrics = whole()
    del metrics[part], metrics["baselines"]
    metrics["missing"] = {part: "weights | of `this`\nare not here"}
    text = section(page.render(metrics, {}), title)
    (line,) = (line for line in text.splitlines() if line.startswith("*Not measured*"))
    assert line.endswith(r": weights \| of \`this\` are not here")
    metrics["missing"] = {}
    text = section(page.render(metrics, {}), title)
    assert text.count("*Not measured*") == 1
    assert bool(rows(text)) == (title == "Words recognised")


def test_a_reading_that_is_missing_says_why() -> None:
    """One of the two readings may be missing with a reason of its own, and the other keeps its row."""
    metrics = whole()
    del metrics["leakage"]["people_from_speech"]
    metrics["missing"] = {"people_from_speech": "there is one speaker"}
    text = section(page.render(metrics, {}), "Disentangling")
    assert "*Not measured*: people from speech features: there is one speaker" in text
    assert "| words from identity features | 21.4 |" in text
    assert "there is one" not in page.render(metrics, {}).split("\n## ")[0]


def test_what_the_page_has_no_table_for_is_still_said() -> None:
    """Any other missing part is at the top with its reason."""
    assert "not measured: samples: no decoder" in page.render({**whole(), "missing": {"samples": "no decoder"}}, {})


def test_recognition_alone_makes_a_page() -> None:
    """If only recognition was measured, its table is there, and the other sections say "not measured"."""
    text = page.render({"run": "runs/mine", "recognition": whole()["recognition"]}, {})
    found = rows(section(text, "Words recognised"))
    assert found[0] == ["runs/mine", "67.1", "90.1", "95.3", *["–"] * 8]
    assert found[1] == ["*chance*", "5.5", "5.5", "5.5", *["–"] * 8]
    assert text.count("*Not measured*") == 5
    assert text.count("\n| --- ") == 1


def test_a_baseline_stands_where_ours_is_missing() -> None:
    """A table for which only a baseline has figures shows those, chance, and why the model's are missing."""
    ours = whole()
    baseline = {"generated_retrieval": ours.pop("generated_retrieval")}
    text = section(page.render({**ours, "baselines": {"other": baseline}}, {}), "Originals")
    assert [row[0] for row in rows(text)] == ["other"] * 3 + ["*chance*"]
    assert "*Not measured*" in text


def test_figures_are_embedded() -> None:
    """Each figure is an image with alternative text, and its file name is quoted."""
    text = page.render(whole(), {"ranks": "ranks.png", "of [my] own": "a (b).png"})
    assert f"![{page.PICTURES['ranks']}](ranks.png)" in text
    assert r"![of \[my\] own](a%20%28b%29.png)" in text
    assert "## Figures" not in page.render(whole(), {})


def test_a_model_without_video_has_no_frames_from_video() -> None:
    """The caption of the sample sheet names no row that the sheet of an audio-driven model lacks."""
    assert "video" not in page.PICTURES["samples"]


def test_rows_of_a_sample_sheet_have_their_names() -> None:
    """Every image is on the sheet, in its row next to the row's name, with the identity frame in the first column."""
    pictures = np.random.default_rng(0).integers(0, 256, (6, 7, 24, 24, 3)).astype(np.uint8)
    sheet = samples.labelled(pictures)
    assert sheet.shape == (LINE + 6 * 24, samples.LABELS + 7 * 24, 3)
    for row in range(6):
        beside = sheet[LINE + 24 * row :][:24]
        assert np.array_equal(beside[:, : samples.LABELS], caption(samples.ROWS[row % 3], samples.LABELS, 24))
        assert np.array_equal(beside[:, samples.LABELS :], np.concatenate(pictures[row], axis=1))
    assert np.array_equal(sheet[:LINE, samples.LABELS :], caption("identity", 7 * 24))


def test_the_html_page_holds_what_the_markdown_does() -> None:
    """Every cell and every word is on both pages; names are escaped, images are embedded, nothing is fetched."""
    metrics = {**whole(), "run": "<b>run</b>", "missing": {"mouth": "<i>why</i>"}}
    html = page.render_html(metrics, {"ranks": b"PNG"})
    assert 'src="data:image/png;base64,UE5H"' in html
    assert not re.search(r"https?://|<script|<b>run|<i>why", html)
    assert "&lt;i&gt;why&lt;/i&gt;" in html
    for section in page.content(metrics).sections:
        assert f"{section.title}</h2>" in html
        for row in section.rows:
            for cell in row[1:]:
                assert f"<td>{cell}</td>" in html
    assert html.count("<em>chance</em>") == page.render(metrics, {}).count("*chance*")
    assert page.render_html(metrics, {"ranks": b"PNG"}) == html


@pytest.mark.parametrize("width", [1280, 390])
def test_a_section_link_shows_the_heading(browser: Browser, tmp_path: Path, width: int) -> None:
    """What a link at the top leads to is not covered by the links."""
    (tmp_path / "evaluation.html").write_text(page.render_html(whole(), {}), encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 800}, reduced_motion="reduce")
    try:
        shown = context.new_page()
        shown.goto((tmp_path / "evaluation.html").as_uri())
        for link in shown.locator("nav a").all():
            link.click()
            heading = shown.locator("h2", has_text=re.compile(f"^{re.escape(link.inner_text())}$")).bounding_box()
            links = shown.locator("nav").bounding_box()
            assert heading is not None
            assert links is not None
            assert heading["y"] >= max(0, links["y"] + links["height"])
    finally:
        context.close()


def test_no_column_is_cut_off_on_paper(browser: Browser, tmp_path: Path) -> None:
    """On a printed page, which does not scroll, the tables are no wider than A4."""
    (tmp_path / "evaluation.html").write_text(page.render_html(whole(), {}), encoding="utf-8")
    context = browser.new_context(viewport={"width": 717, "height": 800})  # A4 at 96 dpi without its margins
    try:
        shown = context.new_page()
        shown.goto((tmp_path / "evaluation.html").as_uri())
        wider = "[...document.querySelectorAll('.wide')].filter((one) => one.scrollWidth > one.clientWidth).length"
        assert shown.evaluate(wider) > 0
        shown.emulate_media(media="print")
        assert shown.evaluate(wider) == 0
        assert shown.evaluate("document.documentElement.scrollWidth") <= 717
    finally:
        context.close()


def test_names_do_not_break_the_page() -> None:
    """Pipes, backticks, line breaks and stars of names are escaped, underscores inside words are not."""
    metrics = whole()
    metrics["run"] = "_a_b|c`d\n*e*\\"
    text = page.render(metrics, {})
    assert "# Evaluation of \\_a_b\\|c\\`d \\*e\\*\\\\\n" in text
    assert rows(section(text, "Originals"))[0][1:3] == ["audio", "11.1"]


numbers = st.none() | st.floats() | st.integers(0, 10**9)


def with_numbers(part: Any, draw: Callable[[], Any]) -> Any:
    """Return a copy with other numbers."""
    if isinstance(part, dict):
        return {key: with_numbers(value, draw) for key, value in part.items()}
    return draw() if isinstance(part, int | float) else part


@given(st.data())
def test_any_part_may_be_absent_and_any_number_strange(data: st.DataObject) -> None:
    """Whatever is absent, and whatever the numbers, there is a page, and all rows of a table have the same width."""
    metrics = with_numbers(whole(), lambda: data.draw(numbers))
    for part in (metrics, *(value for value in metrics.values() if isinstance(value, dict))):
        for name in data.draw(st.sets(st.sampled_from(sorted(part)))) if part else ():
            part[name] = {}
            if data.draw(st.booleans()):
                del part[name]
    if "run" in metrics:
        metrics["run"] = data.draw(st.text())
    for table in re.findall(r"(?:^\|.*\n)+", page.render(metrics, {}), flags=re.MULTILINE):
        lines = [cells(line) for line in table.splitlines()]
        assert len({len(line) for line in lines}) == 1
        assert not {"nan", "inf", "-inf", "None", ""} & {cell for line in lines for cell in line[1:]}


@pytest.mark.parametrize(
    ("psnr", "shown"), [(math.inf, "∞"), (-math.inf, "−∞"), (math.nan, "–"), (None, "–"), ("high", "–")]
)
def test_what_is_no_number_is_shown_as_such(psnr: Any, shown: str) -> None:
    """An infinite figure is ∞; a missing figure, or NaN, is a dash."""
    metrics = whole()
    metrics["reconstruction"]["audio"]["psnr"] = psnr
    text = page.render(metrics, {})
    assert rows(section(text, "Generated frames"))[0][2] == rows(section(text, "DAVS, Table 1"))[0][1] == shown


# Counting words


def test_confusions_are_counted() -> None:
    """Each clip counts in the row of its word and the column of its largest logit; unknown words are left out."""
    logits = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    labels = torch.tensor([0, 0, 2, 2, -1])
    expected = [[1, 1, 0], [0, 0, 0], [1, 0, 1]]
    assert confusion_matrix(logits, labels, 3).tolist() == expected
    assert confusion_matrix(logits.bfloat16(), labels, 3).tolist() == expected
    assert confusion_matrix(logits.numpy(), labels.numpy(), 3).tolist() == expected


def test_accuracy_by_word_is_the_share_of_its_clips() -> None:
    """The accuracy of a word without clips is undefined."""
    found = accuracy_by_word(np.array([[1, 1, 0], [0, 0, 0], [1, 0, 3]]))
    np.testing.assert_array_equal(found, [0.5, math.nan, 0.75])


@pytest.mark.parametrize("n", [1, 4])
def test_words_that_are_all_unknown_count_nothing(n: int) -> None:
    """Without known words, or with a single one, a matrix is counted without a warning."""
    assert not confusion_matrix(torch.zeros(3, n), torch.full((3,), -1), n).any()
    assert confusion_matrix(torch.zeros(3, n), torch.zeros(3, dtype=torch.int64), n).sum() == 3


@pytest.mark.parametrize(
    ("logits", "labels", "complaint"),
    [
        (torch.zeros(2, 3), [0, 1, 2], "should be"),
        (torch.zeros(2, 4), [0, 1], "should be"),
        (torch.zeros(2, 3), [[0], [1]], "should be"),
        (torch.zeros(2, 3), [0, 3], "label 3 is not one of 3 words"),
    ],
)
def test_what_cannot_be_counted_is_refused(logits: torch.Tensor, labels: list[Any], complaint: str) -> None:
    """Shapes that do not fit and labels that name no word raise ValueError."""
    with pytest.raises(ValueError, match=complaint):
        confusion_matrix(logits, labels, 3)


# Figures


def drawn_words(path: Path, n: int) -> None:
    """Draw a confusion matrix of n words of eight clips each, most of them correct."""
    matrix = np.zeros((n, n), dtype=np.int64)
    for word in range(n):
        matrix[word, word] += 5
        matrix[word, word * 7 % n] += 3
    figures.confusion(path, matrix, [f"word {word} " + "x" * (word % 40) for word in range(n)], "Words")


def drawn_ranks(path: Path, n: int) -> None:
    """Draw the ranks of two retrievals among n clips."""
    figures.ranks(path, {"video → audio": np.arange(n) ** 2 % n, "audio → video": np.zeros(n, dtype=np.int64)}, n)


def drawn_by_word(path: Path, n: int) -> None:
    """Draw the recognition of n words, one of which has no clips."""
    seen = np.linspace(0, 1, n)
    heard = np.where(np.arange(n) == 1, np.nan, 1 - seen / 2)
    figures.by_word(path, [f"word {word}" for word in range(n)], seen, heard)


DRAWN = [drawn_words, drawn_ranks, drawn_by_word]


@pytest.mark.parametrize("draw", DRAWN)
@pytest.mark.parametrize("n", [1, 500])
def test_a_picture_is_the_same_each_time(draw: Callable[[Path, int], None], n: int, tmp_path: Path) -> None:
    """The same input gives the same bytes: a PNG on white at page size, even for 500 words."""
    draw(tmp_path / "new" / "a.png", n)
    draw(tmp_path / "new" / "b.png", n)
    data = (tmp_path / "new" / "a.png").read_bytes()
    assert data == (tmp_path / "new" / "b.png").read_bytes()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.png", "b.png"]
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        assert picture.getpixel((0, 0)) == (255, 255, 255)
        assert 300 < picture.width < 1600
        assert 300 < picture.height < 1600
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 10
    assert len(data) < 1_000_000


def test_pictures_tell_their_input(tmp_path: Path) -> None:
    """Another confusion matrix gives another figure."""
    for name, matrix in (("a", np.eye(3)), ("b", np.eye(3)[::-1])):
        figures.confusion(tmp_path / f"{name}.png", matrix.astype(np.int64), ["x", "y", "z"], "Words")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_a_confusion_is_shown_by_its_share(tmp_path: Path) -> None:
    """Rows are fractions: ten times as many clips of a word give the same figure."""
    for name, factor in (("a", 1), ("b", 10)):
        matrix = np.array([[3, 1], [0, 2]]) * [[1], [factor]]
        figures.confusion(tmp_path / f"{name}.png", matrix, ["yes", "no"], "Words")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_strange_words_are_drawn(tmp_path: Path) -> None:
    """Characters special to matplotlib or missing in its font, and words without clips, raise no error."""
    words = ["$x", r"$\frac{$", "_hidden", "語彙", "", "a" * 300]
    figures.confusion(tmp_path / "confusion.png", np.zeros((6, 6), dtype=np.int64), words, "$1$ of _2")
    figures.by_word(tmp_path / "by_word.png", words, np.zeros(6), np.ones(6))
    figures.by_word(tmp_path / "none.png", words, np.full(6, np.nan), np.ones(6))
    found = {word: np.array([0]) for word in words}
    figures.ranks(tmp_path / "ranks.png", {**found, "no queries": np.zeros(0, dtype=np.int64)}, 1)


def test_settings_of_the_user_change_nothing(tmp_path: Path) -> None:
    """Figures do not use an active dark style, which is still active afterwards."""
    import matplotlib

    drawn_ranks(tmp_path / "a.png", 20)
    with matplotlib.rc_context({"figure.facecolor": "black", "font.size": 30, "text.parse_math": True}):
        drawn_ranks(tmp_path / "b.png", 20)
        assert matplotlib.rcParams["figure.facecolor"] == "black"
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_drawing_is_silent_without_a_home(tmp_path: Path) -> None:
    """If matplotlib cannot write its caches there is no message, pyplot is not loaded, and the figure is the same."""
    drawn_ranks(tmp_path / "a.png", 20)
    program = (
        "import sys, pathlib, numpy as np\n"
        "from davs_model.evaluation import figures\n"
        "assert 'matplotlib' not in sys.modules\n"
        "n = 20\n"
        "found = {'video → audio': np.arange(n) ** 2 % n, 'audio → video': np.zeros(n, dtype=np.int64)}\n"
        "figures.ranks(pathlib.Path(sys.argv[1]), found, n)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "b.png")],
        env={**os.environ, "MPLCONFIGDIR": str(tmp_path / "file" / "no-folder"), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("draw", DRAWN)
def test_a_picture_that_cannot_be_written_is_an_error(draw: Callable[[Path, int], None], tmp_path: Path) -> None:
    """A folder that is a file raises RunError, which names the figure."""
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"picture\.png"):
        draw(tmp_path / "file" / "picture.png", 4)


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    """Shapes that do not fit, and no words or clips at all, raise ValueError and write nothing."""
    path = tmp_path / "none.png"
    with pytest.raises(ValueError, match="should be"):
        figures.confusion(path, np.zeros((2, 3), dtype=np.int64), ["a", "b"], "Words")
    with pytest.raises(ValueError, match="should be"):
        figures.confusion(path, np.zeros((0, 0), dtype=np.int64), [], "Words")
    with pytest.raises(ValueError, match="should be"):
        figures.by_word(path, ["a", "b"], np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="0 clips"):
        figures.ranks(path, {}, 0)
    assert not list(tmp_path.iterdir())
