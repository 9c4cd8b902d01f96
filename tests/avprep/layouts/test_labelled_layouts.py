"""The layouts of corpora with emotions and texts: their real names, and the treatment of all other files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_layouts import clips_of, plant

from avprep.errors import ManifestError
from avprep.layouts import index
from avprep.layouts.scan import stable_split
from avprep.manifest import Clip, Manifest, read, render

RATINGS = (
    '"","FileName","VoiceVote","VoiceLevel","FaceVote","FaceLevel","MultiModalVote","MultiModalLevel"\n'
    '"1","1001_DFA_ANG_XX","A","61.5","D","50","D","72.4"\n'
    '"2","1002_IEO_HAP_HI","H","70","H","80","A:H","70:80"\n'
)
LRS3 = (
    "Text:  SO WE LOOK\nConf:  3\nRef:   0Fi83BHQsMA\n\nFRAME X Y W H\n000001 0.3 0.2 0.4 0.4\n\n"
    "WORD START END ASDSCORE\nSO 0.08 0.20 4.1\nWE 0.20 0.32 5.0\nLOOK 0.40 0.75 6.2\n"
)


def labels_of(found: dict[str, Clip]) -> dict[str, dict[str, str]]:
    """The labels of clips by the last part of their keys."""
    return {key.rpartition("/")[2]: dict(clip.labels or {}) for key, clip in found.items()}


class TestLabels:
    """Free labels in a manifest."""

    def test_they_are_written_and_read(self, tmp_path: Path) -> None:
        """Any text under any name is read back unchanged; a clip without labels has no such field."""
        clips = (
            Clip("a", "a.mp4", "train", word="hi", labels={"emotion": "happy", "text": "“Hi!” – ok"}),
            Clip("b", "b.mp4", "train"),
        )
        path = tmp_path / "m.jsonl"
        path.write_text(render(Manifest("made", tmp_path, clips)), encoding="utf-8")
        assert read(path).clips == clips
        assert "labels" not in json.loads(path.read_text(encoding="utf-8").splitlines()[2])

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (["happy"], "labels must be texts by their names"),
            ({"emotion": 3}, "the label emotion must be text"),
            ({"emotion": ""}, "the label emotion must be text"),
            ({"word": "hi"}, "that of no field: 'word'"),
            ({"../x": "hi"}, "a label's name is"),
            ({"a" * 41: "hi"}, "a label's name is"),
        ],
    )
    def test_what_is_none(self, labels: Any, message: str, tmp_path: Path) -> None:
        """Labels that are not texts under plain names are refused with their line."""
        head = {"avprep_manifest": 1, "dataset": "made", "root": "/"}
        row = {"key": "a", "video": "a.mp4", "split": "train", "labels": labels}
        path = tmp_path / "m.jsonl"
        path.write_text(f"{json.dumps(head)}\n{json.dumps(row)}\n", encoding="utf-8")
        with pytest.raises(ManifestError, match=message) as error:
            read(path)
        assert f"{path}:2: " in str(error.value)

    def test_folder_patterns(self, tmp_path: Path) -> None:
        """`{emotion}` and `{intensity}` of a pattern become labels."""
        plant(tmp_path, "anna/happy_2/one.mp4")
        found, _ = clips_of("folder", tmp_path, pattern="{speaker}/{emotion}_{intensity}/{word}")
        (clip,) = found.values()
        assert (clip.speaker, clip.word, clip.labels) == ("anna", "one", {"emotion": "happy", "intensity": "2"})


class TestCREMAD:
    """CREMA-D's names and ratings."""

    def test_acted(self, tmp_path: Path) -> None:
        """The file name gives actor, sentence, emotion and intended intensity; an actor is in one split."""
        plant(
            tmp_path, "VideoFlash/1001_DFA_ANG_XX.flv", "VideoFlash/1001_IEO_HAP_HI.flv", "AudioWAV/1001_DFA_ANG_XX.wav"
        )
        found, problems = clips_of("cremad", tmp_path)
        assert labels_of(found) == {
            "1001_DFA_ANG_XX": {"emotion": "angry", "text": "Don't forget a jacket"},
            "1001_IEO_HAP_HI": {"emotion": "happy", "intensity": "high", "text": "It's eleven o'clock"},
        }
        assert {(clip.speaker, clip.split) for clip in found.values()} == {("1001", stable_split("1001"))}
        assert problems == {}

    def test_rated(self, tmp_path: Path) -> None:
        """With `labels="rated"` the emotion is that of the majority of raters; without a majority there is none."""
        plant(
            tmp_path,
            *(f"VideoFlash/{name}.flv" for name in ("1001_DFA_ANG_XX", "1002_IEO_HAP_HI", "1003_TIE_SAD_XX")),
            texts={"processedResults/summaryTable.csv": RATINGS},
        )
        found, problems = clips_of("cremad", tmp_path, labels="rated")
        assert labels_of(found) == {
            "1001_DFA_ANG_XX": {"emotion": "disgusted", "intensity": "72.4", "text": "Don't forget a jacket"},
            "1002_IEO_HAP_HI": {"text": "It's eleven o'clock"},
            "1003_TIE_SAD_XX": {"text": "That is exactly what happened"},
        }
        assert problems == {"no_majority": 1, "missing_rating": 1}

    @pytest.mark.parametrize(
        ("table", "kind"),
        [("FileName,Vote\na,b\n", "bad_annotation"), (b"\xff\xfe", "bad_annotation"), (None, "missing_annotation")],
    )
    def test_ratings_that_cannot_be_read(self, table: Any, kind: str, tmp_path: Path) -> None:
        """A damaged or missing table is a problem, and clips are kept without an emotion."""
        plant(tmp_path, "1001_DFA_ANG_XX.flv", texts={} if table is None else {"summaryTable.csv": table})
        found, problems = clips_of("cremad", tmp_path, labels="rated")
        assert len(found) == 1
        assert problems == {kind: 1, "missing_rating": 1}

    def test_the_four_damaged_clips(self, tmp_path: Path) -> None:
        """The clips that are known to be damaged are left out and counted, as are files with other names."""
        names = (
            "1076_MTI_NEU_XX",
            "1076_MTI_SAD_XX",
            "1064_TIE_SAD_XX",
            "1064_IEO_DIS_MD",
            "1064_IEO_DIS_LO",
            "trailer",
        )
        plant(tmp_path, *(f"VideoFlash/{name}.flv" for name in names))
        found, problems = clips_of("cremad", tmp_path)
        assert list(labels_of(found)) == ["1064_IEO_DIS_LO"]
        assert problems == {"damaged": 4, "unexpected_place": 1}

    def test_an_emotion_of_another_name(self, tmp_path: Path) -> None:
        """A clip whose name has no known emotion is kept and counted."""
        plant(tmp_path, "1001_DFA_XYZ_LO.mp4")
        found, problems = clips_of("cremad", tmp_path)
        assert labels_of(found) == {"1001_DFA_XYZ_LO": {"intensity": "low", "text": "Don't forget a jacket"}}
        assert problems == {"unknown_name": 1}


