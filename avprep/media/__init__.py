"""Media files: reading video, audio and images; writing video."""
