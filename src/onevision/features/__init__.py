"""Stage: user sequences, through Feast, for training and serving."""
