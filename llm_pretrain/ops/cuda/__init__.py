"""The operators in CUDA (external_ops/csrc/cuda), which `ops` chooses on a GPU where they serve."""
