"""What runs clips: worker processes, time-outs, restarts, array jobs; whatever is done to a clip."""
