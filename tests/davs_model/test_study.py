"""The user study: a page that hides its methods, the answers that it saves, and the table made of them."""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_media import noise, picture, steady, write
from scipy import stats

from avprep.errors import RunError
from davs_model.study import study
from davs_model.study.study import COLUMNS, Answer, StudyVideo, page, rate, read, table

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

MP4 = b"\0\0\0\x18ftypisom" + bytes(range(64))  # an mp4 to Python, but not to a browser
JPEG = b"\xff\xd8\xff\xe0 and the rest"
PNG = b"\x89PNG\r\n\x1a\n and the rest"
METHODS = ("=SUM(1+1)|*ours*", "</script><b>Base, \"line\" – '5'", "'@quoted")
"""Names that break a careless CSV, HTML, Markdown and spreadsheet."""


@pytest.fixture
def film(tmp_path: Path) -> StudyVideo:
    """A video and its photo, as files with the right first bytes."""
    (tmp_path / "film.mp4").write_bytes(MP4)
    (tmp_path / "photo.jpg").write_bytes(JPEG)
    return StudyVideo("ours", tmp_path / "film.mp4", tmp_path / "photo.jpg", "someone")


def row(**values: object) -> dict[str, str]:
    """Return a row as a page saves it, with some values replaced."""
    usual: dict[str, object] = {
        "study": "s" + "0" * 12, "participant": "p" + "1" * 12, "order": 1, "film": "f" + "2" * 12, "method": "ours",
        "label": "someone", "realistic": 1, "same_person": 0, "in_sync": 70, "seconds": "12.5",
    }  # fmt: skip
    return {column: str(value) for column, value in (usual | values).items()}


def text(rows: Sequence[Mapping[str, str]], columns: Sequence[str] = COLUMNS) -> str:
    """Return rows as CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """A function that saves rows as a participant's file."""

    def write_rows(*rows: Mapping[str, str], name: str = "a.csv") -> Path:
        path = tmp_path / name
        path.write_text(text(rows), encoding="utf-8", newline="")
        return path

    return write_rows


def answer(person: int, film: int = 0, *, method: str = "ours", yes: bool | None = True, sync: int = 50) -> Answer:
    """Return an answer of a participant, the same to both yes/no questions; `None` skips."""
    said = {"realistic": yes, "same_person": yes, "in_sync": None if yes is None else sync}
    return Answer("s0", f"p{person}", 1, f"f{method}{film}", method, "", **said, seconds=1.0)  # type: ignore[arg-type]


# The page


def test_the_same_study_is_the_same_page(film: StudyVideo, tmp_path: Path) -> None:
    """Videos, title and seed determine every byte, in any order of the videos; the seed only shuffles."""
    films = [StudyVideo(f"method {n}", film.film, film.face) for n in range(8)]
    (tmp_path / "other.png").write_bytes(PNG)
    films.append(StudyVideo("ours", film.film, tmp_path / "other.png"))
    first = page(films, title="Faces", seed=1)
    assert page(films[::-1], title="Faces", seed=1) == first
    other = page(films, title="Faces", seed=2)
    assert other != first
    name = re.compile('"study":"(.{13})"')
    assert name.findall(other) == name.findall(first)
    assert name.findall(page(films[1:], title="Faces", seed=1)) != name.findall(first)


def test_the_seed_shuffles_methods(film: StudyVideo) -> None:
    """The order in the page is neither the given one nor that of the names."""
    films = [StudyVideo(f"method {n}", film.film, None) for n in range(20)]
    coded = re.findall('"method":"(.+?)"', page(films, title="Faces"))
    names = [base64.b64decode(name).decode() for name in coded]
    given = [film.method for film in films]
    assert sorted(names) == sorted(given)
    assert names not in (given, sorted(given))


def test_files_are_in_the_page_once(film: StudyVideo) -> None:
    """Videos are in the page byte for byte, and a photo that several videos share is there once."""
    html = page([film, StudyVideo("other", film.film, film.face)], title="Faces")
    assert html.count(base64.b64encode(MP4).decode()) == 2
    assert html.count(f"data:image/jpeg;base64,{base64.b64encode(JPEG).decode()}") == 1


