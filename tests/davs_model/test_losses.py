"""The losses: each equals its formula written out, updates only what it should, and stays finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from statistics import fmean

import pytest
import torch
from torch import Tensor, nn

from davs_model.models.davs import losses
from davs_model.models.davs.losses import Form
from davs_model.models.davs.networks import DAVS, SequenceLogits

seeds = pytest.mark.parametrize("seed", range(4))
forms = pytest.mark.parametrize("form", ["paper", "released"])

BOXES = {256: (170, 234, 64, 192), 128: (85, 117, 32, 96), 64: (42, 58, 16, 48), 16: (11, 15, 4, 12)}
"""Top, bottom, left and right of the mouth, by the side of the picture."""


class Judge(nn.Module):
    """A stand-in for any discriminator or classifier: its inputs are its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))
        self.held = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, given: Tensor, windows: Tensor | None = None) -> Tensor | SequenceLogits:
        """Return the input; for sequences a channel of the first frame, and the larger of two corners of the last."""
        if windows is None:
            return given * self.one
        in_step = torch.maximum(given[:, -1, 2, 0, :1], windows[:, 0, 0, :1])
        return SequenceLogits(given[:, 0, :1] * self.one, in_step * self.one)


def heads(frames: Tensor, windows: Tensor) -> list[list[float]]:
    """Return the logits of `Judge` for sequences, head by head."""
    pictures, sound = frames.tolist(), windows.tolist()
    patch = [value for clip in pictures for row in clip[0][0] for value in row]
    return [patch, [max(clip[-1][2][0][0], heard[0][0][0]) for clip, heard in zip(pictures, sound, strict=True)]]


def numbers(seed: int) -> Callable[..., Tensor]:
    """Return a function that draws tensors of a shape."""
    source = torch.Generator().manual_seed(seed)
    return lambda *shape: 2 * torch.randn(shape, generator=source)


def softmax(logits: list[float]) -> list[float]:
    """Return e^x_j / Σ_k e^x_k."""
    return [math.exp(x) / sum(math.exp(other) for other in logits) for x in logits]


def sigmoid(x: float) -> float:
    """Return 1 / (1 + e^−x)."""
    return 1 / (1 + math.exp(-x))


def cross_entropy(rows: list[list[float]], labels: list[int]) -> float:
    """Return the mean over rows of −Σ_j p_j·log softmax_j, p the one-hot label."""
    total = 0.0
    for logits, label in zip(rows, labels, strict=True):
        for j, probability in enumerate(softmax(logits)):
            total -= (1 if j == label else 0) * math.log(probability)
    return total / len(rows)


def binary_cross_entropy(logits: list[float], labels: list[float]) -> float:
    """Return the mean of −(l·log s + (1 − l)·log(1 − s))."""
    pairs = zip(logits, labels, strict=True)
    return fmean([-(label * math.log(sigmoid(x)) + (1 - label) * math.log(1 - sigmoid(x))) for x, label in pairs])


def from_uniform(rows: list[list[float]], form: Form) -> float:
    """Return the mean over rows of Σ_j (softmax_j − 1/N)², or of its mean over j."""
    sums = [math.fsum((p - 1 / len(logits)) ** 2 for p in softmax(logits)) for logits in rows]
    return fmean(sums) / (len(rows[0]) if form == "released" else 1)


def assert_is(loss: Tensor, expected: float) -> None:
    """Fail unless a loss is one float32 number, the expected one."""
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected, rel=1e-6, abs=1e-8)


# Each equals its formula


def contrast(video: Tensor, audio: Tensor, form: Form) -> float:
    """Return equation 1 for clips scaled to unit length."""
    unit, count = [], len(video)
    for features in (video, audio):
        rows = [[x for frame in clip for x in frame] for clip in features.tolist()]
        unit.append([[x / math.hypot(*row) for x in row] for row in rows])
    total = 0.0
    for m in range(count):
        for n in range(count):
            label, distance = (1 if m == n else 0), math.dist(unit[0][n], unit[1][m])
            if form == "released":
                total += (label * distance**2 + (1 - label) * max(1 - distance, 0) ** 2) / (2 * count)
            else:
                total += label * distance + (1 - label) * max(1 - distance, 0)
    return total


