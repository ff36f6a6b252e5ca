"""Tokens -> weights -> evaluations. Sees only token shards and a tokenizer file.

data        token shards: the format, its writer, reader and exporters; samples for training
config      sizes, recipes, settings
gpt2        the exact model
optim       AdamW, Muon, schedules
train       the loop
checkpoint  exact resume without pickle
hf          to and from transformers
sample      generation
evals       language modelling and LAMBADA
bench       tokens per second, MFU, memory
command     what the commands share
"""
