"""The `avprep` command."""