@forms
@seeds
def test_contrast_is_equation_1(seed: int, form: Form) -> None:
    """Paired clips cost their distance, unpaired ones the shortfall from the margin; released: squared, over 2N."""
    draw = numbers(seed)
    video, audio = draw(3 + seed, 2, 2), draw(3 + seed, 2, 2)
    assert_is(losses.contrastive_loss(video, audio, form=form), contrast(video, audio, form))


@forms
def test_contrast_sees_small_distances_in_large_batches(form: Form) -> None:
    """Pairs a thousandth apart cost a thousandth, however many clips there are."""
    video = torch.eye(40)[:, None]
    audio = video + 1e-4 * numbers(0)(40, 1, 40)
    found = losses.contrastive_loss(video, audio, form=form).item()
    assert found == pytest.approx(contrast(video, audio, form), rel=1e-3)


@seeds
def test_words_are_told_from_both_modalities(seed: int) -> None:
    """The loss of the shared classifier is the cross-entropy of video plus that of audio."""
    draw, words = numbers(seed), [seed, 0, 3, 3]
    video, audio = draw(4, 5), draw(4, 5)
    expected = cross_entropy(video.tolist(), words) + cross_entropy(audio.tolist(), words)
    assert_is(losses.word_loss(video, audio, torch.tensor(words)), expected)


@seeds
def test_every_frame_is_of_its_clips_person(seed: int) -> None:
    """The person's cross-entropy is the mean over all frames, each with the label of its clip."""
    logits, people = numbers(seed)(3, 4, 5), [seed, 4, 2]
    rows = [frame for clip in logits.tolist() for frame in clip]
    labels = [person for person in people for _ in range(4)]
    expected = cross_entropy(rows, labels)
    assert_is(losses.person_loss(logits, torch.tensor(people)), expected)
    assert_is(losses.speech_person_loss(Judge(), logits, torch.tensor(people)), expected)


@seeds
def test_the_domain_discriminator_calls_sound_one(seed: int) -> None:
    """D learns 1 for features of audio and 0 for those of video; the released encoders learn the reverse."""
    draw = numbers(seed)
    video, audio = draw(2, 3, 1), draw(2, 3, 1)
    logits = [value for clips in (video, audio) for clip in clips.tolist() for (value,) in clip]
    assert_is(losses.domain_loss(Judge(), video, audio), binary_cross_entropy(logits, [0.0] * 6 + [1.0] * 6))
    swapped = losses.domain_confusion(Judge(), video, audio, form="released")
    assert_is(swapped, binary_cross_entropy(logits, [1.0] * 6 + [0.0] * 6))


@seeds
def test_domains_are_confused_as_two_classes(seed: int) -> None:
    """The paper's confusion of domains is equation 3 with two classes, audio and video."""
    draw = numbers(seed)
    video, audio = draw(2, 3, 1), draw(2, 3, 1)
    squares = []
    for clips in (video, audio):
        for clip in clips.tolist():
            for (value,) in clip:
                squares.append((sigmoid(value) - 1 / 2) ** 2 + (1 - sigmoid(value) - 1 / 2) ** 2)
    assert_is(losses.domain_confusion(Judge(), video, audio), fmean(squares))


@forms
@seeds
def test_words_leave_the_identity_by_equations_2_and_3(seed: int, form: Form) -> None:
    """C_p^w has the cross-entropy of the words, E_p^v the squared distance from 1/N_w; released: its mean."""
    logits, words = numbers(seed)(3, 5 + seed), [seed, 4, 0]
    assert_is(losses.identity_word_loss(Judge(), logits, torch.tensor(words)), cross_entropy(logits.tolist(), words))
    assert_is(losses.identity_word_confusion(Judge(), logits, form=form), from_uniform(logits.tolist(), form))


def test_the_released_weight_of_equation_3_is_2000_of_the_papers() -> None:
    """At 500 words a million times the released mean equals 2,000 times the paper's sum."""
    paper, released = (
        losses.identity_word_confusion(Judge(), numbers(0)(2, 500), form=form) for form in ("paper", "released")
    )
    assert losses.RELEASED_WEIGHTS["identity_word_confusion"] * released.item() == pytest.approx(2000 * paper.item())


@forms
@seeds
def test_people_leave_the_speech_by_equation_5(seed: int, form: Form) -> None:
    """E_w^v has the squared distance from 1/N_p, averaged over frames; released: also over people."""
    logits = numbers(seed)(2, 3, 4 + seed)
    rows = [frame for clip in logits.tolist() for frame in clip]
    assert_is(losses.speech_person_confusion(Judge(), logits, form=form), from_uniform(rows, form))


