"""The measures of an evaluation, one file each: recognition and retrieval (Table 3), leakage, reconstruction."""
