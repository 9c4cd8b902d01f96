"""Training: stages, phases, resuming, several processes."""

from __future__ import annotations

import errno
import fcntl
import functools
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import interrupted
import made_shards
import numpy as np
import pytest
import torch
from small_models import SMALL
from tiny_shards import make_shards
from torch import Tensor

from avprep.errors import CheckpointError, RunError, SettingsError
from davs_model import checkpoint, models
from davs_model.models import amie
from davs_model.models.davs import Settings
from davs_model.models.davs.initialise import has_learned
from davs_model.models.davs.networks import DAVS
from davs_model.models.davs.networks.speech import AudioSpeechEncoder
from davs_model.models.davs.stages import STAGES
from davs_model.training import loop, optimizers
from davs_model.training import state as states
from davs_model.training.log import MetricsLog


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of shards: train 12 clips of 3 words and 2 people in 2 shards, val 4; read-only."""
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def finished(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the speech stage with two states, of steps 2 and 4; read-only."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(out, folder, "loop.save_every=2")
    return folder


@pytest.fixture(scope="module")
def constant(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two steps of the speech stage with a constant rate; read-only."""
    folder = tmp_path_factory.mktemp("constant") / "run"
    run(out, folder, "optimizer.schedule=constant", "steps.speech=2")
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Restore torch's threads afterwards."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def settings(*overrides: str) -> Settings:
    """The smallest settings."""
    return Settings.resolve("small", None, (*SMALL, *overrides))


def run(out: Path, folder: Path, *overrides: str, stages: tuple[str, ...] = ("speech",), **more: Any) -> list[str]:
    """Train, and return the messages."""
    lines: list[str] = []
    loop.train(out, folder, settings(*overrides), stages=stages, say=lines.append, **more)
    return lines


def weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a run."""
    return checkpoint.load(folder).weights


def state(folder: Path) -> states.TrainingState:
    """The last state of a run."""
    found = states.load(folder)
    assert found is not None
    return found[0]


def records(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without times and speeds."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k not in ("clips_per_s", "data_wait")} for line in lines]


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Assert that two runs are bit-identical."""
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


class TestStages:
    """What each stage reads, minimises and updates."""

    def test_all_stages_run_one_after_the_other(self, out: Path, tmp_path: Path) -> None:
        """Identity, speech and full end with a checkpoint, records of every step, settings, facts and a sample grid."""
        lines = run(out, tmp_path / "run", stages=("identity", "speech", "full"))
        found = checkpoint.load(tmp_path / "run")
        assert found.settings["steps"] == {"identity": 2, "speech": 4, "full": 2}
        assert found.settings["words"] == ["word0", "word1", "word2"]
        assert found.dimensions["n_speakers"] == found.dimensions["n_people"] == 2
        steps = [(r["stage"], r["step"]) for r in records(tmp_path / "run") if "terms" in r]
        assert steps == [
            (name, n + 1) for name, count in (("identity", 2), ("speech", 4), ("full", 2)) for n in range(count)
        ]
        assert Settings.resolve(file=tmp_path / "run" / "settings.toml") == settings()
        facts = json.loads((tmp_path / "run" / "run.json").read_text())
        assert facts["data"]["train"]["clips"] == 12
        assert (tmp_path / "run" / "samples" / "full-000002.png").stat().st_size > 1000
        assert list((tmp_path / "run" / "tensorboard").iterdir())
        assert any(re.match(r"speech 4/4  word .* clips/s  data \d+%  ETA 00:00", line) for line in lines)
        validations = [r["validation"] for r in records(tmp_path / "run") if "validation" in r]
        assert validations[1]["words"]["n_clips"] == 4
        assert validations[2]["l1"].keys() == {"audio", "video"}

    def test_every_network_has_one_phase(self) -> None:
        """In the full stage every network of the model belongs to exactly one phase, and no phase names another."""
        model = DAVS(
            n_words=2, n_people=2, n_speakers=2, width=0.05, image_size=64, n_word_classifiers=2, reads_mouth=1
        )
        for stage in STAGES.values():
            owned = [network for phase in stage.phases for network in phase.networks]
            assert len(owned) == len(set(owned))
            assert set(owned) <= {name for name, _ in model.named_children()}
        assert set(owned) == {name for name, _ in model.named_children()}

    @pytest.mark.parametrize("name", ["identity", "speech", "full"])
    def test_a_step_moves_the_networks_of_its_phases_alone(self, out: Path, tmp_path: Path, name: str) -> None:
        """A stage updates every network of its phases and leaves the others unchanged."""
        with interrupted.kept({(name, 1): tmp_path / "before"}):
            wanted = (f"steps.{name}=2", "optimizer.warmup=0", "loop.save_every=1")
            run(out, tmp_path / "run", *wanted, stages=(name,))
        before, after = state(tmp_path / "before").checkpoint.weights, weights(tmp_path / "run")
        parameters = {n for n, p in checkpoint.load(tmp_path / "run").model().named_parameters() if p.requires_grad}
        moved = {n.split(".")[0] for n in parameters if not torch.equal(before[n], after[n])}
        owned = {network for phase in STAGES[name].phases for network in phase.networks}
        model = {n.split(".")[0] for n in parameters}
        assert moved == owned & model

    @pytest.mark.parametrize(
        ("overrides", "terms", "classifiers"),
        [
            (("weights.domain=0", "model.shared_classifier=false"), {"word", "contrastive"}, 2),
            (("weights.domain=0",), {"word", "contrastive"}, 1),
            (("model.shared_classifier=false",), {"word", "contrastive", "domain", "domain_confusion"}, 2),
            ((), {"word", "contrastive", "domain", "domain_confusion"}, 1),
        ],
    )
    def test_the_rows_of_table_3_are_settings(
        self, out: Path, tmp_path: Path, overrides: tuple[str, ...], terms: set[str], classifiers: int
    ) -> None:
        """Shared classifier and domain GAN are switched by settings; disabled terms are neither computed nor logged."""
        run(out, tmp_path / "run", *overrides, "steps.speech=1")
        assert set(records(tmp_path / "run")[0]["terms"]) == terms
        assert checkpoint.load(tmp_path / "run").dimensions["n_word_classifiers"] == classifiers

    def test_the_released_form_has_its_factors(self) -> None:
        """form = released multiplies its terms by the released factors, and has the term that the paper lacks."""
        model = DAVS(n_words=2, n_people=2, n_speakers=2, width=0.05, image_size=64)
        given = ["weights.identity_word=1", "weights.domain=1"]
        paper, released = (
            model.factors(STAGES["full"], Settings.resolve(None, None, [*given, *form]), people_are_speakers=True)
            for form in ((), ("form=released", "weights.stillness=1"))
        )
        assert "stillness" not in paper
        assert released["stillness"] == 5
        assert released["identity_word_confusion"] == 1_000_000 * paper["identity_word_confusion"]
        assert released["domain_confusion"] == 5 * paper["domain_confusion"]
        assert released["identity_word"] == paper["identity_word"] == 1

    def test_a_folder_of_faces_trains_the_identity_stage(self, out: Path, tmp_path: Path) -> None:
        """With data.faces the people are those of the folder, which may differ from the speakers."""
        import cv2

        for n in range(8):
            path = tmp_path / "faces" / f"person{n % 4}" / f"{n}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full((80, 80, 3), 30 * n, np.uint8))
        run(out, tmp_path / "run", f"data.faces={tmp_path / 'faces'}", stages=("identity",))
        found = checkpoint.load(tmp_path / "run")
        assert found.dimensions["n_people"] == 4
        assert found.dimensions["n_speakers"] == 2
        assert found.settings["faces"] == [f"person{n}" for n in range(4)]

    def test_learning_rates(self) -> None:
        """The rate rises over the warm-up, then stays or falls as half a cosine to nearly nothing."""
        constant, cosine = (
            settings(f"optimizer.schedule={name}", "optimizer.warmup=4") for name in ("constant", "cosine")
        )
        rate = constant.optimizer.learning_rate
        assert [optimizers.learning_rate(constant, n, 100) / rate for n in (1, 2, 4, 100)] == pytest.approx(
            [0.25, 0.5, 1, 1]
        )
        assert optimizers.learning_rate(cosine, 51, 100) / rate == pytest.approx(0.5)
        assert optimizers.learning_rate(cosine, 100, 100) / rate < 1e-3


