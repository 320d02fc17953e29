"""Speed, quality and memory of exported models on each device, measured in child processes."""
