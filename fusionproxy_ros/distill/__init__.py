"""Train a student of your own: teacher, ensembles, two variances, evaluation."""
