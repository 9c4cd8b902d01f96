"""Media files: video, audio and image in, video out."""
