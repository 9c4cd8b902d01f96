"""The networks of AMIE; those shared with DAVS are in DAVS's package."""

from davs_model.models.amie.networks.amie import AMIE, Generated

Model = AMIE
"""The name that every model has."""

__all__ = ["AMIE", "Generated", "Model"]
