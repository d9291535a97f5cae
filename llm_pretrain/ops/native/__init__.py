"""The operators in C++ on CPU (external_ops/csrc/cpu), which `ops` chooses where they serve."""
