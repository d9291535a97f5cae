"""The layers of a model whose heads, vocabulary or positions ranks share."""
