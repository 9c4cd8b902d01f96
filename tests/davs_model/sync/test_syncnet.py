"""LSE-D and LSE-C of SyncNet, with random weights of its shapes, against the released evaluation written out."""

from __future__ import annotations

import json
import pickle
import weakref
from collections.abc import Iterator
from pathlib import Path

import cv2
import made_media
import made_shards
import numpy as np
import pytest
import python_speech_features
import torch
from avprep_cli.main import main
from click.testing import CliRunner
from made_shards import Made
from torch import Tensor
from torch.nn import functional

from avprep import manifest, schema, shards
from avprep.errors import CheckpointError
from avprep.manifest import Clip, Manifest
from avprep.media.audio import read_sound
from avprep.talking import inputs
from davs_model.sync import syncnet
from davs_model.sync.column import LseStage

SHAPES = {
    "netcnnaud": [
        ("0", (64, 1, 3, 3)),
        ("4", (192, 64, 3, 3)),
        ("8", (384, 192, 3, 3)),
        ("11", (256, 384, 3, 3)),
        ("14", (256, 256, 3, 3)),
        ("18", (512, 256, 5, 4)),
    ],
    "netcnnlip": [
        ("0", (96, 3, 5, 7, 7)),
        ("4", (256, 96, 1, 5, 5)),
        ("8", (256, 256, 1, 3, 3)),
        ("11", (256, 256, 1, 3, 3)),
        ("14", (256, 256, 1, 3, 3)),
        ("18", (512, 256, 1, 6, 6)),
    ],
    "netfcaud": [("0", (512, 512)), ("3", (1024, 512))],
    "netfclip": [("0", (512, 512)), ("3", (1024, 512))],
}
"""The weights of the released file, by network and place."""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Random weights of the released shapes, with which a signal neither vanishes nor explodes."""
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}
    for network, layers in SHAPES.items():
        for place, shape in layers:
            count = int(np.prod(shape[1:]))
            found[f"{network}.{place}.weight"] = torch.randn(shape, generator=generator) * (2 / count) ** 0.5
            found[f"{network}.{place}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
            if place == "3":
                continue
            norm = f"{network}.{int(place) + 1}"
            found[f"{norm}.weight"] = 1 + 0.1 * torch.randn(shape[0], generator=generator)
            found[f"{norm}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
            found[f"{norm}.running_mean"] = 0.1 * torch.randn(shape[0], generator=generator)
            found[f"{norm}.running_var"] = 1 + torch.rand(shape[0], generator=generator)
    return found


@pytest.fixture(scope="module")
def file(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those weights as `torch.save` writes them."""
    path = tmp_path_factory.mktemp("syncnet") / "syncnet_v2.model"
    torch.save(weights, path)
    return path


