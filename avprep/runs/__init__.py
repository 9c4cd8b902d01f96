"""What runs clips: worker processes, time-outs, restarts, array jobs. It knows nothing of faces, audio or video."""
