"""Did a change cost accuracy? Recorded candidates against a recorded reference, paired per query."""
