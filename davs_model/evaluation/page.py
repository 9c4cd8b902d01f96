"""The page of an evaluation: what was measured, then the tables of the model's paper; Markdown and HTML.

Metrics that are missing have a line with the reason, and chance levels stand wherever there are any.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from avprep import pages
from avprep.pages.pictures import data_url
from davs_model.evaluation import model_measures, paper_tables
from davs_model.evaluation.definitions import DEFINITIONS
from davs_model.evaluation.section import Chance, PageSection, Row, number

Metrics = Mapping[str, Any]
Columns = Mapping[str, Callable[[Any], str]]
"""Keys of figures, and how each is written."""

SOURCES = {"audio": "audio", "video": "video", "repeated": "identity frame repeated"}
"""What frames are generated from; the last is no model's work."""
SCORES = {
    "PSNR, dB": ("psnr", ".1f"),
    "SSIM": ("ssim", ".3f"),
    "L1": ("l1", ".4f"),
    "frames": ("n_frames", ",.0f"),
    "identical to ground truth": ("identical", ",.0f"),
}
"""Scores of frames: the key of each, and the form of its numbers."""
DRIVEN = {
    "audio": "audio",
    "wrong_audio": "another clip's audio",
    "video": "video",
    "repeated": SOURCES["repeated"],
    "mean": "mean of the real clip",
}
"""What whole clips are generated from; the last two do not move."""
VERDICTS = {
    True: "The mouths follow the audio: with another clip's audio they do not.",
    False: "This model does not talk: another clip's audio is as good as the right one.",
}
WAYS = {"video_to_audio": "video → audio", "audio_to_video": "audio → video"}
READINGS = {"words_from_identity": "words from identity features", "people_from_speech": "people from speech features"}
PARTS = {
    "talking": "talking mouths",
    "reconstruction": "generated frames",
    "recognition": "words recognised",
    "retrieval": "clips found by the other modality",
    "generated_retrieval": "originals found by generated videos",
    "leakage": "disentangling",
    **READINGS,
    "mouth": "mouth distance",
}
"""What may be missing, in words."""
PICTURES = {
    "confusion_visual": "Words spoken, and words read from lips",
    "confusion_audio": "Words spoken, and words heard",
    "by_word": "Accuracy of single words",
    "ranks": "Fraction of queries whose match is among the first k",
    "samples": "Per clip: the identity frame, then real frames, those generated from audio, and those from video",
    "expressions": "Per person: a picture, and the same frame generated with each emotion, of other people's clips",
}
"""Figures that the page has words for; any other is called by its name."""


@dataclass(frozen=True)
class Page:
    """What both forms of the page hold.

    facts: lines on what was evaluated. comparison: whether the paper's figures compare.
    """

    title: str
    facts: tuple[str, ...]
    comparison: str
    sections: tuple[PageSection, ...]


def content(metrics: Metrics) -> Page:
    """Return what the page holds; metrics: what metrics.json holds."""
    parts = [_generation, _recognition_and_retrieval, _generated_retrieval, _leakage, _mouth]
    if _models(metrics, "talking") or "talking" in _part(metrics, "missing"):  # of a model that draws
        parts.insert(0, _talking)
    if _models(metrics, "sync"):
        parts.insert(1, _in_sync)
    facts = tuple(f"{name}: {fact}" for name, fact in _facts(metrics).items() if fact)
    # Parts of the page have such lines themselves.
    facts += tuple(f"not measured: {n}: {why}" for n, why in _part(metrics, "missing").items() if n not in PARTS)
    title = f"Evaluation of {metrics.get('run', '–')}"
    own = model_measures.sections(_part(metrics, "own"))
    sections = (*(part(metrics) for part in parts), *own, *paper_tables.sections(metrics))
    return Page(title, facts, paper_tables.comparison(metrics), sections)


def render(metrics: Metrics, figures: Mapping[str, str]) -> str:
    """Return the page, Markdown.

    metrics: what metrics.json holds; of parts that it lacks the page has the reason that `missing` has under their
    name. figures: names (of `PICTURES`, or any) to files, relative to the page.
    """
    return markdown(content(metrics), figures)


