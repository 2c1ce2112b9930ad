"""What proves it: the synthetic road, the demo, the faults, the benchmarks."""
