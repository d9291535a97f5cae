"""Parameters, gradients and optimizer states over the ranks that share them."""
