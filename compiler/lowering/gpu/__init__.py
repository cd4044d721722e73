"""The same integer program for NVIDIA GPUs: kernels dealt out to threads, a host program in C."""
