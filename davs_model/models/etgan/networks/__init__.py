"""The networks of ET-GAN-ACW, and `ETGAN`, which wires them."""

from davs_model.models.etgan.networks.discriminators import ClipDiscriminator, FrameDiscriminator
from davs_model.models.etgan.networks.etgan import ETGAN, ExpressiveFace
from davs_model.models.etgan.networks.expression import EmotionReader, ExpressionEncoder
from davs_model.models.etgan.networks.position import PositionEncoder
from davs_model.models.etgan.networks.views import ViewMerge
from davs_model.models.etgan.networks.weighting import CrossModalWeighting

Model = ETGAN
"""The name that every model has."""

__all__ = [
    "ETGAN",
    "ClipDiscriminator",
    "CrossModalWeighting",
    "EmotionReader",
    "ExpressionEncoder",
    "ExpressiveFace",
    "FrameDiscriminator",
    "Model",
    "PositionEncoder",
    "ViewMerge",
]