def test_no_method_can_be_read_in_the_page(film: StudyVideo, tmp_path: Path) -> None:
    """Names of methods, labels and files are nowhere in the page's text."""
    shutil.copy(film.film, tmp_path / "secretly-ours.mp4")
    shutil.copy(tmp_path / "photo.jpg", tmp_path / "portrayed.jpg")
    html = page(
        [StudyVideo("Wav2Lip", tmp_path / "secretly-ours.mp4", tmp_path / "portrayed.jpg", "Ada")], title="Faces"
    )
    assert not re.search('wav2lip|secret|portrayed|>Ada<|"Ada"', html, re.IGNORECASE)


@pytest.mark.parametrize("words", ["</title><script>alert(1)</script>", "@DATA@ & @TITLE@", '"><b>'])
def test_names_stay_text(film: StudyVideo, words: str) -> None:
    """No title, method or label adds an element to the page or ends its script."""
    plain = page([film], title="Faces")
    html = page([StudyVideo(words, film.film, film.face, words)], title=words)
    for bracket in "<>":
        assert html.count(bracket) == plain.count(bracket)


def test_the_page_may_load_nothing(film: StudyVideo) -> None:
    """The page contains no address, and its policy allows only its own content."""
    html = page([film], title="Faces")
    policy = re.search('Content-Security-Policy" content="(.+?)"', html)
    assert policy
    allowed = dict(rule.split(" ", 1) for rule in policy[1].split("; "))
    assert allowed["default-src"] == "'none'"
    assert {allowed[kind] for kind in ("media-src", "img-src")} == {"data:"}
    assert not re.search("https?:|src=|@import|url\\(", html)


def test_what_is_no_film_or_photo_is_refused(film: StudyVideo, tmp_path: Path) -> None:
    """A missing file, one of another kind or a folder stops the page, in one line that names it."""
    text_file = tmp_path / "words.txt"
    text_file.write_text("no film, no photo")
    for broken, complaint in [
        (StudyVideo("a", tmp_path / "absent.mp4", None), "absent.mp4: cannot be read"),
        (StudyVideo("a", tmp_path, None), "cannot be read"),
        (StudyVideo("a", text_file, None), "words.txt: not an mp4"),
        (StudyVideo("a", film.film, tmp_path / "absent.jpg"), "absent.jpg: cannot be read"),
        (StudyVideo("a", film.film, film.film), "film.mp4: neither JPEG nor PNG"),
    ]:
        with pytest.raises(RunError, match=f"^[^\n]*{complaint}[^\n]*$"):
            page([film, broken], title="Faces")


@pytest.mark.parametrize("name", ["", "  ", "two\nlines", "nul\0", "\u202etfel", "\udc80", "x" * 201])
def test_names_that_do_not_print_are_refused(film: StudyVideo, name: str) -> None:
    """Methods, labels and titles must fit on a line and be printable; only a label may be empty."""
    with pytest.raises(RunError, match=r"film\.mp4: its method"):
        page([StudyVideo(name, film.film, None)], title="Faces")
    with pytest.raises(RunError, match="title"):
        page([film], title=name)
    if name.strip():
        with pytest.raises(RunError, match=r"film\.mp4: its label"):
            page([StudyVideo("ours", film.film, None, name)], title="Faces")


def test_a_study_needs_films_and_each_once(film: StudyVideo) -> None:
    """No videos, and the same video twice for one method, are refused."""
    with pytest.raises(RunError, match="no videos"):
        page([], title="Faces")
    with pytest.raises(RunError, match=r"film\.mp4: is in the study twice as 'ours'"):
        page([film, film], title="Faces")


