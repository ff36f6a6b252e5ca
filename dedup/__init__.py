"""Text -> hashes -> decisions and overlap. Sees only strings, arrays and ids.

words     the normal form of text and its hashing kernels
minhash   signatures, bit-identical with datasketch's affine32 scheme
lsh       exact duplicates, bands -> candidate pairs -> verified pairs -> verdicts
bloom     a partitioned filter made of pybloom-live filters
overlap   n-gram overlap of evaluation sets with a corpus; decontamination
"""
