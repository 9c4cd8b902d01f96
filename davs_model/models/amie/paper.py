"""The tables of the paper, for the evaluation page."""

from __future__ import annotations

from davs_model.models.amie.settings import TABLE_3
from davs_model.models.base import PaperTable

_QUALITY = {
    "PSNR, dB": "reconstruction.audio.psnr",
    "SSIM": "reconstruction.audio.ssim",
    "LMD": "mouth.audio.distance_px",
}
_ASIDE = "The paper's figures are of 256×256 after training on LRW: for reference only, not comparable."

TABLES = (
    PaperTable(
        "AMIE, Table 1: LRW",
        _ASIDE,
        _QUALITY,
        {
            "Chung 2017": ("28.06", "0.46", "2.23"),
            "Chen 2018": ("28.65", "0.53", "1.92"),
            "Zhou 2019 (DAVS)": ("26.80", "0.88", "–"),
            "Chen 2019 (ATVGnet)": ("30.91", "0.81", "1.37"),
            "AMIE": ("32.08", "0.92", "1.21"),
        },
    ),
    PaperTable(
        "AMIE, Table 2: GRID",
        f"{_ASIDE} GRID is a test of other data there.",
        _QUALITY,
        {
            "Chung 2017": ("29.36", "0.74", "1.35"),
            "Chen 2018": ("29.89", "0.73", "1.18"),
            "Chen 2019 (ATVGnet)": ("32.15", "0.83", "1.29"),
            "AMIE": ("31.01", "0.97", "0.78"),
        },
    ),
    PaperTable(
        "AMIE, Table 3: ablation on LRW",
        f"{_ASIDE} `avprep ablate` trains these rows.",
        _QUALITY,
        {
            name: (f"{psnr:.2f}", f"{ssim:.2f}", f"{distance:.2f}")
            for name, (_, (psnr, ssim, distance)) in TABLE_3.items()
        },
    ),
    PaperTable(
        "AMIE, Table 4: user study",
        "How often a method was found the most realistic and the most in sync, in %. `avprep study` asks otherwise.",
        {"realistic": "", "in sync": ""},
        {"DAVS": ("15.22", "18.17"), "ATVGnet": ("28.37", "32.92"), "AMIE": ("56.41", "48.91")},
    ),
)