def test_pages_too_large_for_a_browser_are_refused(film: StudyVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file and all files together have a size limit; shared files count once."""
    films = [StudyVideo(f"method {n}", film.film, film.face) for n in range(3)]
    film.film.write_bytes(MP4 + bytes(300_000))
    assert film.face
    film.face.write_bytes(JPEG + bytes(90_000))
    monkeypatch.setattr(study, "PAGE_MB", 1)
    page(films, title="Faces")
    film.face.write_bytes(JPEG + bytes(110_000))
    with pytest.raises(RunError, match=r"film\.mp4: with it, videos and photos exceed 1 MB"):
        page(films, title="Faces")
    monkeypatch.setattr(study, "FILE_MB", 1)
    film.film.write_bytes(MP4 + bytes(10**6))
    with pytest.raises(RunError, match=r"film\.mp4: larger than 1 MB"):
        page(films, title="Faces")


# Saved answers


def test_answers_are_read_as_saved(save: Callable[..., Path]) -> None:
    """Each row is an answer; empty ones are None, and the apostrophe in front of a formula is removed."""
    path = save(
        row(method="'=1+1", label="''tis"),
        row(film="f" + "3" * 12, order=2, same_person="", in_sync=100),
        row(film="f" + "4" * 12, order=3, label="", realistic="", same_person="", in_sync=""),
    )
    person = ("s" + "0" * 12, "p" + "1" * 12)
    assert read([path]) == [
        Answer(*person, 1, "f" + "2" * 12, "=1+1", "'tis", True, False, 70, 12.5),
        Answer(*person, 2, "f" + "3" * 12, "ours", "someone", True, None, 100, 12.5),
        Answer(*person, 3, "f" + "4" * 12, "ours", "", None, None, None, 12.5),
    ]


def test_a_spreadsheet_may_save_answers_anew(tmp_path: Path) -> None:
    """A byte order mark, other line ends, an empty last line, reordered columns and additional ones are accepted."""
    path = tmp_path / "a.csv"
    path.write_text("\ufeff" + text([row() | {"note": "x"}], [*COLUMNS[::-1], "note"]) + "\n", encoding="utf-8")
    assert read([path])[0].in_sync == 70


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("study", "0" * 13),
        ("study", "s" + "٣" * 12),
        ("participant", ""),
        ("participant", "p" + "1" * 12 + "\n"),
        ("order", "0"),
        ("order", "1e3"),
        ("film", "../f"),
        ("method", ""),
        ("method", "'"),
        ("method", "x" * 201),
        ("method", "a\nb"),
        ("label", "\x1b[2J"),
        ("realistic", "yes"),
        ("realistic", ""),
        ("same_person", "2"),
        ("in_sync", "101"),
        ("in_sync", "-1"),
        ("in_sync", "50.5"),
        ("in_sync", ""),
        ("seconds", "nan"),
        ("seconds", "-1"),
        ("seconds", "9" * 400),
    ],
)
def test_values_that_no_page_saves_are_refused(save: Callable[..., Path], column: str, value: str) -> None:
    """An invalid value gives one short line that names the file, the line and the fault."""
    path = save(row(), row(**{"film": "f" + "3" * 12, column: value}))
    with pytest.raises(RunError, match=r"^[^\n]*a\.csv, line [34]: .{,200}$") as caught:
        read([path])
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "line 1: not the answers of a study: .*study, participant"),
        (b"a,b\r\n1,2\r\n", "line 1: not the answers of a study"),
        (text([row()], COLUMNS[:-1]).encode(), "line 1: not the answers of a study.* of seconds$"),
        (text([row()], [*COLUMNS, "film"]).encode(), "line 1: not the answers of a study.* of film$"),
        (text([row()]).replace(",", ";").encode(), "line 1: not the answers of a study"),
        (text([]).encode(), "holds no answers"),
        (text([row()]).encode() + b"s,p\r\n", "line 3: has 2 fields, the header 10"),
        (text([row()]).encode() + b'"s', "line 3: not CSV"),
        (text([row()]).encode() + b"x" * 140_000, "line 3: not CSV"),
        (text([row(label="é")]).encode("latin-1"), "line 2: not UTF-8"),
        (text([row()]).encode("utf-16"), "line 1: not UTF-8"),
        (text([row()]).encode() + bytes(4_100_000), "larger than 4 MB"),
    ],
)
def test_files_that_no_page_saves_are_refused(tmp_path: Path, data: bytes, complaint: str) -> None:
    """A file that is not a complete CSV of a study page, or is too large, is refused in one line with the place."""
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    with pytest.raises(RunError, match=rf"^[^\n]*a\.csv[:,] {complaint}[^\n]*"):
        read([path])


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_reader(data: bytes) -> None:
    """Any content after a valid header is read or refused."""
    saved = text([row()]).encode() + data
    with mock.patch.object(study, "_read", return_value=saved), contextlib.suppress(RunError):
        assert len(read([Path("a.csv")])) >= 1


def test_absent_answers_are_refused(tmp_path: Path) -> None:
    """No files and a missing file are refused."""
    with pytest.raises(RunError, match="no files of answers"):
        read([])
    with pytest.raises(RunError, match=r"absent\.csv: cannot be read"):
        read([tmp_path / "absent.csv"])


def test_nobody_is_counted_twice(save: Callable[..., Path]) -> None:
    """The error for one participant's answers twice names both files, or the line in one file."""
    first, second = save(row()), save(row(realistic=0), name="b.csv")
    with pytest.raises(RunError, match=r"b\.csv, line 2: participant p1+ rates video f2+ in .*a\.csv too: keep"):
        read([first, second])
    with pytest.raises(RunError, match=r"a\.csv, line 3: .* twice$"):
        read([save(row(), row())])


def test_studies_are_not_mixed(save: Callable[..., Path]) -> None:
    """The error for answers of another study names both files; so does that for a video with another method."""
    first = save(row())
    with pytest.raises(RunError, match=r"b\.csv, line 2: is of study s9+, but .*a\.csv of s0+$"):
        read([first, save(row(study="s" + "9" * 12), name="b.csv")])
    with pytest.raises(RunError, match=r"b\.csv, line 2: video f2+ has another method"):
        read([first, save(row(participant="p" + "9" * 12, method="theirs"), name="b.csv")])


# The table


def test_rates_average_films_then_participants() -> None:
    """A participant with fewer playable videos has the same weight as others; skipped videos are not counted."""
    answers = [answer(1, 0, sync=100), answer(1, 1, yes=False, sync=0), answer(2, 0, yes=False, sync=20)]
    answers.append(answer(2, 1, yes=None))
    for criterion, mean in (("realistic", 0.25), ("same_person", 0.25), ("in_sync", 0.35)):
        value = rate(answers, criterion)
        assert value
        assert (value.mean, value.n_participants, value.n_answers) == (pytest.approx(mean), 2, 3)


def test_percentages_have_student_s_interval() -> None:
    """The interval of the synchronising rate is SciPy's for the participants' means, clipped to 0 and 100 %."""
    answers = [answer(person, film, sync=10 * (person + film)) for person in range(6) for film in range(4)]
    value = rate(answers, "in_sync")
    means = [person / 10 + 0.15 for person in range(6)]
    assert value
    assert value.interval == pytest.approx(stats.t.interval(0.95, 5, np.mean(means), stats.sem(means)))
    wide = rate([answer(1, sync=0), answer(2, sync=100)], "in_sync")
    assert wide
    assert wide.interval == (0, 1)


def test_yes_and_no_have_wilson_s_interval() -> None:
    """For p of n* independent answers, the ends are where |p - end| is t standard deviations of the end."""
    answers = [answer(person, film, yes=film < 2 + person % 2) for person in range(8) for film in range(5)]
    value = rate(answers, "realistic")
    assert value
    assert value.mean == pytest.approx(0.5)
    # Participants differ less here than independent answers would, so n* is all 40.
    t = stats.t.ppf(0.975, 7)
    for end in value.interval or ():
        assert abs(value.mean - end) == pytest.approx(t * math.sqrt(end * (1 - end) / 40))
    assert (value.interval or (0,))[0] < value.mean


def test_participants_of_one_mind_each_count_as_one_answer() -> None:
    """If a participant gives the same answer to all videos, more videos do not narrow the interval."""
    few = [answer(person, film, yes=person < 4) for person in range(8) for film in range(2)]
    many = [answer(person, film, yes=person < 4) for person in range(8) for film in range(50)]
    first, second = rate(few, "realistic"), rate(many, "realistic")
    assert first
    assert second
    assert first.interval == pytest.approx(second.interval)


def test_unanimity_is_no_certainty() -> None:
    """100 % of all answers has an interval of some width, and its upper end is 100 %."""
    value = rate([answer(person, film) for person in range(10) for film in range(10)], "same_person")
    t = float(stats.t.ppf(0.975, 9))
    assert value
    assert value.interval == pytest.approx((100 / (100 + t**2), 1))


@given(
    st.lists(st.lists(st.tuples(st.booleans(), st.integers(0, 100)), min_size=1, max_size=6), min_size=2, max_size=8)
)
def test_intervals_hold_their_rate(said: list[list[tuple[bool, int]]]) -> None:
    """Every interval is within 0 and 1 and contains the mean."""
    answers = [
        answer(n, film, yes=yes, sync=sync) for n, films in enumerate(said) for film, (yes, sync) in enumerate(films)
    ]
    for criterion in study.CRITERIA:
        value = rate(answers, criterion)
        assert value
        assert value.interval
        low, high = value.interval
        assert 0 <= low <= value.mean + 1e-9
        assert value.mean - 1e-9 <= high <= 1


def test_the_table_is_laid_out_as_the_papers() -> None:
    """Each method has a row, sorted by name, with a dash if nobody answered; the paper's rows follow, marked so."""
    answers = [answer(1, sync=30), answer(1, method="a|*b*", yes=False, sync=0), answer(1, method="lost", yes=None)]
    lines = table(answers).splitlines()
    assert lines[0] == (
        "| Method | Realistic rate | Lip-audio synchronising rate | Identity preserving rate | Participants | Answers |"
    )
    assert lines[2:] == [
        "| a\\|\\*b\\* | 0.0 | 0.0 | 0.0 | 1 | 1 |",
        "| lost | – | – | – | 0 | 0 |",
        "| ours | 100.0 | 30.0 | 100.0 | 1 | 1 |",
        "| *paper: generation from video (ours)* | 87.8 | 88.4 | 100 | 10 | – |",
        "| *paper: generation from audio (ours)* | 51.5 | 72.3 | 100 | 10 | – |",
        "| *paper: reproduced baseline* | 44.1 | 58.0 | 100 | 10 | – |",
        "",
        lines[-1],
    ]
    assert "LRW" in lines[-1]


def test_the_table_shows_intervals() -> None:
    """With two participants or more, each rate has its interval in brackets, in %."""
    line = table([answer(person, sync=40 + 20 * (person % 2)) for person in range(6)]).splitlines()[2]
    assert re.fullmatch(r"\| ours \| 100\.0 \(47\.6–100\.0\) \| 50\.0 \(38\.5–61\.5\) \| 100\.0 .* \| 6 \| 6 \|", line)


# The page in a browser


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[StudyVideo]:
    """Six short videos by three methods, one of them without a photo."""
    folder = tmp_path_factory.mktemp("films")
    made = []
    for n in range(6):
        times = steady(25, 0.4 + 0.04 * n)
        image = picture(n)
        path = write(folder / f"{n}.mp4", times, [image] * len(times), noise(0.4, 16_000, seed=n))
        photo = folder / f"{n}.png"
        photo.write_bytes(cv2.imencode(".png", image)[1].tobytes())
        made.append(StudyVideo(METHODS[n % 3], path, photo if n else None, f"=person, {n}"))
    return made


class Visit:
    """A page in a browser, with its network requests and its complaints."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.page: Page = context.new_page()
        self.page.set_default_timeout(20_000)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)

    def press(self, name: str) -> None:
        """Click a button once it is enabled."""
        self.page.get_by_role("button", name=name, exact=True).click()

    def shown(self, films: Sequence[StudyVideo]) -> StudyVideo:
        """Return the video on show, identified by its bytes."""
        source = str(self.page.locator("video").evaluate("film => film.src"))
        data = base64.b64decode(source.removeprefix("data:video/mp4;base64,"))
        return next(film for film in films if film.film.read_bytes() == data)

    def watch(self) -> None:
        """Play the video on show to its end."""
        self.press("Play")
        self.page.get_by_role("button", name="Play again").wait_for()

    def say(self, question: str, choice: str) -> None:
        """Answer one question by a click."""
        group = self.page.get_by_role("group", name=question)
        group.get_by_role("radio", name=choice, exact=True).check()

    def judge(self, film: StudyVideo, said: tuple[str, str, int]) -> None:
        """Watch the video on show, answer all of its questions and go on."""
        self.watch()
        self.say("realistic", said[0])
        if film.face:
            self.say("same person", said[1])
        self.say("in sync", f"{said[2]} percent")
        self.page.locator("#next").click()

    def saved(self, folder: Path) -> Path:
        """Press the button that saves, and return the file."""
        with self.page.expect_download() as download:
            self.press("Save my answers")
        path = folder / download.value.suggested_filename
        download.value.save_as(path)
        return path

    def kept(self) -> Any:
        """Return the browser's stored data of the study."""
        return self.page.evaluate("JSON.parse(Object.values(localStorage)[0])")

    def checked(self) -> list[str]:
        """Return the values of the selected choices."""
        return [str(choice.get_attribute("value")) for choice in self.page.locator("input:checked").all()]


@pytest.fixture
def visit(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Visit]]:
    """A function that opens a study in a new browser."""
    contexts = []

    def open_page(films: Sequence[StudyVideo], width: int = 1280, script: str = "") -> Visit:
        path = tmp_path / "study.html"
        path.write_text(page(films, title="Faces & <voices>"), encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 800})
        contexts.append(context)
        if script:
            context.add_init_script(script)
        return Visit(context, path.as_uri())

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", [pytest.param(1280, marks=pytest.mark.slow), 390])
def test_a_participant_judges_all_films(
    visit: Callable[..., Visit], films: list[StudyVideo], tmp_path: Path, width: int
) -> None:
    """The answers are what `read` returns, nothing reveals the method, and everything fits the screen."""
    here = visit(films, width)
    seen: list[tuple[StudyVideo, tuple[str, str, int]]] = []

    def look() -> None:
        assert here.page.evaluate("document.documentElement.scrollWidth") <= width
        dom = here.page.content()
        for hidden in (*METHODS, "SUM(", "Base, ", "person, ", *(film.film.name for film in films)):
            assert hidden not in dom

    look()
    here.press("Begin")
    for n in range(len(films)):
        here.page.get_by_role("heading", name=f"Video {n + 1} of 6").wait_for()
        film = here.shown(films)
        assert here.page.get_by_role("group", name="same person").is_visible() == (film.face is not None)
        seen.append((film, ("Yes", "No", 10 * n) if n % 2 else ("No", "Yes", 100)))
        look()
        here.judge(*seen[-1])
    here.page.get_by_role("heading", name="Thank you").wait_for()
    look()
    path = here.saved(tmp_path)
    assert here.complaints == []
    assert {url.split(":")[0] for url in here.requests} <= {"file", "data", "blob"}
    assert [url for url in here.requests if url.startswith("file")] == [here.page.url]

    answers = read([path])
    assert path.name == f"study-{answers[0].study}-{answers[0].participant}.csv"
    assert [(one.order, one.method, one.label) for one in answers] == [
        (n, film.method, film.label) for n, (film, _) in enumerate(seen, start=1)
    ]
    assert [(one.realistic, one.same_person, one.in_sync) for one in answers] == [
        (said[0] == "Yes", said[1] == "Yes" if film.face else None, said[2]) for film, said in seen
    ]
    assert all(0.4 <= one.seconds < 60 for one in answers)
    # In a spreadsheet no cell is a formula.
    cells = [cell for line in csv.reader(path.read_text(encoding="utf-8").splitlines()) for cell in line]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]


