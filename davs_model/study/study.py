"""The user study of Table 2: a page of videos to rate, blind and shuffled, and the table of the answers.

A page is one HTML file that needs no network. Participants rate every video by the paper's three criteria and save the
answers as CSV. The page shows no name of a method or a file; those of methods are base64-encoded in its script.
"""

from __future__ import annotations

import base64
import csv
import functools
import hashlib
import io
import json
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from markupsafe import Markup

from avprep import files, pages
from avprep.errors import RunError

COLUMNS = (
    "study", "participant", "order", "film", "method", "label", "realistic", "same_person", "in_sync", "seconds",
)  # fmt: skip
"""The columns of the CSV that a page saves: one row per video, in the order in which the participant saw them."""
CRITERIA = {
    "realistic": "Realistic rate",
    "in_sync": "Lip-audio synchronising rate",
    "same_person": "Identity preserving rate",
}
"""The field of an `Answer` that a column of Table 2 averages, and the column's heading."""
PAPER = {
    "generation from video (ours)": ("87.8", "88.4", "100"),
    "generation from audio (ours)": ("51.5", "72.3", "100"),
    "reproduced baseline": ("44.1", "58.0", "100"),
}
"""The rows of Table 2 in the paper, in %."""
CONFIDENCE = 0.95
"""Coverage of the intervals."""
FILE_MB = 20
"""Maximum size of one video or photo: base64 adds a third, and Firefox accepts data URLs of up to 32 MB."""
PAGE_MB = 200
"""Maximum size of all videos and photos together: a JavaScript string is limited to about 500 MB."""
ANSWERS_MB = 4
"""Maximum size of one participant's CSV, whose rows have about 150 bytes."""
NAME_LENGTH = 200
"""Maximum number of characters of a method's name, a label and a title."""
IMAGES = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}
"""The first bytes of photos that every browser shows."""


@dataclass(frozen=True)
class StudyVideo:
    """One video to rate: an mp4 of H.264 and AAC, which every browser plays."""

    method: str
    """The method that generated it, a row of the table."""
    film: Path
    face: Path | None
    """The photo of the person, JPEG or PNG; None: participants are not asked whether it is the same person."""
    label: str = ""
    """A name for the video in the CSV, such as the person's; participants do not see it."""


@dataclass(frozen=True)
class Answer:
    """The answers of one participant for one video; None where their browser could not play it."""

    study: str
    participant: str
    order: int
    """The position at which they saw it, from 1."""
    film: str
    method: str
    label: str
    realistic: bool | None
    same_person: bool | None
    """None also if the video had no photo."""
    in_sync: int | None
    """The percentage of the time in which mouth and audio are in sync."""
    seconds: float
    """Time spent on the video."""


@dataclass(frozen=True)
class Rate:
    """A fraction from 0 to 1, averaged over each participant's videos and then over participants, with its interval."""

    mean: float
    interval: tuple[float, float] | None
    """The 95 % confidence interval of the mean over all possible participants; None for one participant."""
    n_participants: int
    n_answers: int


def check_names(what: str, method: str, label: str) -> None:
    """Check that a page accepts a method and a label; RunError, which begins with `what`, if not."""
    _named(f"{what}: its method", method)
    _named(f"{what}: its label", label, least=0)


def check_title(title: str) -> None:
    """Check that a page accepts a title; RunError if not."""
    _named("the study's title", title)


