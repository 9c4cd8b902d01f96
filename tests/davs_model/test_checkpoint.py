"""avprep's checkpoints: a model is restored bit by bit, and a damaged or hostile file costs a line."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from checkpoint_files import SMALL, described, lived_in, raw, refusal, same
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from avprep.errors import CheckpointError
from davs_model import checkpoint, released
from davs_model.checkpoint import Checkpoint
from davs_model.models.davs.networks import DAVS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A path at which a test may write a file."""
    return tmp_path / "file.safetensors"


class TestOurs:
    """A checkpoint restores the model bit by bit, describes itself and is written completely or not at all."""

    @settings(  # no shrinking, which would build models for minutes
        max_examples=5,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(
        dimensions=st.fixed_dictionaries(
            {
                "n_words": st.integers(1, 9),
                "n_people": st.integers(0, 3),
                "n_speakers": st.integers(0, 3),
                "width": st.sampled_from([0.01, 0.06]),
                "image_size": st.sampled_from([64, 128, 256]),
                "speech_frames": st.integers(1, 3),
                "identity_frames": st.integers(1, 3),
                "sequence_frames": st.integers(1, 3),
                "n_word_classifiers": st.sampled_from([1, 2]),
            }
        ),
        seed=st.integers(0, 99),
        note=st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**63), 2**63 - 1)
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
            max_leaves=8,
        ),
    )
    def test_a_model_comes_back_bit_by_bit(
        self, tmp_path: Path, dimensions: dict[str, int | float], seed: int, note: object
    ) -> None:
        """Whatever its dimensions, a model is the same after saving and loading, including counters and outputs."""
        model = lived_in(dimensions, seed)
        made = Checkpoint.of(model, {"note": note})
        before = torch.get_rng_state()
        loaded = checkpoint.load(checkpoint.save(tmp_path, made).parent)
        again = loaded.model()
        assert torch.get_rng_state().equal(before)
        assert same(loaded, made)
        assert not again.training
        assert again.dimensions == model.dimensions == dimensions
        assert set(made.weights) == set(again.state_dict()) == set(model.state_dict())
        if (side := int(dimensions["image_size"])) > 64:
            return
        frames = int(dimensions["sequence_frames"])
        faces, windows = torch.rand(1, frames, 3, side, side), torch.randn(1, frames, 12, 20)
        with torch.inference_mode():
            for one, other in zip(_outputs(model, faces, windows), _outputs(again, faces, windows), strict=True):
                assert one.equal(other)

    def test_the_same_model_gives_the_same_bytes(self, tmp_path: Path, ours: Path, whole: Checkpoint) -> None:
        """Saving a loaded checkpoint in another folder writes exactly the same file."""
        path = checkpoint.save(tmp_path / "a" / "b", whole)
        assert path.read_bytes() == ours.read_bytes()

    def test_the_order_of_settings_does_not_matter(self, tmp_path: Path) -> None:
        """Settings that are equal as dictionaries give the same bytes."""
        model = lived_in(SMALL)
        one = checkpoint.save(tmp_path / "one", Checkpoint.of(model, {"a": 1, "b": {"c": 2, "d": 3}}))
        other = checkpoint.save(tmp_path / "other", Checkpoint.of(model, {"b": {"d": 3, "c": 2}, "a": 1}))
        assert one.read_bytes() == other.read_bytes()

    def test_the_file_describes_itself(self, ours: Path, whole: Checkpoint) -> None:
        """Plain safetensors reads the file and finds everything that is needed to build the model."""
        with safetensors.safe_open(ours, framework="pt") as file:
            (text,) = file.metadata().values()
        found = json.loads(text)
        assert set(found) == {"format", "schema_version", "model", "dimensions", "settings", "digest"}
        assert (found["format"], found["schema_version"], found["model"]) == ("avprep checkpoint", 1, "davs")
        assert found["dimensions"] == SMALL
        assert found["settings"]["odds"] == [1, 2.5, None, True, "ß"]
        assert found["digest"] == whole.digest()
        DAVS(**found["dimensions"]).load_state_dict(safetensors.torch.load_file(ours))

    def test_how_a_model_lies_in_memory_does_not_matter(self, tmp_path: Path) -> None:
        """A model in channels_last gives the bytes of the same model in the usual memory format."""
        model = lived_in(SMALL)
        usual = checkpoint.save(tmp_path / "usual", Checkpoint.of(model, {}))
        odd = checkpoint.save(
            tmp_path / "odd",
            Checkpoint.of(model.to(memory_format=torch.channels_last), {}),  # type: ignore[call-overload]
        )
        assert odd.read_bytes() == usual.read_bytes()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_a_model_of_another_precision_is_kept_as_float32(self, tmp_path: Path, dtype: torch.dtype) -> None:
        """Half precision is stored as float32 without loss, double precision is rounded; counters stay integers."""
        model = lived_in(SMALL).to(dtype)
        weights = checkpoint.load(checkpoint.save(tmp_path, Checkpoint.of(model, {}))).weights
        for name, tensor in model.state_dict().items():
            counter = name.endswith("num_batches_tracked")
            assert weights[name].dtype == (torch.int64 if counter else torch.float32)
            assert weights[name].equal(tensor if counter else tensor.float())

    def test_a_checkpoint_is_a_copy_of_the_model_and_a_model_is_its_checkpoint(self) -> None:
        """Further training does not change a checkpoint; a model built from a checkpoint shares its memory."""
        model = lived_in(SMALL)
        taken = Checkpoint.of(model, {})
        name = "decoder.last.3.bias"
        before = taken.weights[name].clone()
        model.state_dict()[name].add_(1)
        assert taken.weights[name].equal(before)
        taken.model().state_dict()[name].add_(1)
        assert taken.weights[name].equal(before + 1)

    @pytest.mark.parametrize("version", [0, 2, -1, 2**62])
    def test_another_schema_is_refused(self, path: Path, whole: Checkpoint, version: int) -> None:
        """A checkpoint of another schema is refused with its version and the remedy."""
        message = refusal(checkpoint.load, described(path, whole.header() | {"schema_version": version}, {}))
        assert f"checkpoint schema {version}, this program reads 1: update avprep" in message

    @pytest.mark.parametrize("field", ["format", "schema_version", "model", "dimensions", "settings"])
    @pytest.mark.parametrize("value", [None, 5.5, True, [1], {"a": 2}, "[1]", "\x1b"], ids=repr)
    def test_a_field_that_is_missing_or_of_another_type_is_refused(
        self, path: Path, whole: Checkpoint, field: str, value: object
    ) -> None:
        """A file with a missing or wrong field is refused in one line."""
        header = {"format": "avprep checkpoint", "schema_version": 1, **whole.header(), field: value}
        if value is None:
            del header[field]
        header["digest"] = checkpoint._digest(header, {})
        assert "digest" not in refusal(checkpoint.load, raw(path, header, {}))

    @pytest.mark.parametrize(
        "note", [float("nan"), float("inf"), Path("a"), {1, 2}, (1, 2), {"a": {5: 6}}, b"a", torch.ones(1)], ids=repr
    )
    def test_settings_that_are_no_json_are_not_saved(self, tmp_path: Path, whole: Checkpoint, note: object) -> None:
        """Values that JSON cannot restore are refused before anything is written."""
        with pytest.raises(CheckpointError, match="settings"):
            checkpoint.save(tmp_path / "run", replace(whole, settings={"note": note}))
        assert not (tmp_path / "run").exists()

    def test_what_could_not_be_loaded_is_not_saved(self, tmp_path: Path, whole: Checkpoint) -> None:
        """Weights that do not fit the dimensions are refused, and the older checkpoint stays."""
        path = checkpoint.save(tmp_path, whole)
        before = path.read_bytes()
        name = "decoder.last.3.bias"
        for weights in (
            {},
            {**whole.weights, "more": torch.ones(1)},
            {**whole.weights, name: whole.weights[name].bfloat16()},
            {**whole.weights, name: whole.weights[name].to("meta")},
        ):
            with pytest.raises(CheckpointError, match="not written"):
                checkpoint.save(tmp_path, replace(whole, weights=weights))
            assert path.read_bytes() == before