def test_a_film_is_judged_after_it_was_played(visit: Callable[..., Visit], films: list[StudyVideo]) -> None:
    """No question can be answered before the video's end, and every question needs an answer."""
    here = visit(films[1:2])
    here.press("Begin")
    choices = here.page.get_by_role("radio").all()
    assert len(choices) == 2 + 2 + 11
    assert not any(choice.is_enabled() or choice.is_checked() for choice in choices)
    on = here.page.get_by_role("button", name="Finish")
    assert here.page.get_by_text("Play the video to its end, then answer.").is_visible()
    here.watch()
    assert all(choice.is_enabled() for choice in choices)
    for question, choice in (("realistic", "Yes"), ("in sync", "0 percent"), ("same person", "No")):
        assert on.is_disabled()
        assert here.page.get_by_text("Answer all questions to go on.").is_visible()
        here.say(question, choice)
    assert on.is_enabled()


def test_films_can_be_played_again(visit: Callable[..., Visit], films: list[StudyVideo]) -> None:
    """A finished video can be played again from its start."""
    here = visit(films[1:2])
    here.press("Begin")
    here.watch()
    film = here.page.locator("video")
    film.evaluate("film => { film.ends = new Promise((done) => film.addEventListener('ended', () => done())); }")
    here.press("Play again")
    film.evaluate("film => film.ends")
    assert here.page.get_by_role("button", name="Play again").is_visible()