def page(films: Sequence[StudyVideo], *, title: str, seed: int = 0) -> str:
    """Return the study as one HTML page; the same videos (in any order), title and seed give the same text.

    title: the heading that participants read, which should therefore not name a method.
    seed: shuffles the videos within the page; each participant then sees them in a separate order.
    Raises RunError for no videos, one video twice, names that are empty or not printable, and files that cannot be
    read, are not mp4, JPEG or PNG, or are too large.
    """
    if not films:
        raise RunError("no videos: a study needs at least one")
    check_title(title)
    listed: dict[str, dict[str, str]] = {}
    photos: dict[str, str] = {}
    size = 0
    for film in films:
        check_names(str(film.film), film.method, film.label)
        data = _read(film.film, FILE_MB)
        if data[4:8] != b"ftyp":
            raise RunError(f"{film.film}: not an mp4")
        size += len(data)
        entry = {"method": _base64(film.method.encode()), "label": _base64(film.label.encode()), "film": _base64(data)}
        if film.face is not None:
            photo = _read(film.face, FILE_MB)
            kind = next((kind for kind, start in IMAGES.items() if photo.startswith(start)), None)
            if kind is None:
                raise RunError(f"{film.face}: neither JPEG nor PNG")
            entry["face"] = _digest(photo)
            size += 0 if entry["face"] in photos else len(photo)
            photos[entry["face"]] = f"data:image/{kind};base64,{_base64(photo)}"
        if size > PAGE_MB * 10**6:
            raise RunError(f"{film.film}: with it, videos and photos exceed {PAGE_MB} MB: take fewer or smaller ones")
        parts = (entry["method"], entry["label"], entry["film"], entry.get("face", ""))
        name = f"f{_digest(*(part.encode() for part in parts))}"
        if name in listed:
            raise RunError(f"{film.film}: is in the study twice as {film.method!r}")
        listed[name] = entry
    order = sorted(listed)
    form = (pages.source(__package__, name) for name in ("study.html", "study.js"))
    study = _digest(*(part.encode() for part in (*form, title, *order)))
    random.Random(seed).shuffle(order)
    content = {
        "study": f"s{study}",
        "columns": COLUMNS,
        "films": [{"id": name, "face": None, **listed[name]} for name in order],
        "faces": dict(sorted(photos.items())),
    }
    # All text in it is base64 or hexadecimal here, so that no name can end the script that contains it.
    text = Markup(json.dumps(content, separators=(",", ":")))  # noqa: S704
    return pages.render(__package__, "study.html", title=title, data=text)


def read(paths: Sequence[Path]) -> list[Answer]:
    """Return the answers of all participants of one study, from the files that they saved.

    Raises RunError, naming file and line, for contents that no page of a study saves, for files of different studies,
    and for a participant who rates a video twice.
    """
    if not paths:
        raise RunError("no files of answers to read")
    answers: dict[tuple[str, str], tuple[Answer, Path]] = {}
    names: dict[str, tuple[str, str]] = {}
    first: tuple[Answer, Path] | None = None
    for path in paths:
        before = len(answers)
        for line, row in _rows(path):
            here = f"{path}, line {line}"
            answer = _answer(row, here)
            first = first or (answer, path)
            if answer.study != first[0].study:
                raise RunError(f"{here}: is of study {answer.study}, but {first[1]} of {first[0].study}")
            key = (answer.participant, answer.film)
            if key in answers:
                other = answers[key][1]
                again = "twice" if other == path else f"in {other} too: keep the newer file"
                raise RunError(f"{here}: participant {answer.participant} rates video {answer.film} {again}")
            if names.setdefault(answer.film, (answer.method, answer.label)) != (answer.method, answer.label):
                raise RunError(f"{here}: video {answer.film} has another method or label than in the lines before")
            answers[key] = (answer, path)
        if len(answers) == before:
            raise RunError(f"{path}: holds no answers")
    return [answer for answer, _ in answers.values()]


def rate(answers: Sequence[Answer], criterion: str) -> Rate | None:
    """Return the rate of one of `CRITERIA`, or None without answers.

    The interval treats participants as a random sample, and the videos as fixed. For percentages it is Student's t of
    the participants' means. For yes and no it is Wilson's, with t in place of z, of n* answers: the number of
    independent ones with the variance of those means (the effective sample size of Korn and Graubard 1998), at most all
    answers. It therefore has a width even if all answers are yes.
    Both intervals are clipped to 0 … 1.
    """
    said: dict[str, list[float]] = {}
    for answer in answers:
        value = getattr(answer, criterion)
        if value is not None:
            said.setdefault(answer.participant, []).append(value / 100 if criterion == "in_sync" else float(value))
    if not said:
        return None
    means, n_answers = [fmean(values) for values in said.values()], sum(map(len, said.values()))
    mean = fmean(means)
    if len(means) == 1:
        return Rate(mean, None, 1, n_answers)
    t = _student(len(means) - 1)
    variance = stdev(means) ** 2 / len(means)
    if criterion == "in_sync":
        centre, half = mean, t * math.sqrt(variance)
    else:
        spread = mean * (1 - mean)
        n = min(n_answers, spread / variance) if variance > 0 else n_answers
        centre = (mean + t**2 / (2 * n)) / (1 + t**2 / n)
        half = t / (1 + t**2 / n) * math.sqrt(spread / n + (t / (2 * n)) ** 2)
    return Rate(mean, (max(0.0, centre - half), min(1.0, centre + half)), len(means), n_answers)


