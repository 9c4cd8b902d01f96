"""The networks of AMIE; those that it shares with DAVS are DAVS's."""

from davs_model.models.amie.networks.amie import AMIE, Generated

Model = AMIE
"""The name that every model has."""

__all__ = ["AMIE", "Generated", "Model"]
