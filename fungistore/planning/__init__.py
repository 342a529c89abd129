"""What a large extraction will take, on paper: a model of units, workers and failures."""