@functools.cache
def _student(degrees: int) -> float:
    """Return the quantile of Student's t for the intervals."""
    from scipy.stats import t as student  # here, since the import takes a second, and a page does not need it

    return float(student.ppf((1 + CONFIDENCE) / 2, degrees))


def table(answers: Sequence[Answer]) -> str:
    """Return Table 2 as Markdown: a row per method, in %, with 95 % intervals (`rate`), then the paper's rows."""
    rows = [["Method", *CRITERIA.values(), "Participants", "Answers"], ["---", *["---:"] * 5]]
    by_method: dict[str, list[Answer]] = {}
    for answer in answers:
        by_method.setdefault(answer.method, []).append(answer)
    for method, given in sorted(by_method.items()):
        judged = [answer for answer in given if answer.realistic is not None]
        cells = [_cell(rate(judged, criterion)) for criterion in CRITERIA]
        people = {answer.participant for answer in judged}
        rows.append([re.sub(r"([\\`*_\[\]<>|&])", r"\\\1", method), *cells, str(len(people)), str(len(judged))])
    rows += [[f"*paper: {method}*", *rates, "10", "–"] for method, rates in PAPER.items()]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    note = (
        "Rates in %, averaged over videos and participants, with 95 % intervals over participants. "
        "The paper's rows are of models trained on LRW, rated by other people on other videos."
    )
    return "\n".join([*lines, "", note, ""])


def _cell(value: Rate | None) -> str:
    if value is None:
        return "–"
    interval = "" if value.interval is None else " ({:.1f}–{:.1f})".format(*(100 * end for end in value.interval))
    return f"{100 * value.mean:.1f}{interval}"


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield each row of a CSV file, by column, with its line; RunError for a file that is not of a study."""
    data = _read(path, ANSWERS_MB)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RunError(f"{path}, line {line}: not UTF-8, as a page saves it") from None
    table = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(table, [])
        missing = [column for column in COLUMNS if header.count(column) != 1]
        if missing:
            raise RunError(f"{path}, line 1: not the answers of a study: no column, or two, of {', '.join(missing)}")
        for row in table:
            if len(row) not in (0, len(header)):
                raise RunError(f"{path}, line {table.line_num}: has {len(row)} fields, the header {len(header)}")
            if row:
                yield table.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise RunError(f"{path}, line {table.line_num}: not CSV ({error})") from None


def _answer(row: Mapping[str, str], here: str) -> Answer:
    """Return the answer in a row; RunError for an invalid value."""

    def value(column: str, pattern: str) -> str:
        if not re.fullmatch(pattern, row[column]):
            raise RunError(f"{here}: {column} cannot be {row[column][:40]!r}")
        return row[column]

    realistic, same = value("realistic", "[01]?"), value("same_person", "[01]?")
    in_sync = value("in_sync", "([0-9]{1,2}|100)?")
    if bool(realistic) != bool(in_sync) or (same and not realistic):
        raise RunError(f"{here}: the questions are neither all answered nor all skipped")
    return Answer(
        study=value("study", "s[0-9a-f]{12}"),
        participant=value("participant", "p[0-9a-f]{12}"),
        order=int(value("order", "[1-9][0-9]{0,5}")),
        film=value("film", "f[0-9a-f]{12}"),
        # The page adds an apostrophe before a name that spreadsheets could read as a formula.
        method=_named(f"{here}: method", row["method"].removeprefix("'")),
        label=_named(f"{here}: label", row["label"].removeprefix("'"), least=0),
        realistic=realistic == "1" if realistic else None,
        same_person=same == "1" if same else None,
        in_sync=int(in_sync) if in_sync else None,
        seconds=float(value("seconds", r"[0-9]{1,9}(\.[0-9]{1,3})?")),
    )


def _read(path: Path, megabytes: int) -> bytes:
    try:
        with files.open_file(path) as file:
            data = file.read(megabytes * 10**6 + 1)
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > megabytes * 10**6:
        raise RunError(f"{path}: larger than {megabytes} MB, the most that a study takes of one file")
    return data


def _named(what: str, name: str, least: int = 1) -> str:
    """Return a name that fits on one line and has no invisible characters; RunError for others."""
    if len(name.strip()) < least or not name.isprintable() or len(name) > NAME_LENGTH:
        raise RunError(f"{what} cannot be {name[:40]!r}: it takes {least} to {NAME_LENGTH} characters that print")
    return name


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _digest(*parts: bytes) -> str:
    """Return 12 hexadecimal digits that depend on every part and on where each ends."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()[:12]