def _outputs(model: DAVS, faces: Tensor, windows: Tensor) -> Iterator[Tensor]:
    identity = model.encode_identity(faces)
    speech = model.encode_sound(windows)
    yield from identity
    yield speech
    yield model.encode_speech(frames=faces)
    yield model.decode(identity, speech)
    yield from model.sequence_discriminator(faces, windows)


class TestWriting:
    """Whatever happens while a checkpoint is written, the older one stays readable."""

    @pytest.mark.parametrize("moment", ["while it is written", "before it has its name"])
    def test_a_process_that_is_killed_leaves_the_old_one(self, tmp_path: Path, whole: Checkpoint, moment: str) -> None:
        """A kill during writing changes nothing for a reader; the next save removes what was left behind."""
        path = checkpoint.save(tmp_path, whole)
        before = path.read_bytes()

        def kill(*_: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        def save() -> None:
            write = checkpoint.save_file

            def half(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
                write(tensors, path, metadata)
                os.truncate(path, path.stat().st_size // 2)
                kill()

            if moment == "while it is written":
                checkpoint.save_file = half  # type: ignore[assignment]
            else:
                os.fsync = kill
            checkpoint.save(tmp_path, replace(whole, settings={"new": True}))

        process = multiprocessing.get_context("fork").Process(target=save)
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert len(list(tmp_path.iterdir())) == 2
        assert path.read_bytes() == before
        new = checkpoint.load(tmp_path)
        checkpoint.save(tmp_path, replace(new, settings={"newer": True}))
        assert [found.name for found in tmp_path.iterdir()] == [checkpoint.NAME]
        assert checkpoint.load(tmp_path).settings == {"newer": True}

    def test_it_is_on_the_disk_before_it_has_its_name(
        self, tmp_path: Path, whole: Checkpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The file is synced to disk, then renamed, then the folder is synced: power may fail at any moment."""
        steps: list[str] = []
        fsync, replace = os.fsync, Path.replace

        def synced(descriptor: int) -> None:
            steps.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
            fsync(descriptor)

        def renamed(part: Path, target: Path) -> Path:
            assert target.name == checkpoint.NAME
            assert same(checkpoint.load(part), whole)
            steps.append("name")
            return replace(part, target)

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(Path, "replace", renamed)
        checkpoint.save(tmp_path, whole)
        assert steps == ["file", "name", "folder"]

    @pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
    def test_who_may_read_it(self, tmp_path: Path, whole: Checkpoint, mask: int) -> None:
        """A checkpoint has the mode of any other new file, so that a group with a shared folder can use its models."""
        before = os.umask(mask)
        try:
            path = checkpoint.save(tmp_path, whole)
        finally:
            os.umask(before)
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask

    def test_a_full_disk_ends_in_one_line_and_leaves_the_old_one(self, tmp_path: Path, whole: Checkpoint) -> None:
        """If there is no room for the new checkpoint, the line says so, the old one stays and nothing else is left."""
        path = checkpoint.save(tmp_path, whole)
        before = path.read_bytes()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        for limit in (0, 1000, len(before) // 2, len(before) - 10):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # as on a full disk
            try:
                with pytest.raises(CheckpointError) as caught:
                    checkpoint.save(tmp_path, whole)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert str(caught.value).startswith(f"{path}: cannot be written: ")
            assert "File too large" in str(caught.value)
            assert str(caught.value).isprintable()
            assert [found.name for found in tmp_path.iterdir()] == [checkpoint.NAME]
            assert path.read_bytes() == before

    def test_a_run_that_cannot_be_made_ends_in_one_line(self, tmp_path: Path, whole: Checkpoint) -> None:
        """A RUN below a file is refused with its path."""
        (tmp_path / "file").touch()
        with pytest.raises(CheckpointError) as caught:
            checkpoint.save(tmp_path / "file" / "run", whole)
        assert str(caught.value).startswith(
            f"{tmp_path}/file/run/checkpoint.safetensors: cannot be written: NotADirectoryError"
        )
        assert str(caught.value).isprintable()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write and read anything")
    def test_what_may_not_be_written_or_read_ends_in_one_line(
        self, tmp_path: Path, ours: Path, whole: Checkpoint
    ) -> None:
        """A RUN without write permission, and a file without read permission, are refused as such."""
        (tmp_path / "run").mkdir(mode=0o555)
        with pytest.raises(CheckpointError, match=r"run/checkpoint\.safetensors: cannot be written: PermissionError"):
            checkpoint.save(tmp_path / "run", whole)
        path = tmp_path / "file.tar"
        path.write_bytes(ours.read_bytes())
        path.chmod(0)
        assert refusal(released.read, path).endswith("may not be read: change its permissions")
