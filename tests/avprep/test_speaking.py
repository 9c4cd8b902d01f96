"""Of two people side by side, the face is followed whose mouth matches the audio according to a sync model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import made_media
import numpy as np
import pytest
from avprep_cli import summary
from avprep_cli.main import main
from click.testing import CliRunner

import avprep
from avprep import columns, layouts, schema
from avprep.errors import RunError, SettingsError
from avprep.manifest import Clip, Manifest
from avprep.runs import status
from avprep.stages import CropSettings


@dataclass(frozen=True)
class ColourJudge:
    """Gives a confidence by the amount of one colour in a face, or none; seen: the shapes of its inputs."""

    channel: int | None
    seen: list[tuple[int, ...]] = field(default_factory=list)

    def digest(self) -> str:
        """Its colour."""
        return f"colour{self.channel}"

    def preset(self) -> str:
        """The windows that it uses."""
        return "davs"

    def __call__(self) -> Callable[..., float | None]:
        """Return the confidence."""

        def judge(crops: Iterable[np.ndarray], windows: np.ndarray, valid: np.ndarray) -> float | None:
            faces = np.stack([crop[..., :3] for crop in crops])
            self.seen.append((*faces.shape, *windows.shape, *valid.shape))
            other = None if self.channel is None else faces[..., 2 - self.channel].mean()
            return None if other is None else float(faces[..., self.channel].mean() - other)

        return judge


@pytest.fixture(scope="module")
def pair(made_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of a bluish face on the left and a reddish, larger one on the right, with the audio of the left one."""
    folder = tmp_path_factory.mktemp("pair")
    clips = layouts.index("lrw", made_corpus)[0].clips
    one, other = (made_corpus / clip.video for clip in clips[:2])
    tints = "[0:v]colorchannelmixer=rr=.7,scale=256:256[l];[1:v]colorchannelmixer=bb=.7,scale=320:320,crop=320:256[r]"
    streams = ("-filter_complex", f"{tints};[l][r]hstack[v]", "-map", "[v]", "-map", "0:a")
    made_media.ffmpeg("-i", one, "-i", other, *streams, folder / "pair.mp4")
    return folder / "pair.mp4"


def cropped(film: Path, judge: ColourJudge, track: str | None = None) -> tuple[float, dict[str, Any]]:
    """Return where the eyes of the followed face are, from left to right, and the facts of the clip.

    track: the file of the data set's own face boxes, if it has any.
    """
    settings = CropSettings("opencv", subject="speaking", min_face=20)
    work = columns.crop_stage(film.parent, settings, 1, judge)()  # type: ignore[arg-type]
    members = dict(work(Clip("pair", film.name, "test", track=track)).members)
    return float(schema.decode_array(members["points.npy"])[:, :2, 0].mean()), json.loads(members["clip.json"])


def test_the_face_that_the_judge_is_surest_of_is_followed(pair: Path) -> None:
    """Either face is followed if the sync model prefers it; it is given the crops of both and the audio's windows."""
    blue, red = ColourJudge(2), ColourJudge(0)
    (left, facts), (right, _) = cropped(pair, blue), cropped(pair, red)
    assert left < 256 < right
    assert facts["faces"] == 2
    assert len(facts["speaking"]) == 2
    n_frames = facts["n_frames"]
    assert blue.seen == [(n_frames, 256, 256, 3, n_frames, 12, 20, n_frames)] * 2


def test_without_a_verdict_the_largest_face_is_followed(pair: Path, tmp_path: Path) -> None:
    """If the sync model cannot decide, for lack of audio, silence or too little of it, the larger face is followed."""
    unsure, facts = cropped(pair, ColourJudge(None))
    assert (unsure > 256, facts["speaking"]) == (True, [None, None])
    made_media.ffmpeg("-i", pair, "-an", "-c:v", "copy", tmp_path / "mute.mp4")
    silence = ("-f", "lavfi", "-i", "anullsrc=r=16000:cl=mono", "-map", "0:v", "-map", "1:a", "-shortest")
    made_media.ffmpeg("-i", pair, *silence, "-c:v", "copy", tmp_path / "silent.mp4")
    for name in ("mute.mp4", "silent.mp4"):
        mute, facts = cropped(tmp_path / name, ColourJudge(2))
        assert (mute > 256, facts["speaking"]) == (True, None)