@pytest.mark.parametrize(("size", "box"), BOXES.items())
def test_the_mouth_box_keeps_its_place(size: int, box: tuple[int, int, int, int]) -> None:
    """The mouth is at rows 170:234 and columns 64:192 of 256, and at the same part of images of other sizes."""
    assert losses.mouth_box(size) == (slice(*box[:2]), slice(*box[2:]))


def pixels(frames: Tensor) -> Iterator[tuple[tuple[int, ...], bool, float]]:
    """Yield the position of each value of frames, whether it is in the mouth, and the value."""
    top, bottom, left, right = BOXES[frames.shape[-1]]
    for b, clip in enumerate(frames.tolist()):
        for t, frame in enumerate(clip):
            for c, channel in enumerate(frame):
                for y, row in enumerate(channel):
                    for x, value in enumerate(row):
                        yield (b, t, c, y, x), top <= y < bottom and left <= x < right, value


@forms
def test_reconstruction_is_equation_6(form: Form) -> None:
    """Frames differ by the mean absolute difference; released: on 0–255, 4 × it plus 8 × that of the mouth."""
    real, generated = torch.rand(2, 2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    everywhere, mouth = [], []
    for (_, inside, one), (_, _, other) in zip(pixels(real), pixels(generated), strict=True):
        everywhere.append(abs(one - other))
        if inside:
            mouth.append(abs(one - other))
    expected = fmean(everywhere) if form == "paper" else 4 * 255 * fmean(everywhere) + 8 * 255 * fmean(mouth)
    assert_is(losses.reconstruction_loss(real, generated, form=form), expected)


def test_imitation_is_its_formula() -> None:
    """The loss is L_1, plus 4 × the mean absolute difference of the mouth and of its deviations from its mean."""
    films = torch.rand(2, 2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    everywhere, mouth, motion = [], [], []
    values = [{place: value for place, _, value in pixels(frames)} for frames in films]
    for (b, t, c, y, x), inside, _ in pixels(films[0]):
        one, other = (of[b, t, c, y, x] for of in values)
        everywhere.append(abs(one - other))
        if inside:
            means = [fmean(of[b, frame, c, y, x] for frame in range(3)) for of in values]
            mouth.append(abs(one - other))
            motion.append(abs(one - means[0] - other + means[1]))
    expected = fmean(everywhere) + 4 * (fmean(mouth) + fmean(motion))
    assert_is(losses.imitation_loss(films[0], films[1]), expected)


def test_what_is_no_mouth_stands_still() -> None:
    """The loss is the difference of each generated frame to the previous or identity frame, outside the mouth."""
    frames = torch.rand(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    values = {place: value for place, _, value in pixels(frames)}
    outside = []
    for (b, t, c, y, x), inside, value in pixels(frames):
        if t > 0 and not inside:
            outside.append(abs(255 * value - 255 * values[b, t - 1, c, y, x]))
    assert_is(losses.stillness_loss(frames[:, :1], frames[:, 1:]), fmean(outside))


@seeds
def test_the_sequence_game_is_equation_7(seed: int) -> None:
    """D_seq maximises E[log D(real)] + E[log(1 − D(G))] over both heads, and the paper's G minimises the second."""
    draw = numbers(seed)
    real, generated, windows = draw(3, 2, 3, 4, 4), draw(3, 2, 3, 4, 4), draw(3, 2, 12, 20)
    game = fooled = 0.0
    for truth, forgery in zip(heads(real, windows), heads(generated, windows), strict=True):
        told = fmean([math.log(1 - sigmoid(x)) for x in forgery])
        game += fmean([math.log(sigmoid(x)) for x in truth]) + told
        fooled += told
    assert_is(losses.sequence_loss(Judge(), real, generated, windows), -game)
    assert_is(losses.sequence_confusion(Judge(), generated, windows), fooled)
    released = math.fsum(fmean([-math.log(sigmoid(x)) for x in head]) for head in heads(generated, windows))
    assert_is(losses.sequence_confusion(Judge(), generated, windows, form="released"), released)


@seeds
def test_released_labels_are_softened_from_the_generator(seed: int) -> None:
    """Up to .1 is drawn for the real heads, then for the generated ones, and subtracted from 1 or added to 0."""
    draw, source = numbers(seed), torch.Generator().manual_seed(seed)
    real, generated, windows = draw(3, 2, 3, 4, 4), draw(3, 2, 3, 4, 4), draw(3, 2, 12, 20)
    expected = 0.0
    for frames, real_label in ((real, True), (generated, False)):
        for logits, shape in zip(heads(frames, windows), ((3, 1, 4, 4), (3, 1)), strict=True):
            softening = [0.1 * value for value in torch.rand(shape, generator=source).flatten().tolist()]
            labels = [1 - value if real_label else value for value in softening]
            assert all(0.9 <= label <= 1 if real_label else 0 <= label <= 0.1 for label in labels)
            expected += binary_cross_entropy(logits, labels)
    source.manual_seed(seed)
    loss = losses.sequence_loss(Judge(), real, generated, windows, form="released", generator=source)
    assert_is(loss, expected)


@seeds
def test_a_wrong_sound_is_out_of_sync_and_says_nothing_of_the_patches(seed: int) -> None:
    """Real frames with the audio of another clip add the cross-entropy of the sync head alone, labelled generated."""
    draw = numbers(seed)
    real, generated, windows, wrong = draw(3, 2, 3, 4, 4), draw(3, 2, 3, 4, 4), draw(3, 2, 12, 20), draw(3, 2, 12, 20)
    more = losses.sequence_loss(Judge(), real, generated, windows, wrong=wrong)
    less = losses.sequence_loss(Judge(), real, generated, windows)
    assert_is(more - less, fmean([-math.log(1 - sigmoid(x)) for x in heads(real, wrong)[1]]))


@seeds
def test_hinge_stops_where_the_discriminator_is_sure(seed: int) -> None:
    """Hinge is the shortfall of a logit from 1, or for generated frames from −1; the generator raises the logits."""
    draw = numbers(seed)
    real, generated, windows = draw(3, 2, 3, 4, 4), draw(3, 2, 3, 4, 4), draw(3, 2, 12, 20)
    expected = 0.0
    for truth, forgery in zip(heads(real, windows), heads(generated, windows), strict=True):
        expected += fmean([max(0, 1 - x) for x in truth]) + fmean([max(0, 1 + x) for x in forgery])
    assert_is(losses.sequence_loss(Judge(), real, generated, windows, form="hinge"), expected)
    raised = math.fsum(-fmean(head) for head in heads(generated, windows))
    assert_is(losses.sequence_confusion(Judge(), generated, windows, form="hinge"), raised)


# Which networks each updates


def moved(davs: DAVS, loss: Tensor) -> set[str]:
    """Return the networks of which a loss updates some parameter."""
    parameters = {name: parameter for name, parameter in davs.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=True)
    found = zip(parameters, gradients, strict=True)
    return {name.partition(".")[0] for name, gradient in found if gradient is not None and gradient.any()}


@forms
def test_gradients_flow_along_the_solid_lines(form: Form) -> None:
    """Each term updates some parameter of each network that it is for, and none of any other."""
    torch.manual_seed(0)
    sizes = {"n_words": 5, "n_people": 4, "n_speakers": 3, "width": 0.125, "image_size": 64}
    davs = DAVS(**sizes, speech_frames=2, identity_frames=2, sequence_frames=2).train()
    frames, windows, labels = torch.rand(2, 2, 3, 64, 64), torch.randn(2, 2, 12, 20), torch.tensor([2, 0])
    identity, video = davs.encode_identity(frames), davs.encode_speech(frames=frames)
    audio = davs.encode_sound(windows)
    drawn, redrawn = davs.decode(identity, audio), davs.decode(identity, video)
    words, d, d_seq = davs.word_classifier, davs.domain_discriminator, davs.sequence_discriminator
    c_pw, c_wp = davs.identity_word_classifier, davs.speech_person_classifier
    e_p, e_v, e_a, g = "identity_encoder", "visual_speech_encoder", "audio_speech_encoder", "decoder"
    terms = {
        "L_C": (losses.contrastive_loss(video, audio, form=form), {e_a} | ({e_v} if form == "paper" else set())),
        "L_w": (losses.word_loss(words(video), words(audio), labels), {e_v, e_a, "word_classifier"}),
        "pid": (losses.person_loss(davs.person_classifier(identity.feature), labels), {e_p, "person_classifier"}),
        "L_adv^D, D": (losses.domain_loss(d, video, audio), {"domain_discriminator"}),
        "L_adv^D, E": (losses.domain_confusion(d, video, audio, form=form), {e_v, e_a}),
        "eq. 2": (losses.identity_word_loss(c_pw, identity.quarter, labels), {"identity_word_classifier"}),
        "eq. 3": (losses.identity_word_confusion(c_pw, identity.quarter, form=form), {e_p}),
        "eq. 4": (losses.speech_person_loss(c_wp, video, labels), {"speech_person_classifier"}),
        "eq. 5": (losses.speech_person_confusion(c_wp, video, form=form), {e_v}),
        "eq. 6, sound": (losses.reconstruction_loss(frames, drawn, form=form), {e_p, e_a, g}),
        "eq. 6, pictures": (losses.reconstruction_loss(frames, redrawn, form=form), {e_p, e_v, g}),
        "eq. 7, D": (losses.sequence_loss(d_seq, frames, drawn, windows, form=form), {"sequence_discriminator"}),
        "eq. 7, G, sound": (losses.sequence_confusion(d_seq, drawn, windows, form=form), {e_p, e_a, g}),
        "eq. 7, G, pictures": (losses.sequence_confusion(d_seq, redrawn, windows, form=form), {e_p, e_v, g}),
        "stillness": (losses.stillness_loss(frames[:, :1], drawn), {e_p, e_a, g}),
    }
    found = {name: moved(davs, loss) for name, (loss, _) in terms.items()}
    assert found == {name: networks for name, (_, networks) in terms.items()}


TERMS: dict[str, Callable[[Form, Callable[..., Tensor], Judge], Tensor]] = {
    "contrastive": lambda form, x, judge: losses.contrastive_loss(x(3, 2, 4), x(3, 2, 4), form=form),
    "word": lambda form, x, judge: losses.word_loss(x(3, 4), x(3, 4), LABELS),
    "person": lambda form, x, judge: losses.person_loss(x(3, 2, 4), LABELS),
    "domain": lambda form, x, judge: losses.domain_loss(judge, x(3, 2, 1), x(3, 2, 1)),
    "domain_confusion": lambda form, x, judge: losses.domain_confusion(judge, x(3, 2, 1), x(3, 2, 1), form=form),
    "identity_word": lambda form, x, judge: losses.identity_word_loss(judge, x(3, 4), LABELS),
    "identity_word_confusion": lambda form, x, judge: losses.identity_word_confusion(judge, x(3, 4), form=form),
    "speech_person": lambda form, x, judge: losses.speech_person_loss(judge, x(3, 2, 4), LABELS),
    "speech_person_confusion": lambda form, x, judge: losses.speech_person_confusion(judge, x(3, 2, 4), form=form),
    "reconstruction": lambda form, x, judge: losses.reconstruction_loss(x(*FRAMES), x(*FRAMES), form=form),
    "stillness": lambda form, x, judge: losses.stillness_loss(x(3, 1, 3, 16, 16), x(*FRAMES)),
    "sequence": lambda form, x, judge: losses.sequence_loss(
        judge, x(*FRAMES), x(*FRAMES), x(*WINDOWS), form=form, generator=torch.Generator().manual_seed(0)
    ),
    "sequence_confusion": lambda form, x, judge: losses.sequence_confusion(judge, x(*FRAMES), x(*WINDOWS), form=form),
}
"""Each loss of tensors that a function draws by their shape."""
LABELS, FRAMES, WINDOWS = torch.tensor([2, 0, 3]), (3, 2, 3, 16, 16), (3, 2, 12, 20)


@forms
@pytest.mark.parametrize("name", [name for name in TERMS if "confusion" in name])
@pytest.mark.parametrize("fails", [False, True])
def test_a_judge_is_trainable_again(name: str, form: Form, fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A confusion loss, even one that raises, restores whether the discriminator's parameters are trainable."""
    judge = Judge()
    if fails:
        monkeypatch.delattr(Judge, "forward")  # torch then raises NotImplementedError
    with pytest.raises(NotImplementedError) if fails else nullcontext():
        TERMS[name](form, numbers(0), judge)
    assert judge.one.requires_grad
    assert not judge.held.requires_grad


# At the edges


@pytest.mark.parametrize("name", ["domain_confusion", "identity_word_confusion", "speech_person_confusion"])
def test_nothing_pulls_once_all_classes_are_alike(name: str) -> None:
    """At a uniform softmax the loss and its gradient are 0, which is why the paper takes the Euclidean distance."""
    given: list[Tensor] = []

    def alike(*shape: int) -> Tensor:
        given.append(torch.full(shape, 0.0 if shape[-1] == 1 else 3.0, requires_grad=True))
        return given[-1]

    loss = TERMS[name]("paper", alike, Judge())
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert all(logits.grad.abs().max() < 1e-12 for logits in given)


@forms
@pytest.mark.parametrize("name", TERMS)
def test_sure_judges_leave_numbers_finite(name: str, form: Form) -> None:
    """At logits of ±100, right and wrong, losses and gradients are finite."""
    given: list[Tensor] = []
    draw, judge = numbers(1), Judge()

    def sure(*shape: int) -> Tensor:
        given.append((100 * draw(*shape).sign()).requires_grad_())
        return given[-1]

    loss = TERMS[name](form, sure, judge)
    loss.backward()
    gradients = [tensor.grad for tensor in (*given, judge.one) if tensor.grad is not None]
    assert loss.isfinite()
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(("form", "least", "most"), [("paper", 0, 1e-30), ("released", 0.999, 1.001)])
def test_a_sure_discriminator_still_teaches_in_the_released_form(form: Form, least: float, most: float) -> None:
    """If D_seq is sure of a generated frame, the paper's gradient vanishes and the released one is 1 per head."""
    generated = torch.full((1, 2, 3, 1, 1), -100.0, requires_grad=True)
    losses.sequence_confusion(Judge(), generated, torch.full((1, 2, 12, 20), -200.0), form=form).backward()
    for gradient in (generated.grad[0, 0, 0], generated.grad[0, -1, 2]):
        assert least <= -gradient.item() <= most


@forms
@pytest.mark.parametrize("name", TERMS)
def test_half_precision_is_raised_first(name: str, form: Form) -> None:
    """For bfloat16 inputs the loss is float32, and equals that of the same numbers in float32."""
    half, single = numbers(2), numbers(2)
    loss = TERMS[name](form, lambda *shape: half(*shape).bfloat16(), Judge())
    expected = TERMS[name](form, lambda *shape: single(*shape).bfloat16().float(), Judge())
    assert_is(loss, expected.item())


@forms
def test_contrast_does_not_see_length(form: Form) -> None:
    """Scaling a clip's features does not change the cost."""
    draw = numbers(0)
    video, audio = draw(4, 2, 3), draw(4, 2, 3)
    one, other = (torch.tensor(factors)[:, None, None] for factors in ([0.01, 1, 3, 500], [7, 0.2, 90, 1]))
    loss = losses.contrastive_loss(video, audio, form=form)
    assert_is(losses.contrastive_loss(one * video, other * audio, form=form), loss.item())


@forms
def test_contrast_is_finite_where_clips_are_one(form: Form) -> None:
    """Identical clips, at distance 0, cost a margin for each unpaired two, with finite gradients."""
    video, audio = (torch.ones(3, 2, 4, requires_grad=True) for _ in range(2))
    loss = losses.contrastive_loss(video, audio, form=form)
    loss.backward()
    assert_is(loss, 6 if form == "paper" else 1)
    assert audio.grad.isfinite().all()
    assert video.grad is None if form == "released" else video.grad.isfinite().all()


@forms
def test_contrast_lets_go_beyond_the_margin(form: Form) -> None:
    """Unpaired clips a little further apart than 1 have no cost and no gradient."""
    angles = torch.tensor([0.0, 1.1, 2.2])  # 2·sin(.55) = 1.05 apart
    video = torch.stack((angles.cos(), angles.sin()), dim=-1)[:, None]
    audio = video.clone().requires_grad_()
    loss = losses.contrastive_loss(video, audio, form=form)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert audio.grad.abs().max() < 1e-6


@pytest.mark.parametrize("trains", [True, False])
def test_what_is_held_still_goes_on_as_it_was(trains: bool) -> None:
    """Within the block a network is not updated, nor its statistics; afterwards it trains if it did before."""
    network = nn.BatchNorm1d(2).train(trains)
    given = torch.ones(3, 2, requires_grad=True)
    with losses.still(network):
        network(given).sum().backward()
    assert network.training is trains
    assert network.num_batches_tracked == 0
    assert network.weight.grad is None
    assert given.grad is not None
    assert network.weight.requires_grad
