"""Running clips through a stage: worker processes, time-outs, restarts, array jobs; independent of the stage."""
