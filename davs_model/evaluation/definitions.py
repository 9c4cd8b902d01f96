"""The definitions of the metrics of an evaluation, as printed on its page."""

DEFINITIONS = (
    "Opening r: correlation over time of the grey levels' standard deviation between the lips, generated and real.",
    "Motion r, amplitude: correlation, and ratio of standard deviations, of the mouth box's grey levels without each "
    "pixel's mean over the clip.",
    "Opening r and amplitude of the lips: correlation over time, and ratio of standard deviations, of the distance of "
    "the lips' inner edges by landmarks, generated and real, during speech.",
    "R@k of mouths: generated mouth sequences, their mean subtracted, whose own real one is among the k nearest; over "
    "the first frames of each clip, as many as the shortest has, with or without speech.",
    "Mouth PSNR, SSIM: of the mouth box, without the identity frame; better than repeated: clips whose mouth PSNR is "
    "above that of the identity frame repeated.",
    "Flicker: mean absolute difference of successive frames outside the mouth box, in grey levels of 255.",
    "Dependence on the mouth of the identity frame: how much mouths differ with the most open and with the most closed "
    "frame of a clip as identity frame, divided by that and how much they differ by two clips' audio, together.",
    "PSNR: −10·log₁₀ of a frame's mean squared error, pixel values from 0 to 1; in dB, the mean of frames that differ.",
    "SSIM: structural similarity of a generated frame and the real one (Wang et al. 2004), at most 1.",
    "L1: mean absolute difference of pixel values from 0 to 1.",
    "Identity frame repeated: every frame is taken to be the one that the face comes from, so that nothing moves.",
    "Visual, audio, both: clips whose word C_w finds from F_w^v, from F_w^a, from both, their probabilities added.",
    "Chance of words and of people: always saying what is most frequent among the clips judged.",
    "R@k: queries whose right clip is among the k nearest, by Euclidean distance of features of unit length.",
    "MedR: ⌊median rank⌋ + 1, ranks counted from 0: at best 1.",
    "Chance of retrieval among n clips: R@k = k/n, MedR = ⌊(n − 1)/2⌋ + 1.",
    "Leakage: what a linear SVM trained on features of some clips reads from those of clips it has not seen.",
    "Mouth distance: mean distance of a generated mouth's landmarks from the real one's, both centred, in pixels of "
    "256.",
)
"""Lines at the end of the page."""
