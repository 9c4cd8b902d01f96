"""A photo and an audio or video file to what a talking-face model needs."""
