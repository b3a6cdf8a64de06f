"""A compiled network as a folder of safetensors weights and a JSON plan."""