def test_without_a_verdict_the_face_of_the_data_set_is_followed(pair: Path) -> None:
    """If the sync model cannot decide, the data set's own boxes take precedence over size, as with `largest`."""
    rows = "".join(f"{frame:06d} 60 60 140 140\n" for frame in range(29))
    (pair.parent / "track.txt").write_text(f"FRAME X Y W H\n{rows}")
    unsure, facts = cropped(pair, ColourJudge(None), "track.txt")
    assert (unsure < 256, facts["speaking"]) == (True, [None, None])
    made_media.ffmpeg("-i", pair, "-an", "-c:v", "copy", pair.parent / "mute.mp4")
    mute, facts = cropped(pair.parent / "mute.mp4", ColourJudge(2), "track.txt")
    assert (mute < 256, facts["speaking"]) == (True, None)
    red, _ = cropped(pair, ColourJudge(0), "track.txt")
    assert red > 256


def test_who_speaks_needs_a_judge(pair: Path, tmp_path: Path) -> None:
    """--subject speaking and --sync go together: either alone is an error."""
    plan = tmp_path / "plan.jsonl"
    head = {"avprep_manifest": 1, "dataset": "pair", "root": str(pair.parent), "seed": 0}
    row = {"key": "pair", "video": "pair.mp4", "split": "test"}
    plan.write_text("\n".join(map(json.dumps, (head, row))) + "\n")
    done = CliRunner().invoke(main, ["crop", str(plan), str(tmp_path / "out"), "--subject", "speaking"])
    assert done.exit_code == 2
    assert "--subject speaking needs --sync RUN" in done.stderr
    done = CliRunner().invoke(main, ["crop", str(plan), str(tmp_path / "out"), "--sync", str(tmp_path)])
    assert done.exit_code == 2
    assert "--sync is for --subject speaking" in done.stderr
    with pytest.raises(RunError, match="give the RUN of a sync model"):
        columns.crop_stage(tmp_path, CropSettings(subject="speaking"), 1, None)


@pytest.mark.parametrize(("subject", "judge"), [("auto", ColourJudge(0)), ("largest", ColourJudge(0)), ("speaking", 5)])
def test_a_judge_is_never_ignored(pair: Path, tmp_path: Path, subject: Any, judge: Any) -> None:
    """From Python, a judge without the subject `speaking`, or one that is none, is refused before OUT is touched."""
    plan = Manifest("pair", pair.parent, (Clip("pair", "pair.mp4", "test"),))
    with pytest.raises(SettingsError, match=r"^judge "):
        avprep.crop(plan, tmp_path / "out", detector="opencv", subject=subject, judge=judge, jobs=1, verbosity=-1)
    assert not (tmp_path / "out").exists()


def test_crops_of_who_speaks_are_run_again_with_the_judge(tmp_path: Path) -> None:
    """The recommendation for failed clips includes the option that `retry` needs here; so does that of `retry`."""
    plan = Manifest("pair", tmp_path, (Clip("gone", "gone.mp4", "test"),), seed=0)
    stage = columns.crop_stage(tmp_path, CropSettings("opencv", subject="speaking"), 1, ColourJudge(0))  # type: ignore[arg-type]
    columns.Filling(stage, plan, tmp_path / "out", 1).run()
    (found,) = status.status(tmp_path / "out")
    assert found.reasons == {"missing": 1}
    advice = summary.retry_line(tmp_path / "out", found, found.reasons)
    assert advice.endswith("/out --column crop --model RUN --reason missing")
    done = CliRunner().invoke(main, advice.replace(" --model RUN", "").split()[1:])
    assert done.exit_code == 2
    assert "--subject speaking needs --model RUN" in done.stderr


def test_the_judge_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    """Another sync model is another version of the column."""
    settings = CropSettings("opencv", subject="speaking")
    stages = [columns.crop_stage(tmp_path, settings, 1, ColourJudge(n)) for n in (0, 2)]  # type: ignore[arg-type]
    assert [stage.versions()["sync_model"] for stage in stages] == ["colour0", "colour2"]
    assert stages[0].resolved()["subject"] == "speaking"
