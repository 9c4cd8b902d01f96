"""What a run made, looked at: verification, reports, comparisons, single clips."""
