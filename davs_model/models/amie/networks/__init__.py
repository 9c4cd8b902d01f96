"""The networks of AMIE; those that it shares with DAVS are DAVS's."""

from davs_model.models.amie.networks.amie import AMIE, Generated
from davs_model.models.amie.networks.estimator import Estimator

Model = AMIE
"""The name that every model has."""

__all__ = ["AMIE", "Estimator", "Generated", "Model"]