def render_html(metrics: Metrics, figures: Mapping[str, bytes]) -> str:
    """Return the page as one HTML file that needs no network.

    figures: names to their PNGs, which the page holds.
    """
    return html(content(metrics), figures)


def markdown(page: Page, figures: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return a page as Markdown; figures: as of `render`."""
    blocks = [f"# {_text(page.title)}", "\n".join(f"- {_text(fact)}" for fact in page.facts), _text(page.comparison)]
    for section in page.sections:
        blocks += [f"## {section.title}", *map(_text, section.notes)]
        blocks += [f"*Not measured*: {_text(what)}{f': {_text(why)}' if why else '.'}" for what, why in section.missing]
        blocks.append(_table(section.head, section.rows))
    if figures:
        blocks.append("## Figures")
        blocks += [f"![{_text(PICTURES.get(name, name))}]({quote(file)})" for name, file in figures.items()]
    blocks += ["## How each figure is defined", "\n".join(f"- {line}" for line in DEFINITIONS)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def html(page: Page, figures: Mapping[str, bytes] = MappingProxyType({})) -> str:
    """Return a page as one HTML file; figures: as of `render_html`."""
    shown = [(PICTURES.get(name, name), data_url(data, "png")) for name, data in figures.items()]
    return pages.render(__package__, "evaluation.html", page=page, figures=shown, definitions=DEFINITIONS)


def _facts(metrics: Metrics) -> dict[str, str]:
    """Return what was evaluated, and on what; empty text where it is unknown."""
    data, size = _part(metrics, "data"), _part(metrics, "dimensions").get("image_size")
    paper = paper_tables.paper_data(metrics)
    theirs = "" if paper is None else f" (the paper's: {paper.image_size})"
    dataset, out, split = (data.get(key, "–") for key in ("dataset", "out", "split"))
    skipped = [f"{_count(n)} × {reason}" for reason, n in _part(data, "skipped").items()]
    clips = (f"{name} {_count(data.get(name))}" for name in ("clips", "words", "speakers"))
    return {
        "run": f"{metrics.get('run', '–')}, checkpoint {str(metrics.get('checkpoint') or '–')[:12]}",
        "trained steps": ", ".join(f"{name} {_count(n)}" for name, n in _part(metrics, "steps").items()),
        "frames": "" if size is None else f"{_count(size)} pixels high and wide{theirs}",
        "data": f"{dataset} ({out}), split {split}: {', '.join(clips)}",
        "skipped": ", ".join(skipped) or ("none" if "skipped" in data else ""),
        "versions": ", ".join(f"{name} {one}" for name, one in _part(metrics, "versions").items()),
        "seconds": number(metrics.get("seconds"), ",.1f"),
    }


def _talking(metrics: Metrics) -> PageSection:
    columns = {
        "opening_r": _correlation,
        "motion_r": _correlation,
        "amplitude": _correlation,
        "r1": _percent,
        "r10": _percent,
        "cosine_r1": _percent,
        "mouth_psnr": _decibels,
        "mouth_ssim": _similarity,
        "better": _percent,
        "flicker": _correlation,
        "n_clips": _count,
    }
    rows: list[Row] = _rows(_models(metrics, "talking"), "talking", DRIVEN, columns)
    verdict = VERDICTS.get(bool(talks)) if (talks := _part(metrics, "talking").get("talks")) is not None else None
    n = _first(_part(metrics, "talking", name).get("n_clips") for name in DRIVEN)
    chance: Row = [Chance(), "–", "0", "0", "–", *(_retrieval_chance(n)[i] for i in (0, 2, 0)), *["–"] * 5]
    return PageSection(
        "Does it talk?",
        (
            *((verdict,) if verdict else ()),
            "Clips generated whole from a random frame of them, and measured while somebody speaks. R@k: real mouths "
            "found by generated ones, in %.",
            *_reference(metrics),
        ),
        _missing(metrics, "talking"),
        (
            "model",
            "generated from",
            "opening r",
            "motion r",
            "amplitude",
            "R@1",
            "R@10",
            "R@1, cosine",
            "mouth PSNR, dB",
            "mouth SSIM",
            "better than repeated, %",
            "flicker",
            "clips",
        ),
        (*rows, chance) if rows else (),
    )


def _reference(metrics: Metrics) -> tuple[str, ...]:
    """Return how much mouths depend on the frame that the face comes from, in a sentence; none where it is unknown."""
    share = _part(metrics, "reference").get("dependence")
    return () if share is None else (f"Dependence on the mouth of the identity frame: {_percent(share)} %.",)


def _in_sync(metrics: Metrics) -> PageSection:
    columns = {"confidence": _similarity, "distance": _similarity, "offset": _pixels, "within_1": _percent}
    return PageSection(
        "Is it in sync?",
        ("By a sync model that has seen none of these films; its scale is its own. Each against its clip's audio.",),
        (),
        ("model", "film", "confidence", "distance", "median offset, frames", "within 1 frame, %", "clips"),
        tuple(_rows(_models(metrics, "sync"), "sync", {"real": "real", **DRIVEN}, columns | {"n_clips": _count})),
    )


def _generation(metrics: Metrics) -> PageSection:
    rows = []
    for name, model in _models(metrics, "reconstruction"):
        columns = [_part(model, "reconstruction", source) for source in SOURCES]
        for title, (key, form) in SCORES.items():
            rows.append([name, title, *(number(column.get(key), form) for column in columns)])
    return PageSection(
        "Generated frames",
        ("The identity frame repeated is the floor: the score of a face that does not move.",),
        _missing(metrics, "reconstruction"),
        ("model", "score", *SOURCES.values()),
        tuple(rows),
    )


def _recognition_and_retrieval(metrics: Metrics) -> PageSection:
    def row(name: str, model: Metrics) -> list[str]:
        found = (_cells(_part(model, "retrieval", way), RANKED) for way in WAYS)
        shares = {"visual": _percent, "audio": _percent, "both": _percent}
        return [name, *_cells(_part(model, "recognition"), shares), *(cell for cells in found for cell in cells)]

    models = _models(metrics, "recognition", "retrieval")
    words = _chance(_first(_part(model, "recognition").get("chance") for _, model in models))
    galleries = (_first(_part(model, "retrieval", way).get("n_clips") for _, model in models) for way in WAYS)
    rows: list[Row] = [
        *(row(name, model) for name, model in models),
        [Chance(), *[words] * 3, *(cell for n in galleries for cell in _retrieval_chance(n))],
    ]
    ways = [cell for way in WAYS.values() for cell in (f"{way} R@1", "R@5", "R@10", "MedR")]
    return PageSection(
        "Words recognised, and clips found by the other modality",
        ("In % except MedR.",),
        _missing(metrics, "recognition", "retrieval"),
        ("model", "visual", "audio", "both", *ways),
        tuple(rows if models else ()),
    )


def _generated_retrieval(metrics: Metrics) -> PageSection:
    models = _models(metrics, "generated_retrieval")
    rows: list[Row] = _rows(models, "generated_retrieval", SOURCES, {**RANKED, "n_clips": _count})
    n = _first(_part(model, "generated_retrieval", way).get("n_clips") for _, model in models for way in SOURCES)
    chance: Row = [Chance(), "–", *_retrieval_chance(n), _count(n)]
    return PageSection(
        "Originals found by generated videos",
        (
            "From a random frame of each clip it is generated anew, by its audio and by its video; what was generated "
            "is embedded, and finds the original. That frame repeated proves that appearance alone does not. In % "
            "except MedR.",
        ),
        _missing(metrics, "generated_retrieval"),
        ("model", "generated from", "R@1", "R@5", "R@10", "MedR", "clips"),
        (*rows, chance) if rows else (),
    )


def _leakage(metrics: Metrics) -> PageSection:
    columns = {"accuracy": _percent, "chance": _chance, "n_train": _count, "n_test": _count}
    rows = _rows(_models(metrics, "leakage"), "leakage", READINGS, columns)
    return PageSection(
        "Disentangling",
        ("Accuracy of a linear SVM on features that should not hold the label, in %: closer to chance is better.",),
        _missing(metrics, "leakage", *(name for name in READINGS if name in _part(metrics, "missing"))),
        ("model", "read", "accuracy", "chance", "training clips", "test clips"),
        tuple(rows),
    )


def _mouth(metrics: Metrics) -> PageSection:
    columns = {"distance_px": _pixels, "n_frames": _count, "not_found_real": _count, "not_found_generated": _count}
    landmarks = _part(metrics, "mouth").get("landmarks")
    return PageSection(
        "Mouth",
        (f"Landmarks: {landmarks}.",) if landmarks else (),
        _missing(metrics, "mouth"),
        ("model", "generated from", "distance, pixels", "frames", "not found: real", "not found: generated"),
        tuple(_rows(_models(metrics, "mouth"), "mouth", SOURCES, columns)),
    )


def _models(metrics: Metrics, *parts: str) -> list[tuple[str, Metrics]]:
    """Return names and figures of the model evaluated and its baselines, of those that have one of the parts."""
    baselines = _part(metrics, "baselines")
    models = [(str(metrics.get("run", "–")), metrics), *((str(name), _part(baselines, name)) for name in baselines)]
    return [(name, model) for name, model in models if any(_part(model, part) for part in parts)]


def _rows(models: Iterable[tuple[str, Metrics]], part: str, titles: Mapping[str, str], columns: Columns) -> list[Row]:
    """Return a row for each of the titles' figures that a model has in a part."""
    found = ((name, title, _part(model, part, key)) for name, model in models for key, title in titles.items())
    return [[name, title, *_cells(figures, columns)] for name, title, figures in found if figures]


def _missing(metrics: Metrics, *parts: str) -> tuple[tuple[str, str], ...]:
    """Return each part that was not measured, with its reason where there is one."""
    missing = _part(metrics, "missing")
    return tuple(
        (PARTS[part], str(missing.get(part, ""))) for part in parts if part in missing or not _part(metrics, part)
    )


def _table(head: Sequence[str], rows: Sequence[Row]) -> str:
    """Return a Markdown table, nothing for no rows."""
    lines = [map(_text, head), ["---"] * len(head), *(map(_cell, row) for row in rows)] if rows else []
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: str | Chance) -> str:
    return "*chance*" if isinstance(cell, Chance) else _text(cell)