class TestRAVDESS:
    """RAVDESS's seven numbers."""

    def test_speech(self, tmp_path: Path) -> None:
        """Speech with audio becomes clips; videos without audio and songs are left out, each counted in one line."""
        plant(
            tmp_path,
            "Video_Speech_Actor_01/Actor_01/01-01-03-02-01-01-01.mp4",
            "Video_Speech_Actor_01/Actor_01/02-01-03-02-01-01-01.mp4",
            "Video_Speech_Actor_01/Actor_01/02-01-03-02-01-02-01.mp4",
            "Video_Song_Actor_01/Actor_01/01-02-06-01-02-01-01.mp4",
            "Audio_Speech_Actors_01-24/Actor_01/03-01-03-02-01-01-01.wav",
            "readme.mp4",
        )
        found, problems = clips_of("ravdess", tmp_path)
        (clip,) = found.values()
        assert clip.labels == {"emotion": "happy", "intensity": "strong", "text": "Kids are talking by the door"}
        assert (clip.speaker, clip.split) == ("Actor_01", stable_split("Actor_01"))
        assert problems == {"no_sound": 2, "song": 1, "unexpected_place": 1}
        said = {problem.kind: problem.message for problem in index("ravdess", tmp_path)[1].problems}
        assert said["no_sound"] == "2 videos passed over: picture alone"
        assert said["song"] == "1 video passed over: songs; --songs takes them"

    def test_songs(self, tmp_path: Path) -> None:
        """Songs become clips if they are asked for."""
        plant(tmp_path, "Actor_24/01-02-06-01-02-01-24.mp4")
        found, problems = clips_of("ravdess", tmp_path, songs=True)
        assert labels_of(found)["01-02-06-01-02-01-24"]["emotion"] == "fearful"
        assert problems == {}


class TestMEAD:
    """MEAD's cameras, with audio in files of its own."""

    def test_one_camera(self, tmp_path: Path) -> None:
        """The chosen camera is used with the audio of its utterance; the other cameras are counted."""
        plant(
            tmp_path,
            "M003/video/front/angry/level_3/001.mp4",
            "M003/video/left_30/angry/level_3/001.mp4",
            "M003/audio/angry/level_3/001.m4a",
            "W009/video/front/contempt/level_1/002.mp4",
        )
        found, problems = clips_of("mead", tmp_path)
        (clip,) = found.values()
        assert (clip.video, clip.audio) == (
            "M003/video/front/angry/level_3/001.mp4",
            "M003/audio/angry/level_3/001.m4a",
        )
        assert (clip.speaker, clip.labels) == ("M003", {"emotion": "angry", "intensity": "high"})
        assert problems == {"other_view": 1, "missing_audio": 1}
        assert "1 video of other cameras" in index("mead", tmp_path)[1].problems[-1].message
        assert len(clips_of("mead", tmp_path, view="all")[0]) == 2

    def test_trees_apart(self, tmp_path: Path) -> None:
        """Archives unpacked side by side, with video and audio in folders of their own, are joined."""
        plant(
            tmp_path, "pictures/M003/video/video/front/fear/level_2/007.mp4", "sounds/M003/audio/fear/level_2/007.wav"
        )
        found, problems = clips_of("mead", tmp_path)
        assert labels_of(found) == {"007": {"emotion": "fearful", "intensity": "medium"}}
        assert problems == {}


