"""Language models as plain pytrees: files of weights, the forward pass, prompts."""