class TestResuming:
    """A run that is stopped, killed or damaged."""

    @pytest.mark.slow
    def test_killed_three_times_it_learns_the_same(self, out: Path, tmp_path: Path) -> None:
        """A run that is killed three times, with loader processes, ends bit-identical to an uninterrupted one."""
        wanted = ("steps.speech=7", "data.workers=2")
        run(out, tmp_path / "straight", *wanted, stages=("speech", "full"))
        killed = 0
        for at in ("speech 2/7", "speech 5/7", "full 1/2", ""):
            process = start(out, tmp_path / "killed", *wanted, "--stage", "all-but-identity")
            assert process.stdout is not None
            for line in process.stdout:
                if at and line.startswith(at):
                    os.killpg(process.pid, signal.SIGKILL)
                    killed += 1
                    break
            process.stdout.close()
            code = process.wait()
            assert code == (-signal.SIGKILL if at else 0)
        assert killed == 3
        assert_equal(weights(tmp_path / "killed"), weights(tmp_path / "straight"))
        assert records(tmp_path / "killed") == records(tmp_path / "straight")

    def test_settings_of_loading_and_logging_do_not_matter(self, out: Path, finished: Path, tmp_path: Path) -> None:
        """The number of loader processes and the times of logs, validations and saves do not change the weights."""
        run(out, tmp_path / "b", "data.workers=2", "loop.log_every=3", "loop.validate_every=2", "loop.save_every=3")
        assert_equal(weights(finished), weights(tmp_path / "b"))

    def test_a_finished_run_does_nothing_more(self, out: Path, copied: Path) -> None:
        """The same command on a finished run leaves checkpoint and records unchanged."""
        before = {p.name: p.read_bytes() for p in copied.glob("*.*") if p.name != "run.json"}
        assert "speech: done, 4 steps" in run(out, copied, "loop.save_every=2")
        assert {p.name: p.read_bytes() for p in copied.glob("*.*") if p.name != "run.json"} == before
        assert "speech: done, 4 steps" in run(out, copied, "steps.full=3")  # that stage has not begun

    def test_other_settings_are_refused(self, out: Path, copied: Path) -> None:
        """A run continues only with its own settings; the error names the difference."""
        with pytest.raises(RunError, match=r"other settings \(model.width: 0.05 there, 0.1 here\)"):
            run(out, copied, "model.width=0.1")
        with pytest.raises(RunError, match=r"steps.speech: 4 there, 6 here"):
            run(out, copied, "steps.speech=6")

    def test_more_or_less_memory_for_frames_is_the_same_run(self, out: Path, tmp_path: Path) -> None:
        """A run that took too much memory resumes with a smaller cache, bit for bit; without any it is another run."""
        constant = ("optimizer.schedule=constant", "data.cache_mib=2")
        run(out, tmp_path / "straight", *constant, "steps.speech=2")
        run(out, tmp_path / "run", *constant, "steps.speech=1")
        with pytest.raises(RunError, match=r"data\.cache_mib: 2 there, 0 here"):
            run(out, tmp_path / "run", *constant, "steps.speech=2", "data.cache_mib=0")
        run(out, tmp_path / "run", *constant, "steps.speech=2", "data.cache_mib=1")
        assert_equal(weights(tmp_path / "run"), weights(tmp_path / "straight"))

    def test_an_out_is_no_run(self, out: Path) -> None:
        """If RUN is forgotten, the last OUT is not taken for it: nothing is written there."""
        (out / "crop" / "run.json").write_text("{}", encoding="utf-8")
        before = sorted(out.rglob("*"))
        try:
            with pytest.raises(RunError, match="holds shards, so it is an OUT: give RUN, another folder, after it"):
                run(out, out)
            assert sorted(out.rglob("*")) == before
        finally:
            (out / "crop" / "run.json").unlink()

    def test_other_clips_are_refused(self, copied: Path, tmp_path: Path) -> None:
        """A run continues only with the clips that it was started with."""
        other = make_shards(tmp_path / "other", clips=16)
        with pytest.raises(RunError, match="the clips are not those that it was started with"):
            run(other, copied)

    def test_a_constant_rate_can_be_trained_on(self, out: Path, constant: Path, tmp_path: Path) -> None:
        """With a constant learning rate, more steps of a finished stage equal the steps of a longer run."""
        run(out, tmp_path / "a", "optimizer.schedule=constant", "steps.speech=1")
        run(out, tmp_path / "a", "optimizer.schedule=constant", "steps.speech=2")
        assert_equal(weights(tmp_path / "a"), weights(constant))

    def test_steps_that_a_term_goes_by_cannot_be_added(self, out: Path, tmp_path: Path) -> None:
        """With a term that begins after a fraction of a stage, more steps are refused: a longer run would differ."""
        given = ("optimizer.schedule=constant", "adversaries.domain_from=0.6")
        run(out, tmp_path / "run", *given, "steps.speech=1")
        with pytest.raises(RunError, match=r"steps\.speech: 1 there, 2 here"):
            run(out, tmp_path / "run", *given, "steps.speech=2")

    def test_a_damaged_state_gives_way_to_the_one_before(self, out: Path, finished: Path, copied: Path) -> None:
        """If the last state is damaged the previous one is used with a message, and the run ends the same."""
        path = copied / states.NAME
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        lines = run(out, copied)
        assert any("going on from the state before it" in line for line in lines)
        assert any(line.startswith("speech 3/4") for line in lines)
        assert_equal(weights(copied), weights(finished))

    def test_two_damaged_states_are_an_error(self, out: Path, copied: Path) -> None:
        """If both states are damaged nothing is trained and nothing is overwritten."""
        for name in (states.NAME, states.PREVIOUS):
            (copied / name).write_bytes(b"nothing")
        with pytest.raises(CheckpointError, match="not a training state of avprep"):
            run(out, copied)
        assert (copied / states.NAME).read_bytes() == b"nothing"

    def test_sigterm_saves_and_stops(self, out: Path, tmp_path: Path) -> None:
        """SIGTERM to the whole group, loader processes included, ends after the step with a state of that step."""
        process = start(
            out, tmp_path / "run", "steps.speech=400", "loop.save_every=400", "data.workers=2", "--stage", "speech"
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("speech 3/400"):
                os.killpg(process.pid, signal.SIGTERM)
                break
        rest = process.stdout.read()
        process.stdout.close()
        assert process.wait() == 1
        (step,) = re.findall(r"stopped by SIGTERM at step (\d+); the same command goes on", rest)
        loaded = states.load(tmp_path / "run")
        assert loaded is not None
        assert loaded[0].step == int(step)
        assert "Traceback" not in rest

    def test_files_of_a_run_that_went_on(self, out: Path, tmp_path: Path) -> None:
        """A run that was stopped twice ends byte-identical, so with the same digest, to an uninterrupted one."""
        wanted = ("loop.save_every=1", "steps.speech=2")
        with interrupted.kept({("speech", 1): tmp_path / "stopped"}):
            run(out, tmp_path / "straight", *wanted, stages=("speech", "full"))
        with interrupted.after("full", 1):
            run(out, tmp_path / "stopped", *wanted, stages=("speech", "full"))
        assert checkpoint.load(tmp_path / "straight").settings["steps"] == {"speech": 2, "full": 2}
        run(out, tmp_path / "stopped", *wanted, stages=("speech", "full"))
        names = (checkpoint.NAME, states.NAME, states.PREVIOUS)
        interrupted.assert_same_bytes(tmp_path / "straight", tmp_path / "stopped", names)

    @pytest.mark.parametrize("save_every", [2, 4])
    def test_killed_between_its_last_files(self, out: Path, finished: Path, tmp_path: Path, save_every: int) -> None:
        """A run killed after its last state but before its checkpoint has that checkpoint once it continues."""
        wanted = f"loop.save_every={save_every}"
        with interrupted.after("speech", 4):
            run(out, tmp_path / "run", wanted)
        assert "speech: done, 4 steps" in run(out, tmp_path / "run", wanted)
        assert checkpoint.load(tmp_path / "run").settings["steps"] == {"speech": 4}
        assert_equal(weights(tmp_path / "run"), weights(finished))

    def test_first_weights_are_fitted_alike(self, out: Path, tmp_path: Path) -> None:
        """A run that was killed just before first weights are fitted ends byte-identical to an uninterrupted one."""
        wanted: dict[str, Any] = {"stages": ("identity", "speech")}
        with interrupted.kept({("identity", 2): tmp_path / "killed"}):
            run(out, tmp_path / "straight", "steps.speech=1", **wanted)
        run(out, tmp_path / "killed", "steps.speech=1", **wanted)
        interrupted.assert_same_bytes(tmp_path / "straight", tmp_path / "killed")

    def test_weights_of_another_run_are_not_fitted(self, out: Path, finished: Path, tmp_path: Path) -> None:
        """A run that began with another's weights continues alike whether or not these are named again."""
        run(out, tmp_path / "named", stages=("identity",), init_from=finished)
        shutil.copytree(tmp_path / "named", tmp_path / "unnamed")
        for name, begun in (("named", finished), ("unnamed", None)):
            run(out, tmp_path / name, "steps.speech=1", init_from=begun)
        interrupted.assert_same_bytes(tmp_path / "named", tmp_path / "unnamed")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
    def test_a_log_on_a_full_disk(self, tmp_path: Path) -> None:
        """A log that cannot be written gives one line that names it."""
        log = MetricsLog(tmp_path, {})
        (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
        with pytest.raises(RunError, match=r"cannot be written \(No space left on device\)"):
            log.write("speech", 1, overall=1, terms={"word": 1.0})
        log.close()

    def test_other_first_weights_are_refused(self, out: Path, finished: Path, copied: Path, tmp_path: Path) -> None:
        """A run does not continue if told to begin with other weights than it began with, which had no effect."""
        run(out, tmp_path / "other", "seed=5", stages=("identity",))
        run(out, tmp_path / "named", stages=("identity",), init_from=finished)
        with pytest.raises(RunError, match=r"named: was begun with other weights than those of --init-from .*other"):
            run(out, tmp_path / "named", "steps.speech=1", init_from=tmp_path / "other")
        with pytest.raises(RunError, match=r"was begun without --init-from: leave it out, or give another RUN"):
            run(out, copied, "steps.full=1", init_from=finished)

    def test_windows_of_another_preset_are_refused(self, out: Path, tmp_path: Path) -> None:
        """A run does not continue with windows of another MFCC preset; one that starts from its weights says so."""
        copied = Path(shutil.copytree(out, tmp_path / "out"))
        made_shards.write_runs(copied, settings={"preset": "davs"})
        run(copied, tmp_path / "run", "steps.speech=1")
        made_shards.write_runs(copied, settings={"preset": "syncnet"})
        with pytest.raises(RunError, match=r"run: was started with windows of the preset davs, these are of syncnet"):
            run(copied, tmp_path / "run", "steps.speech=1")
        lines = run(copied, tmp_path / "new", "steps.speech=1", init_from=tmp_path / "run")
        assert any("learned from windows of the preset davs, these are of syncnet" in line for line in lines)

    def test_shards_made_again_with_other_settings_are_refused(self, out: Path, tmp_path: Path) -> None:
        """A run does not continue after the windows of its clips were moved; equal settings elsewhere do not matter."""
        copied = Path(shutil.copytree(out, tmp_path / "out"))
        made_shards.write_runs(copied, settings={"preset": "davs"})
        run(copied, tmp_path / "run", "steps.speech=1")
        run(Path(shutil.copytree(copied, tmp_path / "elsewhere")), tmp_path / "run", "steps.speech=1")
        made_shards.write_runs(copied, settings={"preset": "davs", "audio_offset": "sync"})
        with pytest.raises(RunError, match=r'other settings \(.*mfcc.audio_offset: null there, "sync" here\)'):
            run(copied, tmp_path / "run", "steps.speech=1")

    def test_a_run_of_another_model_is_refused(self, out: Path, finished: Path) -> None:
        """Training another model in a RUN is refused with the names of both models."""
        with pytest.raises(RunError, match=r"holds a run of the model davs, not of amie: give another RUN"):
            loop.train(out, finished, amie.Settings.resolve("small", None, ()), stages=("speech",))

    def test_an_out_without_training_clips(self, out: Path, tmp_path: Path) -> None:
        """If OUT has no clip of the train split, the error names the split, not missing labels."""
        copied = Path(shutil.copytree(out, tmp_path / "out"))
        for path in copied.glob("*/train-*"):
            path.unlink()
        text = (copied / "manifest.jsonl").read_text()
        (copied / "manifest.jsonl").write_text(text.replace('"split": "train"', '"split": "test"'))
        with pytest.raises(RunError, match=r"out: no clip of the train split can be used"):
            run(copied, tmp_path / "run", "steps.speech=1")

    def test_one_process_at_a_time(self, out: Path, tmp_path: Path) -> None:
        """A second process in the same RUN is refused."""
        from davs_model.training.run_folder import locked

        with locked(tmp_path / "run"), pytest.raises(RunError, match="another process trains in it"):
            run(out, tmp_path / "run")

    def test_a_file_system_without_locks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run starts if files cannot be locked, e.g. on Lustre without flock, and does not stop a later one."""
        from davs_model.training.run_folder import locked

        for error in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):

            def refuse(*_: object, error: int = error) -> None:
                raise OSError(error, os.strerror(error))

            monkeypatch.setattr(fcntl, "flock", refuse)
            with locked(tmp_path / "run"), locked(tmp_path / "run"):
                pass

    def test_a_loader_that_lives_on_keeps_nobody_out(self, tmp_path: Path) -> None:
        """A process forked by a trainer does not lock RUN, as a loader outlives a killed trainer by seconds."""
        from davs_model.training.run_folder import locked

        context = multiprocessing.get_context("fork")
        begun = context.Event()

        def live() -> None:
            begun.set()
            time.sleep(60)

        with locked(tmp_path / "run"):
            loader = context.Process(target=live)
            loader.start()
            assert begun.wait(30)
        try:
            with locked(tmp_path / "run"):
                assert loader.is_alive()
        finally:
            loader.kill()
            loader.join()

    def test_a_stage_is_finished_before_the_next(self, out: Path, constant: Path, tmp_path: Path) -> None:
        """A run in the middle of a stage refuses to begin another."""
        shutil.copytree(constant, tmp_path / "run")
        with pytest.raises(RunError, match="at step 2 of its speech stage"):
            run(out, tmp_path / "run", "optimizer.schedule=constant", "steps.speech=4", stages=("full",))


class TestTransfer:
    """Weights of other runs."""

    def test_a_new_run_begins_with_the_weights_of_another(self, out: Path, tmp_path: Path) -> None:
        """--init-from takes every tensor that fits, and names the networks that do not."""
        run(out, tmp_path / "first", "model.shared_classifier=false", "steps.speech=1")
        lines = run(
            out,
            tmp_path / "second",
            "optimizer.learning_rate=1e-30",
            "optimizer.warmup=0",
            "steps.speech=1",
            init_from=tmp_path / "first",
        )
        before, after = weights(tmp_path / "first"), weights(tmp_path / "second")
        parameters = [name for name, _ in checkpoint.load(tmp_path / "second").model().named_parameters()]
        assert all(torch.equal(before[name], after[name]) for name in parameters)
        other = make_shards(tmp_path / "other", words=4)
        lines = run(other, tmp_path / "third", "steps.speech=1", init_from=tmp_path / "first")
        assert "not in it, or of another shape, at least in part: word_classifier" in lines
        assert checkpoint.load(tmp_path / "third").settings["init_from"] == str(tmp_path / "first")

    def test_a_model_of_another_width_is_refused(self, out: Path, finished: Path, tmp_path: Path) -> None:
        """A checkpoint of another width is accepted, and a message lists the networks that do not fit."""
        lines = run(out, tmp_path / "second", "model.width=0.1", "steps.speech=1", init_from=finished)
        assert any("visual_speech_encoder" in line for line in lines)

    def test_a_model_of_which_nothing_fits_is_refused(self, out: Path, tmp_path: Path) -> None:
        """The weights of a model that shares no network are refused with the name of that model."""
        sync = models.build("sync", {"width": 0.05, "image_size": 32})
        checkpoint.save(tmp_path / "sync", checkpoint.Checkpoint.of(sync, {}))
        with pytest.raises(CheckpointError, match=r"nothing of that checkpoint fits.*: it is of the model sync"):
            run(out, tmp_path / "run", init_from=tmp_path / "sync")

    def test_encoders_that_learned_nothing_are_fitted(self, out: Path, tmp_path: Path) -> None:
        """A run started from another's identity encoder alone fits its speech encoders, after a kill as well."""
        run(out, tmp_path / "first", stages=("identity",))
        still = ("optimizer.learning_rate=1e-30", "optimizer.warmup=0", "steps.speech=1", "model.standardise=corpus")
        wanted: dict[str, Any] = {"stages": ("identity", "speech")}
        with interrupted.kept({("identity", 2): tmp_path / "killed"}):
            run(out, tmp_path / "second", *still, init_from=tmp_path / "first", **wanted)
        run(out, tmp_path / "killed", *still, **wanted)
        interrupted.assert_same_bytes(tmp_path / "second", tmp_path / "killed")
        before, after = weights(tmp_path / "first"), weights(tmp_path / "second")
        for name in ("visual_speech_encoder.fc.weight", "audio_speech_encoder.fc.weight"):
            assert not torch.equal(before[name], after[name])
        assert after["audio_speech_encoder.mean"].any()

    def test_an_encoder_that_fits_in_part_has_not_learned(self) -> None:
        """An encoder counts as trained once all of its layers are, not if some of them did not fit."""
        encoder = AudioSpeechEncoder(width=0.05).train()
        assert not has_learned(encoder)
        encoder(torch.randn(2, 3, 12, 20))
        assert has_learned(encoder)
        layer = encoder.square[1][1]
        layer.reset_running_stats()
        assert not has_learned(encoder)

    def test_an_imported_checkpoint_is_not_trained_over(self, out: Path, tmp_path: Path) -> None:
        """A RUN with a checkpoint that training did not write is refused; the error names --init-from."""
        checkpoint.save(tmp_path / "run", checkpoint.Checkpoint.of(DAVS(n_words=3, width=0.05), {}))
        with pytest.raises(RunError, match="--init-from"):
            run(out, tmp_path / "run")


class TestTrouble:
    """Failures that end a run in one line."""

    def test_a_term_that_is_not_finite_ends_the_run(
        self, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A term that is not finite stops the run; the error names term, step and clips; the last good state stays."""
        from davs_model.models.davs import losses

        real, calls = losses.contrastive_loss, []

        def broken(*arguments: Any, **more: Any) -> Tensor:
            calls.append(0)
            return real(*arguments, **more) * (float("nan") if len(calls) == 4 else 1.0)

        monkeypatch.setattr(losses, "contrastive_loss", broken)
        with pytest.raises(RunError) as caught:
            run(out, tmp_path / "run", "loop.save_every=2")
        text = str(caught.value)
        assert re.search(
            r"step 4: contrastive not finite, with the clips train/\S+, train/\S+, train/\S+, train/\S+;", text
        )
        assert "\n" not in text
        loaded = states.load(tmp_path / "run")
        assert loaded is not None
        assert loaded[0].step == 2
        assert all(bool(tensor.isfinite().all()) for tensor in weights(tmp_path / "run").values())

    def test_a_state_that_is_not_finite_is_not_written(self, copied: Path) -> None:
        """Weights with a NaN are not written, and the previous file stays."""
        loaded = states.load(copied)
        assert loaded is not None
        state = loaded[0]
        state.checkpoint.weights["word_classifier.fc1.weight"][0, 0] = float("nan")
        before = (copied / states.NAME).read_bytes()
        with pytest.raises(CheckpointError, match=r"word_classifier.fc1.weight is not finite"):
            states.save(copied, state)
        assert (copied / states.NAME).read_bytes() == before

    def test_too_few_clips(self, out: Path, tmp_path: Path) -> None:
        """Fewer clips than a batch are an error that gives both numbers and the setting."""
        with pytest.raises(RunError, match="12 clips can be used in the speech stage, fewer than a batch of 16"):
            run(out, tmp_path / "run", "data.batch_size=16")
        with pytest.raises(RunError, match="1 clip can be used in the speech stage, and training needs at least 2"):
            run(make_shards(tmp_path / "one", clips=1), tmp_path / "run", "data.batch_size=2")

    def test_no_words(self, tmp_path: Path) -> None:
        """Clips without words are an error with the remedy, and can be trained on without words."""
        out = make_shards(tmp_path / "out", words=0)
        with pytest.raises(RunError, match="its clips have no words"):
            run(out, tmp_path / "run")
        run(out, tmp_path / "other", "weights.word=0", "steps.speech=1")
        assert "word" not in records(tmp_path / "other")[0]["terms"]

    def test_no_people(self, tmp_path: Path) -> None:
        """Without several people the identity stage is an error, or is left out if all stages are trained."""
        out = make_shards(tmp_path / "out", people=0)
        with pytest.raises(RunError, match="labelled people"):
            run(out, tmp_path / "run", stages=("identity",))
        lines = run(out, tmp_path / "run", "steps.speech=1", stages=("identity", "speech"))
        assert any(line.startswith("identity: left out") for line in lines)

    def test_every_weight_zero(self, out: Path, tmp_path: Path) -> None:
        """A stage without anything to learn is an error."""
        with pytest.raises(RunError, match="nothing to learn"):
            run(out, tmp_path / "run", "weights.person=0", stages=("identity",))

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
    def test_no_cuda(self, out: Path, tmp_path: Path) -> None:
        """Requesting CUDA without a device is a one-line error."""
        with pytest.raises(RunError, match="no CUDA device"):
            run(out, tmp_path / "run", "machine.device=cuda")

    def test_no_compiler(self, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where torch cannot compile `machine.compile` is one line that names the setting and what to install."""

        def backend(*_: Any) -> Any:
            raise RuntimeError("No working C++ compiler found\nand more")

        monkeypatch.setattr(
            torch.nn.Module, "compile", functools.partialmethod(torch.nn.Module.compile, backend=backend)
        )
        wanted = (
            r"machine\.compile = true: torch cannot .* No working C\+\+ compiler found: install a C\+\+ compiler, .*"
        )
        with pytest.raises(SettingsError) as told:
            run(out, tmp_path / "run", "machine.compile=true", "steps.speech=1")
        assert re.fullmatch(wanted, str(told.value))


class TestProcesses:
    """torchrun."""

    @pytest.mark.slow
    def test_two_processes_with_half_the_batch_are_one_with_all(self, out: Path, tmp_path: Path) -> None:
        """Two gloo processes have the losses of one with the whole batch, to 1e-5, its gradients, and no warnings."""
        for stage in ("speech", "full"):
            given = (f"steps.{stage}=1", "loop.talking_clips=0", "--stage", stage)
            one = start(out, tmp_path / f"one-{stage}", *given, script=ONE_STEP)
            two = start(out, tmp_path / f"two-{stage}", *given, processes=2, script=ONE_STEP)
            for process in (one, two):
                output = process.communicate()[0]
                assert process.returncode == 0, output
                assert "Warning" not in output, output
            first, second = (records(tmp_path / f"{name}-{stage}")[0]["terms"] for name in ("one", "two"))
            assert second == pytest.approx(first, rel=1e-5, abs=1e-5)
            wanted, found = (torch.load(tmp_path / f"{name}-{stage}" / "gradient.pt") for name in ("one", "two"))
            assert float((found - wanted).norm() / wanted.norm()) < 1e-6

    @pytest.mark.slow
    def test_two_processes_begin_with_the_same_weights(self, out: Path, tmp_path: Path) -> None:
        """After an identity stage, with different random numbers in each process, both fit the same first weights."""
        given = ("steps.identity=1", "steps.speech=1", "--stage", "identity-and-speech")
        process = start(out, tmp_path / "run", *given, processes=2, script=SAY_WEIGHTS)
        output = process.communicate()[0]
        assert process.returncode == 0, output
        first, second = re.findall(r"^first weights (\w+)$", output, re.MULTILINE)
        assert first == second

    @pytest.mark.slow
    @pytest.mark.parametrize("to", ["launcher", "all", "one"])
    def test_sigterm_saves_and_stops_all(self, out: Path, tmp_path: Path, to: str) -> None:
        """SIGTERM to torchrun, to it and all its processes, or to one of these stops all at a step, which is saved."""
        arguments = ("steps.speech=2000", "loop.save_every=2000", "loop.log_every=1", "--stage", "speech")
        process = start(out, tmp_path / "run", *arguments, processes=2, script=SAY_PROCESS)
        assert process.stdout is not None
        workers: dict[str, int] = {}
        said = ""
        for line in process.stdout:
            said += line
            if found := re.match(r"process (\d) is (\d+)$", line):
                workers[found[1]] = int(found[2])
            if line.startswith("speech 3/2000"):
                break
        assert workers.keys() == {"0", "1"}, said
        for pid in {"launcher": [process.pid], "all": [*workers.values(), process.pid], "one": [workers["1"]]}[to]:
            os.kill(pid, signal.SIGTERM)
        rest = process.stdout.read()
        process.stdout.close()
        assert process.wait() != 0
        steps = re.findall(r"stopped by (?:SIGTERM|a signal to another process) at step (\d+); the same command", rest)
        assert len(steps) == 2, rest
        assert len(set(steps)) == 1
        loaded = states.load(tmp_path / "run")
        assert loaded is not None
        assert loaded[0].step == int(steps[0]) < 2000
        assert checkpoint.load(tmp_path / "run").settings["steps"] == {"speech": int(steps[0])}

    @pytest.mark.slow
    def test_a_stopped_run_of_two_goes_on(self, out: Path, tmp_path: Path) -> None:
        """A run of two processes that is stopped within a stage ends bit-identical to an uninterrupted one."""
        given = ("steps.speech=6", "steps.full=1", "--stage", "all-but-identity")
        straight = start(out, tmp_path / "straight", *given, processes=2)
        output = straight.communicate()[0]
        assert straight.returncode == 0, output
        stopped = start(out, tmp_path / "stopped", *given, processes=2, script=STOP_AT_STEP)
        output = stopped.communicate()[0]
        assert "stopped by SIGTERM at step 4; the same command goes on" in output
        assert "at step 4" in output
        on = start(out, tmp_path / "stopped", *given, processes=2)
        output = on.communicate()[0]
        assert on.returncode == 0, output
        for name in (checkpoint.NAME, states.NAME):
            assert (tmp_path / "straight" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()

    @pytest.mark.slow
    def test_the_others_wait_for_the_first(self, out: Path, tmp_path: Path) -> None:
        """While the first process validates the others wait, for hours; if it ends with an error, so do they."""
        given = ("loop.validate_every=1", "--stage", "speech")
        process = start(out, tmp_path / "run", *given, processes=2, script=NO_ROOM)
        output = process.communicate()[0]
        assert process.returncode == 1
        assert "no room for a validation, for which others wait 1 day, 0:00:00" in output
        assert "another process of this run has ended: see what was printed of that one" in output
        assert "RuntimeError" not in output

    def test_a_batch_that_cannot_be_shared(self, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A batch that is not a multiple of the processes is refused."""
        monkeypatch.setattr(loop.distributed, "join", lambda _: loop.World(size=2))
        with pytest.raises(RunError, match=r"data\.batch_size = 3 is no multiple of 2 processes"):
            run(out, tmp_path / "run", "data.batch_size=3")

    def test_a_world_without_others(self, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A number of processes in the environment without torchrun's other variables gives one line."""
        monkeypatch.setenv("WORLD_SIZE", "2")
        for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(RunError, match="WORLD_SIZE is 2 and RANK, MASTER_ADDR, MASTER_PORT not set: start with"):
            run(out, tmp_path / "run")

    @pytest.mark.parametrize(
        ("name", "value", "said"),
        [
            ("WORLD_SIZE", "two", "WORLD_SIZE is 'two' in the environment, no number"),
            ("WORLD_SIZE", "", "WORLD_SIZE is '' in the environment, no number"),
            ("RANK", "x", "RANK is 'x' in the environment, no number"),
            ("RANK", "-1", "RANK is '-1' in the environment, no number"),
            ("RANK", "2", "RANK is 2 and WORLD_SIZE 2"),
            ("WORLD_SIZE", "0", "RANK is 0 and WORLD_SIZE 0"),
            ("LOCAL_RANK", "x", "LOCAL_RANK is 'x' in the environment, no number"),
        ],
    )
    def test_a_world_that_cannot_be(
        self, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
    ) -> None:
        """Invalid or inconsistent torchrun variables give one line, without waiting."""
        given = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
        for variable, number in {**given, name: value}.items():
            monkeypatch.setenv(variable, number)
        with pytest.raises(RunError, match=f"^{said}: start with torchrun, or unset"):
            run(out, tmp_path / "run")

    @pytest.mark.parametrize("port", ["x", "99999", "taken", "free"])
    def test_a_port_where_nobody_can_meet(
        self, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: str
    ) -> None:
        """An invalid or occupied port, or one on which the others do not appear in time, gives one line."""
        monkeypatch.setattr(loop.distributed, "MEETING", timedelta(seconds=1))
        with socket.create_server(("127.0.0.1", 0)) as other:
            at = port if port in ("x", "99999") else str(other.getsockname()[1])
            if port == "free":
                other.close()
            given = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": at}
            for name, value in given.items():
                monkeypatch.setenv(name, value)
            with pytest.raises(RunError, match=rf"^the processes of this run cannot meet at .*127\.0\.0\.1:{at}: .+$"):
                run(out, tmp_path / "run")

    def test_a_share_of_one_clip(self, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A batch of one clip per process is refused if BatchNorm would see that clip alone."""
        monkeypatch.setattr(loop.distributed, "join", lambda _: loop.World(size=2))
        with pytest.raises(RunError, match=r"each of 2 processes one clip, .* without machine\.sync_batchnorm"):
            run(out, tmp_path / "run", "data.batch_size=2", "machine.sync_batchnorm=false")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_trains_all_stages(out: Path, tmp_path: Path) -> None:
    """On CUDA all stages run in bf16, with pinned memory, and a stopped run continues."""
    run(
        out,
        tmp_path / "run",
        "machine.device=cuda",
        "machine.bf16=true",
        "data.workers=2",
        stages=("identity", "speech"),
    )
    run(out, tmp_path / "run", "machine.device=cuda", "machine.bf16=true", "data.workers=2", stages=("full",))
    assert checkpoint.load(tmp_path / "run").settings["steps"]["full"] == 2


ONE_STEP = """
import sys, torch
from pathlib import Path
from torch import nn
from davs_model import checkpoint
from davs_model.data.batch import RawBatch
from davs_model.training import optimizers

nn.Dropout.forward = lambda self, maps: maps  # it draws differently in each process
torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double
to = RawBatch.to

def to_double(self, device):
    return {name: x.double() if x.is_floating_point() else x for name, x in to(self, device).items()}

def step(phases, rate):
    parameters = [p for phase in phases.values() for group in phase.param_groups for p in group["params"]]
    gradient = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    torch.save(gradient, Path(sys.argv[2]) / "gradient.pt")
    torch.set_default_dtype(torch.float32)  # as checkpoints are
    checkpoint._outline.cache_clear()

RawBatch.to, optimizers.step = to_double, step
"""
"""Computes in double precision, for BatchNorm over nearly equal features makes much of any rounding in gradients, and
keeps the gradient instead of following it, for Adam makes a whole step of one that is nearly 0."""
SAY_WEIGHTS = """
import hashlib, os
from davs_model.training.step import StageTrainer
fit = StageTrainer.initialise

def initialise(self):
    fit(self)
    digest = hashlib.sha256()
    for tensor in self.model.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    os.write(1, f"first weights {digest.hexdigest()}\\n".encode())

StageTrainer.initialise = initialise
"""
"""Tells what each process begins with once its first weights are fitted."""
SAY_PROCESS = """
import os
os.write(1, f"process {os.environ['RANK']} is {os.getpid()}\\n".encode())
"""
"""Tells the numbers of processes, each in one write, so that two lines do not mix."""
STOP_AT_STEP = """
import os, signal
from davs_model.training.step import StageTrainer
take = StageTrainer.step

def step(self, number, *rest):
    if number == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    return take(self, number, *rest)

StageTrainer.step = step
"""
"""Each process gets a SIGTERM in its third step, all learn of it in the fourth."""
NO_ROOM = """
import torch
from avprep.errors import RunError
from davs_model.training.reports import Reporter

def validate(self, stage, step):
    group = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
    raise RunError(f"no room for a validation, for which others wait {group.options._timeout}")

Reporter.validate = validate
"""
"""The first process ends in its first validation, while the other waits for it in the second step."""
SCRIPT = """
import sys
from pathlib import Path
from avprep.errors import AvprepError
from davs_model.models.davs import Settings
from davs_model.training import loop
out, run, stage, *overrides = sys.argv[1:]
stages = {"all-but-identity": ("speech", "full"), "identity-and-speech": ("identity", "speech")}.get(stage, (stage,))
def say(line):
    print(line, flush=True)
try:
    loop.train(Path(out), Path(run), Settings.resolve("small", None, overrides), stages=stages, say=say)
except AvprepError as error:
    print(error, flush=True)
    sys.exit(1)
"""


def start(out: Path, folder: Path, *arguments: str, processes: int = 1, script: str = "") -> subprocess.Popen[str]:
    """Start training in a process group of its own; arguments: overrides and `--stage NAME`."""
    given = list(arguments)
    at = given.index("--stage")
    stage = given[at + 1]
    del given[at : at + 2]
    program = folder.parent / "train.py"
    folder.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(script + SCRIPT, encoding="utf-8")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.Popen(
        [
            sys.executable,
            *(torchrun if processes > 1 else []),
            str(program),
            str(out),
            str(folder),
            stage,
            *SMALL,
            *given,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
