"""The results of the paper, for the evaluation page."""

from __future__ import annotations

from davs_model.models.base import PaperData, PaperTable

DATA = PaperData("LRW", "test", words=500, clips=25_000, image_size=256)
_WAYS = {"video → audio": "video_to_audio", "audio → video": "audio_to_video"}
_LEAKAGE = "leakage.words_from_identity"

TABLES = (
    PaperTable(
        "DAVS, Table 1: generated frames",
        "L_1 (eq. 6) is the model without the GAN, L_Re (eq. 8) the one with it.",
        {
            f"{driver}: {title}": f"reconstruction.{driver}.{key}"
            for driver in ("audio", "video")
            for title, key in (("PSNR, dB", "psnr"), ("SSIM", "ssim"))
        },
        {"L_1": ("25.4", "0.859", "25.7", "0.865"), "L_Re": ("26.7", "0.883", "26.8", "0.884")},
    ),
    PaperTable(
        "DAVS, Table 3: words recognised, and clips found by the other modality",
        "SC is the classifier that both modalities share.",
        {
            "visual, %": "recognition.visual",
            "audio, %": "recognition.audio",
            "both, %": "recognition.both",
            **{
                f"{way} {title}": f"retrieval.{part}.{key}"
                for way, part in _WAYS.items()
                for title, key in (("R@1, %", "r1"), ("R@10, %", "r10"), ("MedR", "median_rank"))
            },
        },
        {
            "L_C": ("61.8", "81.7", "90.8", "29.3", "56.3", "6", "29.8", "56.3", "6"),
            "L_C + SC": ("65.6", "91.6", "94.9", "38.8", "66.4", "3", "44.5", "70.9", "2"),
            "L_C + L_adv": ("63.5", "88.1", "93.7", "39.3", "67.9", "3", "42.2", "69.2", "2"),
            "L_C + SC + L_adv": ("67.5", "91.8", "95.2", "64.2", "84.7", "1", "67.7", "85.8", "1"),
            "chance": (*["0.2"] * 3, *["0.004", "0.04", "12,500"] * 2),
        },
    ),
    PaperTable(
        "DAVS, Table 4: originals found by generated videos",
        "G(f_p, F_w^a) and G(f_p, F_w^v) from a random frame of each clip; its other columns are measured otherwise.",
        {f"{driver} R@1, %": f"generated_retrieval.{driver}.r1" for driver in ("audio", "video")},
        {
            "identity frame repeated": ("2.5", "2.5"),
            "without disentangling": ("53.8", "90.8"),
            "with it": ("60.5", "95.3"),
            "chance": ("0.004", "0.004"),
        },
    ),
    PaperTable(
        "DAVS, section 4.2: words in identity features",
        "What a linear SVM reads; LRW has as many test clips of each word.",
        {"accuracy, %": f"{_LEAKAGE}.accuracy", "chance, %": f"{_LEAKAGE}.chance"},
        {"before disentangling": ("27.8", "0.2"), "after it": ("9.7", "0.2")},
    ),
)
