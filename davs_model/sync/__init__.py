"""How far the audio and the video of a clip are apart, and how sure that is."""