def test_a_reload_loses_nothing(visit: Callable[..., Visit], films: list[StudyVideo], tmp_path: Path) -> None:
    """After a reload the same participant is at the same video with the same answers; the video counts as played."""
    here = visit(films[1:4])
    here.press("Begin")
    here.judge(here.shown(films), ("Yes", "No", 40))
    second = here.shown(films)
    here.watch()
    here.say("realistic", "No")
    before = here.kept()
    here.page.reload()
    assert here.page.get_by_role("heading", name="Video 2 of 3").is_visible()
    assert here.shown(films) == second
    assert here.checked() == ["0"]
    assert here.page.get_by_role("radio").first.is_enabled()
    here.press("Back")
    assert here.checked() == ["1", "0", "40"]
    here.press("Next")
    here.say("same person", "Yes")
    here.say("in sync", "90 percent")
    here.press("Next")
    here.judge(here.shown(films), ("Yes", "Yes", 100))
    here.page.reload()
    answers = read([here.saved(tmp_path)])
    assert [(one.realistic, one.same_person, one.in_sync) for one in answers] == [
        (True, False, 40), (False, True, 90), (True, True, 100),
    ]  # fmt: skip
    assert [one.film for one in answers] == before["order"]
    assert {one.participant for one in answers} == {before["participant"]}


