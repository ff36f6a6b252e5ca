"""The Luigi tasks and what they stand on; the only place where webtext, dedup and model meet.

luigi --module pipelines BuildCorpus
"""
