"""The audio-video offset of a clip, and its confidence."""