def test_time_in_another_tab_is_not_counted(visit: Callable[..., Visit], films: list[StudyVideo]) -> None:
    """Hours in which the page is hidden count for no video, even if it is closed before it is visible again."""
    here = visit(films[:2])
    here.press("Begin")
    here.page.evaluate(
        """() => {
            Object.defineProperty(document, "hidden", { value: true });
            document.dispatchEvent(new Event("visibilitychange", { bubbles: true }));
            const before = performance.now();
            performance.now = () => before + 7200e3;
            dispatchEvent(new Event("pagehide"));
        }"""
    )
    assert [one["seconds"] < 60 for one in here.kept()["answers"].values()] == [True]


def test_answers_can_be_changed(visit: Callable[..., Visit], films: list[StudyVideo], tmp_path: Path) -> None:
    """Going back from the end shows the answers; changed answers count, and must be saved again."""
    here = visit(films[1:2])
    here.press("Begin")
    here.judge(films[1], ("Yes", "No", 40))
    first = here.saved(tmp_path)
    here.press("Back")
    assert here.checked() == ["1", "0", "40"]
    here.say("in sync", "50 percent")
    here.press("Finish")
    assert not here.page.get_by_role("button", name="Begin for another participant").is_visible()
    second = here.saved(tmp_path)
    assert first == second
    assert [one.in_sync for one in read([second])] == [50]


