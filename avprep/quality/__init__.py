"""Quality of a run's results: verification, reports, comparisons, single clips."""
