"""The user study of Table 2: one page without network, and the table of its answers."""
