"""The measures of the paper's evaluation, one file each: recognition and retrieval (Table 3), leakage."""
