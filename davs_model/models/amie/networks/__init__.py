"""The networks of AMIE; those that it shares with DAVS are DAVS's."""

from davs_model.models.amie.networks.amie import AMIE, Face, Generated
from davs_model.models.amie.networks.attention import DynamicAttention
from davs_model.models.amie.networks.discriminator import FrameDiscriminator
from davs_model.models.amie.networks.estimator import Estimator
from davs_model.models.amie.networks.image import ImageEncoder

Model = AMIE
"""The name that every model has."""

__all__ = [
    "AMIE",
    "DynamicAttention",
    "Estimator",
    "Face",
    "FrameDiscriminator",
    "Generated",
    "ImageEncoder",
    "Model",
]