def _cells(found: Metrics, columns: Columns) -> list[str]:
    return [form(found.get(key)) for key, form in columns.items()]


def _retrieval_chance(n: Any) -> list[str]:
    if not isinstance(n, int) or n < 1:
        return ["–"] * 4
    return [*(_chance(min(1.0, k / n)) for k in (1, 5, 10)), _count(n // 2 + 1)]


def _part(of: Metrics, *names: str) -> Metrics:
    """Return a part of a part, empty where there is none."""
    for name in names:
        found = of.get(name)
        of = found if isinstance(found, Mapping) else {}
    return of


def _first(values: Iterable[Any]) -> Any:
    return next((value for value in values if value is not None), None)


def _percent(share: Any) -> str:
    return number(share, ".1f", scale=100)


def _chance(share: Any) -> str:
    """Return a level of chance in percent: one of 0.004 % is not to be shown as 0.0."""
    return number(share, ".2g" if isinstance(share, int | float) and 0 < share < 0.01 else ".1f", scale=100)


def _count(value: Any) -> str:
    return number(value, ",.0f")


def _correlation(value: Any) -> str:
    return number(value, ".2f")


def _decibels(value: Any) -> str:
    return number(value, ".1f")


def _similarity(value: Any) -> str:
    return number(value, ".3f")


def _pixels(value: Any) -> str:
    return number(value, ".2f")


def _text(value: object) -> str:
    r"""Return a name on one line, with signs of Markdown's escaped; an underscore inside a word is none."""
    return re.sub(r"[\\`*\[\]<>|#~&{}]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", " ".join(str(value).split()))


RANKED: Columns = {"r1": _percent, "r5": _percent, "r10": _percent, "median_rank": _count}
