"""The networks of ET-GAN-ACW, one file each, and `ETGAN`, which connects them."""

from davs_model.models.etgan.networks.etgan import ETGAN

Model = ETGAN
"""The name that every model has."""

__all__ = ["ETGAN", "Model"]
