"""How much the output distribution changes when one weight matrix is quantized."""
