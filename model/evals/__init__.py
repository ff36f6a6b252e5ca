"""What a model learned, measured: one file an evaluation, each naming its protocol."""