def test_a_film_that_cannot_be_played_is_skipped(
    visit: Callable[..., Visit], films: list[StudyVideo], film: StudyVideo, tmp_path: Path
) -> None:
    """If a video cannot be played, a line says so and only skipping is possible; its row has no answers."""
    here = visit([film])
    here.press("Begin")
    assert here.page.get_by_role("alert").inner_text().startswith("This browser cannot play the video.")
    assert here.page.get_by_role("button", name="Finish").is_disabled()
    here.press("Skip it")
    assert here.page.get_by_text("1 of 1 videos").is_visible()
    (one,) = read([here.saved(tmp_path)])
    assert (one.method, one.realistic, one.same_person, one.in_sync) == ("ours", None, None, None)
    assert "| ours | – | – | – | 0 | 0 |" in table([one])


def test_a_film_that_fails_later_is_skipped_too(
    visit: Callable[..., Visit], films: list[StudyVideo], tmp_path: Path
) -> None:
    """Skipping a video removes its answers."""
    here = visit(films[1:2])
    here.press("Begin")
    here.judge(films[1], ("Yes", "No", 40))
    here.press("Back")
    here.page.locator("video").dispatch_event("error")
    here.press("Skip it")
    assert [one.realistic for one in read([here.saved(tmp_path)])] == [None]