def layer(weights: dict[str, Tensor], name: str, place: int, signal: Tensor, **options: object) -> Tensor:
    """A convolution or linear layer, batch normalisation and ReLU, one operation after the other."""
    weight, bias = weights[f"{name}.{place}.weight"], weights[f"{name}.{place}.bias"]
    kind = {2: functional.linear, 4: functional.conv2d, 5: functional.conv3d}[weight.dim()]
    signal = kind(signal, weight, bias, **options)  # type: ignore[operator]
    shape = (1, -1, *[1] * (signal.dim() - 2))
    mean, variance, gain, offset = (
        weights[f"{name}.{place + 1}.{part}"].view(shape) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return ((signal - mean) / torch.sqrt(variance + 1e-5) * gain + offset).clamp(min=0)


def plain(weights: dict[str, Tensor], images: np.ndarray, audio: np.ndarray) -> tuple[int, float, float]:
    """The released evaluation, written out: windows one by one, zeros beyond the ends, the last window left out."""
    cepstra = np.array(list(zip(*python_speech_features.mfcc(audio, 16000), strict=True)))
    video_features, audio_features = [], []
    for frame in range(min(len(images), int(np.floor(len(audio) / 640))) - 5):
        seen = torch.from_numpy(images[frame : frame + 5].astype(float)).float().permute(3, 0, 1, 2)[None]
        seen = layer(weights, "netcnnlip", 0, seen, stride=(1, 2, 2))
        seen = functional.max_pool3d(seen, (1, 3, 3), (1, 2, 2))
        seen = layer(weights, "netcnnlip", 4, seen, stride=(1, 2, 2), padding=(0, 1, 1))
        seen = functional.max_pool3d(seen, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for place in (8, 11, 14):
            seen = layer(weights, "netcnnlip", place, seen, padding=(0, 1, 1))
        seen = layer(weights, "netcnnlip", 18, functional.max_pool3d(seen, (1, 3, 3), (1, 2, 2)))
        seen = layer(weights, "netfclip", 0, seen.view(1, -1))
        video_features.append(functional.linear(seen, weights["netfclip.3.weight"], weights["netfclip.3.bias"])[0])
        heard = torch.from_numpy(cepstra[:, 4 * frame : 4 * frame + 20]).float()[None, None]
        heard = layer(weights, "netcnnaud", 0, heard, padding=1)
        heard = layer(weights, "netcnnaud", 4, heard, padding=1)
        heard = functional.max_pool2d(heard, (3, 3), (1, 2))
        for place in (8, 11, 14):
            heard = layer(weights, "netcnnaud", place, heard, padding=1)
        heard = layer(weights, "netcnnaud", 18, functional.max_pool2d(heard, (3, 3), (2, 2)))
        heard = layer(weights, "netfcaud", 0, heard.view(1, -1))
        audio_features.append(functional.linear(heard, weights["netfcaud.3.weight"], weights["netfcaud.3.bias"])[0])
    padded = [torch.zeros(1024)] * 15 + audio_features + [torch.zeros(1024)] * 15
    means = []
    for shift in range(31):
        apart = [((v - padded[i + shift] + 1e-6) ** 2).sum().sqrt() for i, v in enumerate(video_features)]
        means.append(float(sum(apart) / len(apart)))
    return 15 - int(np.argmin(means)), min(means), float(sorted(means)[15] - min(means))


@pytest.mark.parametrize(("n_frames", "n_samples"), [(22, 22 * 640), (12, 11 * 640 + 639)])
def test_the_figures_are_those_of_the_released_evaluation(
    weights: dict[str, Tensor], file: Path, n_frames: int, n_samples: int
) -> None:
    """Offset, LSE-D and LSE-C agree with the plain evaluation, in clips of more and of fewer windows than offsets."""
    rng = np.random.default_rng(n_frames)
    frames = rng.integers(0, 256, (n_frames, 224, 224, 3), dtype=np.uint8)
    samples = rng.normal(0, 3000, n_samples).astype(np.int16)
    found = syncnet.evaluate(syncnet.SyncNet.load(file), frames, samples)
    assert found is not None
    offset, distance, confidence = plain(weights, frames, samples)
    assert found.offset == offset
    assert found.lse_d == pytest.approx(distance, rel=1e-4)
    assert found.lse_c == pytest.approx(confidence, rel=1e-3, abs=1e-3)
    ours = found.as_offset()
    assert ours.curve[15 + offset] == ours.distance
    assert found.n_windows == min(n_frames, n_samples // 640) - 5


@pytest.mark.parametrize("chosen", [{}, {"audio_channel": 1}])
def test_the_column_has_the_figures_of_the_evaluation(
    weights: dict[str, Tensor], file: Path, tmp_path: Path, chosen: dict[str, int]
) -> None:
    """`avprep sync --scale syncnet` reads crops from shards and audio from the data set, that of OUT's windows."""
    n_frames, out = 14, tmp_path / "out"
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 3000, n_frames * 640).astype(np.int16)
    channels = np.stack((rng.permutation(samples), samples), axis=1) if chosen else samples
    made_media.write_wav(tmp_path / "film.wav", channels, 16_000)
    made_media.numbered(tmp_path / "film.mp4", made_media.steady(25, n_frames / 25))
    plan = Manifest("made", tmp_path, (Clip("film", "film.mp4", "test", audio="film.wav"),))
    out.mkdir()
    (out / "manifest.jsonl").write_text(manifest.render(plan))
    members = made_shards.crop_members("film", n_frames)
    row = Made("film", split="test", n_frames=n_frames)
    made_shards.write_shard(out, "crop", "test-000000", [(row, made_shards.stretch(tmp_path, "film", members))])
    run = {"avprep_run": 1, "manifest": plan.digest(), "clips": plan.counts(), "shard_size": 500, "versions": {}}
    (out / "mfcc").mkdir()
    for column, settings in (("crop", {}), ("mfcc", chosen)):
        facts = {**run, "column": column, "settings": settings}
        (out / column / "run.json").write_bytes(schema.encode_json(facts))
    done = CliRunner().invoke(main, ["sync", str(out), "--scale", "syncnet", "--model", str(file), "-j", "1"])
    assert done.exit_code == 0, done.output
    assert schema.decode_json((out / "sync" / "run.json").read_bytes())["settings"].items() >= chosen.items()
    ((_, found),) = shards.read(out / "sync" / "test-000000.tar")
    facts = schema.check_sample("sync", "film", found)
    levels = [cv2.imdecode(np.frombuffer(members[f"{n:03d}.jpg"], np.uint8), cv2.IMREAD_COLOR) for n in range(n_frames)]
    frames = np.stack([cv2.resize(picture, (224, 224)) for picture in levels])
    offset, distance, confidence = plain(weights, frames, samples)
    assert (facts["scale"], facts["n_windows"], facts["audio_lead_frames"]) == ("syncnet", n_frames - 5, offset)
    assert facts["distance"] == pytest.approx(distance, rel=1e-4)
    assert facts["confidence"] == pytest.approx(confidence, rel=1e-3, abs=1e-3)
    command = ["select", str(out), "--preset", "latentsync", "-o", str(tmp_path / "sure.jsonl")]
    assert "sync.confidence >= 3.0" in CliRunner().invoke(main, command).stderr
    retry = ["retry", str(out), "--reason", "timeout", "--model", str(file), "--dry-run"]
    assert CliRunner().invoke(main, retry).exit_code == 0


def test_the_audio_is_delayed_as_in_moved_windows(file: Path, tmp_path: Path) -> None:
    """If OUT's windows were moved clip by clip, a clip has the figures of its audio with the delay of its windows."""
    n_frames, out = 14, tmp_path / "out"
    samples = np.random.default_rng(0).normal(0, 3000, n_frames * 640).astype(np.int16)
    made_media.write_wav(tmp_path / "film.wav", samples, 16_000)
    made_media.numbered(tmp_path / "film.mp4", made_media.steady(25, n_frames / 25))
    clip, row = Clip("film", "film.mp4", "test", audio="film.wav"), Made("film", split="test", n_frames=n_frames)
    for column, members in (("crop", made_shards.crop_members), ("mfcc", made_shards.mfcc_members)):
        stretch = made_shards.stretch(tmp_path, "film", members("film", n_frames))
        made_shards.write_shard(out, column, "test-000000", [(row, stretch)])
        (out / column / "run.json").write_text('{"shard_size": 500}')
    stage, found = LseStage(out, file, root=tmp_path), []
    sidecar, run = out / "mfcc" / "test-000000.json", out / "mfcc" / "run.json"
    told = json.loads(sidecar.read_text())
    told["clips"][0]["audio_offset_ms"] = 80.0
    sidecar.write_text(json.dumps(told))
    for settings in ({}, {"audio_shift_ms": 80.0}, {"audio_offset": "sync"}):
        run.write_text(json.dumps({"shard_size": 500, "settings": settings}))
        found.append((dict(stage.measuring()(clip, "test-000000").members), stage.resolved()))
    (plain, _), (shifted, _), (moved, _) = found
    assert moved == shifted != plain
    assert len({json.dumps(resolved) for _, resolved in found}) == 3


def test_few_pictures_are_in_memory_at_once(file: Path) -> None:
    """However long a video is, the pictures of one pass of the networks are held, and each is asked for once."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (58, 224, 224, 3), dtype=np.uint8)
    samples = rng.normal(0, 3000, 58 * 640).astype(np.int16)
    alive: weakref.WeakSet[Picture] = weakref.WeakSet()
    most = 0

    class Picture(np.ndarray):  # type: ignore[type-arg]
        __hash__ = object.__hash__  # type: ignore[assignment]

    def arriving() -> Iterator[Picture]:
        nonlocal most
        for frame in frames:
            alive.add(found := frame.copy().view(Picture))
            most = max(most, len(alive))
            yield found

    net = syncnet.SyncNet.load(file)
    found, whole = syncnet.evaluate(net, arriving(), samples), syncnet.evaluate(net, frames, samples)
    assert found is not None
    assert whole is not None
    assert found.as_offset() == whole.as_offset()
    assert found.n_windows == 53
    assert most <= syncnet.AT_ONCE + 5 + 1


def test_a_video_has_the_figures_of_its_crops_and_audio(file: Path, lrw: Path) -> None:
    """`avprep sync --video FILE --scale syncnet` measures the crops of its subject with the audio beside them."""
    video = min((lrw / "corpus").rglob("test/*.mp4"))
    driver = inputs.read_driver(video, "video", detector="opencv")
    frames = [syncnet.picture(crop) for part in driver.read() for crop in part]
    heard = read_sound(video).beside(len(frames))
    wanted = syncnet.evaluate(syncnet.SyncNet.load(file), frames, heard)
    assert wanted is not None
    command = ("sync", "--video", video, "--scale", "syncnet", "--model", file, "--detector", "opencv", "--json")
    done = CliRunner().invoke(main, [str(argument) for argument in command])
    assert done.exit_code == 0, done.output
    found, ours = json.loads(done.stdout), wanted.as_offset()
    assert (found["audio_lead_frames"], found["n_windows"]) == (ours.audio_lead_frames, 24)
    assert tuple(found["curve"]) == ours.curve


def test_a_clip_without_a_window_has_no_score(file: Path) -> None:
    """Five frames have no result, as the evaluation leaves out the last window."""
    net = syncnet.SyncNet.load(file)
    assert syncnet.evaluate(net, np.zeros((5, 224, 224, 3), np.uint8), np.zeros(3200, np.int16)) is None


def test_other_files_are_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    """Weights of other shapes, and a file with code in it, give one line; the code does not run."""
    torch.save({**weights, "netfclip.3.bias": torch.zeros(3)}, tmp_path / "other.model")
    with pytest.raises(CheckpointError, match=r"netfclip\.3\.bias is missing or of another shape"):
        syncnet.SyncNet.load(tmp_path / "other.model")

    class Code:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (open, (str(tmp_path / "ran"), "w"))  # type: ignore[return-value]

    torch.save({"netfclip.3.bias": Code()}, tmp_path / "evil.model", pickle_module=pickle)
    with pytest.raises(CheckpointError):
        syncnet.SyncNet.load(tmp_path / "evil.model")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(CheckpointError, match=r"a folder, not a torch file of weights: give the file itself"):
        syncnet.SyncNet.load(tmp_path)


def test_tensors_that_are_no_weights_are_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    """A tensor of the right shape without numbers, or with NaN, gives one line that names it."""
    name, like = "netfcaud.0.weight", weights["netfcaud.0.weight"]
    odd = (like.to("meta"), like.to_sparse(), like.to(torch.complex64), torch.full_like(like, torch.nan))
    for tensor in odd:
        torch.save({**weights, name: tensor}, tmp_path / "odd.model")
        with pytest.raises(CheckpointError, match=name) as caught:
            syncnet.SyncNet.load(tmp_path / "odd.model")
        assert len(str(caught.value).splitlines()) == 1
