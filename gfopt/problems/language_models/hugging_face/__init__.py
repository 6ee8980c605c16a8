"""What a folder of Hugging Face holds: configuration, tensors, quantization."""