def test_a_film_whose_picture_is_unknown_is_skipped(visit: Callable[..., Visit], tmp_path: Path) -> None:
    """An mp4 of which a browser can only play the audio cannot be rated."""
    path = write(tmp_path / "sound.mp4", steady(25, 0.4), [picture(1)] * 10, noise(0.4, 16_000))
    data = path.read_bytes()
    assert b"avc1" in data
    path.write_bytes(data.replace(b"avc1", b"zzzz"))
    here = visit([StudyVideo("ours", path, None)])
    here.press("Begin")
    here.press("Skip it")
    assert here.page.get_by_text("1 of 1 videos").is_visible()


def test_every_participant_has_an_order_of_their_own(visit: Callable[..., Visit], films: list[StudyVideo]) -> None:
    """Participants see all videos, in different orders and under different names."""
    # Five equal orders of six films come once in 720⁴ = 3 · 10¹¹ runs.
    kept = [visit(films).kept() for _ in range(5)]
    assert len({one["participant"] for one in kept}) == 5
    assert len({tuple(one["order"]) for one in kept}) > 1
    assert len({frozenset(one["order"]) for one in kept}) == 1


def test_one_browser_serves_several_participants(
    visit: Callable[..., Visit], films: list[StudyVideo], tmp_path: Path
) -> None:
    """Once answers are saved, the next participant begins without any, and both files are read together."""
    here = visit(films[1:2])
    paths = []
    for choice in (30, 70):
        here.press("Begin")
        assert here.checked() == []
        here.judge(films[1], ("Yes", "Yes", choice))
        assert not here.page.get_by_role("button", name="Begin for another participant").is_visible()
        paths.append(here.saved(tmp_path))
        here.press("Begin for another participant")
    assert sorted(one.in_sync or 0 for one in read(paths)) == [30, 70]


def test_the_keyboard_is_enough(visit: Callable[..., Visit], films: list[StudyVideo]) -> None:
    """Without a mouse a video can be played, rated and left."""
    here = visit(films[1:2])
    keys = here.page.keyboard

    def focus() -> str:
        return str(here.page.evaluate("document.activeElement.name || document.activeElement.id"))

    for key in ("Tab", "Enter"):
        keys.press(key)
    assert focus() == "play"
    keys.press("Space")
    here.page.get_by_role("button", name="Play again").wait_for()
    for name, pressed in (("realistic", "Space"), ("same_person", "ArrowRight"), ("in_sync", "ArrowLeft")):
        keys.press("Tab")
        assert focus() == name
        keys.press(pressed)
    assert here.checked() == ["1", "0", "100"]
    keys.press("Enter")
    assert here.page.get_by_role("heading", name="Thank you").is_visible()


def test_a_browser_that_keeps_nothing_says_so(
    visit: Callable[..., Visit], films: list[StudyVideo], tmp_path: Path
) -> None:
    """Without storage the page warns that a reload loses the answers, and works."""
    refuse = (
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } })"
    )
    here = visit(films[1:2], script=refuse)
    assert here.page.get_by_text("do not reload").is_visible()
    here.press("Begin")
    here.judge(films[1], ("Yes", "Yes", 10))
    assert [one.in_sync for one in read([here.saved(tmp_path)])] == [10]
    assert here.complaints == []


@pytest.mark.parametrize(
    "junk", ["{", "null", "{}", '{"order": [], "at": 0, "answers": {}}', '{"order": ["a"], "at": 0, "answers": {}}']
)
def test_storage_of_something_else_is_ignored(visit: Callable[..., Visit], films: list[StudyVideo], junk: str) -> None:
    """Stored data that is not the page's own does not stop it."""
    here = visit(films[1:2], script=f"Storage.prototype.getItem = () => {json.dumps(junk)}")
    here.press("Begin")
    here.judge(films[1], ("Yes", "Yes", 10))
    assert here.page.get_by_role("heading", name="Thank you").is_visible()
    assert here.complaints == []


def test_the_page_reaches_no_network(visit: Callable[..., Visit], films: list[StudyVideo]) -> None:
    """Even a script in the page cannot send anything anywhere."""
    here = visit(films[1:2])
    sent = "fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.name)"
    assert here.page.evaluate(sent) == "TypeError"
    assert any("Content Security Policy" in complaint for complaint in here.complaints)