class TestHDTF:
    """HDTF's speakers."""

    def test_people(self, tmp_path: Path) -> None:
        """WDA and WRA videos of one person share a speaker and a split; RD videos have no speaker names."""
        names = (
            "WDA_NancyPelosi0_000",
            "WDA_NancyPelosi1_002",
            "RD_Radio1_000",
            "RD_Radio10_000",
            "WRA_MittRomney_000_cfr25",
        )
        plant(tmp_path, *(f"videos/{name}.mp4" for name in names), "videos/other.mp4")
        found, problems = clips_of("hdtf", tmp_path)
        speakers = {key.rpartition("/")[2]: clip.speaker for key, clip in found.items()}
        assert speakers == dict(
            zip(names, ("NancyPelosi", "NancyPelosi", "RD_Radio1", "RD_Radio10", "MittRomney"), strict=True)
        )
        assert all(clip.split == stable_split(str(clip.speaker)) for clip in found.values())
        assert problems == {"unexpected_place": 1}


class TestLRS3:
    """LRS3's texts and words with times."""

    def test_texts_and_words(self, tmp_path: Path) -> None:
        """The .txt gives the text and the times of each word; test is the official split."""
        plant(
            tmp_path,
            "lrs3/pretrain/0Fi83BHQsMA/00001.mp4",
            "lrs3/test/0akiEFwtkyA/00002.mp4",
            texts={
                "lrs3/pretrain/0Fi83BHQsMA/00001.txt": LRS3.replace("\n", "\r\n"),
                "lrs3/test/0akiEFwtkyA/00002.txt": "Text:  THANK YOU\nConf:  4\n",
            },
        )
        found, problems = clips_of("lrs3", tmp_path, val_fraction=0.0)
        first, second = (found[key] for key in sorted(found))
        assert first.words == (("SO", 0.08, 0.2), ("WE", 0.2, 0.32), ("LOOK", 0.4, 0.75))
        assert (first.labels, first.split, first.speaker) == ({"text": "SO WE LOOK"}, "train", "0Fi83BHQsMA")
        assert (second.labels, second.split, second.words) == ({"text": "THANK YOU"}, "test", None)
        assert problems == {}

    @pytest.mark.parametrize(
        ("text", "labels", "words"),
        [
            ("Conf: 3\n", None, 0),
            (b"\xff\xff", None, 0),
            (LRS3.replace("0.40 0.75", "0.10 0.75"), {"text": "SO WE LOOK"}, 0),
            (LRS3.replace("0.40 0.75", "soon"), {"text": "SO WE LOOK"}, 0),
        ],
    )
    def test_damaged_texts(self, text: str | bytes, labels: Any, words: int, tmp_path: Path) -> None:
        """A clip with a damaged .txt is kept, and the .txt is counted."""
        plant(tmp_path, "trainval/0Fi83BHQsMA/50001.mp4", texts={"trainval/0Fi83BHQsMA/50001.txt": text})
        found, problems = clips_of("lrs3", tmp_path)
        (clip,) = found.values()
        assert (clip.labels, len(clip.words or ())) == (labels, words)
        assert problems == {"bad_annotation": 1}

    def test_without_a_text(self, tmp_path: Path) -> None:
        """A video without a .txt is a clip."""
        plant(tmp_path, "test/0akiEFwtkyA/00002.mp4", "loose.mp4")
        found, problems = clips_of("lrs3", tmp_path)
        assert len(found) == 1
        assert problems == {"missing_annotation": 1, "unexpected_place": 1}

    def test_validation_takes_whole_talks(self, tmp_path: Path) -> None:
        """All clips of a talk are in one split."""
        plant(tmp_path, *(f"pretrain/talk{n:07d}/{clip:05d}.mp4" for n in range(40) for clip in range(2)))
        manifest, _ = index("lrs3", tmp_path, val_fraction=0.3)
        splits = {
            clip.speaker: {other.split for other in manifest.clips if other.speaker == clip.speaker}
            for clip in manifest.clips
        }
        assert all(len(found) == 1 for found in splits.values())
        assert {"train", "val"} == set().union(*splits.values())
